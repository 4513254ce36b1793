"""How a control loop ended: the report, and the files made from its journal."""

from __future__ import annotations

import contextlib
import json
import logging
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from rlhive.core.files import write_text
from rlhive.deploy.journal import JOURNAL, TRACE, Journal, is_sent, read_deployment, read_journal, write_trace
from rlhive.deploy.latency import plot, summarize
from rlhive.deploy.safety import EXIT_CODES

LOG = logging.getLogger("rlhive.deploy")
REPORT, PICTURE = "report.json", "latency.png"


@attrs.frozen
class Report:
    """How a loop ended.

    Attributes:
        reason: one of `safety.EXIT_CODES`.
        message: what happened, in one line.
        steps: actions in the journal that were sent or, in a dry run, computed.
        solved: steps at which RoboHive called the task solved.
        total_reward: sum of RoboHive's dense reward.
        held: how the robot was left: "last action", "safe action", stopped on the way there, or why neither was sent.
        stop_seconds: from the detection of the reason to the first action sent for safety.
        timing: as returned by `latency.summarize`.
        repeated_frames: for each camera, how many images were equal to the one before.
        dry_run: whether actions were computed but not sent.
        deployment: as returned by `provenance.describe_deployment`.
    """

    reason: str
    message: str
    steps: int
    solved: int
    total_reward: float
    held: str
    stop_seconds: float
    timing: dict[str, Any]
    repeated_frames: dict[str, int]
    dry_run: bool
    deployment: dict[str, Any]

    @property
    def exit_code(self) -> int:
        """The command's exit code."""
        return EXIT_CODES[self.reason]


def write_report(
    journal: Journal,
    folder: Path,
    deployment: dict[str, Any],
    *,
    reason: str,
    message: str,
    held: str,
    stop_seconds: float,
    repeated_frames: dict[str, int],
) -> Report:
    """Closes a loop's journal, and writes report, trace and picture beside it as far as possible.

    Args:
        journal: the loop's journal, in `folder`.
        folder: where to write.
        deployment: as in `Report`.
        reason: as in `Report`.
        message: as in `Report`.
        held: as in `Report`.
        stop_seconds: as in `Report`.
        repeated_frames: as in `Report`.
    """
    dt = deployment["dt"]
    records = _read(journal, folder)
    known = np.isfinite(records["period"])  # steps whose outcome is known
    # Without the images, which may not all fit into memory.
    ended = {name: records[name][known] for name in ("solved", "rewards", "latency", "period")}
    report = Report(
        reason=reason,
        message=message,
        steps=int(is_sent(records).sum()),
        solved=int(ended["solved"].sum()),
        total_reward=float(ended["rewards"].sum()),
        held=held,
        stop_seconds=stop_seconds,
        timing=summarize(ended["latency"], ended["period"], dt),
        repeated_frames=repeated_frames,
        dry_run=deployment["settings"]["dry_run"],
        deployment=deployment,
    )
    try:
        values = attrs.asdict(report) | {"exit_code": report.exit_code}
        with contextlib.closing(journal):
            write_text(folder / REPORT, json.dumps(values, indent=2) + "\n")
        if report.steps:
            write_trace(folder / JOURNAL, folder / TRACE, reason)
        if known.any():
            plot(ended["latency"], ended["period"], dt, folder / PICTURE)
    # Not raised, because the exit code must say why the robot stopped. h5py raises RuntimeError for a file that it
    # cannot finish.
    except (OSError, RuntimeError, MemoryError, KeyboardInterrupt) as error:
        LOG.error("%s: not everything could be written: %s", folder, str(error) or type(error).__name__)
    return report


def stop_reason(folder: Path) -> str | None:
    """Why the deployment in `folder` stopped, according to its report; None without its report, as after a crash.

    Raises:
        LoadError: `folder` has no journal that can be read.
    """
    deployment = read_deployment(folder / JOURNAL)
    try:
        report = json.loads((folder / REPORT).read_text())
        if report["deployment"] != deployment:
            raise ValueError("it is of another deployment than the journal")
        if report["reason"] not in EXIT_CODES:
            raise ValueError(f"unknown reason {report['reason']!r}")
        return str(report["reason"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        LOG.warning("%s: is ignored, so the trace will not say why it stopped: %s", folder / REPORT, error)
        return None


def _read(journal: Journal, folder: Path) -> np.ndarray:
    """The records of the journal; none, with an error logged, if it cannot be read, so that there is still a report."""
    try:
        return read_journal(folder / JOURNAL)
    # The file cannot be mapped, or is no longer a journal.
    except (OSError, ValueError) as error:
        LOG.error("%s: cannot be read, so the report counts no steps: %s", folder / JOURNAL, error)
        return np.zeros(0, journal.dtype)

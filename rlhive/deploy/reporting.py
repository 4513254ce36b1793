"""How a control loop ended: the report, and the files that are made of its journal."""

from __future__ import annotations

import contextlib
import json
import logging
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from rlhive.core.files import write_text
from rlhive.deploy.journal import JOURNAL, TRACE, Journal, is_sent, read_journal, write_trace
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
        steps: actions sent that the journal has; in a dry run, computed.
        solved: steps on which RoboHive called the task solved.
        total_reward: sum of RoboHive's dense reward.
        held: how it was left: "last action", "safe action", stopped on the way there, or why neither was sent.
        stop_seconds: from the detection of the reason to the first action sent for safety.
        timing: as in `latency.summarize`.
        repeated_frames: of each camera, how many of its images were the one before once more.
        dry_run: whether no action was sent.
        deployment: what it was, as of `provenance.describe_deployment`.
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
        """What the command ends with."""
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
    """Closes the journal of a loop in `folder`, and writes beside it report, trace and picture, as far as that goes.

    Args:
        journal: of the loop, in `folder`.
        folder: where to write.
        deployment: as of `Report`.
        reason: as of `Report`.
        message: as of `Report`.
        held: as of `Report`.
        stop_seconds: as of `Report`.
        repeated_frames: as of `Report`.
    """
    dt = deployment["dt"]
    records = _read(journal, folder)
    known = np.isfinite(records["period"])  # steps of which the outcome is known
    # Column by column: rows have the images in them, and all of those may not fit into memory.
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
    # The exit code has to say why the robot stopped. A RuntimeError is h5py's of a file that it cannot finish.
    except (OSError, RuntimeError, MemoryError, KeyboardInterrupt) as error:
        LOG.error("%s: not all could be written: %s", folder, str(error) or type(error).__name__)
    return report


def stop_reason(folder: Path) -> str | None:
    """Why the deployment in `folder` stopped, by its report; None where there is none, as after a crash."""
    try:
        return str(json.loads((folder / REPORT).read_text())["reason"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        LOG.warning(
            "%s: cannot be read, so the trace will not say why it stopped: %s", folder / REPORT, error
        )
        return None


def _read(journal: Journal, folder: Path) -> np.ndarray:
    """The records of the journal; none, said aloud, where it cannot be read: why the robot stopped is known without."""
    try:
        return read_journal(folder / JOURNAL)
    except (
        OSError,
        ValueError,
    ) as error:  # of memory that cannot be mapped, and of what is no journal any more
        LOG.error("%s: cannot be read, so the report knows of no step: %s", folder / JOURNAL, error)
        return np.zeros(0, journal.dtype)

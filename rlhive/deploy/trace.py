"""Every step of a deployment on disk: a journal that survives a crash, and RoboHive's Trace made from it.

The journal is one line of JSON with the sizes of observation and action, then one record of fixed size per step, each
handed to the operating system before the next step begins. What was written before the process died is there; a record
cut short is left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlhive.core.env_spec import EnvSpec
from rlhive.core.errors import LoadError

JOURNAL, TRACE = "journal.bin", "trace.h5"
_FORMAT = "rlhive-journal-1"
_MAX_HEADER = 1 << 16


def record_dtype(observation_dim: int, action_dim: int) -> np.dtype:
    """The columns of a journal; docs/deployment.md explains each."""
    return np.dtype(
        [
            ("time", "<f8"),
            ("observations", "<f4", (observation_dim,)),
            ("policy_actions", "<f4", (action_dim,)),
            ("actions", "<f4", (action_dim,)),
            ("rewards", "<f8"),
            ("done", "?"),
            ("solved", "?"),
            ("sensor_age", "<f8"),
            ("latency", "<f8"),
            ("period", "<f8"),
        ]
    )


class Journal:
    """Appends steps to a new file.

    Args:
        path: the file; nothing may be there yet.
        env: what is observed and done.

    Raises:
        FileExistsError: the file is there.
    """

    def __init__(self, path: Path, env: EnvSpec) -> None:
        self._dtype = record_dtype(env.observation_dim, env.action_dim)
        self._file = path.open("xb", buffering=0)
        header = {"format": _FORMAT, "observation_dim": env.observation_dim, "action_dim": env.action_dim}
        self._file.write((json.dumps(header) + "\n").encode())

    def append(self, record: Mapping[str, Any]) -> None:
        """Writes one step, a value for each column."""
        row = np.zeros((), self._dtype)
        for name, value in record.items():
            row[name] = value
        self._file.write(row.tobytes())

    def close(self) -> None:
        """Flushes to disk and closes."""
        os.fsync(self._file.fileno())
        self._file.close()


def read_journal(path: str | os.PathLike[str]) -> np.ndarray:
    """The steps of a journal `[T]`, a structured array; whole ones only.

    Raises:
        LoadError: it is not a journal.
    """
    with open(path, "rb") as file:
        header = file.readline(_MAX_HEADER)
        try:
            values = json.loads(header)
            if values["format"] != _FORMAT:
                raise ValueError(values["format"])
            dtype = record_dtype(values["observation_dim"], values["action_dim"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise LoadError(f"{path}: is not a journal of rlhive.deploy") from None
        data = file.read()
    return np.frombuffer(data[: len(data) - len(data) % dtype.itemsize], dtype)


def write_trace(journal: str | os.PathLike[str], path: str | os.PathLike[str]) -> int:
    """Makes RoboHive's Trace (h5) of a journal, in one step, and returns the number of steps in it.

    Row t has what step t observed and did, and the reward for being there, which is the journal's of the step before.
    What the last step led to is not in the journal: as in RoboHive's own traces the last row has NaN for its action.

    Raises:
        LoadError: it is not a journal, or has no step.
    """
    records = read_journal(journal)
    if not len(records):
        raise LoadError(f"{journal}: has no step")
    from rlhive.data.trace import trace_file, write_trial  # h5py, which the loop does without

    actions = records["actions"].copy()
    actions[-1] = np.nan
    values = {
        "time": records["time"],
        "observations": records["observations"],
        "actions": actions,
        "rewards": _after_step(records["rewards"]),
        "done": _after_step(records["done"]),
        "env_infos/solved": _after_step(records["solved"]),
        "env_infos/rwd_dense": _after_step(records["rewards"]),
        "deploy/actions": records["actions"],
        **{f"deploy/{name}": records[name] for name in ("policy_actions", "sensor_age", "latency", "period")},
    }
    with trace_file(path, None) as file:
        write_trial(file, "Trial0", values)
    return len(records)


def _after_step(values: np.ndarray) -> np.ndarray:
    """What each step led to, in the row after it; nothing led to the first."""
    return np.concatenate([np.zeros_like(values[:1]), values[:-1]])

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
from rlhive.core.files import replacing

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

    Raises:
        LoadError: it is not a journal, or has no step.
    """
    records = read_journal(journal)
    if not len(records):
        raise LoadError(f"{journal}: has no step")
    from rlhive.envs.robohive import quiet

    with quiet():
        from robohive.logger.grouped_datasets import Trace

        trace = Trace("rlhive_deploy")
        trace.create_group("Trial0")
        for record in records:
            trace.append_datums("Trial0", _datums(record))
        with replacing(path) as beside:
            trace.save(str(beside), verify_length=True, f_res=np.float64)
    return len(records)


def _datums(record: np.void) -> dict[str, Any]:
    """One step by the names that RoboHive gives them; what it has no name for is in `deploy`."""
    names = [name for name in record.dtype.names or () if name not in ("rewards", "solved")]
    own = ("policy_actions", "sensor_age", "latency", "period")
    datums = {name: np.array(record[name]) for name in names if name not in own}
    infos = {"solved": np.array(record["solved"]), "rwd_dense": np.array(record["rewards"])}
    deploy = {name: np.array(record[name]) for name in own}
    return {**datums, "rewards": np.array(record["rewards"]), "env_infos": infos, "deploy": deploy}

"""Every step of a deployment on disk: a journal that survives a crash, and RoboHive's Trace made from it.

The journal begins with one line of JSON: the sizes of observation, action and images, and a description of the
deployment. One record of fixed size per reading follows, with the response to it, handed to the operating system
before the next step begins. Everything written before a crash survives; a record that was cut short is ignored.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rlhive.core.env_spec import EnvSpec
from rlhive.core.errors import LoadError
from rlhive.core.interrupt import hold_signals
from rlhive.core.pixel_spec import PixelSpec, camera_key

if TYPE_CHECKING:
    import h5py

    from rlhive.data.new_h5 import NewH5

JOURNAL, TRACE = "journal.bin", "trace.h5"
# The columns that a trace has under `deploy/`.
_DEPLOYED = ("policy_actions", "actions", "controls", "sensor_age", "latency", "period", "unix_time")
_FORMAT = "rlhive-journal-5"
_MAX_HEADER = 1 << 16


def record_dtype(header: Mapping[str, Any]) -> np.dtype:
    """The columns of a journal; docs/deployment.md explains each."""
    observation_dim, action_dim, images = (header[key] for key in ("observation_dim", "action_dim", "images"))
    pixels = [("pixels", "u1", (len(images["cameras"]), *images["size"], 3))] if images else []
    return np.dtype(
        [
            ("time", "<f8"),
            ("observations", "<f4", (observation_dim,)),
            ("policy_actions", "<f4", (action_dim,)),
            ("actions", "<f4", (action_dim,)),
            ("controls", "<f4", (action_dim,)),
            ("rewards", "<f8"),
            ("done", "?"),
            ("solved", "?"),
            ("refused", "?"),
            ("frozen_since", "<f8"),
            ("sensor_age", "<f8"),
            ("latency", "<f8"),
            ("period", "<f8"),
            ("unix_time", "<f8"),
            *pixels,
        ]
    )


class _Layout(NamedTuple):
    """The contents of a journal's first line.

    Attributes:
        dtype: the columns of a record.
        start: offset of the first record, bytes.
        environment: RoboHive's id of the live environment; None where it has none.
        pixels: the format of the images; None without images.
        deployment: as returned by `provenance.describe_deployment`.
        dry_run: whether actions were computed but not sent.
    """

    dtype: np.dtype
    start: int
    environment: str | None
    pixels: PixelSpec | None
    deployment: dict[str, Any]
    dry_run: bool


class Journal:
    """Appends steps to a new file.

    Args:
        path: the file; it must not exist yet.
        env: description of observations, actions and images.
        name: RoboHive's id of the live environment, which may differ from the one trained on; None where it has none.
        deployment: as returned by `provenance.describe_deployment`.

    Attributes:
        dtype: the columns of a record.

    Raises:
        FileExistsError: the file exists already.
        ValueError: the description is too long to be read back.
    """

    def __init__(self, path: Path, env: EnvSpec, name: str | None, deployment: Mapping[str, Any]) -> None:
        pixels = env.pixels
        header = {
            "format": _FORMAT,
            "environment": name,
            "observation_dim": env.observation_dim,
            "action_dim": env.action_dim,
            "images": pixels
            and {
                "cameras": list(pixels.cameras),
                "size": [pixels.height, pixels.width],
                "quality": pixels.quality,
            },
            "deployment": deployment,
        }
        line = (json.dumps(header) + "\n").encode()
        if len(line) > _MAX_HEADER:
            raise ValueError(
                f"{path}: {len(line)} bytes to describe the deployment, expected at most {_MAX_HEADER}; shorten "
                "policy_source"
            )
        self.dtype = record_dtype(header)
        self._unknown = np.zeros((), self.dtype)
        for column in self.dtype.names or ():
            if self.dtype[column].base.kind == "f":
                self._unknown[column] = np.nan
        self._file = path.open("xb", buffering=0)
        self._write(line)

    def append(self, record: Mapping[str, Any]) -> None:
        """Writes one record, given by column name; missing columns are NaN, False or black.

        Raises:
            OSError: the record cannot be written completely, as on a full disk.
        """
        row = self._unknown.copy()
        for name, value in record.items():
            row[name] = value
        self._write(row.tobytes())

    def close(self) -> None:
        """Flushes to disk and closes."""
        os.fsync(self._file.fileno())
        self._file.close()

    def _write(self, content: bytes) -> None:
        written = self._file.write(content)
        if written != len(content):
            raise OSError(f"{self._file.name}: {written} of {len(content)} bytes could be written")


def read_journal(path: str | os.PathLike[str]) -> np.ndarray:
    """The complete records of a journal `[T]`, as a structured array that stays on disk.

    Raises:
        LoadError: the file is not a journal.
    """
    layout = _layout(path)
    count = (os.path.getsize(path) - layout.start) // layout.dtype.itemsize
    if not count:
        return np.zeros(0, layout.dtype)
    return np.memmap(path, layout.dtype, "r", layout.start, (count,))


def read_deployment(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The deployment that a journal is of, as returned by `provenance.describe_deployment`.

    Raises:
        LoadError: the file is not a journal.
    """
    return _layout(path).deployment


def is_sent(records: np.ndarray | Mapping[str, np.ndarray]) -> np.ndarray:
    """Which of the records `[T]` have an action that was sent; the last reading usually has none."""
    return np.isfinite(records["actions"]).all(axis=-1)


def _layout(path: str | os.PathLike[str]) -> _Layout:
    with open(path, "rb") as file:
        line = file.readline(_MAX_HEADER)
    try:
        header = json.loads(line)
        if (written := header["format"]) != _FORMAT:
            if written.startswith("rlhive-journal-"):
                raise LoadError(
                    f"{path}: is a journal of another version ({written!r}); recover it with the RLHive that wrote it"
                )
            raise ValueError(written)
        pixels = header["images"] and _pixels(header["images"])
        deployment = header["deployment"]
        dry_run = deployment["settings"]["dry_run"]
        return _Layout(record_dtype(header), len(line), header["environment"], pixels, deployment, dry_run)
    except LoadError:
        raise
    except (AttributeError, ValueError, KeyError, TypeError, RecursionError):
        raise LoadError(f"{path}: is not a journal of rlhive.deploy") from None


def _pixels(images: Mapping[str, Any]) -> PixelSpec:
    height, width = images["size"]
    return PixelSpec(images["cameras"], height, width, images["quality"])


def write_trace(
    journal: str | os.PathLike[str], path: str | os.PathLike[str], reason: str | None = None
) -> tuple[int, int]:
    """Converts a journal to RoboHive's Trace (h5), in one step; returns its steps, and how many have an outcome.

    Row t holds the observation and action of step t, and the reward that step t - 1 led to. As in RoboHive's traces,
    the action of the last row, which holds the last reading, is NaN. If that reading was refused or never taken, the
    last row is that of the last step. If sensors or an image had frozen, the last row is that of their last change,
    since later readings only repeat it. Images are in `env_infos/visual_dict` under RoboHive's names, such as
    "rgb:top_cam:64x64:2d".

    Args:
        journal: the journal.
        path: where to write; an existing file is replaced.
        reason: why the deployment stopped, one of `safety.EXIT_CODES`; None if that is not known.

    Raises:
        LoadError: the file is not a journal, or has no steps.
        OSError: the trace cannot be written, as on a full disk.
    """
    records, layout = read_journal(journal), _layout(journal)
    frozen_since = np.fmin.reduce(records["frozen_since"], initial=np.inf)
    kept = np.flatnonzero(~records["refused"] & (records["time"] <= frozen_since))
    # Without the images, which may not all fit into memory.
    columns = {name: records[name][kept] for name in records.dtype.names or () if name != "pixels"}
    steps, outcomes = int(is_sent(columns).sum()), len(kept) - 1
    if not steps:
        raise LoadError(f"{journal}: has no steps")
    # Here: they need h5py, which the loop does without.
    from rlhive.data.trace import DEPLOY, trace_file, write_trial

    actions = columns["actions"].copy()
    actions[-1] = np.nan
    values = {
        "time": columns["time"],
        "observations": columns["observations"],
        "actions": actions,
        "rewards": _after_step(columns["rewards"]),
        "done": _after_step(columns["done"]),
        "env_infos/solved": _after_step(columns["solved"]),
        "env_infos/rwd_dense": _after_step(columns["rewards"]),
        **{f"{DEPLOY}{name}": columns[name] for name in _DEPLOYED},
    }
    pixels = layout.pixels
    names = [camera_key(camera, pixels) for camera in pixels.cameras] if pixels else []
    if names:
        values["env_infos/visual_dict/time"] = columns["time"][:, None]
    with trace_file(path, layout.environment, pixels) as file:
        write_trial(file, "Trial0", values)
        # On the trial as well, since it may be copied into another file.
        for place in (file, file["Trial0"]):
            _describe(place, layout, reason)
        for index, name in enumerate(names):
            _write_images(file, f"Trial0/env_infos/visual_dict/{name}", records["pixels"], kept, index)
    return steps, outcomes


def _describe(place: h5py.Group, layout: _Layout, reason: str | None) -> None:
    from rlhive.data.trace import DRY_RUN

    with hold_signals():
        place.attrs[DRY_RUN], place.attrs["deployment"] = layout.dry_run, json.dumps(layout.deployment)
        if reason is not None:
            place.attrs["reason"] = reason


def _write_images(file: NewH5, key: str, pixels: np.ndarray, kept: np.ndarray, camera: int) -> None:
    """Writes the images of the records `kept` `[K]`, one at a time."""
    _, _, *shape = pixels.shape
    with hold_signals():
        file.create_dataset(
            key, (len(kept), *shape), np.uint8, chunks=(1, *shape), compression="gzip", compression_opts=4
        )
    for row, record in enumerate(kept):
        with hold_signals():
            # HDF5 may write when the data set is released, which happens here at once.
            file[key][row] = pixels[record, camera]
        file.check()


def _after_step(values: np.ndarray) -> np.ndarray:
    """Moves what each step led to into the row after it; the first row gets zero."""
    return np.concatenate([np.zeros_like(values[:1]), values[:-1]])

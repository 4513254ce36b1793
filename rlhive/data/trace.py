"""RoboHive's Trace: one group per trial, `T + 1` rows in each, and NaN for the action after the last one.

Row t holds the state at t, the reward for being there, and the action taken next; a step's reward is in the next row.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping

import h5py
import numpy as np

from rlhive.core.errors import LoadError
from rlhive.core.files import replacing
from rlhive.core.interrupt import hold_signals
from rlhive.core.pixel_spec import PixelSpec, camera_key
from rlhive.data.episode import Episode, Selection, as_column, as_flags, as_rows
from rlhive.data.h5 import datasets, h5_errors, open_h5, open_trial, read, trial_names
from rlhive.data.images import read_images
from rlhive.data.new_h5 import NewH5

REWARDS = "rewards"
KEYS = ("observations", "actions", REWARDS, "done")
STATE, SOLVED, TIME = "env_infos/state/", "env_infos/solved", "time"
OBSERVED, SEEN = "env_infos/obs_dict/", "env_infos/visual_dict/"
ENVIRONMENT = "environment"  # a file attribute that RLHive adds: RoboHive does not say where a trace is from
PIXELS = "pixels"  # another one: describes the images, as JSON
DRY_RUN = "dry_run"  # an attribute of deployments' files and trials: whether the actions were never sent
DEPLOY = "deploy/"  # the prefix of what only deployments record, such as latencies
SEED = "seed"  # a trial attribute that RLHive adds: the seed of its reset


def reader(path: str | os.PathLike[str], selection: Selection) -> Callable[[h5py.Group, str, str], Episode]:
    """Returns `read_episode` for the trials of a file; if any trial has rewards, all must have them.

    Raises:
        LoadError: the file as a whole cannot be read, or comes from a dry run.
    """
    with open_h5(path) as file:
        _refuse_dry_run(file, str(path))
    needed = KEYS if _has_rewards(path) else tuple(key for key in KEYS if key != REWARDS)
    return functools.partial(read_episode, selection=selection, needed=needed)


def read_episode(
    trial: h5py.Group,
    name: str,
    where: str,
    selection: Selection,
    needed: tuple[str, ...],
) -> Episode:
    """One trial.

    Args:
        trial: its group.
        name: its name.
        where: file and trial, for messages.
        selection: what is read of it.
        needed: `KEYS`, without `REWARDS` where rewards were not logged.

    Raises:
        LoadError: it is damaged, of a dry run, no trial of RoboHive's, or has not what is selected.
    """
    _refuse_dry_run(trial, where)
    found = datasets(trial, where)
    check_keys(found, needed, where)
    actions = read(found["actions"], f"{where}/actions")
    rows = len(actions) if actions.ndim == 2 else 0
    if rows < 2 or not np.isnan(actions[-1].astype(np.float64)).all():
        raise LoadError(
            f"{where}/actions: must be 2 rows or more of which the last is NaN, as RoboHive ends a trial; is "
            f"{list(actions.shape)}: cut short, or of another layout"
        )
    keys = [OBSERVED + key for key in selection.observation_keys]
    observations = _side_by_side(found, keys or ["observations"], rows, where)
    rewards = None
    if REWARDS in needed:
        rewards = as_column(read(found[REWARDS], f"{where}/{REWARDS}"), rows, f"{where}/{REWARDS}")[1:]
    flags = {
        key: as_flags(read(found[key], f"{where}/{key}"), rows, f"{where}/{key}")[1:]
        for key in ("done", SOLVED)
        if key in found
    }
    return Episode(
        name,
        observations,
        as_rows(actions[:-1], f"{where}/actions"),
        rewards,
        flags["done"],
        flags.get(SOLVED),
        read_times(found, TIME, rows, where),
        _read_images(found, selection.pixels, rows, where),
    )


def _refuse_dry_run(place: h5py.Group, where: str) -> None:
    """Refuses a file, or a trial that may have been copied from one."""
    with h5_errors(f"{where}: its attribute {DRY_RUN!r}"):
        if place.attrs.get(DRY_RUN):
            raise LoadError(
                f"{where}: is of a dry run: its actions were never sent, so nothing can be learned from it"
            )


def _has_rewards(path: str | os.PathLike[str]) -> bool:
    with open_h5(path) as file:
        for name in trial_names(file):
            with contextlib.suppress(LoadError), h5_errors(str(path)):  # met again when it is read
                if REWARDS in open_trial(file, name, str(path)):
                    return True
    return False


def _read_images(
    found: Mapping[str, h5py.Dataset], pixels: PixelSpec | None, rows: int, where: str
) -> np.ndarray | None:
    if pixels is None:
        return None
    return read_images(
        found, [SEEN + camera_key(name, pixels) for name in pixels.cameras], pixels, rows, where
    )


def _side_by_side(found: Mapping[str, h5py.Dataset], keys: list[str], rows: int, where: str) -> np.ndarray:
    """The named data sets side by side, as float32 `[rows, width]`."""
    check_keys(found, tuple(keys), where)
    parts = []
    for key in keys:
        values = read(found[key], f"{where}/{key}")
        if values.ndim == 1 and key.startswith(OBSERVED):  # a single number, such as the time
            values = values[:, None]
        parts.append(as_rows(values, f"{where}/{key}"))
        if len(values) != rows:
            raise LoadError(f"{where}/{key}: has {len(values)} rows, actions has {rows}")
    return np.concatenate(parts, axis=1)


def check_keys(found: Mapping[str, h5py.Dataset], needed: tuple[str, ...], where: str) -> None:
    """Refuses a trial that lacks a data set it needs.

    Raises:
        LoadError: names what is missing and what is there.
    """
    missing = [key for key in needed if key not in found]
    if missing:
        names = ", ".join(found) if found else "nothing"
        raise LoadError(f"{where}: has no {', '.join(missing)}, but {names[:300]}")


def read_times(found: Mapping[str, h5py.Dataset], key: str, rows: int, where: str) -> np.ndarray | None:
    """Times in seconds `[rows]` in the floating-point precision of the file, integers as float64; None without times.

    Raises:
        LoadError: wrong shape, or a time that is not finite.
    """
    if key not in found:
        return None
    values = read(found[key], f"{where}/{key}")
    as_column(values, rows, f"{where}/{key}")
    times = values.reshape(rows)
    return times if times.dtype.kind == "f" else times.astype(np.float64)


def read_seed(trial: h5py.Group, where: str) -> int | None:
    """The seed of a trial's reset, as `write_trial` wrote it; None in files that RLHive did not write.

    Raises:
        LoadError: the attribute is not a seed.
    """
    with h5_errors(f"{where}: its attribute {SEED!r}"):
        value = trial.attrs.get(SEED)
    if value is None:
        return None
    if not (isinstance(value, np.integer) and value >= 0):
        raise LoadError(
            f"{where}: its attribute {SEED!r} must be a whole number of at least 0, is {str(value)[:200]!r}"
        )
    return int(value)


def read_environment(path: str | os.PathLike[str]) -> str | None:
    """The id of the environment a file was recorded in, as `trace_file` wrote it; None if the file does not say.

    Raises:
        LoadError: the attribute is not text.
    """
    return _attribute(path, ENVIRONMENT)


def read_pixels(path: str | os.PathLike[str]) -> PixelSpec | None:
    """Describes the images of a file, as `trace_file` wrote it; None if the file does not say.

    Raises:
        LoadError: the attribute is damaged.
    """
    text = _attribute(path, PIXELS)
    if text is None:
        return None
    try:
        return PixelSpec.from_dict(json.loads(text))
    except (ValueError, TypeError, RecursionError):
        raise LoadError(f"{path}: its attribute {PIXELS!r} is damaged: {text[:200]!r}") from None


def _attribute(path: str | os.PathLike[str], name: str) -> str | None:
    """The text of an attribute of a file; None if there is no such attribute."""
    with open_h5(path) as file, h5_errors(f"{path}: its attribute {name!r}"):
        value = file.attrs.get(name)
        text = value.decode() if isinstance(value, bytes) else value
    if not isinstance(text, str | None):
        raise LoadError(f"{path}: its attribute {name!r} must be text, is {str(text)[:200]!r}")
    return text


@contextlib.contextmanager
def trace_file(
    path: str | os.PathLike[str], environment: str | None, pixels: PixelSpec | None = None
) -> Iterator[NewH5]:
    """A file for `write_trial`; when the block ends well, it replaces `path` in one step.

    Checksums protect HDF5's metadata, and gzip's the data.

    Args:
        path: the file.
        environment: id of the RoboHive environment of the trials, if they have one.
        pixels: describes their images, if they have any.

    Raises:
        OSError: it cannot be written, for example because the disk is full.
    """
    with replacing(path) as beside:
        with NewH5(beside) as file:
            with hold_signals():
                if environment is not None:
                    file.attrs[ENVIRONMENT] = environment
                if pixels is not None:
                    file.attrs[PIXELS] = json.dumps(pixels.to_dict())
            yield file
        file.check()


def write_trial(file: NewH5, name: str, values: Mapping[str, np.ndarray], seed: int | None = None) -> None:
    """Writes one trial, compressed as RoboHive does.

    Args:
        file: from `trace_file`.
        name: such as "Trial0".
        values: arrays with one row per state, by names such as "env_infos/state/qpos".
        seed: of the reset, below 2**64; None if it is not known.

    Raises:
        OSError: it cannot be written, for example because the disk is full.
    """
    with hold_signals():
        trial = file.create_group(name)
        if seed is not None:
            trial.attrs[SEED] = np.uint64(seed)
    for key, value in values.items():
        with hold_signals():
            trial.create_dataset(key, data=value, compression="gzip", compression_opts=4)
        file.check()


def write_episode(file: NewH5, episode: Episode) -> None:
    """Writes an episode with rewards; the reward of its first state, which belongs to no step, is 0."""
    assert episode.rewards is not None  # checked by `rlhive.data.convert`
    flags = {"done": episode.terminated} | ({} if episode.solved is None else {SOLVED: episode.solved})
    values = {
        "observations": episode.observations,
        "actions": np.concatenate([episode.actions, np.full_like(episode.actions[:1], np.nan)]),
        "rewards": np.concatenate([np.zeros(1, np.float32), episode.rewards]),
        **{key: np.concatenate([np.zeros(1, bool), flag]) for key, flag in flags.items()},
    }
    write_trial(file, episode.name, values | ({} if episode.times is None else {TIME: episode.times}))

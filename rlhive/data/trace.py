"""RoboHive's Trace: one group per trial, `T + 1` rows in each, and NaN for the action after the last one.

Row t has the state at t, the reward for being there and the action taken next: a step's reward is in the next row.
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
ENVIRONMENT = "environment"  # an attribute of the file, ours: RoboHive does not say where a trace is from
PIXELS = "pixels"  # another one: how its images were drawn, as JSON
DRY_RUN = "dry_run"  # another one, of deployments: whether the actions were computed and never sent
SEED = "seed"  # an attribute of a trial, ours: what its episode was reset with


def reader(path: str | os.PathLike[str], selection: Selection) -> Callable[[h5py.Group, str, str], Episode]:
    """`read_episode` for the trials of a file: rewards are needed in each if any has some.

    Raises:
        LoadError: the file as a whole cannot be read, or is of a dry run.
    """
    with open_h5(path) as file, h5_errors(f"{path}: its attribute {DRY_RUN!r}"):
        if file.attrs.get(DRY_RUN):
            raise LoadError(
                f"{path}: is of a dry run: its actions were never sent, so nothing can be learned from it"
            )
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
        LoadError: it is damaged, no trial of RoboHive's, or has not what is selected.
    """
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
    """The data sets of those names as float32 `[rows, width]`."""
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
    """Refuses a trial without what it needs.

    Raises:
        LoadError: naming what is missing and what is there.
    """
    missing = [key for key in needed if key not in found]
    if missing:
        names = ", ".join(found) if found else "nothing"
        raise LoadError(f"{where}: has no {', '.join(missing)}, but {names[:300]}")


def read_times(found: Mapping[str, h5py.Dataset], key: str, rows: int, where: str) -> np.ndarray | None:
    """Times as float64 `[rows]`, None where there are none.

    Raises:
        LoadError: another shape, or a time that is not finite.
    """
    if key not in found:
        return None
    values = read(found[key], f"{where}/{key}")
    as_column(values, rows, f"{where}/{key}")
    return values.reshape(rows).astype(np.float64)


def read_seed(trial: h5py.Group, where: str) -> int | None:
    """What the episode of a trial was reset with, as `write_trial` wrote it; None in files of others.

    Raises:
        LoadError: what is written there is no seed.
    """
    with h5_errors(f"{where}: its attribute {SEED!r}"):
        value = trial.attrs.get(SEED)
    if value is None:
        return None
    if not (isinstance(value, np.integer) and value >= 0):
        raise LoadError(
            f"{where}: its attribute {SEED!r} must be a whole number from 0 on, is {str(value)[:200]!r}"
        )
    return int(value)


def read_environment(path: str | os.PathLike[str]) -> str | None:
    """RoboHive's id of where a file was recorded, as `trace_file` wrote it; None in files of others.

    Raises:
        LoadError: what is written there is no text.
    """
    return _attribute(path, ENVIRONMENT)


def read_pixels(path: str | os.PathLike[str]) -> PixelSpec | None:
    """How the images of a file were drawn, as `trace_file` wrote it; None in files of others.

    Raises:
        LoadError: what is written there makes no sense.
    """
    text = _attribute(path, PIXELS)
    if text is None:
        return None
    try:
        return PixelSpec.from_dict(json.loads(text))
    except (ValueError, TypeError, RecursionError):
        raise LoadError(f"{path}: its attribute {PIXELS!r} is damaged: {text[:200]!r}") from None


def _attribute(path: str | os.PathLike[str], name: str) -> str | None:
    """The text of an attribute of a file; None where it has none of that name."""
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
    """A file for `write_trial`, at `path` in one step when the block ends well, in place of what is there.

    HDF5 guards its bookkeeping by checksums, gzip the data.

    Args:
        path: the file.
        environment: RoboHive's id of where the trials are from, if any.
        pixels: what their images are, if they have some.

    Raises:
        OSError: it cannot be written, as on a full disk.
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
    """Writes one trial, packed as RoboHive packs it.

    Args:
        file: of `trace_file`.
        name: such as "Trial0".
        values: by names such as "env_infos/state/qpos", a row per step each.
        seed: what its episode was reset with, below 2**64; None where that is not known.

    Raises:
        OSError: it cannot be written, as on a full disk.
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
    """Writes what an episode with rewards has; that of being where it began, which is no step's, is 0."""
    assert episode.rewards is not None  # looked at by `rlhive.data.convert`
    flags = {"done": episode.terminated} | ({} if episode.solved is None else {SOLVED: episode.solved})
    values = {
        "observations": episode.observations,
        "actions": np.concatenate([episode.actions, np.full_like(episode.actions[:1], np.nan)]),
        "rewards": np.concatenate([np.zeros(1, np.float32), episode.rewards]),
        **{key: np.concatenate([np.zeros(1, bool), flag]) for key, flag in flags.items()},
    }
    write_trial(file, episode.name, values | ({} if episode.times is None else {TIME: episode.times}))

"""Minari's data sets: a directory with `data/metadata.json` and `data/main_data.hdf5`, one group per episode.

Reading needs only h5py. Writing uses the `minari` package: `uv sync --extra minari` or `pip install minari`.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rlhive.core.errors import LoadError
from rlhive.core.files import check_new, replacing_directory
from rlhive.data.episode import STATE_ONLY, Episode, Selection, as_column, as_flags, as_rows
from rlhive.data.h5 import datasets, read
from rlhive.data.trace import check_keys, read_times

KEYS = ("observations", "actions", "rewards", "terminations", "truncations")
SOLVED, TIME = "infos/solved", "infos/time"
_SPARE_BYTES = 1 << 20  # more than HDF5's metadata for an episode and the unused ends of its chunks
METADATA, FILE = "data/metadata.json", "data/main_data.hdf5"


def reader(path: str | os.PathLike[str], selection: Selection) -> Callable[[h5py.Group, str, str], Episode]:
    """Returns `read_episode` if it can read the data set.

    Raises:
        LoadError: the metadata cannot be read, observations or actions are not vectors, or images or parts of an
            obs_dict are selected, which only RoboHive's formats have.
    """
    if selection != STATE_ONLY:
        raise LoadError(f"{path}: is a Minari data set; images and parts of an obs_dict are not read from it")
    _check_vectors(path, _metadata(path))
    return read_episode


def read_episode(group: h5py.Group, name: str, where: str) -> Episode:
    """One episode.

    Raises:
        LoadError: it is damaged or not a Minari episode.
    """
    found = datasets(group, where)
    check_keys(found, KEYS, where)
    observations, actions = (
        as_rows(read(found[key], f"{where}/{key}"), f"{where}/{key}") for key in ("observations", "actions")
    )
    steps = len(actions)
    if not steps or len(observations) != steps + 1:
        raise LoadError(
            f"{where}: has {len(observations)} observations and {steps} actions; expected one observation more"
            " than actions"
        )
    solved = None
    if SOLVED in found:
        solved = as_flags(read(found[SOLVED], f"{where}/{SOLVED}"), steps + 1, f"{where}/{SOLVED}")[1:]
    return Episode(
        name,
        observations,
        actions,
        as_column(read(found["rewards"], f"{where}/rewards"), steps, f"{where}/rewards"),
        as_flags(read(found["terminations"], f"{where}/terminations"), steps, f"{where}/terminations"),
        solved,
        read_times(found, TIME, steps + 1, where),
    )


def read_environment(path: str | os.PathLike[str]) -> str | None:
    """The id of the environment that the data set names; None if it names none.

    Raises:
        LoadError: it has no metadata.
    """
    metadata = _metadata(path)
    try:
        name = json.loads(metadata["env_spec"])["id"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return name if isinstance(name, str) else None


def write(path: str | os.PathLike[str], episodes: Iterable[Episode], environment: str | None) -> int:
    """Writes a data set, completely or not at all, and returns the number of episodes.

    Args:
        path: the new directory, named as Minari names data sets, such as "reach-v0".
        episodes: the episodes, with rewards.
        environment: id of the RoboHive environment they were recorded in.

    Raises:
        ValueError: the name or the place is not valid, or the package `minari` is missing.
        LoadError: there is no episode.
        OSError: it cannot be written, for example because the disk is full.
    """
    path = Path(path)
    if not re.fullmatch(r"[\w-]+-v\d+", path.name):
        raise ValueError(f"{path}: the name of a Minari data set must end in a version, such as reach-v0")
    check_new(path)
    path = path.absolute()  # minari would join the directory of a relative path to itself
    with replacing_directory(path) as beside:
        return _write(beside, path.name, episodes, environment)


def _write(folder: Path, name: str, episodes: Iterable[Episode], environment: str | None) -> int:
    try:
        import minari
        from minari.data_collector import EpisodeBuffer
        from minari.dataset.minari_storage import MinariStorage
    except ImportError:
        raise ValueError(
            "writing Minari needs its package: `uv sync --extra minari` or `pip install minari`"
        ) from None
    storage, count = None, 0
    for episode in episodes:
        if storage is None:
            (folder / "data").mkdir(parents=True)
            storage = MinariStorage.new(folder / "data", *_spaces(episode), env_spec=_env_spec(environment))
            storage.update_metadata({"dataset_id": name, "minari_version": minari.__version__})
        columns = _columns(episode)
        _check_space(folder, columns)
        storage.update_episodes([EpisodeBuffer(id=count, **columns)])
        count += 1
    if storage is None:
        raise LoadError("there is no episode to write")
    return count


def _check_space(folder: Path, columns: Mapping[str, Any]) -> None:
    """Refuses columns that do not fit on the disk: HDF5 would report that in a hundred lines."""
    size = _SPARE_BYTES + 2 * sum(np.asarray(column).nbytes for column in columns.values())
    if shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _columns(episode: Episode) -> dict[str, Any]:
    last = np.zeros(len(episode), bool)
    last[-1] = not episode.terminated[-1]
    infos = {} if episode.times is None else {"time": episode.times}
    if episode.solved is not None:
        infos["solved"] = np.concatenate([np.zeros(1, bool), episode.solved])
    return {
        "observations": episode.observations,
        "actions": episode.actions,
        "rewards": episode.rewards,
        "terminations": episode.terminated,
        "truncations": last,
        "infos": infos or None,
    }


def _spaces(episode: Episode) -> tuple[Any, Any]:
    from gymnasium.spaces import Box

    arrays = (episode.observations, episode.actions)
    return tuple(Box(-np.inf, np.inf, array.shape[1:], np.float32) for array in arrays)  # type: ignore[return-value]


def _env_spec(environment: str | None) -> Any:
    from gymnasium.envs.registration import EnvSpec

    return None if environment is None else EnvSpec(environment, entry_point="robohive")


def _metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    file = Path(path) / METADATA
    try:
        values = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise LoadError(f"{file}: cannot be read as Minari's metadata: {error}") from None
    if not isinstance(values, dict):
        raise LoadError(f"{file}: is not Minari's metadata, which must be a JSON object")
    return values


def _check_vectors(path: str | os.PathLike[str], metadata: dict[str, Any]) -> None:
    if metadata.get("data_format") != "hdf5":
        raise LoadError(f"{path}: is stored as {metadata.get('data_format')!r}; only Minari's hdf5 is read")
    for key in ("observation_space", "action_space"):
        try:
            kind = json.loads(metadata[key])["type"]
        except (KeyError, TypeError, ValueError, RecursionError):
            raise LoadError(f"{path}: its metadata has no {key}") from None
        if kind != "Box":
            raise LoadError(f"{path}: its {key} is a {kind}; only vectors (Box) are read")

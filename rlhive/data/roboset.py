"""RoboSet: measurements and commands of a robot under `data/`, without an environment and so without rewards."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping

import h5py
import numpy as np

from rlhive.core.errors import LoadError
from rlhive.core.pixel_spec import PixelSpec
from rlhive.data.episode import Episode, Selection, as_rows, check_length, check_rows
from rlhive.data.h5 import datasets, open_h5, open_trial, read
from rlhive.data.images import read_images
from rlhive.data.trace import OBSERVED, SEEN, check_keys, read_times

# In the order in which environments observe a robot: all positions, then all velocities, then all torques.
STATES = tuple(f"data/{name}_{part}" for name in ("qp", "qv", "tau") for part in ("arm", "ee"))
CONTROLS = ("data/ctrl_arm", "data/ctrl_ee")
TIME = "data/time"
PLACES = ("left", "right", "top", "wrist")  # of cameras: RoboHive's left_cam is rgb_left here
_UNUSED = ("data/rgb_", "data/d_", "data/user")
_ANY_ROBOT = "--to=minari takes any robot"


class NoRoboSetError(LoadError):
    """A trial is intact but cannot be expressed as a RoboSet."""


def reader(path: str | os.PathLike[str], selection: Selection) -> Callable[[h5py.Group, str, str], Episode]:
    """Returns `read_episode` with the selection; it needs nothing else from the file."""
    return functools.partial(read_episode, selection=selection)


def read_episode(trial: h5py.Group, name: str, where: str, selection: Selection) -> Episode:
    """One trial, without its last action, whose result was not logged.

    The observation is made of those of `STATES` that the trial has, the action of `CONTROLS`, each in this order. Both
    `CONTROLS` and `TIME` are required; a data set without columns, such as the controls of no gripper, adds none.

    Raises:
        LoadError: it is damaged, not a RoboSet trial, or lacks what is selected.
    """
    if selection.observation_keys:
        raise LoadError(
            f"{where}: a RoboSet has no obs_dict to take {', '.join(selection.observation_keys)} from"
        )
    found = datasets(trial, where)
    known = (*STATES, *CONTROLS, TIME)
    strange = [
        key for key in found if key.startswith("data/") and key not in known and not key.startswith(_UNUSED)
    ]
    if strange:
        raise LoadError(
            f"{where}: has unknown data sets: {', '.join(strange)}; a RoboSet has {', '.join(known)} and images"
        )
    check_keys(found, (*CONTROLS, TIME), where)
    actions = _columns(found, CONTROLS, where, drop=1)
    observations = _columns(found, STATES, where, drop=0)
    if len(observations) != len(actions) + 1 or not len(actions):
        raise LoadError(f"{where}: has {len(observations)} rows of states and {len(actions) + 1} of controls")
    return Episode(
        name,
        observations,
        actions,
        rewards=None,
        terminated=np.zeros(len(actions), bool),
        times=read_times(found, TIME, len(observations), where),
        images=_read_images(found, selection.pixels, len(observations), where),
    )


def columns(path: str | os.PathLike[str], trial: str) -> dict[str, int]:
    """The parts of the observation of an intact trial, such as "qp_arm", with their widths, in order."""
    with open_h5(path) as file:
        found = datasets(open_trial(file, trial, f"{path}: {trial}"), f"{path}: {trial}")
        return {key.removeprefix("data/"): _width(found[key].shape) for key in _present(found, STATES)}


def _read_images(
    found: Mapping[str, h5py.Dataset], pixels: PixelSpec | None, rows: int, where: str
) -> np.ndarray | None:
    if pixels is None:
        return None
    places = [next((place for place in PLACES if place in name), name) for name in pixels.cameras]
    return read_images(found, [f"data/rgb_{place}" for place in places], pixels, rows, where)


def from_trial(values: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """The RoboSet form of a RoboHive trial, made by RoboHive's own `RoboSet_Trace`.

    Args:
        values: all data sets of the trial by name, as in `trace.write_trial`.
        where: file and trial, for messages.

    Raises:
        NoRoboSetError: the robot is not an arm with a gripper as RoboSet describes it, or images would be lost.
        LoadError: a part of the observation, or images, do not have one row per state.
    """
    for key, value in values.items():
        if key.startswith((OBSERVED, SEEN)):
            check_length(value, len(values["actions"]), f"{where}/{key}")
    _check_cameras((key for key in values if key.startswith((f"{SEEN}rgb:", f"{SEEN}d:"))), where)
    from rlhive.envs.importing import quiet

    with quiet():
        from robohive.logger.roboset_logger import RoboSet_Trace

        try:
            found: dict[str, np.ndarray] = RoboSet_Trace("convert").path2dataset(dict(values))
        except AssertionError as error:
            raise NoRoboSetError(f"{where}: cannot become a RoboSet: {error}; {_ANY_ROBOT}") from None
        except KeyError as error:
            raise NoRoboSetError(f"{where}: has no {error}, which a RoboSet needs; {_ANY_ROBOT}") from None
    if not any(key in found for key in STATES):
        raise NoRoboSetError(
            f"{where}: has no state that a RoboSet can hold: none of {', '.join(STATES)}; {_ANY_ROBOT}"
        )
    return found


def _check_cameras(keys: Iterable[str], where: str) -> None:
    """Refuses images that the conversion would lose: a RoboSet has at most one camera in each of `PLACES`."""
    only = f"which has one {', one '.join(PLACES)} camera; a Trace is trained on as it is; to convert, record without"
    taken: dict[tuple[str, str], str] = {}
    for key in keys:
        name = key.removeprefix(SEEN)
        kind, camera = name.split(":")[:2]
        places = [place for place in PLACES if place in camera]
        if len(places) != 1:
            misfit = f"fits both {' and '.join(places)}" if places else "has no place"
            raise NoRoboSetError(f"{where}: its camera {camera} {misfit} in a RoboSet, {only} this camera")
        other = taken.setdefault((kind, places[0]), name)
        if other != name:
            raise NoRoboSetError(
                f"{where}: {other} and {name} would both become the {places[0]} images of a RoboSet, {only} "
                "one of them"
            )


def _width(shape: tuple[int, ...]) -> int:
    return shape[1] if len(shape) > 1 else 1


def _columns(found: Mapping[str, h5py.Dataset], keys: tuple[str, ...], where: str, drop: int) -> np.ndarray:
    """The data sets of those names side by side, float32, without the last `drop` rows."""
    present = _present(found, keys)
    if not present:
        raise LoadError(f"{where}: has none of {', '.join(keys)}, which a RoboSet needs")
    parts = [_read_columns(found[key], key, f"{where}/{key}") for key in present]
    for key, part in zip(present, parts, strict=True):
        check_rows(part, f"{where}/{key}")
    lengths = {len(part) for part in parts}
    if len(lengths) != 1:
        raise LoadError(f"{where}: {', '.join(present)} differ in length: {sorted(lengths)}")
    rows = [
        as_rows(part[: len(part) - drop], f"{where}/{key}") for key, part in zip(present, parts, strict=True)
    ]
    return np.concatenate(rows, axis=1)


def _read_columns(dataset: h5py.Dataset, key: str, where: str) -> np.ndarray:
    values = read(dataset, where)
    # RoboHive squeezes one number per step, as grippers have; an arm has more than one joint.
    return values[:, None] if values.ndim == 1 and key.endswith("_ee") else values


def _present(found: Mapping[str, h5py.Dataset], keys: tuple[str, ...]) -> list[str]:
    return [key for key in keys if key in found and 0 not in (found[key].shape or ())[1:]]

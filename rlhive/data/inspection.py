"""Tables of the content of a file of episodes, damaged trials included, and a picture of its frames."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import h5py
import numpy as np

from rlhive.core.errors import LoadError
from rlhive.core.files import replacing
from rlhive.data.episode import STATE_ONLY, Episode, of_one_width
from rlhive.data.formats import FORMATS, detect, h5_file, whole_trials
from rlhive.data.h5 import (
    check_whole,
    datasets,
    h5_errors,
    holes,
    open_h5,
    read,
    read_trials,
    trial_names,
)
from rlhive.data.images import is_camera
from rlhive.data.trace import DEPLOY, STATE

_ROWS, _COLUMNS = 8, 8  # of the picture


class Key(NamedTuple):
    """One data set of a trial.

    Attributes:
        shape: of its rows `[rows, ...]`.
        dtype: as stored.
        nans: numbers that are not finite, not counting the last row of actions and of what a deployment measured, nor
            keys that are missing altogether, such as a state that the model lacks.
        holes: parts that were never written; None if it cannot be read.
    """

    shape: tuple[int, ...]
    dtype: str
    nans: int
    holes: int | None


class Summary(NamedTuple):
    """What the tables show of an episode, without its arrays.

    Attributes:
        steps: number of steps.
        total_reward: as `Episode.total_reward`.
        success: as `Episode.success`.
        gaps: as `Episode.gaps`.
    """

    steps: int
    total_reward: float | None
    success: bool | None
    gaps: int


class Trial(NamedTuple):
    """One trial.

    Attributes:
        name: its name.
        keys: its data sets by name.
        summary: of the episode that training would read, or the reason why it would not.
    """

    name: str
    keys: dict[str, Key]
    summary: Summary | LoadError


def inspect(path: str | os.PathLike[str]) -> tuple[str, list[Trial]]:
    """The name of the format, and all trials.

    Raises:
        LoadError: the file as a whole cannot be read.
    """
    format_name = detect(path)
    read_episode, source = _reader(path, format_name), h5_file(path, format_name)
    keys: dict[str, dict[str, Key]] = {}

    def read_one(group: h5py.Group, name: str, where: str) -> Episode:
        found = datasets(group, where)
        keys[name] = {key: _summarize(item, key, f"{where}/{key}") for key, item in found.items()}
        return read_episode(group, name, where)

    with open_h5(source) as file:
        names = trial_names(file)
    episodes = of_one_width(read_trials(source, read_one), source)  # one at a time in memory
    return format_name, [
        Trial(name, keys.get(name, {}), _without_arrays(episode))
        for name, episode in zip(names, episodes, strict=True)
    ]


def _without_arrays(episode: Episode | LoadError) -> Summary | LoadError:
    if isinstance(episode, LoadError):
        return episode
    return Summary(len(episode), episode.total_reward, episode.success, episode.gaps)


def _reader(path: str | os.PathLike[str], format_name: str) -> Callable[[h5py.Group, str, str], Episode]:
    """The reader of the format; if that refuses the whole data set, one that refuses each trial for the same reason."""
    try:
        return FORMATS[format_name].reader(path, STATE_ONLY)
    except LoadError as error:
        reason = str(error)

    def refuse(group: h5py.Group, name: str, where: str) -> Episode:
        raise LoadError(reason)

    return refuse


def format_trials(path: str | os.PathLike[str], format_name: str, trials: Sequence[Trial]) -> str:
    """Tables of trials and of keys, as text."""
    whole = [trial.summary for trial in trials if isinstance(trial.summary, Summary)]
    name = FORMATS[format_name].environment(path) if whole else None
    steps, successes = (
        sum(own.steps for own in whole),
        [own.success for own in whole if own.success is not None],
    )
    lines = [
        f"{path}: {format_name}, {len(whole)} trials of {steps} steps"
        + (f", {name}" if name else "")
        + (f", success {np.mean(successes):.1%}" if successes else "")
        + (f"; {len(trials) - len(whole)} damaged" if len(whole) < len(trials) else "")
    ]
    lines += ["", f"{'trial':<14}{'steps':>7}{'return':>10}{'success':>9}{'NaN':>6}{'holes':>7}{'gaps':>6}"]
    lines += [_trial_line(trial) for trial in trials]
    return "\n".join([*lines, "", *_key_lines(trials)])


def draw_frames(path: str | os.PathLike[str]) -> tuple[list[str], np.ndarray]:
    """Draws frames of all cameras, evenly spaced in time: one row per camera, from the first trials that can be read.

    Returns:
        What each row shows, and the picture, uint8 `[H, W, 3]`.

    Raises:
        ValueError: there are no frames.
        LoadError: no trial can be read.
    """
    found = list(itertools.islice(_frame_rows(path), _ROWS))
    if not found:
        raise ValueError(f"{path}: has no frames to draw")
    labels, rows = zip(*found, strict=True)
    height, width = (max(row.shape[axis] for row in rows) for axis in (0, 1))
    padded = [np.pad(row, ((0, height - row.shape[0]), (0, width - row.shape[1]), (0, 0))) for row in rows]
    return list(labels), np.concatenate(padded)


def write_picture(path: str | os.PathLike[str], picture: np.ndarray) -> None:
    """Writes a picture, uint8 `[H, W, 3]`, as a PNG file.

    Raises:
        OSError: it cannot be written, for example because the disk is full.
    """
    from matplotlib.image import imsave

    with replacing(path) as beside:
        imsave(beside, picture, format="png")


def _frame_rows(path: str | os.PathLike[str]) -> Iterator[tuple[str, np.ndarray]]:
    """For each camera of each trial that can be read, its name and its frames side by side."""

    def read_one(trial: h5py.Group, name: str, where: str) -> list[tuple[str, np.ndarray]]:
        return [
            (f"{name} {key}", _frames(item, f"{where}/{key}"))
            for key, item in datasets(trial, where).items()
            if is_camera(item) and len(item)
        ]

    source = h5_file(path, detect(path))
    for rows in whole_trials(read_trials(source, read_one), source, skip_damaged=True, damaged=[]):
        yield from rows


def _frames(camera: h5py.Dataset, where: str) -> np.ndarray:
    """Frames evenly spaced in time, side by side `[H, W, 3]`."""
    times = np.linspace(0, len(camera) - 1, min(_COLUMNS, len(camera)), dtype=int)
    with h5_errors(where):
        check_whole(camera, where)
        return np.concatenate([camera[int(time)] for time in times], axis=1)


def _summarize(dataset: h5py.Dataset, key: str, where: str) -> Key:
    shape, dtype = tuple(dataset.shape or ()), str(dataset.dtype)
    try:
        with h5_errors(where):
            missing = holes(dataset)
            values = read(dataset, where) if dataset.dtype.kind == "f" and not missing else np.zeros(0)
    except LoadError:
        return Key(shape, dtype, 0, None)
    if key == "actions" or key.startswith(("data/ctrl_", DEPLOY)):  # nothing follows the last reading
        values = values[:-1] if values.ndim else values
    nans = int((~np.isfinite(values)).sum())
    # What is missing altogether is NaN throughout: mocap bodies of a model, the age of simulated sensors.
    if key.startswith((STATE, DEPLOY)) and nans == values.size:
        nans = 0
    return Key(shape, dtype, nans, missing)


def _trial_line(trial: Trial) -> str:
    own = trial.summary
    if isinstance(own, LoadError):
        return f"{trial.name:<14}damaged: {own}"
    total = "-" if own.total_reward is None else f"{own.total_reward:.2f}"
    success = {None: "-", True: "yes", False: "no"}[own.success]
    nans = sum(key.nans for key in trial.keys.values())
    missing = sum(key.holes or 0 for key in trial.keys.values())
    return f"{trial.name:<14}{own.steps:>7}{total:>10}{success:>9}{nans:>6}{missing:>7}{own.gaps:>6}"


def _key_lines(trials: Sequence[Trial]) -> list[str]:
    by_name: dict[str, list[Key]] = {}
    for trial in trials:
        for name, key in trial.keys.items():
            by_name.setdefault(name, []).append(key)
    width = max(map(len, by_name), default=0) + 2
    head = f"{'key':<{width}}{'row':<16}{'type':<9}{'trials':>7}{'NaN':>8}{'holes':>7}"
    return [head, *(_key_line(name, keys, width) for name, keys in sorted(by_name.items()))]


def _key_line(name: str, keys: Sequence[Key], width: int) -> str:
    shapes: set[Any] = {key.shape[1:] for key in keys}
    dtypes = {key.dtype for key in keys}
    row = "x".join(map(str, shapes.pop())) or "1" if len(shapes) == 1 else "differs"
    dtype = dtypes.pop() if len(dtypes) == 1 else "differs"
    missing = sum(key.holes or 0 for key in keys)
    unreadable = sum(key.holes is None for key in keys)
    note = f"  unreadable in {unreadable}" if unreadable else ""
    return f"{name:<{width}}{row:<16}{dtype:<9}{len(keys):>7}{sum(key.nans for key in keys):>8}{missing:>7}{note}"

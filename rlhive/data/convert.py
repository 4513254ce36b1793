"""Conversion from one format to another, one trial at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from rlhive.core.errors import LoadError
from rlhive.core.files import check_new
from rlhive.data import minari, roboset
from rlhive.data.episode import STATE_ONLY, Episode
from rlhive.data.formats import FORMATS, detect, intact, whole_trials
from rlhive.data.h5 import datasets, read, read_trials
from rlhive.data.trace import trace_file, write_episode, write_trial


def convert(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    to: str,
    *,
    skip_damaged: bool = False,
) -> tuple[int, list[str]]:
    """Writes the episodes of a source in another format, all of them or none.

    From Trace to RoboSet, RoboHive's own conversion decides what is kept; all other conversions keep observations,
    actions, rewards, terminations, successes and times, and drop states, infos and images.

    Args:
        source: a data set as `load_dataset` takes it.
        out: the new file, or for Minari the new directory.
        to: a name in `FORMATS`.
        skip_damaged: leave damaged trials out instead of refusing the source.

    Returns:
        The number of episodes written, and for each trial left out its name and the reason.

    Raises:
        LoadError: a trial is damaged or lacks something that the new format needs.
        ValueError: there is no such conversion, or `out` exists or is not a valid place.
    """
    if to not in FORMATS:
        raise ValueError(f"there is no format {to!r}: expected one of {', '.join(FORMATS)}")
    check_new(out)
    format_name = detect(source)
    source = Path(source)
    if format_name == to:
        raise ValueError(f"{source}: is already a {to}")
    environment = FORMATS[format_name].environment(source)
    damaged: list[str] = []
    if to == "roboset":
        if format_name != "trace":
            raise ValueError(
                f"{source}: only a Trace can be converted to a RoboSet, which holds joints and images"
            )
        return _to_roboset(source, out, environment, skip_damaged, damaged), damaged
    found = _with_rewards(intact(source, format_name, skip_damaged, damaged), source, to)
    if to == "minari":
        return minari.write(out, found, environment), damaged
    count = 0
    with trace_file(out, environment) as file:
        for episode in found:
            write_episode(file, episode)
            count += 1
    return count, damaged


def _with_rewards(episodes: Iterator[Episode], source: Path, to: str) -> Iterator[Episode]:
    for episode in episodes:
        if episode.rewards is None:
            raise LoadError(
                f"{source}: {episode.name}: has no rewards, which a {to} needs; behaviour cloning learns from the "
                "file as it is"
            )
        yield episode


def _to_roboset(
    source: Path,
    out: str | os.PathLike[str],
    environment: str | None,
    skip_damaged: bool,
    damaged: list[str],
) -> int:
    count = 0
    with trace_file(out, environment, FORMATS["trace"].pixels(source)) as file:
        for name, values in whole_trials(_as_roboset(source), source, skip_damaged, damaged):
            write_trial(file, name, values)
            count += 1
    return count


def _as_roboset(source: Path) -> Iterator[tuple[str, dict[str, np.ndarray]] | LoadError]:
    """Each trial in RoboSet's form; it must be one that training could read."""
    read_episode = FORMATS["trace"].reader(source, STATE_ONLY)

    def read_one(trial: h5py.Group, name: str, where: str) -> tuple[str, dict[str, np.ndarray]]:
        read_episode(trial, name, where)
        values = {key: read(item, f"{where}/{key}") for key, item in datasets(trial, where).items()}
        return name, roboset.from_trial(values, where)

    return read_trials(source, read_one)

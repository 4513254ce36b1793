"""Joins several Traces into one, such as those of deployments, which have one trial each."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import h5py

from rlhive.core.errors import LoadError
from rlhive.core.files import check_new
from rlhive.core.interrupt import hold_signals
from rlhive.core.pixel_spec import PixelSpec
from rlhive.data.episode import STATE_ONLY, Episode
from rlhive.data.formats import detect
from rlhive.data.h5 import check_whole, datasets, h5_errors, open_h5, open_trial, trial_names
from rlhive.data.new_h5 import NewH5
from rlhive.data.trace import ENVIRONMENT, PIXELS, SEEN, read_environment, read_pixels, reader, trace_file


def join(sources: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> int:
    """Copies the trials of several Traces, in order and as they are stored, into one new Trace; all of them or none.

    Other attributes of a file, such as "deployment" and "dry_run", become attributes of each of its trials. Files that
    name no environment are compared by widths and images alone.

    Args:
        sources: two Traces or more, of one environment and with the same images.
        out: the new h5 file.

    Returns:
        How many trials it has.

    Raises:
        ValueError: there are fewer than two sources, or `out` is not a valid place.
        LoadError: a source is not a Trace, comes from a dry run, is damaged, or differs from the first one in its
            environment, its images (their description in the file, their names and their sizes), the widths of
            observations and actions, or in having rewards.
        OSError: it cannot be written, for example because the disk is full.
    """
    if len(sources) < 2:
        raise ValueError(f"expected at least two files to join, got {len(sources)}")
    check_new(out)
    environment, pixels = _check_same_environment(sources)
    count, first = 0, ""
    with trace_file(out, environment, pixels) as new:
        for path in sources:
            read_episode = reader(path, STATE_ONLY)
            with open_h5(path) as file:
                with h5_errors(f"{path}: its attributes"):
                    attributes = {
                        name: file.attrs[name] for name in file.attrs if name not in (ENVIRONMENT, PIXELS)
                    }
                for name in trial_names(file):
                    where = f"{path}: {name}"
                    trial = open_trial(file, name, where)
                    layout = _layout(read_episode(trial, name, where), datasets(trial, where))
                    first = first or layout
                    if layout != first:
                        raise LoadError(f"{where}: has {layout}, the first trial of {sources[0]} has {first}")
                    _copy(trial, new, f"Trial{count}", attributes, where)
                    count += 1
    return count


def _check_same_environment(
    sources: Sequence[str | os.PathLike[str]],
) -> tuple[str | None, PixelSpec | None]:
    """The environment and the images that all sources have."""
    found = []
    for path in sources:
        if (format_name := detect(path)) != "trace":
            raise LoadError(f"{path}: is a {format_name} data set; only Traces can be joined")
        reader(path, STATE_ONLY)  # refuses a dry run
        found.append((read_environment(path), read_pixels(path)))
    for path, own in zip(sources, found, strict=True):
        for what, mine, first in zip(("environment", "images"), own, found[0], strict=True):
            if mine != first:
                raise LoadError(
                    f"{path}: cannot be joined with {sources[0]}: its {what}: {mine}, there: {first}"
                )
    return found[0]


def _layout(episode: Episode, found: Mapping[str, h5py.Dataset]) -> str:
    """What all trials of a data set have in common."""
    widths = f"{episode.observations.shape[1]} observations and {episode.actions.shape[1]} actions per step"
    rewards = "no rewards" if episode.rewards is None else "rewards"
    images = [
        f"{key.removeprefix(SEEN)} {list(item.shape[1:])}"
        for key, item in found.items()
        if key.startswith((f"{SEEN}rgb:", f"{SEEN}d:"))
    ]
    return f"{widths}, {rewards}, {', '.join(images) or 'no images'}"


def _copy(trial: h5py.Group, new: NewH5, name: str, attributes: Mapping[str, Any], where: str) -> None:
    """Copies a trial as it is stored, part by part; its own attributes come before those of its file."""
    found = datasets(trial, where)
    with hold_signals(), h5_errors(f"{where}: its attributes"):
        group = new.create_group(name)
        for key, value in {**attributes, **trial.attrs}.items():
            group.attrs[key] = value
    for key, item in found.items():
        with hold_signals(), h5_errors(f"{where}/{key}"):
            check_whole(item, f"{where}/{key}")
            new.copy(item, f"{name}/{key}", without_attrs=True)
        new.check()

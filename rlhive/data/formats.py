"""The formats that can be read, and how to tell which one a file has."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import h5py

from rlhive.core.errors import LoadError
from rlhive.core.pixel_spec import PixelSpec
from rlhive.data import minari, roboset, trace
from rlhive.data.episode import STATE_ONLY, Episode, Selection, of_one_width
from rlhive.data.h5 import h5_errors, open_h5, open_trial, read_trials, trial_names

T = TypeVar("T")


def _not_told(*_: object) -> None:
    """None, for something that a format does not say."""


class Format(NamedTuple):
    """How to read a format.

    Attributes:
        reader: `reader(path, selection)` returns `read_one(group, name, where)`, which reads one of its h5 groups.
        environment: `environment(path)` is the id of the environment it was recorded in, None if the file does not say.
        pixels: `pixels(path)` describes its images, None if the file does not say.
        columns: `columns(path, trial)` are the parts of an intact trial's observation with their widths, None if the
            file does not say.
        file: for a format that is a directory, the h5 file in it that holds the trials.
    """

    reader: Callable[[str | os.PathLike[str], Selection], Callable[[h5py.Group, str, str], Episode]]
    environment: Callable[[str | os.PathLike[str]], str | None]
    pixels: Callable[[str | os.PathLike[str]], PixelSpec | None] = _not_told
    columns: Callable[[str | os.PathLike[str], str], dict[str, int] | None] = _not_told
    file: str = ""


FORMATS = {
    "trace": Format(trace.reader, trace.read_environment, trace.read_pixels),
    "roboset": Format(roboset.reader, trace.read_environment, trace.read_pixels, roboset.columns),
    "minari": Format(minari.reader, minari.read_environment, file=minari.FILE),
}


def detect(path: str | os.PathLike[str]) -> str:
    """The name in `FORMATS` of what is at `path`: a directory is Minari's, a file with `data/` in its trials RoboSet's.

    The first trial that can be read and has `actions` or `data/` decides.

    Raises:
        LoadError: the path is empty or does not exist, or is not a complete HDF5 file.
    """
    if not os.fspath(path):  # pathlib would take it as the current directory
        raise LoadError("the path of the data set is empty: name a Trace, a RoboSet or a Minari data set")
    if not Path(path).exists():
        raise LoadError(f"{path}: there is no such file or directory")
    if Path(path).is_dir():
        return "minari"
    with open_h5(path) as file:
        for trial in trial_names(file):
            with contextlib.suppress(LoadError), h5_errors(str(path)):  # reported when the trial is read
                names = set(open_trial(file, trial, str(path)))
                if names & {"actions", "data"}:
                    return "trace" if "actions" in names else "roboset"
    return "trace"


def h5_file(path: str | os.PathLike[str], format_name: str) -> Path:
    """The file that holds the trials."""
    return Path(path) / FORMATS[format_name].file


def source_files(path: str | os.PathLike[str]) -> list[Path]:
    """All files of a data set, sorted: those that are read, also through links, and all others in its directory."""
    if not Path(path).is_dir():
        return [Path(path)]
    read = [Path(path) / name for name in (minari.FILE, minari.METADATA)]
    return sorted({*read, *(one for one in Path(path).rglob("*") if one.is_file())})


def episodes(
    path: str | os.PathLike[str], format_name: str, selection: Selection = STATE_ONLY
) -> Iterator[Episode | LoadError]:
    """The episodes of a source in order; for a damaged one, the error that says why.

    Raises:
        LoadError: the source as a whole cannot be read, or its format lacks what is selected.
    """
    return read_trials(h5_file(path, format_name), FORMATS[format_name].reader(path, selection))


def intact(
    path: str | os.PathLike[str],
    format_name: str,
    skip_damaged: bool,
    damaged: list[str],
    selection: Selection = STATE_ONLY,
) -> Iterator[Episode]:
    """The intact episodes of a source, all of the same widths; see `whole_trials`."""
    items = of_one_width(episodes(path, format_name, selection), h5_file(path, format_name))
    return whole_trials(items, h5_file(path, format_name), skip_damaged, damaged)


def whole_trials(
    items: Iterable[T | LoadError], file: Path, skip_damaged: bool, damaged: list[str]
) -> Iterator[T]:
    """The trials that can be read; a damaged one is raised, or with `skip_damaged` described in `damaged`.

    Args:
        items: the trials, with an error for each one that cannot be read.
        file: the file that holds them.
        skip_damaged: leave damaged trials out.
        damaged: gets name and reason of each trial left out, without the path of the file, which may move.

    Raises:
        LoadError: a trial is damaged and `skip_damaged` is false, or no trial is intact.
    """
    found = False
    for item in items:
        if not isinstance(item, LoadError):
            found = True
            yield item
        elif skip_damaged:
            damaged.append(str(item).removeprefix(f"{file}: "))
        elif isinstance(item, roboset.NoRoboSetError):  # skipping would leave out all of them
            raise item
        else:
            skip = "leave such trials out with --skip_damaged, in training with train.skip_damaged=True"
            raise LoadError(f"{item}; {skip}")
    if not found:
        raise LoadError(f"{file}: has no intact trial; the first one: {damaged[0]}")


def count_trials(path: str | os.PathLike[str], format_name: str) -> int:
    """The number of trials, damaged ones included.

    Raises:
        LoadError: the file as a whole cannot be read.
    """
    with open_h5(h5_file(path, format_name)) as file:
        return len(trial_names(file))

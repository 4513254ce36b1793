"""The formats that are read, and which of them a file is in."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from rlhive.core.errors import LoadError
from rlhive.data import minari, roboset, trace
from rlhive.data.episode import Episode
from rlhive.data.h5 import h5_errors, open_h5, open_trial, trial_names


class Format(NamedTuple):
    """How a format is read.

    Attributes:
        episodes: `episodes(path)` yields each episode, or the error that says why it cannot be read.
        environment: `environment(path)` is the id of where it is from, None where it is not told.
    """

    episodes: Callable[[str | os.PathLike[str]], Iterator[Episode | LoadError]]
    environment: Callable[[str | os.PathLike[str]], str | None]


FORMATS = {
    "trace": Format(trace.episodes, trace.environment),
    "roboset": Format(roboset.episodes, trace.environment),
    "minari": Format(minari.episodes, minari.environment),
}


def detect(path: str | os.PathLike[str]) -> str:
    """The name in `FORMATS` of what is at `path`: directories are Minari's, files with `data/` in a trial RoboSet's.

    Raises:
        LoadError: there is nothing, or no whole HDF5 file.
    """
    if Path(path).is_dir():
        return "minari"
    names: set[str] = set()
    with open_h5(path) as file:
        for trial in trial_names(file):
            with contextlib.suppress(LoadError), h5_errors(str(path)):  # met again when it is read
                names |= set(open_trial(file, trial, str(path)))
    return "roboset" if "data" in names and "actions" not in names else "trace"

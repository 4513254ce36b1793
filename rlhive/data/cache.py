"""From a file of episodes to a memory-mapped data set: built once, all of it or nothing, found by the source's hash."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import attrs
import numpy as np
from filelock import FileLock
from tqdm import tqdm

from rlhive.core.errors import LoadError
from rlhive.core.files import write_text
from rlhive.core.tree_file import flush
from rlhive.data.dataset import FORMAT_VERSION, SPEC_FILE, Dataset, DatasetSpec, column_file, open_folder
from rlhive.data.episode import Episode
from rlhive.data.formats import FORMATS, detect
from rlhive.paths import cache_dir

LOG = logging.getLogger(__name__)


def load_dataset(source: str | os.PathLike[str], *, skip_damaged: bool = False) -> Dataset:
    """Opens a file or directory of episodes as transitions, built in the cache when they are not there yet.

    Args:
        source: a Trace, a RoboSet or a Minari data set.
        skip_damaged: leave damaged trials out, and say how many, instead of refusing the file.

    Raises:
        LoadError: it is not there, of no such format, or has a damaged trial; one line that says which.
    """
    sha256 = hash_source(Path(source))
    root = cache_dir() / "datasets"
    folder = root / f"{sha256[:32]}-v{FORMAT_VERSION}{'-intact' if skip_damaged else ''}"
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            _build(Path(source), sha256, folder, skip_damaged)
    dataset = open_folder(folder)
    if dataset.spec.damaged:
        count, total = len(dataset.spec.damaged), len(dataset.spec.damaged) + len(dataset.spec.trials)
        LOG.warning("%s: left out %d of %d trials, which are damaged", source, count, total)
    return attrs.evolve(dataset, spec=attrs.evolve(dataset.spec, source=str(source)))


def hash_source(source: Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files of a directory.

    Raises:
        LoadError: there is neither.
    """
    if not source.exists():
        raise LoadError(f"{source}: there is no such file or directory")
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    total = hashlib.sha256()
    with _progress(f"reading {source.name}", sum(path.stat().st_size for path in files), "B") as bar:
        for path in files:
            name = "" if path == source else str(path.relative_to(source))
            total.update(f"{name}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    total.update(block)
                    bar.update(len(block))
    return total.hexdigest()


def intact(
    source: str | os.PathLike[str], format_name: str, skip_damaged: bool, damaged: list[str]
) -> Iterator[Episode]:
    """The episodes of a source, all of one width; the first damaged one is raised, or their reasons put in `damaged`.

    Raises:
        LoadError: a damaged trial, unless they are skipped; or not one whole trial.
    """
    first: Episode | None = None
    for item in FORMATS[format_name].episodes(source):
        error = item if isinstance(item, LoadError) else _differs(first, item, source)
        if isinstance(item, Episode) and error is None:
            first = first or item
            yield item
        elif skip_damaged:
            damaged.append(str(error))
        else:
            raise LoadError(f"{error}; --skip_damaged leaves such trials out")
    if first is None:
        raise LoadError(
            f"{source}: has no whole trial; the first: {damaged[0] if damaged else 'there is none'}"
        )


def _build(source: Path, sha256: str, folder: Path, skip_damaged: bool) -> None:
    """Makes the folder of a data set; the caller holds its lock."""
    for stale in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(stale)
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    beside.mkdir()
    try:
        spec = _write_columns(source, sha256, beside, skip_damaged)
        write_text(beside / SPEC_FILE, json.dumps(attrs.asdict(spec) | {"format_version": FORMAT_VERSION}))
        for path in (*beside.iterdir(), beside):
            flush(path)
        os.replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _write_columns(source: Path, sha256: str, folder: Path, skip_damaged: bool) -> DatasetSpec:
    """Appends one trial after another to the columns, so that only one is in memory."""
    format_name = detect(source)
    damaged: list[str] = []
    names: list[str] = []
    lengths: list[int] = []
    dims = (0, 0, False)
    with contextlib.ExitStack() as stack, _progress(f"building {source.name}", None, "trial") as bar:
        files: dict[tuple[str, ...], BinaryIO] = {}
        for episode in intact(source, format_name, skip_damaged, damaged):
            for key, rows in _transitions(episode).items():
                if key not in files:
                    files[key] = stack.enter_context(column_file(folder, key).open("wb"))
                files[key].write(np.ascontiguousarray(rows).data)
            names.append(episode.name)
            lengths.append(len(episode))
            dims = (episode.observations.shape[1], episode.actions.shape[1], episode.rewards is not None)
            bar.update()
    environment = FORMATS[format_name].environment(source)
    return DatasetSpec(str(source), sha256, format_name, environment, *dims, names, lengths, damaged)


def _transitions(episode: Episode) -> dict[tuple[str, ...], np.ndarray]:
    done = episode.terminated.copy()
    done[-1] = True  # a trial that stops without an end was cut: no bootstrap is lost by that
    columns = {
        ("observation",): episode.observations[:-1],
        ("action",): episode.actions,
        ("next", "observation"): episode.observations[1:],
        ("next", "terminated"): episode.terminated,
        ("next", "done"): done,
    }
    return columns | ({} if episode.rewards is None else {("next", "reward"): episode.rewards})


def _differs(first: Episode | None, episode: Episode, source: object) -> LoadError | None:
    if first is None:
        return None
    ours, others = (
        (of.observations.shape[1], of.actions.shape[1], of.rewards is not None) for of in (first, episode)
    )
    if ours == others:
        return None
    return LoadError(
        f"{source}: {episode.name}: has {others[0]} observations and {others[1]} actions per step, "
        f"{first.name} has {ours[0]} and {ours[1]}"
    )


def _progress(what: str, total: int | None, unit: str) -> tqdm:
    return tqdm(
        desc=what, total=total, unit=unit, unit_scale=unit == "B", disable=None, leave=False, delay=1.0
    )

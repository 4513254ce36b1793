"""From a file of episodes to a memory-mapped data set: built once, all of it or nothing, found by the source's hash."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import numpy as np
import torch
from filelock import FileLock
from tqdm import tqdm

from rlhive.core.errors import LoadError
from rlhive.core.files import flush, write_text
from rlhive.core.pixel_spec import PixelSpec
from rlhive.data.dataset import FORMAT_VERSION, SPEC_FILE, Dataset, DatasetSpec, column_file, open_folder
from rlhive.data.episode import STATE_ONLY, Selection
from rlhive.data.features import check_images, make_columns, make_encode
from rlhive.data.formats import FORMATS, count_trials, detect, intact, source_files
from rlhive.paths import cache_dir, command_line
from rlhive.policy_fn.encoders import Encoder, describe

LOG = logging.getLogger(__name__)


@attrs.frozen
class _Build:
    """What decides what is in a data set, but for `device`."""

    source: Path
    sha256: str
    format_name: str
    skip_damaged: bool
    selection: Selection
    encoder: Encoder | None
    device: str | torch.device

    def folder_name(self) -> str:
        """Another one for each content."""
        name = f"{self.sha256[:32]}-v{FORMAT_VERSION}{'-intact' if self.skip_damaged else ''}"
        if self.selection == STATE_ONLY:
            return name
        described = None if self.encoder is None else self.encoder.to_dict()
        text = json.dumps([attrs.asdict(self.selection), described], sort_keys=True)
        return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def load_dataset(
    source: str | os.PathLike[str],
    *,
    skip_damaged: bool = False,
    pixels: PixelSpec | None = None,
    encoder: Encoder | None = None,
    observation_keys: Sequence[str] = (),
    device: str | torch.device = "cpu",
) -> Dataset:
    """Opens a file or directory of episodes as transitions, built in the cache when they are not there yet.

    With images the transitions are those that online training of the same `env.pixels` and `encoder` has in replay: a
    frozen encoder's features follow the observation, encoded once per data set; for one that learns the images stay.

    Args:
        source: a Trace, a RoboSet or a Minari data set.
        skip_damaged: leave damaged trials out, and say how many, instead of refusing the file.
        pixels: the images, such as `env.pixels`; None for those that the file names itself if there is an `encoder`,
            else for none.
        encoder: what the images go through; None, or one that learns, for the images as they are.
        observation_keys: `env.observation_keys` where the logged observations are not the environment's, see
            `rlhive.data.episode.Selection`.
        device: where images are encoded.

    Raises:
        LoadError: it is not there, of no such format, has a damaged trial, or other images; one line that says which.
        ValueError: `observation_keys` are one text.
        OSError: the cache cannot be written, such as on a full disk.
    """
    format_name = detect(source)
    source = Path(source)
    sha256 = hash_source(source, format_name)
    pixels = check_images(source, FORMATS[format_name].pixels(source), pixels, encoder)
    build = _Build(
        source,
        sha256,
        format_name,
        skip_damaged,
        Selection(pixels, observation_keys),
        encoder if encoder is not None and encoder.frozen else None,
        device,
    )
    dataset = _open_or_make(build, cache_dir() / "datasets" / build.folder_name())
    if dataset.spec.damaged:
        count, total = len(dataset.spec.damaged), len(dataset.spec.damaged) + len(dataset.spec.trials)
        LOG.warning("%s: left out %d of %d trials, which are damaged", source, count, total)
    if dataset.spec.gaps:
        LOG.warning(
            "%s: its clock stands still, runs back or jumps at %d of %d steps; `%s` says in which trials",
            source,
            dataset.spec.gaps,
            dataset.spec.steps,
            command_line(f"rlhive.data inspect {source}"),
        )
    return attrs.evolve(dataset, spec=attrs.evolve(dataset.spec, source=str(source)))


def hash_source(source: Path, format_name: str) -> str:
    """SHA-256 of a file, or of the names and contents of the files of a directory.

    Raises:
        LoadError: one of them is not there.
    """
    files = source_files(source)
    if missing := [path for path in files if not path.is_file()]:
        raise LoadError(f"{missing[0]}: there is no such file, which a {format_name} data set has")
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


def _open_or_make(build: _Build, folder: Path) -> Dataset:
    """The data set of a folder, made if it is not there or damaged."""
    with contextlib.suppress(LoadError):  # a whole one is opened without the right to write
        return open_folder(folder)
    with contextlib.ExitStack() as stack:
        with _writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(f"{folder}.lock"))
        if folder.exists():
            try:
                return open_folder(folder)  # another process has made it meanwhile
            except LoadError as error:
                LOG.warning("%s; it is made anew", error)
            with _writing(folder):
                _remove(folder)
        _make_folder(build, folder)
    return open_folder(folder)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Says of errors in the block, which writes the data set of a folder, what to do about them."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{folder.parent}: a data set cannot be written there ({error.strerror or error}): make room, or set "
            "RLHIVE_CACHE to another directory"
        ) from error


def _remove(folder: Path) -> None:
    """Removes what is not a whole data set, a file in its place included."""
    if folder.is_dir():
        shutil.rmtree(folder)
    else:
        folder.unlink()


def _make_folder(build: _Build, folder: Path) -> None:
    """Makes the folder of a data set; the caller holds its lock."""
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    with _writing(folder):
        for stale in folder.parent.glob(f".{folder.name}.*.tmp"):
            shutil.rmtree(stale)
        beside.mkdir()
    try:
        spec = _write_columns(build, beside)
        with _writing(folder):
            write_text(
                beside / SPEC_FILE, json.dumps(attrs.asdict(spec) | {"format_version": FORMAT_VERSION})
            )
            for path in (*beside.iterdir(), beside):
                flush(path)
            os.replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _write_columns(build: _Build, folder: Path) -> DatasetSpec:
    """Appends one trial after another to the columns, so that only one is in memory."""
    source, encoder, pixels = build.source, build.encoder, build.selection.pixels
    damaged: list[str] = []
    names: list[str] = []
    lengths: list[int] = []
    observation_dim, action_dim, has_rewards, gaps = 0, 0, False, 0
    encode = None if encoder is None else make_encode(encoder, build.device)
    doing = f"building {source.name}" + ("" if encoder is None else f", {describe(encoder)}")
    total = count_trials(source, build.format_name)
    with _progress(doing, total, "trial") as bar:
        for episode in intact(source, build.format_name, build.skip_damaged, damaged, build.selection):
            columns = make_columns(episode, 1 if pixels is None else pixels.frames, encode)
            with _writing(folder):
                for key, rows in columns.items():
                    with column_file(folder, key).open("ab") as file:
                        file.write(np.ascontiguousarray(rows).data)
            names.append(episode.name)
            lengths.append(len(episode))
            observation_dim, action_dim = columns["observation",].shape[1], episode.actions.shape[1]
            has_rewards = episode.rewards is not None
            gaps += episode.gaps
            bar.update()
    return DatasetSpec(
        source=str(source),
        sha256=build.sha256,
        format=build.format_name,
        environment=FORMATS[build.format_name].environment(source),
        observation_dim=observation_dim,
        action_dim=action_dim,
        has_rewards=has_rewards,
        trials=names,
        lengths=lengths,
        damaged=damaged,
        gaps=gaps,
        pixels=pixels,
        encoder=None if encoder is None else encoder.to_dict(),
    )


def _progress(what: str, total: int, unit: str) -> tqdm:
    return tqdm(
        desc=what, total=total, unit=unit, unit_scale=unit == "B", disable=None, leave=False, delay=1.0
    )

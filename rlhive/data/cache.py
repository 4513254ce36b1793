"""From a file of episodes to a memory-mapped data set, built once, as a whole or not at all, and found by its hash."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shlex
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import numpy as np
import torch
from filelock import FileLock
from tqdm import tqdm

from rlhive.command_line import command_line
from rlhive.core.errors import LoadError
from rlhive.core.files import flush, write_text
from rlhive.core.pixel_spec import PixelSpec
from rlhive.data.dataset import FORMAT_VERSION, SPEC_FILE, Dataset, DatasetSpec, column_file, open_folder
from rlhive.data.episode import STATE_ONLY, Selection
from rlhive.data.features import check_images, make_columns, make_encode
from rlhive.data.formats import FORMATS, count_trials, detect, intact, source_files
from rlhive.paths import cache_dir
from rlhive.policy_fn.encoders import Encoder, describe

LOG = logging.getLogger(__name__)


@attrs.frozen
class _Build:
    """Everything that determines the content of a data set, and the `device` that encodes it."""

    source: Path
    sha256: str
    format_name: str
    skip_damaged: bool
    selection: Selection
    encoder: Encoder | None
    device: str | torch.device

    def folder_name(self) -> str:
        """A different name for each content."""
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
    """Opens a file or directory of episodes as transitions, building them in the cache if they are not there yet.

    With images, the transitions equal those in the replay of online training with the same `env.pixels` and `encoder`:
    features of a frozen encoder, computed once per data set, follow the observation; a learning one keeps the images.

    Args:
        source: a Trace, a RoboSet or a Minari data set.
        skip_damaged: leave damaged trials out, with a warning that counts them, instead of refusing the file.
        pixels: the images, such as `env.pixels`; if None, those that the file names if there is an `encoder`, else no
            images.
        encoder: encodes the images if it is frozen; with None or a learning encoder the images stay as they are.
        observation_keys: `env.observation_keys` if the logged observations are not the environment's; see
            `rlhive.data.episode.Selection`.
        device: where images are encoded.

    Raises:
        LoadError: the source does not exist, has another format, has a damaged trial, or has other images.
        ValueError: `observation_keys` is a single string.
        OSError: the cache cannot be written, for example because the disk is full.
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
        LOG.warning("%s: left out %d of %d trials because they are damaged", source, count, total)
    if dataset.spec.gaps:
        LOG.warning(
            "%s: its clock stands still, runs back or jumps at %d of %d steps; `%s` says in which trials",
            source,
            dataset.spec.gaps,
            dataset.spec.steps,
            command_line(f"rlhive.data inspect {shlex.quote(str(source))}"),
        )
    return attrs.evolve(dataset, spec=attrs.evolve(dataset.spec, source=str(source)))


def hash_source(source: Path, format_name: str) -> str:
    """SHA-256 of a file, or of the names and contents of the files of a directory.

    Raises:
        LoadError: a file is missing.
    """
    files = source_files(source)
    if missing := [path for path in files if not path.is_file()]:
        raise LoadError(f"{missing[0]}: there is no such file, but a {format_name} data set needs it")
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
    """The data set in a folder, built if it is missing or damaged."""
    with contextlib.suppress(LoadError):  # opening a complete one needs no write permission
        return open_folder(folder)
    with contextlib.ExitStack() as stack:
        with _writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(f"{folder}.lock"))
        if folder.exists():
            try:
                return open_folder(folder)  # another process has built it in the meantime
            except LoadError as error:
                LOG.warning("%s; it is built again", error)
            with _writing(folder):
                _remove(folder)
        _make_folder(build, folder)
    return open_folder(folder)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Adds to an OSError of the block, which writes the data set in a folder, where it happened and what to do."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{folder.parent}: cannot write a data set there ({error.strerror or error}): make room, or set "
            "RLHIVE_CACHE to another directory"
        ) from error


def _remove(folder: Path) -> None:
    """Removes an incomplete data set, or a file that is in its place."""
    if folder.is_dir():
        shutil.rmtree(folder)
    else:
        folder.unlink()


def _make_folder(build: _Build, folder: Path) -> None:
    """Builds the folder of a data set; the caller holds its lock."""
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
    """Appends the trials to the columns one by one, so that only one is in memory."""
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

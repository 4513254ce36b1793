"""A data set of transitions on disk, mapped into memory, so that it may be larger than memory."""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from tensordict import MemoryMappedTensor, TensorDict
from torch import Generator, Tensor

from rlhive.core.converters import integers, strings
from rlhive.core.errors import LoadError
from rlhive.core.keys import check_draw
from rlhive.core.normalizer import init_normalizer, update_normalizer
from rlhive.core.pixel_spec import PixelSpec, to_pixel_spec
from rlhive.core.types import Batch

SPEC_FILE, FORMAT_VERSION = "dataset.json", 6
_NO_RESERVE = 0x4000  # Linux's MAP_NORESERVE, which Python 3.11 does not name
_BLOCK = 1 << 17  # numbers per block: 1 MB in double precision


@attrs.frozen
class DatasetSpec:
    """Description of a data set, in plain values that JSON can hold.

    Attributes:
        source: the path it was read from.
        sha256: of the source.
        format: a name of `rlhive.data.formats.FORMATS`.
        environment: id of the RoboHive environment it was recorded in; None if the source does not say.
        observation_dim: O, features included.
        action_dim: A.
        has_rewards: whether each step has a reward.
        trials: names of the trials.
        lengths: steps of each.
        damaged: the trials that were left out, each with the reason, without the path.
        gaps: steps of all trials at which the clock stands still, runs back or jumps, as `Episode.gaps` counts them.
        pixels: the images it was built from; None without images.
        encoder: `to_dict()` of the frozen encoder whose features end the observation; None if the data set holds the
            images themselves.
    """

    source: str
    sha256: str
    format: str
    environment: str | None
    observation_dim: int
    action_dim: int
    has_rewards: bool
    trials: tuple[str, ...] = attrs.field(converter=strings)
    lengths: tuple[int, ...] = attrs.field(converter=integers)
    damaged: tuple[str, ...] = attrs.field(converter=strings)
    gaps: int
    pixels: PixelSpec | None = attrs.field(default=None, converter=to_pixel_spec)
    encoder: dict[str, Any] | None = None

    @property
    def steps(self) -> int:
        """N, the transitions of all trials."""
        return sum(self.lengths)

    def columns(self) -> dict[tuple[str, ...], tuple[torch.dtype, tuple[int, ...]]]:
        """Keys of the transitions, as in `rlhive.core.replay`, with dtype and shape `[N, ...]`."""
        numbers = {"observation": self.observation_dim, "action": self.action_dim}
        following = {"observation": self.observation_dim} | ({"reward": 1} if self.has_rewards else {})
        flag = (torch.bool, (self.steps, 1))
        images: dict[tuple[str, ...], tuple[torch.dtype, tuple[int, ...]]] = {}
        if self.pixels is not None and self.encoder is None:
            rows = (torch.uint8, (self.steps, *self.pixels.shape))
            images = {("pixels",): rows, ("next", "pixels"): rows}
        return {
            **images,
            **{(key,): (torch.float32, (self.steps, width)) for key, width in numbers.items()},
            **{("next", key): (torch.float32, (self.steps, width)) for key, width in following.items()},
            ("next", "terminated"): flag,
            ("next", "done"): flag,
        }


@attrs.frozen(eq=False)
class Dataset:
    """Transitions of recorded episodes.

    Attributes:
        spec: their description.
        folder: their folder in the cache.
    """

    spec: DatasetSpec
    folder: Path = attrs.field(repr=False)
    _columns: TensorDict = attrs.field(repr=False)  # maps the files themselves, so never handed out
    _ends: Tensor = attrs.field(init=False, repr=False)

    @_ends.default
    def _trial_ends(self) -> Tensor:
        return torch.tensor(self.spec.lengths).cumsum(0)

    def __len__(self) -> int:
        """N."""
        return self.spec.steps

    @property
    def transitions(self) -> TensorDict:
        """All of them, newly mapped at each access: writing to them changes neither the files nor this data set.

        Batch `[N]`: "observation", "action", ("next", "observation"), ("next", "reward") if there are rewards,
        ("next", "terminated") and ("next", "done"), as in `rlhive.core.replay`; for a learning encoder "pixels" and
        ("next", "pixels"), uint8 `[N, cameras, H, W, 3 * frames]`.
        """
        parts = {key: _map_own(self.folder, key, *column) for key, column in self.spec.columns().items()}
        return TensorDict(parts, batch_size=[len(self)])

    def sample(self, generators: Sequence[Generator], batch_size: int, chunk_size: int = 1) -> Batch:
        """A minibatch per seed, each drawn with replacement and with its own CPU generator.

        Args:
            generators: S generators, advanced by the call.
            batch_size: B, transitions per seed.
            chunk_size: K, as in `take`.

        Returns:
            Fresh tensors of batch `[S, B]`, raw, on the CPU.

        Raises:
            ValueError: no generator, or an empty minibatch or chunk.
        """
        check_draw(generators, batch_size)
        index = torch.stack([torch.randint(len(self), (batch_size,), generator=g) for g in generators])
        return self.take(index, chunk_size)

    def take(self, index: Tensor, chunk_size: int = 1) -> Batch:
        """The transitions at `index`, int64 `[...]` in [0, N): fresh tensors of batch `[...]`.

        With `chunk_size` K > 1, "action" is `[..., K, A]`, the actions from this step on, and "mask", bool `[..., K]`,
        says which of them belong to its trial; after the trial's end the last action is repeated.

        Raises:
            ValueError: K is less than 1.
        """
        if chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
        parts = {
            key: _rows(rows, index)
            for key, rows in self._columns.items(include_nested=True, leaves_only=True)
        }
        if chunk_size > 1:
            end = self._ends[torch.searchsorted(self._ends, index, right=True)].unsqueeze(-1)
            steps = index.unsqueeze(-1) + torch.arange(chunk_size)
            parts["action"] = _rows(self._columns["action"], steps.minimum(end - 1))
            parts["mask"] = steps < end
        return TensorDict(parts, batch_size=index.shape)

    def blocks(self, key: str) -> Iterator[Tensor]:
        """The rows of a vector, such as "action", in blocks: fresh float64 tensors `[rows, width]`."""
        rows = self._columns[key].as_subclass(Tensor)
        return (block.double() for block in rows.split(max(1, _BLOCK // rows.shape[1])))

    def normalizer(self) -> TensorDict:
        """Mean and deviation of all observations, as a run stores them: `{"loc" [O], "scale" [O], "count" []}`."""
        normalizer = init_normalizer(self.spec.observation_dim).double()
        for block in self.blocks("observation"):
            normalizer = update_normalizer(normalizer, block)
        return normalizer.float()


def open_folder(folder: Path) -> Dataset:
    """The data set that `rlhive.data.cache` built in a folder.

    Raises:
        LoadError: it is incomplete.
        OSError: it cannot be read.
    """
    try:
        values: dict[str, Any] = json.loads((folder / SPEC_FILE).read_text())
        if values.pop("format_version") != FORMAT_VERSION:
            raise ValueError("it has another format version")
        spec = DatasetSpec(**values)
        parts = {key: _map(column_file(folder, key), *column) for key, column in spec.columns().items()}
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError) as error:
        raise LoadError(f"{folder}: is not a complete data set ({error})") from None
    return Dataset(spec, folder, TensorDict(parts, batch_size=[spec.steps]).lock_())


def column_file(folder: Path, key: tuple[str, ...]) -> Path:
    """The file that holds the rows of a key as plain numbers."""
    return folder / f"{'.'.join(key)}.bin"


def _rows(column: Tensor, index: Tensor) -> Tensor:
    """Fresh copies of the rows at `index`, `[..., width]`."""
    taken = column.as_subclass(Tensor).index_select(0, index.flatten())
    return taken.view(*index.shape, *taken.shape[1:])


def _map(path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> MemoryMappedTensor:
    if path.stat().st_size != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{path.name} has the wrong size")
    return MemoryMappedTensor.from_filename(path, dtype, torch.Size(shape))


def _map_own(folder: Path, key: tuple[str, ...], dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """The rows of a key, mapped so that pages that are written to become private memory of this process."""
    size = math.prod(shape) * dtype.itemsize
    if size == 0:
        return torch.empty(shape, dtype=dtype)
    flags = mmap.MAP_PRIVATE | _NO_RESERVE  # without it Linux refuses a file larger than memory
    with column_file(folder, key).open("rb") as file:
        mapped = mmap.mmap(file.fileno(), size, flags, mmap.PROT_READ | mmap.PROT_WRITE)
    return torch.frombuffer(mapped, dtype=dtype).view(shape)

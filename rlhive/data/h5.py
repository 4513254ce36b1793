"""Distrustful reading of HDF5 files: anything damaged, missing or never written gives one line that says where."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import h5py
import numpy as np

from rlhive.core.errors import LoadError

T = TypeVar("T")
_MAX_DEPTH = 8  # RoboHive nests four groups deep
_DEFLATE_RATIO = 1032  # zlib packs nothing tighter
_GZIP = h5py.h5z.FILTER_DEFLATE
_FLOATS = (h5py.h5t.IEEE_F16LE, h5py.h5t.IEEE_F32LE, h5py.h5t.IEEE_F64LE)
_INTEGERS = tuple(getattr(h5py.h5t, f"STD_{sign}{bits}LE") for sign in ("I", "U") for bits in (8, 16, 32, 64))


@contextlib.contextmanager
def h5_errors(where: str) -> Iterator[None]:
    """Turns any error of HDF5 into a one-line LoadError that begins with `where`."""
    try:
        yield
    except LoadError:
        raise
    except (Exception, MemoryError) as error:  # a damaged file can make h5py raise nearly any exception
        reason = " ".join(str(error).split()) or type(error).__name__
        raise LoadError(f"{where}: cannot be read ({reason}): damaged or cut short; copy it again") from None


@contextlib.contextmanager
def open_h5(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """Opens a file for reading.

    Raises:
        LoadError: it does not exist or is not a complete HDF5 file.
    """
    if not os.path.isfile(path):
        raise LoadError(f"{path}: there is no such file")
    with h5_errors(str(path)):
        file = h5py.File(path, "r")
    with file:
        yield file


def read_trials(
    path: str | os.PathLike[str], read_one: Callable[[h5py.Group, str, str], T]
) -> Iterator[T | LoadError]:
    """The result of `read_one(group, name, where)` for each trial, or the error that says why there is none.

    Raises:
        LoadError: the file as a whole cannot be read.
    """
    with open_h5(path) as file:
        for name in trial_names(file):
            where = f"{path}: {name}"
            try:
                result: T | LoadError = read_one(open_trial(file, name, where), name, where)
            except LoadError as error:
                result = error
            yield result


def trial_names(file: h5py.File) -> list[str]:
    """The names at the top level in the order of their numbers: Trial2 comes before Trial10.

    Raises:
        LoadError: there is none.
    """
    names = _links(file, file.filename)
    if not names:
        raise LoadError(f"{file.filename}: has no trial")
    return sorted(names, key=_by_number)


def open_trial(file: h5py.File, name: str, where: str) -> h5py.Group:
    """The group of that name.

    Raises:
        LoadError: it is damaged or not a group.
    """
    with h5_errors(where):
        kind = file.id.links.get_info(name.encode()).type
    trial = _member(file, name, kind, where)
    if not isinstance(trial, h5py.Group):
        raise LoadError(f"{where}: is a data set where a trial (a group) is expected")
    return trial


def datasets(trial: h5py.Group, where: str) -> dict[str, h5py.Dataset]:
    """All data sets of a trial by their names, such as "env_infos/obs_dict/qp"; links are refused, not followed.

    Raises:
        LoadError: the group is damaged, or goes in circles.
    """
    found: dict[str, h5py.Dataset] = {}
    pending = [("", trial)]
    while pending:
        prefix, group = pending.pop()
        if prefix.count("/") > _MAX_DEPTH:
            raise LoadError(f"{where}: groups are nested more than {_MAX_DEPTH} deep at {prefix}")
        for name, kind in _links(group, f"{where}: {prefix or 'the group'}").items():
            item = _member(group, name, kind, f"{where}: {prefix}{name}")
            if isinstance(item, h5py.Group):
                pending.append((f"{prefix}{name}/", item))
            else:
                found[f"{prefix}{name}"] = item
    return dict(sorted(found.items()))


def read(dataset: h5py.Dataset, where: str) -> np.ndarray:
    """The numbers of a data set.

    Args:
        dataset: holds floats, integers or booleans.
        where: file, trial and key, for messages.

    Raises:
        LoadError: it cannot be read, was not written completely, or does not hold plain numbers.
    """
    with h5_errors(where):
        stored = check_whole(dataset, where)
        return _inflate(stored, where) if stored.filters == [_GZIP] else np.asarray(dataset[()])


class _Stored(NamedTuple):
    """How a data set is stored, looked up once: using h5py's properties took half the time of reading a trial."""

    own: h5py.h5d.DatasetID
    shape: tuple[int, ...] | None
    dtype: np.dtype
    layout: int
    chunks: tuple[int, ...]
    filters: list[int]
    in_other_files: bool

    @property
    def nbytes(self) -> int:
        """Size of the numbers in memory."""
        return 0 if self.shape is None else math.prod(self.shape) * self.dtype.itemsize


def _stored(dataset: h5py.Dataset) -> _Stored:
    own, space, settings = dataset.id, dataset.id.get_space(), dataset.id.get_create_plist()
    layout = settings.get_layout()
    empty = space.get_simple_extent_type() == h5py.h5s.NULL
    return _Stored(
        own,
        None if empty else space.get_simple_extent_dims(),
        own.dtype,
        layout,
        settings.get_chunk() if layout == h5py.h5d.CHUNKED else (),
        [settings.get_filter(index)[0] for index in range(settings.get_nfilters())],
        layout == h5py.h5d.VIRTUAL or settings.get_external_count() > 0,
    )


def _inflate(stored: _Stored, where: str) -> np.ndarray:
    """Unpacks gzip chunks itself: HDF5 notices neither a chunk that is too short nor an extent that has shrunk."""
    own, shape, dtype, steps = stored.own, stored.shape, stored.dtype, stored.chunks
    assert shape is not None  # checked by `check_whole`
    values = np.empty(shape, dtype)
    size = math.prod(steps) * dtype.itemsize
    starts = (range(0, extent, step) for extent, step in zip(shape, steps, strict=True))
    for offset in itertools.product(*starts):
        unpacking = zlib.decompressobj()
        numbers = unpacking.decompress(own.read_direct_chunk(offset)[1], size + 1)
        if len(numbers) != size or not unpacking.eof:
            raise LoadError(f"{where}: one of its parts has the wrong size; the file is damaged")
        part = np.frombuffer(numbers, dtype).reshape(steps)
        target = values[tuple(slice(first, first + step) for first, step in zip(offset, steps, strict=True))]
        target[...] = part[tuple(slice(extent) for extent in target.shape)]
        if target.size < part.size and np.count_nonzero(part) != np.count_nonzero(target):
            raise LoadError(f"{where}: has numbers beyond its shape {list(shape)}; the file is damaged")
    return values


def check_whole(dataset: h5py.Dataset, where: str) -> _Stored:
    """Refuses a data set that HDF5 would read without an error although its numbers are not the ones written.

    Raises:
        LoadError: it is not of native numbers, keeps data in other files, or has parts that were never written.
    """
    if not _is_plain(dataset.id.get_type()):
        raise LoadError(
            f"{where}: holds {dataset.dtype} in an unusual byte order or form; expected plain numbers"
        )
    stored = _stored(dataset)
    if stored.in_other_files:
        raise LoadError(f"{where}: keeps its data in other files, which are not read; copy it into one")
    if stored.shape is None:
        raise LoadError(f"{where}: has neither numbers nor a shape")
    if stored.nbytes > _DEFLATE_RATIO * os.path.getsize(h5py.h5f.get_name(stored.own)):
        raise LoadError(f"{where}: claims to be {stored.nbytes} bytes large, more than the file can hold")
    if missing := _count_holes(stored):
        raise LoadError(f"{where}: {missing} of its parts were never written or are damaged")
    return stored


def holes(dataset: h5py.Dataset) -> int:
    """The number of chunks that are missing or stored wrongly; HDF5 reads zeros there."""
    return _count_holes(_stored(dataset))


def _count_holes(stored: _Stored) -> int:
    shape, chunks = stored.shape, stored.chunks
    if shape is None or 0 in shape:
        return 0
    if stored.layout != h5py.h5d.CHUNKED:
        return int(stored.own.get_storage_size() != stored.nbytes)
    chunk_bytes = math.prod(chunks) * stored.dtype.itemsize
    # All filters but this one change the size.
    packed = any(number != h5py.h5z.FILTER_SHUFFLE for number in stored.filters)
    whole = set()

    def visit(info: h5py.h5d.StoreInfo) -> None:
        fits = info.filter_mask == 0 and (packed or info.size == chunk_bytes)
        on_grid = all(start % step == 0 for start, step in zip(info.chunk_offset, chunks, strict=True))
        inside = all(start < stop for start, stop in zip(info.chunk_offset, shape, strict=True))
        if fits and on_grid and inside:
            whole.add(info.chunk_offset)

    stored.own.chunk_iter(visit)
    return math.prod(-(-size // step) for size, step in zip(shape, chunks, strict=True)) - len(whole)


def _is_plain(kind: h5py.h5t.TypeID) -> bool:
    if isinstance(kind, h5py.h5t.TypeEnumID):  # how h5py writes booleans
        names = [kind.get_member_name(index) for index in range(kind.get_nmembers())]
        values = [kind.get_member_value(index) for index in range(kind.get_nmembers())]
        return names == [b"FALSE", b"TRUE"] and values == [0, 1] and kind.get_super() == h5py.h5t.STD_I8LE
    return any(kind == plain for plain in (*_FLOATS, *_INTEGERS))


def _member(group: h5py.Group, name: str, kind: int, where: str) -> h5py.Group | h5py.Dataset:
    """The group or data set that a hard link leads to; other kinds of links are refused."""
    if kind != h5py.h5l.TYPE_HARD:
        raise LoadError(
            f"{where}: is a link to somewhere else, which is not followed; copy what it points to"
        )
    with h5_errors(where):
        item = h5py.h5o.open(group.id, name.encode())
        if isinstance(item, h5py.h5g.GroupID):
            return h5py.Group(item)
        if isinstance(item, h5py.h5d.DatasetID):
            return h5py.Dataset(item)
        raise LoadError(f"{where}: is neither a group nor a data set")


def _links(group: h5py.Group, where: str) -> dict[str, int]:
    """The names in a group, sorted, with the kind of link; names that are not UTF-8 are escaped, so never found."""
    found: list[tuple[str, int]] = []

    def visit(name: bytes, info: h5py.h5l.LinkInfo) -> None:
        found.append((name.decode("utf-8", "backslashreplace"), info.type))

    with h5_errors(where):
        group.id.links.iterate(visit, info=True)
        if len({name for name, _ in found}) < len(found):
            raise LoadError(f"{where}: has two members with the same name; the file is damaged")
    return dict(sorted(found))


def _by_number(name: str) -> tuple[str, int]:
    number = re.search(r"\d+$", name)
    return (name[: number.start()], int(number[0])) if number else (name, -1)

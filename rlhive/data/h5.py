"""HDF5 files read with distrust: what is damaged, missing or never written gives one line that says where."""

from __future__ import annotations

import contextlib
import math
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import h5py
import numpy as np

from rlhive.core.errors import LoadError
from rlhive.core.pixel_spec import PixelSpec

T = TypeVar("T")
_MAX_DEPTH = 8  # RoboHive nests four groups deep
_DEFLATE_RATIO = 1032  # zlib packs nothing tighter
_FLOATS = (h5py.h5t.IEEE_F16LE, h5py.h5t.IEEE_F32LE, h5py.h5t.IEEE_F64LE)
_INTEGERS = tuple(getattr(h5py.h5t, f"STD_{sign}{bits}LE") for sign in ("I", "U") for bits in (8, 16, 32, 64))


@contextlib.contextmanager
def h5_errors(where: str) -> Iterator[None]:
    """Turns whatever HDF5 raises into one line that begins with `where`."""
    try:
        yield
    except LoadError:
        raise
    except (Exception, MemoryError) as error:  # a damaged file makes h5py raise nearly any kind
        reason = " ".join(str(error).split()) or type(error).__name__
        raise LoadError(f"{where}: cannot be read ({reason}): damaged or cut short; copy it again") from None


@contextlib.contextmanager
def open_h5(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """Opens a file for reading.

    Raises:
        LoadError: it is not there or no whole HDF5 file.
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
    """What `read_one(group, name, where)` makes of each trial, or the error that says why it cannot.

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
    """The names at the top in the order of their numbers: Trial2 comes before Trial10.

    Raises:
        LoadError: there is none.
    """
    with h5_errors(file.filename):
        names = _names(file, file.filename)
    if not names:
        raise LoadError(f"{file.filename}: has no trial")
    return sorted(names, key=_by_number)


def open_trial(file: h5py.File, name: str, where: str) -> h5py.Group:
    """The group of that name.

    Raises:
        LoadError: it is damaged, or no group.
    """
    trial = _member(file, name, where)
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
        with h5_errors(f"{where}: {prefix or 'the group'}"):
            names = sorted(_names(group, where))
        for name in names:
            item = _member(group, name, f"{where}: {prefix}{name}")
            if isinstance(item, h5py.Group):
                pending.append((f"{prefix}{name}/", item))
            else:
                found[f"{prefix}{name}"] = item
    return dict(sorted(found.items()))


def read(dataset: h5py.Dataset, where: str) -> np.ndarray:
    """The numbers of a data set.

    Args:
        dataset: of floats, integers or booleans.
        where: file, trial and key, for messages.

    Raises:
        LoadError: it cannot be read, was not written as a whole, or holds no plain numbers.
    """
    with h5_errors(where):
        check_whole(dataset, where)
        filters = dataset.id.get_create_plist()
        packed_alone = filters.get_nfilters() == 1 and filters.get_filter(0)[0] == h5py.h5z.FILTER_DEFLATE
        return _inflate(dataset, where) if packed_alone else np.asarray(dataset[()])


def _inflate(dataset: h5py.Dataset, where: str) -> np.ndarray:
    """Reads what gzip packed, part by part: HDF5 notices neither a part too short nor an extent that has shrunk."""
    values = np.empty(dataset.shape, dataset.dtype)
    steps = dataset.chunks
    size = math.prod(steps) * dataset.dtype.itemsize
    for place in np.ndindex(*(-(-extent // step) for extent, step in zip(dataset.shape, steps, strict=True))):
        offset = tuple(index * step for index, step in zip(place, steps, strict=True))
        unpacking = zlib.decompressobj()
        numbers = unpacking.decompress(dataset.id.read_direct_chunk(offset)[1], size + 1)
        if len(numbers) != size or not unpacking.eof:
            raise LoadError(f"{where}: one of its parts has another size than it should; the file is damaged")
        part = np.frombuffer(numbers, dataset.dtype).reshape(steps)
        target = values[tuple(slice(first, first + step) for first, step in zip(offset, steps, strict=True))]
        inside = tuple(slice(extent) for extent in target.shape)
        target[...] = part[inside]
        if target.size < part.size and np.count_nonzero(part) != np.count_nonzero(target):
            raise LoadError(
                f"{where}: has numbers beyond its shape {list(dataset.shape)}; the file is damaged"
            )
    return values


def read_images(
    found: Mapping[str, h5py.Dataset], keys: Sequence[str], pixels: PixelSpec, rows: int, where: str
) -> np.ndarray:
    """The images of one trial, uint8 `[rows, cameras, H, W, 3]`, read one camera after the other.

    Args:
        found: the trial's data sets by name.
        keys: those of the cameras, in the order of `pixels.cameras`.
        pixels: what they are.
        rows: one per state.
        where: file and trial, for messages.

    Raises:
        LoadError: one is missing, damaged, or of another shape or type.
    """
    images = np.empty((rows, len(keys), pixels.height, pixels.width, 3), np.uint8)
    expected = (rows, pixels.height, pixels.width, 3)
    for index, key in enumerate(keys):
        if key not in found:
            there = ", ".join(name for name in found if "rgb" in name) or "none"
            raise LoadError(f"{where}: has no images {key}, but {there}")
        item = found[key]
        if item.dtype != np.uint8 or item.shape != expected:
            raise LoadError(
                f"{where}/{key}: must be uint8 {list(expected)}, is {item.dtype} {list(item.shape or ())}"
            )
        images[:, index] = read(item, f"{where}/{key}")
    return images


def check_whole(dataset: h5py.Dataset, where: str) -> None:
    """Refuses a data set that HDF5 would read without a word although its numbers are not those once written.

    Raises:
        LoadError: another type than a machine's own numbers, data in other files, or parts never written.
    """
    if not _is_plain(dataset.id.get_type()):
        raise LoadError(
            f"{where}: holds {dataset.dtype} in an order or form of its own; expected plain numbers"
        )
    if dataset.is_virtual or dataset.external:
        raise LoadError(f"{where}: keeps its data in other files, which are not read; copy it into one")
    limit = _DEFLATE_RATIO * os.path.getsize(dataset.file.filename)
    if dataset.nbytes > limit:
        raise LoadError(f"{where}: says it is {dataset.nbytes} bytes large, more than the file can hold")
    if missing := holes(dataset):
        raise LoadError(f"{where}: {missing} of its parts were never written or are damaged")


def holes(dataset: h5py.Dataset) -> int:
    """How many chunks of a data set are missing or not stored as they should be; HDF5 reads zeros there."""
    if dataset.size == 0 or dataset.shape is None:
        return 0
    if dataset.chunks is None:
        return int(dataset.id.get_storage_size() != dataset.nbytes)
    chunk_bytes = math.prod(dataset.chunks) * dataset.dtype.itemsize
    packed = dataset.compression is not None or dataset.fletcher32
    whole = set()

    def visit(info: h5py.h5d.StoreInfo) -> None:
        fits = info.filter_mask == 0 and (packed or info.size == chunk_bytes)
        on_grid = all(
            start % step == 0 for start, step in zip(info.chunk_offset, dataset.chunks, strict=True)
        )
        inside = all(start < stop for start, stop in zip(info.chunk_offset, dataset.shape, strict=True))
        if fits and on_grid and inside:
            whole.add(info.chunk_offset)

    dataset.id.chunk_iter(visit)
    expected = math.prod(-(-size // step) for size, step in zip(dataset.shape, dataset.chunks, strict=True))
    return expected - len(whole)


def _is_plain(kind: h5py.h5t.TypeID) -> bool:
    if isinstance(kind, h5py.h5t.TypeEnumID):  # how h5py writes booleans
        names = [kind.get_member_name(index) for index in range(kind.get_nmembers())]
        values = [kind.get_member_value(index) for index in range(kind.get_nmembers())]
        return names == [b"FALSE", b"TRUE"] and values == [0, 1] and kind.get_super() == h5py.h5t.STD_I8LE
    return any(kind == plain for plain in (*_FLOATS, *_INTEGERS))


def _member(group: h5py.Group, name: str, where: str) -> h5py.Group | h5py.Dataset:
    with h5_errors(where):
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise LoadError(
                f"{where}: is a link to somewhere else, which is not followed; copy what it is of"
            )
        item = group[name]
        if not isinstance(item, h5py.Group | h5py.Dataset):
            raise LoadError(f"{where}: is neither a group nor a data set")
        return item


def _names(group: h5py.Group, where: str) -> list[str]:
    """The names in a group; one that is no text, which h5py gives as bytes, in a form that nothing is found by."""
    names = [name if isinstance(name, str) else name.decode("utf-8", "backslashreplace") for name in group]
    if len(set(names)) < len(names):
        raise LoadError(f"{where}: has two members of one name; the file is damaged")
    return names


def _by_number(name: str) -> tuple[str, int, str]:
    number = re.search(r"\d+$", name)
    return (name[: number.start()], int(number[0]), "") if number else (name, -1, "")

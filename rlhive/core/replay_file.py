"""The file of a replay: its tensors by name, `[T, S, E, ...]` or `[1, S]`, and a header that lists the S seeds.

The header also has the hash of it all, which takes a quarter of the writing time.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rlhive.core.files import replacing
from rlhive.core.tree import LeafPath
from rlhive.core.tree_file import HASH, content_hash
from rlhive.core.tree_header import check_version

FORMAT_VERSION = 2
# [T, S, E] and [1, S]; all other tensors are rows.
LEAVES, LARGEST = "priorities.leaves", "priorities.largest"


def write_replay(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    header: Mapping[str, str],
    seeds: Sequence[int],
) -> None:
    """Writes the tensors of these seeds to one safetensors file, in one step.

    Raises:
        OSError: it cannot be written, as on a full disk.
    """
    named = {**header, "format_version": str(FORMAT_VERSION), "seeds": json.dumps(list(seeds))}
    named[HASH] = content_hash(tensors, named)
    with replacing(path) as beside:
        beside.touch()
        mode = beside.stat().st_mode
        try:
            save_file(dict(tensors), beside, metadata=named)
        except SafetensorError as error:
            raise OSError(f"{path}: cannot be written: {error}") from error
        beside.chmod(mode)  # safetensors makes it readable by its owner only


def read_replay(
    path: str | os.PathLike[str], expected: Mapping[str, str] = {}
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What `write_replay` wrote: tensors and header, whose fields are the `expected` ones where these name them.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such file, of another format version, not whole, damaged, or has other fields.
    """
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = file.metadata()
    if header.pop(HASH, None) != content_hash(tensors, header):
        raise ValueError(f"{path} is damaged or changed (its {HASH} does not fit): copy it again")
    for field, value in expected.items():
        if header.get(field) != value:
            raise ValueError(f"{path} has {field} {header.get(field)}, but this replay buffer has {value}")
    return tensors, header


def read_header(path: str | os.PathLike[str]) -> dict[str, str]:
    """The header alone of what `write_replay` wrote; it raises as `read_replay` does."""
    with _opened(path) as file:
        return file.metadata()


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            check_version(path, (file.metadata() or {}).get("format_version"), FORMAT_VERSION)
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file ({error}): was it cut short?") from error


def check_rows(path: object, tensors: Mapping[str, Tensor], rows: Mapping[LeafPath, Tensor]) -> None:
    """Refuses a file whose tensors `[T, S, E, ...]` are not of the same names, `...` and dtypes as `rows`.

    Raises:
        ValueError: naming the first of them.
    """
    for key, own in rows.items():
        found = tensors.get(name_of(key))
        if found is None or found.shape[3:] != own.shape[3:] or found.dtype != own.dtype:
            got = "none" if found is None else f"{found.dtype} {list(found.shape[3:])}"
            raise ValueError(
                f"{path} has {got} for {key!r}, but this replay buffer has {own.dtype} {list(own.shape[3:])}"
            )
    if further := tensors.keys() - {LEAVES, LARGEST} - {name_of(key) for key in rows}:
        raise ValueError(f"{path} has {sorted(further)}, which this replay buffer does not keep")


def name_of(key: LeafPath) -> str:
    """The name of a leaf in the file."""
    return key if isinstance(key, str) else ".".join(key)


def columns_of(path: object, header: Mapping[str, str], seeds: Sequence[int]) -> list[int]:
    """The positions of these seeds among the S of a file.

    Raises:
        ValueError: one of them is not.
    """
    saved = seeds_of(header)
    if not set(seeds) <= set(saved):
        raise ValueError(f"{path} is of {len(saved)} seed(s), {saved}, not of {list(seeds)}")
    return [saved.index(seed) for seed in seeds]


def seeds_of(header: Mapping[str, str]) -> list[int]:
    """The seeds in the order of the file."""
    return json.loads(header["seeds"])

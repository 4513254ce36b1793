"""One tree in one safetensors file: tensors named by their path in the tree, and a header about them."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from tensordict import TensorDict

from rlhive.core.errors import LoadError
from rlhive.core.files import naming
from rlhive.core.tree_header import (
    FORMAT_VERSION,
    REMEDY,
    check_is_safetensors,
    check_version,
    damaged,
    header_json,
)

HASH = "content_sha256"
_NAMED = 8  # names in one message


def write_tree(path: str | os.PathLike[str], tree: TensorDict, header: Mapping[str, str]) -> None:
    """Writes the tree and flushes it to disk; the file is not complete before this returns.

    Args:
        path: file to write.
        tree: batch size `[]`, on any device; no name in it has a "/".
        header: text beside the tensors. "format_version", "keys", the names in their order, "empty", the subtrees
            without leaves if there are any, and "content_sha256", the hash of everything else, are added.
    """
    tensors = {name: leaf.detach().cpu().contiguous().clone() for name, leaf in named_leaves(tree).items()}
    fields = {**header, "format_version": str(FORMAT_VERSION), "keys": json.dumps(list(tensors))}
    if empty := _empty_subtrees(tree):
        fields["empty"] = json.dumps(empty)
    with naming(path), open(path, "wb") as file:
        file.write(save(tensors, {**fields, HASH: content_hash(tensors, fields)}))
        file.flush()
        os.fsync(file.fileno())


def read_tree(path: str | os.PathLike[str]) -> tuple[TensorDict, dict[str, str]]:
    """The tree and the header that `write_tree` wrote, in the same order and dtypes, on the CPU.

    Raises:
        LoadError: no such file, a pickle or another format, a file cut short or damaged, an unknown format version,
            or a header that does not belong to the tensors.
    """
    check_is_safetensors(path)
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise damaged(path, error) from None
    check_version(path, header.get("format_version"), FORMAT_VERSION)
    keys = _header_names(path, header, "keys")
    empty = _header_names(path, header, "empty") if "empty" in header else []
    check_names(path, keys, tensors)
    if header.pop(HASH, None) != content_hash(tensors, header):
        raise LoadError(f"{path}: damaged or changed (its {HASH} does not fit); {REMEDY}")
    _check_tree(path, [*keys, *empty])
    tree = TensorDict({}, batch_size=[])
    for name in keys:  # the file sorts its tensors, but sums over the leaves depend on their order
        tree[tuple(name.split("/"))] = tensors[name]
    for name in empty:
        tree[tuple(name.split("/"))] = TensorDict({}, batch_size=[])
    return tree, header


def _header_names(path: object, header: Mapping[str, str], field: str) -> list[str]:
    names = header_json(path, header, field)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise LoadError(f"{path}: {field!r} of its header is no list of names; {REMEDY}")
    return names


def _check_tree(path: object, names: Sequence[str]) -> None:
    """Refuses names that occur twice, and leaves or empty subtrees that contain something."""
    subtrees = {subtree for name in names for subtree in accumulate(name.split("/")[:-1], "{}/{}".format)}
    twice = sorted(name for name, count in Counter([*names, *subtrees]).items() if count > 1)
    if twice:
        raise LoadError(
            f"{path}: names of its header do not make a tree: {_first(twice)} is there twice; {REMEDY}"
        )


def content_hash(tensors: Mapping[str, torch.Tensor], header: Mapping[str, str]) -> str:
    """sha256 in hex of the header's fields and of each tensor, in the order of their names."""
    shapes = [(name, str(tensors[name].dtype), list(tensors[name].shape)) for name in sorted(tensors)]
    digest = hashlib.sha256(json.dumps([dict(header), shapes], sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def named_leaves(tree: TensorDict) -> dict[str, torch.Tensor]:
    """The leaves by name, in order, such as "actor/layer_0/weight"."""
    leaves = tree.items(include_nested=True, leaves_only=True)
    return {key if isinstance(key, str) else "/".join(key): leaf for key, leaf in leaves}


def _empty_subtrees(tree: TensorDict) -> list[str]:
    """The names of the empty subtrees, which appear in no tensor's name."""
    subtrees = {key: value for key, value in tree.items(include_nested=True) if isinstance(value, TensorDict)}
    names = {key if isinstance(key, str) else "/".join(key): value for key, value in subtrees.items()}
    return [name for name, value in names.items() if not list(value.keys())]


def check_names(where: object, expected: Iterable[str], found: Iterable[str]) -> None:
    """Refuses missing and unexpected names.

    Raises:
        LoadError: naming them, or the first of many.
    """
    expected, found = set(expected), set(found)
    missing, extra = sorted(expected - found), sorted(found - expected)
    if missing or extra:
        parts = [
            f"{what} {_first(names)}"
            for what, names in (("missing", missing), ("unexpected", extra))
            if names
        ]
        raise LoadError(f"{where}: keys do not fit: {'; '.join(parts)}")


def check_leaves(where: object, found: Mapping[str, torch.Tensor], shapes: Mapping[str, torch.Size]) -> None:
    """Refuses leaves with other names or shapes, or with values that are not finite.

    Raises:
        LoadError: naming the first one.
    """
    check_names(where, shapes, found)
    for name, shape in shapes.items():
        leaf = found[name]
        if leaf.shape != shape:
            hint = "; of several seeds? take one, such as tree[0]" if leaf.shape[1:] == shape else ""
            raise LoadError(f"{where}: {name} has shape {list(leaf.shape)}, expected {list(shape)}{hint}")
        if not leaf.isfinite().all():
            raise LoadError(f"{where}: {name} holds values that are not finite")


def _first(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")

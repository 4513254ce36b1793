"""Operations on parameter trees that also work inside `torch.func.vmap` (TensorDict arithmetic does not)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

LeafPath = str | tuple[str, ...]


def map_tree(fn: Callable[..., Tensor], tree: TensorDict, *others: TensorDict) -> TensorDict:
    """Applies `fn` to the leaves that share a name in all the trees; returns a new tree of the first's structure."""
    values = {}
    for key, value in tree.items():
        rest = [other[key] for other in others]
        values[key] = map_tree(fn, value, *rest) if isinstance(value, TensorDict) else fn(value, *rest)
    return TensorDict(values, batch_size=tree.batch_size)


def leaves(tree: TensorDict) -> list[Tensor]:
    """The tensors of the tree, depth first, in the order of its keys."""
    return list(tree.values(include_nested=True, leaves_only=True))


def zeros_like(tree: TensorDict) -> TensorDict:
    """A tree of zeros with the shapes, dtypes and devices of `tree`."""
    return map_tree(torch.zeros_like, tree)


def detach(tree: TensorDict) -> TensorDict:
    """The same values, cut from the graph."""
    return map_tree(Tensor.detach, tree)


def polyak(target: TensorDict, new: TensorDict, tau: float | Tensor) -> TensorDict:
    """`(1 - tau) * target + tau * new`: `tau` is the fraction of the new parameters."""
    return map_tree(lambda old, fresh: torch.lerp(old, fresh, tau), target, new)


def global_norm(tree: TensorDict) -> Tensor:
    """Euclidean norm of all the leaves together, `[]`."""
    return torch.stack([leaf.square().sum() for leaf in leaves(tree)]).sum().sqrt()


def replace(tree: TensorDict, values: Mapping[str, Tensor | TensorDict]) -> TensorDict:
    """The tree with other values under some keys; the rest is shared (`copy` renews every subtree, in 180 us)."""
    return TensorDict({**dict(tree.items()), **values}, batch_size=tree.batch_size)


def tree_of_leaves(leaves: Mapping[LeafPath, Tensor], batch_size: torch.Size) -> TensorDict:
    """The tree of leaves by key or path of keys, of one batch size; unchecked, 4 us instead of 20 us for 6."""
    values: dict[str, Any] = {}
    for key, leaf in leaves.items():
        *path, name = key if isinstance(key, tuple) else (key,)
        subtree = values
        for part in path:
            subtree = subtree.setdefault(part, {})
        subtree[name] = leaf
    return _unchecked(values, batch_size)


def _unchecked(values: dict[str, Any], batch_size: torch.Size) -> TensorDict:
    tree = {
        key: _unchecked(value, batch_size) if isinstance(value, dict) else value
        for key, value in values.items()
    }
    return TensorDict._new_unsafe(tree, batch_size=batch_size)


def to_device(tree: TensorDict, device: str | torch.device) -> TensorDict:
    """The tree on a device; ten times as fast as its own `to` (60 us) if it is already there.

    Data for a GPU is first copied to pinned memory, from which the GPU fetches it while the caller goes on.
    """
    return map_tree(lambda leaf: send(leaf, device), tree)


def send(leaf: Tensor, device: str | torch.device) -> Tensor:
    """`to_device` of a tensor."""
    if leaf.is_cpu and torch.device(device).type == "cuda":
        # An expanded tensor cannot be pinned.
        return leaf.contiguous().pin_memory().to(device, non_blocking=True)
    return leaf.to(device)


def stack_seeds(trees: Sequence[TensorDict]) -> TensorDict:
    """Stacks the trees of single seeds into one with a leading `[S]`; leaves transposed in memory stay transposed."""
    values = {}
    for key, value in trees[0].items():
        parts = [tree[key] for tree in trees]
        values[key] = stack_seeds(parts) if isinstance(value, TensorDict) else _stack(parts)
    return TensorDict(values, batch_size=[len(trees), *trees[0].batch_size])


def _stack(parts: list[Tensor]) -> Tensor:
    if parts[0].dim() < 2 or parts[0].is_contiguous():
        return torch.stack(parts)
    return torch.stack([part.mT for part in parts]).mT

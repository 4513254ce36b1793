"""Prioritized sampling (https://arxiv.org/abs/1511.05952) of one seed's transitions, on TorchRL's trees."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

EPS = 1e-8  # TorchRL's: a transition without error can still be drawn


class PrioritySampler:
    """Draws index i with probability `(|error_i| + EPS) ** alpha / sum`, as TorchRL's `PrioritizedSampler`.

    Args:
        size: how many transitions there can be.
        alpha: exponent of the priorities, in [0, 1].
        beta: exponent of the importance weights, in [0, 1].

    Raises:
        ImportError: TorchRL's compiled part does not load.
    """

    def __init__(self, size: int, alpha: float, beta: float) -> None:
        # What does not load is found here, before a run starts.
        _trees()
        self._size, self._alpha, self._beta = size, alpha, beta
        self._max_priority = torch.ones((), dtype=torch.float32)

    # Created with the first transition, since they allocate at once, and a replay may be refused before that.
    @functools.cached_property
    def _sum_tree(self) -> Any:
        return _trees().SumSegmentTreeFp32(self._size)

    @functools.cached_property
    def _min_tree(self) -> Any:
        return _trees().MinSegmentTreeFp32(self._size)

    def add(self, index: Tensor) -> None:
        """Gives new transitions, `index` int64 `[...]`, the largest priority so far."""
        self._set(index, self._max_priority.expand(index.shape))

    def update(self, index: Tensor, td_error: Tensor) -> None:
        """Sets the priorities at `index` int64 `[B]` to `|td_error|` `[B]`, finite."""
        priority = td_error.abs()
        self._max_priority = torch.maximum(self._max_priority, priority.max())
        self._set(index, priority)

    def sample(self, generator: torch.Generator, batch_size: int, filled: int) -> tuple[Tensor, Tensor]:
        """Draws from the first `filled` transitions.

        Returns:
            The index, int64 `[B]`, and the importance weight `(p / min p) ** -beta`, float32 `[B]`, up to 1.
        """
        fraction = torch.rand(batch_size, generator=generator, dtype=torch.float32)
        mass = fraction * self._sum_tree.query(0, filled)
        index = self._sum_tree.scan_lower_bound(mass).clamp_max(filled - 1)
        weight = (self._leaves(index) / self._min_tree.query(0, filled)) ** -self._beta
        return index, weight

    def state(self, filled: int) -> tuple[Tensor, Tensor]:
        """What `restore` takes: the first `filled` leaves of the sum tree and the largest priority so far."""
        return self._leaves(torch.arange(filled)), self._max_priority.clone()

    def restore(self, leaves: Tensor, max_priority: Tensor) -> None:
        """Restores what `state` returned."""
        index = torch.arange(len(leaves))
        self._sum_tree[index], self._min_tree[index] = leaves, leaves
        self._max_priority = max_priority

    def _leaves(self, index: Tensor) -> Tensor:
        # For a single index the tree returns a number.
        return torch.as_tensor(self._sum_tree[index], dtype=torch.float32).view(index.shape)

    def _set(self, index: Tensor, priority: Tensor) -> None:
        leaves = (priority + EPS) ** self._alpha
        self._sum_tree[index], self._min_tree[index] = leaves, leaves


def _trees() -> Any:
    # Here, as nothing else needs TorchRL's compiled part, which only loads with the torch it was built for.
    from torchrl import _torchrl

    return _torchrl

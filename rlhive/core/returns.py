"""Sums of rewards over several steps."""

from __future__ import annotations

from torch import Tensor, arange, where


def n_step_return(reward: Tensor, done: Tensor, newer: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Discounted sum of rewards up to the end of the episode, of the data, or of the window, and its length.

    Args:
        reward: `[..., n]`, rewards of a step and of the n - 1 rows after it.
        done: bool `[..., n]`, the episode ends with that step.
        newer: int64 `[...]`, number of rows newer than the first one; rows after those are not its successors.
        gamma: discount per step.

    Returns:
        The sum `[...]`, and the number of steps summed, int64 `[...]`, from 1 to n.
    """
    ahead = arange(reward.shape[-1], device=reward.device)
    ended_before = done.long().cumsum(-1) - done.long() > 0
    counts = ~ended_before & (ahead <= newer.unsqueeze(-1))
    discount = gamma ** ahead.to(reward.dtype)
    # Not a product with the mask: rows that were never written may hold NaN.
    return where(counts, reward * discount, 0.0).sum(-1), counts.sum(-1)

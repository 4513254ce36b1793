"""Return and success of the episodes that training plays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tensordict import TensorDict

from rlhive.core.evaluation import SOLVED_STEPS


class EpisodeTracker:
    """Return and success of the training episodes of each environment `[S, E]`."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self._returns, self._solved = np.zeros(shape), np.zeros(shape, dtype=np.int64)
        self._last_returns, self._last_success = np.full(shape, np.nan), np.full(shape, np.nan)

    def add(self, following: TensorDict) -> bool:
        """Takes one step of all environments; whether an episode ended."""
        self._returns += following["reward"].squeeze(-1).numpy()
        self._solved += following["solved"].squeeze(-1).numpy()
        done = following["done"].squeeze(-1).numpy()
        if not done.any():
            return False
        self._last_returns[done] = self._returns[done]
        self._last_success[done] = self._solved[done] > SOLVED_STEPS
        self._returns[done] = 0.0
        self._solved[done] = 0
        return True

    def summary(self, index: int) -> dict[str, float]:
        """Means over the environments of one seed of their last episodes; empty before the first ended."""
        if np.isnan(self._last_returns[index]).any():
            return {}
        return {
            "train/return": float(self._last_returns[index].mean()),
            "train/success": float(self._last_success[index].mean()),
        }

    def latest(self) -> tuple[list[float], float]:
        """The same for the progress bar: the return of each seed that has one, the success rate over all seeds."""
        with_one = ~np.isnan(self._last_returns).all(axis=1)
        returns = np.nanmean(self._last_returns[with_one], axis=1)
        return returns.tolist(), float(np.nanmean(self._last_success))

    def keep(self, indices: Sequence[int]) -> None:
        """Goes on with the seeds at `indices` alone."""
        for name in ("_returns", "_solved", "_last_returns", "_last_success"):
            setattr(self, name, getattr(self, name)[list(indices)])

"""The interval of a mean over seeds and the episodes of each."""

from __future__ import annotations

import numpy as np


def hierarchical_interval(
    values: np.ndarray, rng: np.random.Generator, *, resamples: int = 10_000
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean: of seeds drawn anew, and of episodes drawn anew in each.

    As Davison and Hinkley 1997, section 3.8, resample groups and then what is in them, both with replacement.

    Args:
        values: float `[S, n]`, of n episodes of each seed.
        rng: draws the resamples; advanced by the call.
        resamples: how often the values are drawn again.

    Returns:
        Its lower and its upper end.
    """
    num_seeds, num_episodes = values.shape
    seed = rng.integers(num_seeds, size=(resamples, num_seeds, 1))
    episode = rng.integers(num_episodes, size=(resamples, num_seeds, num_episodes))
    low, high = np.quantile(values[seed, episode].mean((1, 2)), (0.025, 0.975))
    return float(low), float(high)

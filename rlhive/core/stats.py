"""Statistics over episodes and seeds, for few samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def bootstrap_interval(
    values: ArrayLike, rng: np.random.Generator, *, resamples: int = 10_000
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean, which is where the means of resampled values fall.

    Args:
        values: float `[n]`.
        rng: draws the resamples; advanced by the call.
        resamples: how often the values are drawn again.

    Returns:
        Its lower and its upper end.

    Raises:
        ValueError: no values, or not finite ones.
    """
    values = checked(values)
    drawn = rng.integers(0, len(values), (resamples, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


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


def iqm(values: ArrayLike) -> float:
    """Interquartile mean: the mean of `values` `[n]` without the `n // 4` smallest and largest ones.

    As https://arxiv.org/abs/2108.13264 compares few runs.

    Raises:
        ValueError: no values, or not finite ones.
    """
    values = np.sort(checked(values))
    cut = len(values) // 4
    return float(values[cut : len(values) - cut].mean())


def checked(values: ArrayLike, *, ndim: int = 1, finite: bool = True) -> np.ndarray:
    """The values as float64 `[n, ...]` of `ndim` dimensions.

    Raises:
        ValueError: other dimensions, none at all, or values that are not finite where they have to be.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != ndim or not len(array) or (finite and not np.isfinite(array).all()):
        kind = "finite numbers" if finite else "numbers"
        raise ValueError(f"expected {kind} in {ndim} dimension(s), one at least, got {values!r}")
    return array

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

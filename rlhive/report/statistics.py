"""Statistics over the seeds of few runs, as https://arxiv.org/abs/2108.13264 (Agarwal et al. 2021) reports them.

All intervals are percentile intervals of the stratified bootstrap: the seeds of a run are drawn again from that run
alone. Runs here are of one task; over several, each task would be a stratum too. One seed has no interval: it is NaN.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rlhive.core.stats import checked, iqm

CONFIDENCE = 0.95
RESAMPLES = 2000


class Estimate(NamedTuple):
    """A value and the ends of its 95 % interval, float64 arrays of one shape; NaN where there is none."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def iqm_curve(scores: ArrayLike, rng: np.random.Generator) -> Estimate:
    """Interquartile mean over seeds of each evaluation, with its interval; whole curves are drawn again.

    Args:
        scores: float `[S, T]`; an evaluation that some seed lacks (NaN) has no value and no interval.
        rng: draws the resamples; advanced by the call.

    Returns:
        Arrays `[T]`, in the scores' unit.

    Raises:
        ValueError: not `[S, T]` with a seed at least.
    """
    scores = checked(scores, ndim=2, finite=False)
    drawn = _draw(len(scores), rng)
    result = Estimate(*np.full((3, scores.shape[1]), np.nan))
    # One evaluation at a time: [resamples, S, T] at once takes gigabytes in a long run of many seeds.
    for at in np.flatnonzero(np.isfinite(scores).all(axis=0)):
        result.value[at] = iqm(scores[:, at])
        result.low[at], result.high[at] = _interval(_resampled_iqm(scores[:, at], drawn), len(scores))
    return result


def performance_profile(scores: ArrayLike, thresholds: ArrayLike, rng: np.random.Generator) -> Estimate:
    """Fraction of seeds that score above each threshold, with its interval at each (section 4.2 of the paper).

    Args:
        scores: float `[S]`, one for each seed.
        thresholds: float `[K]`.
        rng: draws the resamples; advanced by the call.

    Returns:
        Arrays `[K]` between 0 and 1.

    Raises:
        ValueError: no scores, or not finite ones.
    """
    scores = checked(scores)
    above = scores[:, None] > np.asarray(thresholds, dtype=np.float64)
    fractions = _draw(len(scores), rng) @ above / len(scores)
    return Estimate(above.mean(axis=0), *_interval(fractions, len(scores)))


def probability_of_improvement(a: ArrayLike, b: ArrayLike, rng: np.random.Generator) -> Estimate:
    """How often a seed of run A scores higher than one of run B; a tie is half (Mann-Whitney's U over pairs).

    Args:
        a: float `[S_A]`, one score for each seed of A.
        b: float `[S_B]`, likewise of B.
        rng: draws the resamples of A and, apart from them, of B; advanced by the call.

    Returns:
        0-d arrays between 0 and 1.

    Raises:
        ValueError: no scores, or not finite ones.
    """
    a, b = checked(a), checked(b)
    wins = (a[:, None] > b) + 0.5 * (a[:, None] == b)
    drawn_a, drawn_b = _draw(len(a), rng), _draw(len(b), rng)
    resampled = ((drawn_a @ wins) * drawn_b).sum(axis=1) / wins.size
    return Estimate(wins.mean(), *_interval(resampled, min(len(a), len(b))))


def steps_to_threshold(steps: ArrayLike, scores: ArrayLike, threshold: float) -> np.ndarray:
    """Steps of the first evaluation at which each seed scores `threshold` or more.

    Args:
        steps: `[T]`, ascending.
        scores: float `[S, T]`, NaN where a seed was not evaluated.
        threshold: in the scores' unit.

    Returns:
        Float64 `[S]`, infinite for a seed that never does.
    """
    scores = checked(scores, ndim=2, finite=False)
    reached = np.column_stack([scores >= threshold, np.ones(len(scores), bool)])
    ends = np.append(np.asarray(steps, dtype=np.float64), np.inf)
    return ends[reached.argmax(axis=1)]


def _draw(seeds: int, rng: np.random.Generator) -> np.ndarray:
    """How often each seed is in each resample, int64 `[resamples, seeds]`: what drawing with replacement comes to."""
    return rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES)


def _resampled_iqm(scores: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Interquartile mean of `scores` `[S]` in each resample, `[resamples]`, from how often each is `drawn`."""
    order, cut = np.argsort(scores), len(scores) // 4
    # Where the kept copies of each end.
    ends = np.clip(drawn[:, order].cumsum(axis=1), cut, len(scores) - cut)
    kept = np.diff(ends, axis=1, prepend=cut)
    return kept @ scores[order] / (len(scores) - 2 * cut)


def _interval(resampled: np.ndarray, seeds: int) -> np.ndarray:
    """Lower and upper ends `[2, ...]` over the first axis."""
    tail = (1 - CONFIDENCE) / 2
    ends = np.quantile(resampled, (tail, 1 - tail), axis=0)
    return ends if seeds > 1 else np.full_like(ends, np.nan)

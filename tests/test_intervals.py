"""The interval that the benchmarks report, against cases whose answer is known."""

import numpy as np
import pytest

from benchmarks.intervals import hierarchical_interval


def test_hierarchical_interval_is_of_seeds_and_of_episodes():
    rng = np.random.default_rng(0)
    assert hierarchical_interval(np.full((3, 100), 7.0), rng) == (7.0, 7.0)
    # One seed: the interval of the mean of 100 episodes, 1.96 standard errors of 10 to each side.
    low, high = hierarchical_interval(50.0 + 100.0 * rng.standard_normal((1, 100)), rng)
    assert high - low == pytest.approx(2 * 1.96 * 10.0, rel=0.15)
    # Episodes that are all alike: what is left is which seeds are drawn.
    assert hierarchical_interval(np.repeat([[0.0], [30.0]], 100, axis=1), rng) == (0.0, 30.0)

import numpy as np
import pytest
import scipy.stats

from rlhive.core import stats


@pytest.mark.parametrize("n", [1, 2, 5, 20, 101])
def test_iqm_equals_scipy(n):
    values = np.random.default_rng(n).normal(size=n)
    assert stats.iqm(values) == pytest.approx(scipy.stats.trim_mean(values, 0.25))


def test_iqm_by_hand():
    assert stats.iqm([1000.0, 2.0, 4.0, -1000.0]) == 3.0
    assert stats.iqm([1.0, 2.0, 6.0]) == 3.0


@pytest.mark.parametrize("n", [5, 20, 60])
def test_bootstrap_interval_equals_scipy(n):
    values = np.random.default_rng(n).exponential(size=n)
    found = stats.bootstrap_interval(values, np.random.default_rng(7))
    expected = scipy.stats.bootstrap(
        (values,),
        np.mean,
        method="percentile",
        n_resamples=10_000,
        rng=np.random.default_rng(7),
        batch=None,
        vectorized=True,
    ).confidence_interval
    assert found == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_bootstrap_interval_covers_the_mean():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        low, high = stats.bootstrap_interval(rng.normal(3.0, 2.0, size=30), rng, resamples=1000)
        hits += low <= 3.0 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_bootstrap_interval_follows_its_generator():
    values = np.random.default_rng(0).normal(size=10)
    first, same, other = (stats.bootstrap_interval(values, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == same != other


def test_one_value_is_its_own_interval():
    assert stats.bootstrap_interval([5.0], np.random.default_rng(0)) == (5.0, 5.0)
    assert stats.iqm([5.0]) == 5.0 and stats.iqm([1.0, 2.0, 3.0, 10.0]) == 2.5


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [[1.0], [2.0]]])
def test_bad_values_are_refused(values):
    with pytest.raises(ValueError, match="finite numbers"):
        stats.bootstrap_interval(values, np.random.default_rng(0))
    with pytest.raises(ValueError, match="finite numbers"):
        stats.iqm(values)

import itertools

import numpy as np
import pytest
import scipy.stats

from rlhive.report import statistics
from rlhive.report.statistics import (
    iqm_curve,
    performance_profile,
    probability_of_improvement,
    steps_to_threshold,
)

NAN = float("nan")


def rng(seed=0):
    return np.random.default_rng(seed)


def test_iqm_of_each_evaluation_by_hand():
    scores = [[-1000.0, 1.0], [2.0, 2.0], [4.0, NAN], [1000.0, 3.0]]
    curve = iqm_curve(scores, rng())
    np.testing.assert_equal(curve.value, [3.0, NAN])  # a quarter of the seeds is cut at each end
    assert np.isnan([curve.low[1], curve.high[1]]).all()
    # Three of four drawn seeds or more are the smallest one in 13 of 256 resamples, and nothing but it is left then.
    assert (curve.low[0], curve.high[0]) == (-1000.0, 1000.0)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 13, 101])
def test_iqm_equals_scipy_which_cuts_whole_seeds_too(n):
    scores = rng(n).normal(size=(n, 3))
    np.testing.assert_allclose(
        iqm_curve(scores, rng()).value, scipy.stats.trim_mean(scores, 0.25, axis=0), rtol=1e-12
    )


@pytest.mark.parametrize("n", [4, 5, 8, 9])
def test_resampled_iqm_equals_that_of_the_drawn_scores(n):
    scores = rng(n).normal(size=n)
    scores[1] = scores[2]  # a tie
    drawn = statistics._draw(n, rng())
    assert drawn.shape == (statistics.RESAMPLES, n) and (drawn.sum(axis=1) == n).all()
    expected = [scipy.stats.trim_mean(np.repeat(scores, times), 0.25) for times in drawn]
    np.testing.assert_allclose(statistics._resampled_iqm(scores, drawn), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("n", [5, 8, 20])
def test_interval_equals_that_of_scipys_bootstrap(n):
    scores = rng(n).exponential(size=n)
    curve = iqm_curve(scores[:, None], rng())
    expected = scipy.stats.bootstrap(
        (scores,),
        lambda drawn, axis: scipy.stats.trim_mean(drawn, 0.25, axis=axis),
        method="percentile",
        n_resamples=20_000,
        rng=rng(1),
        vectorized=True,
    ).confidence_interval
    tolerance = 0.06 * (expected.high - expected.low)  # of two draws of resamples
    assert curve.low[0] == pytest.approx(expected.low, abs=tolerance)
    assert curve.high[0] == pytest.approx(expected.high, abs=tolerance)


def test_interval_covers_the_centre_as_often_as_few_seeds_allow():
    draws = rng(3)
    curve = iqm_curve(draws.normal(2.0, 1.0, size=(20, 400)), draws)
    assert 0.88 <= np.mean((curve.low <= 2.0) & (curve.high >= 2.0)) <= 0.98


def test_one_seed_has_a_value_and_no_interval():
    for estimate in (
        iqm_curve([[1.0, 2.0]], rng()),
        performance_profile([0.5], [0.0, 1.0], rng()),
        probability_of_improvement([1.0], [0.0, 2.0, 3.0], rng()),
    ):
        assert np.isfinite(estimate.value).all()
        assert np.isnan(estimate.low).all() and np.isnan(estimate.high).all()


def test_profile_by_hand_counts_what_is_above_and_not_equal():
    profile = performance_profile([0.0, 0.5, 0.5, 1.0], [-1.0, 0.0, 0.5, 1.0], rng())
    np.testing.assert_array_equal(profile.value, [1.0, 0.75, 0.25, 0.0])
    np.testing.assert_array_equal(profile.low, [1.0, 0.25, 0.0, 0.0])
    np.testing.assert_array_equal(profile.high, [1.0, 1.0, 0.75, 0.0])


def test_profile_interval_is_the_binomial_one():
    scores = np.arange(20.0)
    profile = performance_profile(scores, [9.5], rng())
    expected = scipy.stats.binom(20, 0.5).ppf([0.025, 0.975]) / 20
    np.testing.assert_allclose([profile.low[0], profile.high[0]], expected, atol=0.051)


def test_probability_of_improvement_by_hand():
    assert probability_of_improvement([1.0, 2.0], [1.0, 0.0], rng()).value == 3.5 / 4
    assert probability_of_improvement([1.0], [1.0], rng()).value == 0.5
    surely = probability_of_improvement([3.0, 4.0, 5.0], [0.0, 1.0], rng())
    assert surely == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(("n", "m"), [(5, 5), (3, 8), (20, 7)])
def test_probability_of_improvement_equals_mann_whitneys_u(n, m):
    a, b = rng(n).integers(0, 6, n), rng(m + 100).integers(0, 6, m)  # with ties
    found = probability_of_improvement(a, b, rng())
    assert found.value == pytest.approx(scipy.stats.mannwhitneyu(a, b).statistic / (n * m))
    assert found.low <= found.value <= found.high
    other = probability_of_improvement(b, a, rng())
    assert found.value + other.value == pytest.approx(1.0)


def test_probability_of_improvement_interval_is_exact_where_all_resamples_can_be_listed():
    a, b = np.array([0.0, 2.0, 4.0]), np.array([1.0, 3.0, 3.5])
    every = [
        np.mean(np.subtract.outer(a[list(i)], b[list(j)]) > 0)
        for i in itertools.product(range(3), repeat=3)
        for j in itertools.product(range(3), repeat=3)
    ]
    found = probability_of_improvement(a, b, rng())
    assert found.value == pytest.approx(4 / 9)
    np.testing.assert_allclose([found.low, found.high], np.quantile(every, [0.025, 0.975]), atol=0.12)


def test_steps_to_a_threshold_by_hand():
    success = [[0.0, 0.5, 0.4, 0.9], [0.5, NAN, 0.2, 0.1], [NAN, NAN, 0.9, 1.0], [0.1, 0.2, 0.3, 0.4]]
    steps = [10, 20, 30, 40]
    np.testing.assert_array_equal(steps_to_threshold(steps, success, 0.5), [20, 10, 30, np.inf])
    np.testing.assert_array_equal(steps_to_threshold(steps, success, 0.9), [40, np.inf, 30, np.inf])
    np.testing.assert_array_equal(steps_to_threshold([], np.zeros((2, 0)), 0.9), [np.inf, np.inf])


def test_results_follow_the_generator_and_leave_the_scores_as_they_are():
    scores = rng().normal(size=(6, 4))
    before = scores.copy()
    first, same, other = (iqm_curve(scores, rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert (first.low != other.low).any()
    np.testing.assert_array_equal(scores, before)


@pytest.mark.parametrize("scores", [[], [[1.0]], [1.0, NAN]])
def test_bad_scores_are_refused(scores):
    with pytest.raises(ValueError, match="finite numbers in 1 dimension"):
        performance_profile(scores, [0.0], rng())
    with pytest.raises(ValueError, match="finite numbers in 1 dimension"):
        probability_of_improvement([1.0], scores, rng())
    with pytest.raises(ValueError, match="in 2 dimension"):
        iqm_curve([1.0], rng())

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adit_scale.evaluation.statistics import Rate, compare_rates, wilson_interval


@pytest.mark.parametrize(
    ("successes", "trials", "lower", "upper"),
    # Table I of Newcombe 1998 (Statistics in Medicine 17, 857), method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_equals_published_values(successes, trials, lower, upper):
    assert wilson_interval(successes, trials) == pytest.approx((lower, upper), abs=5e-5)


@pytest.mark.parametrize(
    ("first", "second", "lower", "upper"),
    # Table II of Newcombe 1998 (Statistics in Medicine 17, 873), method 10.
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((10, 10), (0, 10), 0.6075, 1.0),
    ],
)
def test_newcombe_interval_equals_published_values(first, second, lower, upper):
    comparison = compare_rates(Rate(*first), Rate(*second))
    assert (comparison.lower, comparison.upper) == pytest.approx((lower, upper), abs=5e-5)


def test_verdict_depends_on_the_number_of_trials():
    assert compare_rates(Rate(96, 100), Rate(90, 100)).verdict == "within noise"
    assert compare_rates(Rate(960, 1000), Rate(900, 1000)).verdict == "differs"
    assert compare_rates(Rate(900, 1000), Rate(960, 1000)).verdict == "differs"


def test_a_rate_without_trials_claims_nothing():
    empty = Rate(0, 0)
    assert math.isnan(empty.value)
    assert empty.interval == (0.0, 1.0)
    assert compare_rates(empty, Rate(9, 10)).verdict == "within noise"
    assert empty.to_dict()["value"] is None


@given(st.integers(0, 2000), st.integers(1, 2000), st.sampled_from([0.68, 0.95, 0.99]))
def test_interval_holds_the_rate_and_mirrors(successes, trials, confidence):
    rate = Rate(min(successes, trials), trials, confidence)
    lower, upper = rate.interval
    assert 0.0 <= lower <= rate.value <= upper <= 1.0
    assert upper > lower
    mirrored = Rate(rate.trials - rate.successes, trials, confidence).interval
    assert mirrored == pytest.approx((1 - upper, 1 - lower), abs=1e-12)
    assert Rate.from_dict(rate.to_dict()) == rate


@given(st.tuples(st.integers(0, 50), st.integers(50, 90)), st.tuples(st.integers(0, 50), st.integers(50, 90)))
def test_comparison_is_antisymmetric(first, second):
    there, back = compare_rates(Rate(*first), Rate(*second)), compare_rates(Rate(*second), Rate(*first))
    assert (there.difference, there.lower, there.upper) == pytest.approx(
        (-back.difference, -back.upper, -back.lower), abs=1e-12
    )
    assert there.lower <= there.difference <= there.upper
    assert there.verdict == back.verdict


def test_clusters_that_fall_together_count_once():
    """Ten molecules of 20 atoms, five all right and five all wrong, tell as much as ten coin flips."""
    rate = Rate.of_clusters([20] * 5 + [0] * 5, [20] * 10)
    assert (rate.successes, rate.trials, rate.value) == (100, 200, 0.5)
    assert rate.effective_trials == pytest.approx(9.0)  # m − 1: the variance is estimated
    assert rate.interval == pytest.approx(wilson_interval(4.5, 9))


def test_independent_trials_keep_their_worth():
    rng = np.random.default_rng(0)
    successes = rng.binomial(20, 0.9, size=4000)
    rate = Rate.of_clusters(successes, [20] * 4000)
    assert rate.effective_trials == pytest.approx(80_000, rel=0.06)


def test_cluster_interval_covers_as_often_as_it_says():
    """Molecules with their own success rates: the interval by molecules covers, the one by atoms does not."""
    rng = np.random.default_rng(1)
    by_molecule = by_atom = 0
    for _ in range(400):
        own_rate = rng.beta(4, 1, size=200)  # mean 0.8
        successes = rng.binomial(20, own_rate)
        lower, upper = Rate.of_clusters(successes, [20] * 200).interval
        by_molecule += lower <= 0.8 <= upper
        lower, upper = Rate(int(successes.sum()), 4000).interval
        by_atom += lower <= 0.8 <= upper
    assert 0.92 <= by_molecule / 400 <= 0.98
    assert by_atom / 400 < 0.75


@pytest.mark.parametrize(("successes", "value"), [([5, 5], 1.0), ([0, 0], 0.0)])
def test_without_variation_a_cluster_is_one_trial(successes, value):
    rate = Rate.of_clusters(successes, [5, 5])
    assert rate.value == value
    assert rate.interval == wilson_interval(2 * value, 2)
    assert Rate.from_dict(rate.to_dict()) == rate


def test_no_clusters():
    assert Rate.of_clusters([], []) == Rate(0, 0)

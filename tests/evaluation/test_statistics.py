from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adit_scale.evaluation.statistics import (
    Comparison,
    Rate,
    SeedSpread,
    compare_rates,
    compare_runs,
    holm_adjusted,
    table_verdicts,
    wilson_interval,
)


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


@given(st.tuples(st.integers(0, 60), st.integers(60, 90)), st.tuples(st.integers(0, 60), st.integers(60, 90)))
def test_p_value_and_interval_agree(first, second):
    found = compare_rates(Rate(*first), Rate(*second))
    assert 0.0 <= found.p_value <= 1.0
    if abs(found.p_value - 0.05) > 1e-6:
        assert (found.p_value < 0.05) == (found.verdict == "differs")


def test_p_value_is_that_of_the_known_test():
    """At large numbers Newcombe's interval is the normal one: its p-value is the two-sided z test's."""
    found = compare_rates(Rate(52_000, 100_000), Rate(51_500, 100_000))
    z = 0.005 / math.sqrt((0.52 * 0.48 + 0.515 * 0.485) / 100_000)
    assert found.p_value == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.01)


def test_spread_of_seeds_by_hand():
    """Rates 0.80, 0.84, 0.88 of 1,000: SD 0.04; counting noise √(0.84·0.16/1000); t(0.975, 2) = 4.303."""
    spread = SeedSpread.of([Rate(800, 1000), Rate(840, 1000), Rate(880, 1000)])
    assert spread.mean == pytest.approx(0.84)
    assert spread.sd == pytest.approx(0.04)
    assert spread.binomial_sd == pytest.approx(math.sqrt(0.84 * 0.16 / 1000))
    assert spread.between_sd == pytest.approx(math.sqrt(0.04**2 - 0.84 * 0.16 / 1000))
    half = 4.302653 * 0.04 / math.sqrt(3)
    assert (spread.lower, spread.upper) == pytest.approx((0.84 - half, 0.84 + half), abs=1e-6)
    assert spread.overdispersion_p == pytest.approx(math.exp(-23.8095 / 2), rel=1e-4)  # χ² with 2 degrees
    assert "84.0% over 3 seeds" in spread.statement()


def test_spread_needs_two_seeds_and_never_vanishes():
    assert SeedSpread.of([Rate(9, 10)]) is None
    assert SeedSpread.of([Rate(9, 10), Rate(0, 0)]) is None
    alike = SeedSpread.of([Rate(100, 100)] * 2)
    assert (alike.mean, alike.sd, alike.between_sd, alike.overdispersion_p) == (1.0, 0.0, 0.0, 1.0)
    assert 0.9 < alike.lower < 0.93  # two seeds of 100 samples say no more than that


def test_spread_tells_counting_noise_from_seeds():
    """Seeds of one rate are rarely called overdispersed, seeds of different rates often."""
    rng = np.random.default_rng(0)
    equal = different = covered = 0
    for _ in range(300):
        same = SeedSpread.of([Rate(int(k), 500) for k in rng.binomial(500, 0.7, size=5)])
        equal += same.overdispersion_p < 0.05
        covered += same.lower <= 0.7 <= same.upper
        own = rng.beta(70, 30, size=5)  # SD 0.046 between seeds
        drawn = SeedSpread.of([Rate(int(rng.binomial(500, p)), 500) for p in own])
        different += drawn.overdispersion_p < 0.05
    assert equal / 300 < 0.09
    assert different / 300 > 0.7
    assert covered / 300 > 0.92


def test_runs_of_one_seed_compare_as_rates():
    assert compare_runs([Rate(90, 100)], [Rate(80, 100)]) == compare_rates(Rate(90, 100), Rate(80, 100))


def test_runs_of_seeds_by_hand():
    """Welch: means 0.90 and 0.80, SDs 0.02 and 0.01 of three seeds of 10,000: t = 7.746 at 2.94 degrees."""
    first = [Rate(n, 10_000) for n in (8800, 9000, 9200)]
    second = [Rate(n, 10_000) for n in (7900, 8000, 8100)]
    found = compare_runs(first, second)
    error = math.sqrt(0.02**2 / 3 + 0.01**2 / 3)
    assert found.difference == pytest.approx(0.10)
    assert (found.upper - found.difference) / error == pytest.approx(3.2186, abs=2e-3)  # t(0.975, 2.94)
    assert found.p_value == pytest.approx(0.0049, abs=3e-4)
    assert found.verdict == "differs"


def test_the_spread_of_seeds_widens_the_verdict():
    """One seed each: 3 points of 10,000 samples differ. With seeds 3 points apart among themselves: noise."""
    assert compare_runs([Rate(8500, 10_000)], [Rate(8200, 10_000)]).verdict == "differs"
    first = [Rate(n, 10_000) for n in (8200, 8500, 8800)]
    second = [Rate(n, 10_000) for n in (7900, 8200, 8500)]
    assert compare_runs(first, second).verdict == "within noise"


def test_welch_rejects_equal_recipes_as_often_as_it_says():
    rng = np.random.default_rng(3)

    def run():
        return [Rate(int(rng.binomial(400, p)), 400) for p in rng.beta(60, 40, size=3)]

    rejected = sum(compare_runs(run(), run()).verdict == "differs" for _ in range(600))
    assert rejected / 600 < 0.07


def test_many_seeds_against_real_data():
    """The real data have counting noise alone; other numbers of trials are no matter."""
    seeds = [Rate(n, 1000) for n in (850, 860, 870)]
    assert compare_runs(seeds, [Rate(9650, 10_000)]).verdict == "differs"
    assert compare_runs(seeds, [Rate(0, 0)]).p_value == 1.0


def test_holm_by_hand():
    """0.01·4, then max with 0.02·3, then 0.03·2 held at 0.06, then 0.5."""
    assert holm_adjusted([0.02, 0.5, 0.01, 0.03]) == pytest.approx([0.06, 0.5, 0.04, 0.06])
    assert holm_adjusted([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_never_lowers_and_keeps_the_order(p_values):
    adjusted = holm_adjusted(p_values)
    assert all(p <= a <= 1 for p, a in zip(p_values, adjusted, strict=True))
    ranked = [a for _, a in sorted(zip(p_values, adjusted, strict=True))]
    assert ranked == sorted(ranked)


def test_a_long_table_makes_verdicts_stricter():
    near = Comparison(0.02, 0.001, 0.039, p_value=0.04)
    assert near.verdict == "differs"
    assert table_verdicts({"a": near}) == {"a": "differs"}
    table = {"a": near} | {f"r{i}": Comparison(0.0, -0.1, 0.1, p_value=0.9) for i in range(9)}
    assert table_verdicts(table)["a"] == "within noise"

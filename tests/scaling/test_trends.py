"""Whether a rate rises with size or is within noise."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.special import expit

from adit_scale.evaluation.statistics import Rate
from adit_scale.scaling.trends import metric_names, rate_trends
from tests.scaling.simulated import REFERENCE, simulated_points

METRIC = "crystal/validity"


def with_rates(successes, trials=1000):
    """One point a size with the given counts."""
    return [
        dataclasses.replace(p, rates={METRIC: Rate(int(k), trials)})
        for p, k in zip(simulated_points(), successes, strict=True)
    ]


def test_planted_slope_is_recovered():
    n = np.array([p.n_parameters for p in simulated_points()])
    counts = np.round(100_000 * expit(0.3 + 0.8 * (np.log10(n) - 6)))
    trend = rate_trends(with_rates(counts, 100_000), [METRIC])[METRIC]
    assert trend.slope == pytest.approx(0.8, abs=0.005)
    assert trend.verdict == "rises with size"
    assert trend.dispersion == 1.0


def test_verdicts():
    verdict = {
        name: rate_trends(with_rates(counts), [METRIC])[METRIC].verdict
        for name, counts in {
            "rise": [500, 560, 640, 700, 760],
            "fall": [760, 700, 640, 560, 500],
            "noise": [500, 512, 489, 505, 508],
            "all zero": [0, 0, 0, 0, 0],
            "all": [1000, 1000, 1000, 1000, 1000],
        }.items()
    }
    assert verdict == {
        "rise": "rises with size",
        "fall": "falls with size",
        "noise": "within noise",
        "all zero": "within noise",
        "all": "within noise",
    }


def test_scatter_beyond_sampling_widens_the_interval():
    smooth = rate_trends(with_rates([500, 520, 540, 560, 580]), [METRIC])[METRIC]
    rough = rate_trends(with_rates([450, 590, 470, 640, 550]), [METRIC])[METRIC]
    assert smooth.verdict == "rises with size"
    assert rough.dispersion > 10
    assert rough.verdict == "within noise"


def test_five_percent_of_flat_studies_are_called_a_trend():
    rng = np.random.default_rng(0)
    studies = [rate_trends(with_rates(rng.binomial(1000, 0.4, 5)), [METRIC])[METRIC] for _ in range(300)]
    share = np.mean([t.verdict != "within noise" for t in studies])
    assert 0.005 < share < 0.08


def test_clustered_rates_weigh_as_their_effective_trials():
    points = with_rates([500, 520, 540, 560, 580])
    clustered = [
        dataclasses.replace(p, rates={METRIC: dataclasses.replace(p.rates[METRIC], effective_trials=100.0)})
        for p in points
    ]
    plain, wide = (rate_trends(ps, [METRIC])[METRIC] for ps in (points, clustered))
    assert (wide.high - wide.low) / (plain.high - plain.low) == pytest.approx(10**0.5, rel=0.02)


def test_metrics_of_one_size_have_no_trend_and_names_are_ordered():
    points = simulated_points()
    assert rate_trends(points[:1], [METRIC]) == {}
    names = metric_names(points, REFERENCE)
    assert names[0].startswith("molecule/")
    assert names[-1] == "crystal/validity"

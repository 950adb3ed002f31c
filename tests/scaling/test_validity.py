"""Rates through the loss."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.special import expit

from adit_scale.evaluation.statistics import Rate
from adit_scale.scaling.validity import alike_sampled, loss_links
from tests.scaling.handmade import hand_point

METRIC = "crystal/validity"
CEILING = Rate(870, 1000)
NO_SUCCESS = [hand_point(n, 1e7, rates={METRIC: Rate(0, 9)}) for n in (1e5, 1e6, 1e7)]
LOSSES = np.linspace(0.8, 1.3, 8)


def scored_points(rng_seed=None, *, midpoint=0.95, width=0.1, trials=1000, between=0.0, losses=LOSSES):
    """Points of planted rates: exact without a seed. between: SD of the logit between runs."""
    rng = np.random.default_rng(rng_seed)
    points = []
    for k, loss in enumerate(losses):
        logit = (midpoint - loss) / width + (between * rng.standard_normal() if between else 0.0)
        chance = CEILING.value * expit(logit)
        count = round(trials * chance) if rng_seed is None else int(rng.binomial(trials, chance))
        points.append(hand_point(1e5 * 2**k, 1e7, loss=float(loss), rates={METRIC: Rate(count, trials)}))
    return points


def one_link(points, ceiling=CEILING):
    links, refusals = loss_links(points, [METRIC], {METRIC: ceiling} if ceiling else {})
    assert refusals == {}
    return links[METRIC]


def test_planted_sigmoid_is_recovered():
    link = one_link(scored_points(trials=1_000_000))
    assert link.midpoint.value == pytest.approx(0.95, abs=2e-4)
    assert link.width.value == pytest.approx(0.1, abs=2e-4)
    assert link.dispersion == 1.0
    assert link.ceiling == 0.87
    loss, rate, low, high = link.curve
    assert np.interp(0.95, loss, rate) == pytest.approx(0.435, abs=1e-3)
    assert (low < rate).all()
    assert (rate < high).all()
    assert loss[0] < LOSSES.min() < LOSSES.max() < loss[-1]


@pytest.mark.parametrize("between", [0.0, 0.2])
def test_intervals_hold_the_truth_also_where_runs_scatter(between):
    links = [one_link(scored_points(seed, between=between)) for seed in range(100)]
    assert 0.88 <= np.mean([0.95 in link.midpoint.interval for link in links]) <= 1.0
    assert 0.88 <= np.mean([0.1 in link.width.interval for link in links]) <= 1.0
    dispersion = np.median([link.dispersion for link in links])
    assert dispersion > 2 if between else dispersion < 1.5


def test_the_ceiling_is_the_reconstructions_and_its_lack_is_said():
    link = one_link(scored_points(), ceiling=None)
    assert link.ceiling == 1.0
    assert "no ceiling measured" in link.note
    low = one_link(scored_points(), ceiling=Rate(500, 1000))
    assert "above what real data score" in low.note


def test_a_rate_that_does_not_follow_the_loss_is_not_identified():
    points = [dataclasses.replace(p, rates={METRIC: Rate(500, 1000)}) for p in scored_points()]
    link = one_link(points)
    assert link.midpoint.interval is None
    assert not link.midpoint.identified
    assert "no rise of the rate" in link.note


def test_all_at_the_ceiling_stays_finite():
    points = [dataclasses.replace(p, rates={METRIC: Rate(1000, 1000)}) for p in scored_points()]
    link = one_link(points, ceiling=Rate(1000, 1000))
    assert all(np.isfinite(column).all() for column in link.curve)


@pytest.mark.parametrize(
    ("points", "ceiling", "words"),
    [
        (scored_points()[:2], CEILING, "2 losses with this rate"),
        (scored_points(losses=np.linspace(1.0, 1.01, 5)), CEILING, "within 1.0%"),
        (NO_SUCCESS, CEILING, "no success in 27"),
        (scored_points(), Rate(0, 100), "real data score 0"),
    ],
)  # fmt: skip
def test_what_tells_nothing_is_refused_by_name(points, ceiling, words):
    links, refusals = loss_links(points, [METRIC], {METRIC: ceiling})
    assert links == {}
    assert words in refusals[METRIC]
    assert refusals[METRIC].startswith(METRIC)


def test_samples_drawn_another_way_do_not_mix():
    usual = [dataclasses.replace(p, sampling_steps=100, solver="euler") for p in scored_points()]
    other = [dataclasses.replace(p, sampling_steps=25, solver="heun") for p in scored_points()[:3]]
    assert alike_sampled([*other, *usual]) == usual
    assert alike_sampled([hand_point(1e5, 1e7)]) == []


def test_rates_above_the_ceiling_at_nearly_every_loss_are_refused_by_name():
    """As crystals that are all P1: the information of such rates about any slope is 0 in float64."""
    losses = (
        1.75,
        1.51,
        1.409,
        1.359,
        1.466,
        1.356,
        1.316,
        1.323,
        1.366,
        1.298,
        1.274,
        1.294,
        1.332,
        1.269,
        1.329,
        1.364,
    )
    counts = (27, 26, 30, 32, 25, 30, 32, 29, 26, 30, 30, 28, 31, 28, 30, 30)
    points = [
        hand_point(1e5 + k, 1e7, loss=loss, rates={METRIC: Rate(n - 2 * (k == 13), n)})
        for k, (loss, n) in enumerate(zip(losses, counts, strict=True))
    ]
    links, refusals = loss_links(points, [METRIC], {METRIC: Rate(192, 197)})
    assert links == {}
    assert refusals[METRIC].startswith(f"{METRIC}: the rate is 0 or at its ceiling at nearly every loss")

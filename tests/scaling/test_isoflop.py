"""IsoFLOP parabolas, the compute optimum they give, and the envelope of finished runs."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from adit_scale.errors import DataError
from adit_scale.scaling.config import BUDGET_AXIS
from adit_scale.scaling.envelope import lower_envelope
from adit_scale.scaling.isoflop import fit_isoflop
from adit_scale.scaling.isoflop_budgets import find_budgets
from adit_scale.scaling.model_costs import flops_an_atom, model_costs
from adit_scale.scaling.seeds import seed_noise
from tests.scaling.handmade import N_EXPONENT, hand_point, isoflop_points, planted_loss, planted_optimum

BUDGETS = [1e13, 3e13, 1e14, 3e14]
NARROW = list(np.geomspace(1 / 4, 4, 6))


def test_optima_and_exponents_of_a_planted_surface():
    fit = fit_isoflop(isoflop_points(BUDGETS, NARROW))
    for parabola in fit.parabolas:
        n, d = planted_optimum(parabola.flops)
        assert parabola.n_optimum.value == pytest.approx(n, rel=0.02)
        assert parabola.d_optimum.value == pytest.approx(d, rel=0.02)
        assert parabola.loss_optimum.value == pytest.approx(planted_loss(n, d), rel=1e-3)
        assert parabola.note == ""
    assert fit.n_exponent.value == pytest.approx(N_EXPONENT, abs=0.01)
    assert fit.d_exponent.value == pytest.approx(1 - N_EXPONENT, abs=0.01)
    assert fit.n_scale * 1e14**fit.n_exponent.value == pytest.approx(planted_optimum(1e14)[0], rel=0.03)
    assert fit.warnings == []


def test_intervals_hold_the_planted_optimum_as_often_as_they_say():
    inside = []
    for rng_seed in range(60):
        points = isoflop_points(BUDGETS, NARROW, sigma=0.003, rng_seed=rng_seed)
        fit = fit_isoflop(points, bootstrap=300)
        inside += [planted_optimum(p.flops)[0] in p.n_optimum.interval for p in fit.parabolas]
        inside.append(N_EXPONENT in fit.n_exponent.interval)
    assert 0.90 <= np.mean(inside) <= 0.99


def test_seeds_give_the_noise_where_there_are_any():
    points = isoflop_points(BUDGETS, NARROW, sigma=0.003, seeds=3)
    noise = seed_noise(points)
    assert noise is not None
    assert noise.sigma.value == pytest.approx(0.003, rel=0.2)
    with_seeds = fit_isoflop(points, seed_noise=noise)
    assert "48 degrees of freedom" in with_seeds.noise_text
    assert "seed-to-seed" in with_seeds.noise_text
    # A tenth of the noise: what is left about the parabolas is larger, and is taken.
    tenth = dataclasses.replace(noise, sigma=dataclasses.replace(noise.sigma, value=3e-4))
    misfit = fit_isoflop(points, seed_noise=tenth)
    assert "about the parabolas" in misfit.noise_text
    assert any("runs miss their parabolas" in w for w in misfit.warnings)


def test_a_wide_grid_is_biased_and_the_windows_say_so():
    law = (0.45, 12.0, 0.6, 35.0, 0.15)  # uneven sides
    points = []
    for flops in BUDGETS:
        centre, _ = planted_optimum(flops, law)
        for n in centre * np.geomspace(1 / 60, 60, 13):
            d = flops / (6 * n)
            points.append(hand_point(n, d, loss=planted_loss(n, d, law)))
    fit = fit_isoflop(points)
    narrow, default, wide = (row.n_optima[1] for row in fit.windows)
    truth = planted_optimum(BUDGETS[1], law)[0]
    assert abs(math.log(narrow / truth)) < 0.06 < abs(math.log(wide / truth))
    assert fit.parabolas[1].n_optimum.value == pytest.approx(default)
    assert any("moves from" in w and "window" in w for w in fit.warnings)
    in_window = np.array(fit.parabolas[1].in_window)
    assert 4 <= in_window.sum() < 13


def test_runs_of_a_budget_are_told_by_their_flops():
    points = isoflop_points(BUDGETS, NARROW)
    rng = np.random.default_rng(0)
    scattered = []
    for point in points:  # as steps reckoned for a nominal size leave them
        d = point.atoms_seen * rng.uniform(0.9, 1.1)
        scattered.append(hand_point(point.n_parameters, d))
    lone = hand_point(1e6, 1e9)
    budgets = find_budgets([*scattered, lone])
    assert [round(b.flops / f, 1) for b, f in zip(budgets, BUDGETS, strict=True)] == [1.0] * 4
    assert all(lone not in b.points for b in budgets)
    moved = fit_isoflop(scattered)
    for parabola in moved.parabolas:  # at equal C, as if steps had been exact
        assert parabola.n_optimum.value == pytest.approx(planted_optimum(parabola.flops)[0], rel=0.08)
    for budget in budgets:
        n = np.array([p.n_parameters for p in budget.points])
        exact = np.log([planted_loss(k, budget.flops / (6 * k)) for k in n])
        raw = np.log([p.final_loss for p in budget.points])
        assert np.abs(budget.y - exact).max() < 0.5 * np.abs(raw - exact).max()


def test_the_axis_of_budgets_goes_before_the_flops():
    points = isoflop_points([1e13, 1.2e13], NARROW)
    assert len(find_budgets(points)) == 1
    named = [dataclasses.replace(p, axes={BUDGET_AXIS: 1e13 if p.flops < 1.1e13 else 1.2e13}) for p in points]
    assert [b.n_sizes for b in find_budgets(named)] == [6, 6]


@pytest.mark.parametrize(
    ("factors", "words"), [((2, 4, 8, 16), "smallest"), ((1 / 16, 1 / 8, 1 / 4, 1 / 2), "largest")]
)
def test_a_minimum_at_the_edge_is_no_optimum(factors, words):
    fit = fit_isoflop(isoflop_points([1e14], [f * (1.5 if f > 1 else 1 / 1.5) for f in factors]))
    (parabola,) = fit.parabolas
    assert parabola.n_optimum is None
    assert f"least at the {words} size" in parabola.note
    assert fit.n_exponent is None
    assert "0 of 1 budgets have an optimum" in fit.warnings[-1]


def test_a_parabola_that_opens_downwards_has_no_optimum():
    points = [dataclasses.replace(p, final_loss=2 - p.final_loss) for p in isoflop_points([1e14], NARROW)]
    (parabola,) = fit_isoflop(points).parabolas
    assert parabola.n_optimum is None
    assert "no minimum" in parabola.note


def test_noise_as_large_as_the_basin_leaves_no_bounds():
    fit = fit_isoflop(isoflop_points([1e14], [0.8, 0.9, 1.1, 1.25, 1.4], sigma=0.02, rng_seed=3))
    (parabola,) = fit.parabolas
    assert parabola.n_optimum is None or parabola.n_optimum.interval is None


def test_three_sizes_are_refused_with_the_design_that_helps():
    with pytest.raises(DataError, match=r"no budget has 4 sizes .*sweep=isoflop"):
        fit_isoflop(isoflop_points([1e14], [0.5, 1, 2]))


def test_flops_an_atom_follow_the_measured_sizes():
    costs = model_costs([hand_point(1e5, 1e7), hand_point(1e5, 3e7), hand_point(1e6, 1e7)])
    assert [c.n_parameters for c in costs] == [100_000, 1_000_000]
    assert costs[0].flops_an_atom == pytest.approx(6e5)
    assert costs[0].flops_total_an_atom == pytest.approx(2.6e6)
    assert flops_an_atom(costs, np.array([3e5, 1e7])) == pytest.approx([1.8e6, 6e7])
    assert flops_an_atom(costs[:1], 2e5) == pytest.approx(1.2e6)


def test_the_envelope_takes_finished_runs_that_nothing_undercuts():
    points = [
        hand_point(1e5, 1e7, loss=1.0, label="a"),
        hand_point(1e5, 2e7, loss=1.1, label="worse"),
        hand_point(1e6, 1e7, loss=0.9, label="b"),
        hand_point(1e6, 3e7, loss=0.5, label="running", status="running"),
        hand_point(1e6, 2e7, loss=math.nan, label="lost"),
        hand_point(1e6, 4e7, loss=0.7, label="c"),
    ]
    assert [e.label for e in lower_envelope(points)] == ["a", "b", "c"]
    assert lower_envelope(points)[1].flops == pytest.approx(6e13)

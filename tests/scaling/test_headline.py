"""What ten times the compute buys, against the closed form of a planted surface."""

# ruff: noqa: RUF001 (Greek letters)

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from adit_scale.scaling.atom_cost import AtomCost
from adit_scale.scaling.fit import fit_points
from adit_scale.scaling.headline import headline, outlook
from adit_scale.scaling.results import Estimate, Interval, IsoflopFit
from adit_scale.scaling.summary import headline_metrics, key_numbers
from tests.scaling.planted_study import (
    ALPHA,
    BETA,
    N_EXPONENT,
    A,
    B,
    E,
    linear_costs,
    planted_study,
    planted_surface,
)
from tests.scaling.simulated import SIZES, simulated_points

POINTS = simulated_points()
LABELS = [p.label for p in POINTS]


COST = AtomCost(linear_costs({p.size: p.n_parameters for p in POINTS}))


def planted_loss(log_n: float, flops: float) -> float:
    n = np.exp(log_n)
    return float(E + A * n**-ALPHA + B * (flops / COST(n)) ** -BETA)


def best(flops: float) -> tuple[float, float]:
    """(N, loss) at the minimum of the planted surface along D = C / cost(N)."""
    bounds = (np.log(1e3), np.log(1e10))
    found = minimize_scalar(planted_loss, bounds=bounds, args=(flops,), options={"xatol": 1e-10})
    return float(np.exp(found.x)), float(found.fun)


def best_loss(flops: float) -> float:
    return best(flops)[1]


def test_the_optimum_at_ten_times_the_compute():
    study = planted_study(POINTS, surface=planted_surface(LABELS))
    ahead = outlook(study)
    flops = max(p.flops_total for p in POINTS)
    assert ahead.flops == flops
    assert ahead.loss == pytest.approx(best_loss(flops), rel=1e-5)
    assert ahead.loss_ten.value == pytest.approx(best_loss(10 * flops), rel=1e-5)
    assert ahead.change.value == pytest.approx(best_loss(10 * flops) / best_loss(flops) - 1, rel=1e-3)
    growth = best(10 * flops)[0] / best(flops)[0]
    assert ahead.n_growth.value == pytest.approx(growth, rel=0.02)
    assert growth == pytest.approx(
        10**N_EXPONENT, rel=0.1
    )  # exactly where FLOPs an atom are in proportion to N
    spent = COST(best(flops)[0]) / COST(best(10 * flops)[0])
    assert ahead.d_growth.value == pytest.approx(10 * spent, rel=0.02)
    reducible = best_loss(10 * flops) - E
    assert ahead.loss_ten.interval.low == pytest.approx(E + 0.9905 * reducible, rel=1e-4)
    assert ahead.loss_ten.interval.high == pytest.approx(E + 1.0095 * reducible, rel=1e-4)


def test_an_optimum_outside_the_runs_is_said_to_be():
    points = [dataclasses.replace(p, atoms_seen=p.atoms_seen // 50, unique_atoms=1e6) for p in POINTS]
    study = planted_study(points, surface=planted_surface(LABELS))
    ahead = outlook(study)
    flops = max(p.flops_total for p in points)
    d = 10 * flops / float(COST(best(10 * flops)[0]))
    assert d > 2 * points[0].atoms_seen
    said = re.fullmatch(r"the data are (\S+) times what any run saw \((\S+) epochs of .*\)", ahead.beyond)
    assert said is not None
    assert float(said[1]) == pytest.approx(d / points[0].atoms_seen, rel=0.05)
    assert float(said[2]) == pytest.approx(d / 1e6, rel=0.02)
    assert f"That extrapolates: {ahead.beyond}." in headline(study)


def test_the_headline_says_where_compute_should_go():
    surface = planted_surface(LABELS)

    def said(low: float, high: float, identified: bool = True) -> str:
        exponent = Estimate((low + high) / 2, Interval(low, high), identified=identified)
        changed = dataclasses.replace(surface, estimates={**surface.estimates, "n_exponent": exponent})
        return headline(planted_study(POINTS, surface=changed))

    assert said(0.53, 0.63).startswith("Ten times the compute (")
    assert "More of it should go to parameters than to data: at the optimum N × 3.7" in said(0.53, 0.63)
    assert "More of it should go to data than to parameters" in said(0.37, 0.47)
    assert "Parameters and data should grow alike, as far as can be told" in said(0.45, 0.55)
    assert "Whether it should go to parameters or to data cannot be told" in said(0.1, 0.9)
    assert "cannot be told (an exponent is at its bound)" in said(0.45, 0.55, identified=False)


def test_without_noise_nothing_is_claimed():
    said = headline(planted_study(POINTS, surface=planted_surface(LABELS, sure=False)))
    assert "how sure that is cannot be told without noise" in said
    assert "Whether it should go to parameters or to data cannot be told" in said


def test_sizes_alone_cannot_tell_parameters_from_data():
    law = fit_points(POINTS, bootstrap=200)
    study = planted_study(POINTS, size_law=law)
    said = headline(study)
    assert said.startswith("Ten times the compute (")
    assert "Final loss follows L = " in said
    assert "spent on parameters alone) would take the loss from" in said
    assert "cannot be told: sweep=isoflop or sweep=chinchilla would tell" in said
    # Ten times the compute at the same data is ten times the parameters, at 6 N an atom.
    ahead = outlook(study)
    assert ahead.loss_ten.value == pytest.approx(float(law.fit.law(10 * SIZES["dit_256"])), rel=2e-3)
    assert ahead.n_growth is None


def test_isoflop_minima_speak_where_there_is_no_surface():
    minima = IsoflopFit((), "a factor of 10", n_exponent=Estimate(0.6, Interval(0.52, 0.68)))
    said = headline(planted_study(POINTS, isoflop=minima, refusals={"size_law": "2 sizes; add some"}))
    assert said.startswith("No scaling law: 2 sizes.")
    assert "By the IsoFLOP minima more of it should go to parameters than to data" in said
    assert "C^0.6 [0.52, 0.68]" in said


def test_metrics_are_the_fits_and_finite():
    law = fit_points(POINTS, bootstrap=200)
    study = planted_study(POINTS, size_law=law, surface=planted_surface(LABELS))
    metrics = headline_metrics(study, outlook(study), 7)
    assert metrics["points_done"] == 5
    assert metrics["points_total"] == 7
    assert metrics["law/alpha"] == law.fit.law.exponent
    assert metrics["law/held_out_error"] == law.held_out.error
    assert (metrics["surface/alpha"], metrics["surface/alpha_low"]) == (ALPHA, ALPHA - 0.05)
    assert metrics["surface/n_exponent_high"] == N_EXPONENT + 0.05
    assert metrics["surface/held_out_error"] == -0.01
    assert metrics["best_loss"] == min(p.final_loss for p in POINTS)
    assert np.isfinite(list(metrics.values())).all()


def test_key_numbers_hold_the_laws_and_the_worst_prediction():
    study = planted_study(POINTS, surface=planted_surface(LABELS))
    rows = {row[0]: row[1:] for row in key_numbers(study, outlook(study), 7).rows}
    assert rows["points done"] == [5, None, "of 7"]
    assert rows["L(N, D): α"][:2] == [ALPHA, Interval(ALPHA - 0.05, ALPHA + 0.05)]
    assert rows["L(N, D): error of the largest size, held out"][0] == "-1.00%"
    assert rows["L(N, D): error of the largest size, held out"][2].endswith("inside its interval")

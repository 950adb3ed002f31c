"""All fits of a study at once, and what is said where a study allows none."""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np
import pytest

from adit_scale.scaling.config import SweepConfig
from adit_scale.scaling.fit import ScalingFit
from adit_scale.scaling.leave_out import leave_one_size_out
from adit_scale.scaling.model_costs import model_costs
from adit_scale.scaling.results import SurfaceFit
from adit_scale.scaling.sensitivity import size_law_rows, surface_rows
from adit_scale.scaling.study_fit import fit_study
from tests.scaling.handmade import LAW, N_EXPONENT, hand_point, noisy, planted_loss
from tests.scaling.simulated import FULL_LAW, full_ceilings, full_study, simulated_points

SIZES = np.geomspace(1e5, 2e7, 6)
CONFIG = SweepConfig(bootstrap=300)


@pytest.fixture(scope="module")
def study():
    return fit_study(full_study(), CONFIG, ceilings=full_ceilings())


def test_every_design_in_one_study_gives_every_fit(study):
    assert study.refusals == {}
    assert {type(law) for law in study.domains.values()} == {SurfaceFit}
    assert set(study.domains) == {"molecule", "crystal"}
    assert len(study.basins) == 3
    assert len(study.transfer) == 12
    assert len(study.isoflop.parabolas) == 3
    assert study.seed_noise.dof >= 4
    assert "molecule/edm_validity" in study.links
    assert not any(name.endswith("uniqueness") for name in study.trends)
    assert [c.size for c in study.costs][:2] == ["dit_32", "dit_64"]
    assert len(study.envelope) > 5


def test_the_planted_law_is_found(study):
    for name in ("alpha", "beta", "E"):
        assert study.surface.estimates[name].value == pytest.approx(FULL_LAW[name], abs=0.02)
    exponent = FULL_LAW["beta"] / (FULL_LAW["alpha"] + FULL_LAW["beta"])
    assert exponent in study.isoflop.n_exponent.interval


def test_each_run_counts_once_and_names_stand_beside_what_is_left_out(study):
    used = {p.label for p in study.selection.used}
    excluded = {e.label for e in study.selection.excluded}
    assert used | excluded == {p.label for p in study.points}
    assert not used & excluded
    assert all(not p.domain for p in study.selection.used)


def test_a_study_of_one_budget_has_its_law_and_says_what_makes_the_rest():
    fit = fit_study(simulated_points(seeds=(0, 1)), CONFIG)
    assert fit.surface is None
    assert "sweep=chinchilla" in fit.refusals["surface"]
    assert fit.isoflop is None
    assert "sweep=isoflop" in fit.refusals["isoflop"]
    assert "sweep=transfer" in fit.refusals["transfer"]
    assert "sweep=lr" in fit.refusals["basins"]
    assert "no run has a loss of its crystals" in fit.refusals["crystal_law"]
    assert fit.size_law is not None
    assert len(fit.leave_one_out) == 5
    assert fit.seed_noise.dof == 5


@pytest.mark.parametrize(
    "points",
    [
        [],
        simulated_points()[:1],
        simulated_points()[:2],
        [dataclasses.replace(p, final_loss=math.nan) for p in simulated_points()],
        [dataclasses.replace(p, status="failed") for p in simulated_points()],
        [dataclasses.replace(p, flops=0.0, atoms_seen=0) for p in simulated_points()],
    ],
    ids=["none", "one", "two", "nan", "failed", "no_flops"],
)
def test_a_thin_study_is_refused_and_does_not_raise(points):
    fit = fit_study(points, CONFIG)
    assert fit.surface is None
    assert set(fit.refusals) >= {"surface", "isoflop"}
    assert all(fit.refusals.values())


def test_leakage_refuses_every_loss_fit_with_its_numbers():
    points = [dataclasses.replace(p, leakage={"molecule": 0.31}) for p in simulated_points(seeds=(0, 1))]
    fit = fit_study(points, CONFIG)
    assert fit.size_law is None
    refused = ("size_law", "surface", "isoflop", "links", "transfer", "leave_one_out", "sensitivity")
    for name in refused:
        assert "31% of the held-out molecules" in fit.refusals[name]
    assert "sweep=lr" in fit.refusals["basins"]
    assert fit.trends  # rates of samples do not depend on the held-out sets
    assert len(fit.selection.excluded) == len(points)
    allowed = fit_study(points, dataclasses.replace(CONFIG, max_leakage=0.5))
    assert allowed.size_law is not None


def test_forty_points_take_less_than_twenty_seconds():
    noise = noisy(0.003)
    points = [
        hand_point(n, d, loss=noise(planted_loss(n, d)))
        for n in np.geomspace(1e5, 2e7, 8)
        for d in np.geomspace(1e7, 1.6e8, 5)
    ]
    begin = time.process_time()
    fit = fit_study(points, SweepConfig())
    assert time.process_time() - begin < 20
    assert isinstance(fit.size_law, ScalingFit)
    assert fit.surface is not None


def test_each_size_is_predicted_from_the_others():
    studies = [simulated_points(noise=0.002, seeds=(0, 1, 2), rng_seed=k) for k in range(4)]
    every = [leave_one_size_out(points) for points in studies]
    assert sum(bool(h.inside) for held_out in every for h in held_out) >= 17  # of 20
    points, held_out = studies[0], every[0]
    assert [h.size for h in held_out] == ["dit_32", "dit_64", "dit_128", "dit_192", "dit_256"]
    assert all(abs(h.error) < 0.03 for h in held_out)
    of_128 = [p.final_loss for p in points if p.size == "dit_128"]
    assert held_out[2].measured == pytest.approx(math.exp(np.mean(np.log(of_128))))
    assert leave_one_size_out(points[:9]) == []


def test_sensitivity_of_an_exact_law_is_none():
    points = [hand_point(n, 4e7, loss=planted_loss(n, 1e30)) for n in SIZES]
    rows = size_law_rows(points, with_offset=True)
    settings = [(row.what, row.setting) for row in rows]
    assert ("objective", "least squares") in settings
    assert ("exclusions", "without the smallest, dit_32") in settings
    assert ("definition of N", "matrices of the blocks") in settings
    for row in rows:
        assert row.alpha == pytest.approx(LAW[2], abs=2e-3)
        assert row.offset == pytest.approx(LAW[0], abs=5e-3)
        assert abs(row.held_out_error) < 1e-3
        assert row.n_used == (5 if row.what == "exclusions" else 6)


def test_sensitivity_of_a_surface_and_its_definitions_of_c():
    points = [hand_point(n, d) for n in SIZES for d in (1e7, 4e7, 1.6e8)]
    rows = {row.setting: row for row in surface_rows(points, model_costs(points))}
    for row in rows.values():
        assert row.alpha == pytest.approx(LAW[2], abs=5e-3)
        assert row.beta == pytest.approx(LAW[4], abs=5e-3)
    exponents = [float(rows[name].note.split("^")[1]) for name in ("denoiser", "denoiser and frozen encoder")]
    assert exponents[0] == pytest.approx(N_EXPONENT, abs=0.01)
    # Where the encoder costs more than the denoiser a larger denoiser is nearly free: it is chosen sooner.
    assert exponents[1] < exponents[0]


def test_repeated_data_count_as_effective_data_everywhere():
    noise, unique, r_star = noisy(0.001), 1e7, 4.0
    points = []
    for n in SIZES[:5]:
        for epochs in (1, 3, 8, 24):
            effective = unique * (1 + r_star * -math.expm1(-(epochs - 1) / r_star))
            loss = noise(planted_loss(n, effective))
            points.append(hand_point(n, epochs * unique, loss=loss, unique_atoms=unique))
    fit = fit_study(points, SweepConfig(bootstrap=100, hold_out_largest=False))
    assert fit.surface.form == "repeats"
    assert fit.surface.estimates["r_star"].value == pytest.approx(r_star, rel=0.3)
    of_surface = [h for h in fit.leave_one_out if h.form == "repeats"]
    assert [h.n_parameters for h in of_surface] == [round(n) for n in SIZES[:5]]
    assert all(abs(h.error) < 0.02 for h in of_surface)
    rows = {
        row.setting: row for row in fit.sensitivity if row.what != "exclusions" and math.isfinite(row.beta)
    }
    assert all(abs(row.held_out_error) < 0.02 for row in rows.values())
    assert rows["sets seen"].beta == pytest.approx(rows["denoiser"].beta, abs=0.01)


def test_one_outlier_moves_least_squares_most():
    points = [hand_point(n, 4e7, loss=planted_loss(n, 1e30)) for n in np.geomspace(1e5, 2e7, 8)]
    points[3] = dataclasses.replace(points[3], final_loss=points[3].final_loss * 1.05)
    rows = {row.setting: row for row in size_law_rows(points, with_offset=True)}
    misses = {name: abs(rows[name].alpha - LAW[2]) for name in ("least absolute", "least squares")}
    assert misses["least absolute"] < 0.1 * misses["least squares"]

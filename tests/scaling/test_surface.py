"""L(N, D): recovery, profiles against brute force, correlated runs, repeats, the held-out size."""

# ruff: noqa: RUF001 (Greek letters in text for readers)

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np
import pytest
from scipy.optimize import minimize

from adit_scale.errors import DataError
from adit_scale.scaling.inference import Inference, Runs
from adit_scale.scaling.laws import log_effective
from adit_scale.scaling.surface import fit_surface, fit_surface_arrays
from tests.scaling.simulated import SIZES, simulated_points

PLANTED = {"E": 0.3, "A": 8.0, "alpha": 0.25, "B": 30.0, "beta": 0.3}


def law(n, d, offset=0.3):
    return offset + 8.0 * n**-0.25 + 30.0 * d**-0.3


def study(sizes=6, seeds=1, run_sd=0.003, point_sd=0.002, seed=0, offset=0.3, smallest=1e5, largest=2e7):
    """n, d, loss, trunk: four D of every run."""
    runs = np.repeat(np.geomspace(smallest, largest, sizes), seeds)
    rng = np.random.default_rng(seed)
    n, d = np.repeat(runs, 4), np.tile([1e7, 2e7, 4e7, 8e7], len(runs))
    trunk = np.repeat(np.arange(len(runs)), 4)
    noise = run_sd * rng.standard_normal(len(runs))[trunk] + point_sd * rng.standard_normal(len(n))
    return n, d, law(n, d, offset) * np.exp(noise), trunk


def test_planted_surface_is_recovered_with_its_intervals():
    n, d, loss, trunk = study(sizes=7, seeds=3, run_sd=0.0005, point_sd=0.0005)
    fit = fit_surface_arrays(n, d, loss, trunk=trunk, bootstrap=200, hold_out_largest=False)
    assert fit.form == "surface"
    assert fit.warnings == []
    for name, value in PLANTED.items():
        estimate = fit.estimates[name]
        assert estimate.value == pytest.approx(value, rel=0.15)
        assert value in estimate.interval
        assert estimate.bootstrap.low < estimate.value < estimate.bootstrap.high
        assert estimate.identified
    assert fit.estimates["n_exponent"].value == pytest.approx(0.3 / 0.55, abs=0.03)
    assert 0.3 / 0.55 in fit.estimates["n_exponent"].interval
    assert 0.25 / 0.55 in fit.estimates["d_exponent"].interval
    assert fit.sigma == pytest.approx(0.0005 * math.sqrt(2), rel=0.2)
    assert fit.dof == pytest.approx(18, rel=0.1)  # 21 runs, and E, A, alpha between them
    fitted, low, high = fit.law.band(n[:4], d[:4])
    assert fitted == pytest.approx(law(n[:4], d[:4]), rel=2e-3)
    assert (low < law(n[:4], d[:4])).all()
    assert (high > law(n[:4], d[:4])).all()
    draws = fit.law.draws(n[:4], d[:4])
    assert draws.shape == (200, 4)
    assert draws.mean(axis=0) == pytest.approx(fitted, rel=1e-3)


def brute_force(x, loss, sigma, fixed, quantile):
    """Profile likelihood by another optimiser: whether (index, value) of log-parameters is within reach."""

    def squares(theta):
        e, a, alpha, b, beta = np.exp(theta)
        fitted = e + a * np.exp(-alpha * x[0]) + b * np.exp(-beta * x[1])
        return (((fitted / loss - 1) / sigma) ** 2).sum()

    start = np.log([0.3, 0.25, 0.25, 0.2, 0.3])
    best = minimize(
        squares, start, method="Nelder-Mead", options={"maxiter": 8000, "xatol": 1e-7, "fatol": 1e-7}
    )
    index, value = fixed
    free = [i for i in range(5) if i != index]

    def rest(short):
        return squares(np.insert(short, index, np.log(value)))

    held = minimize(
        rest, best.x[free], method="Nelder-Mead", options={"maxiter": 8000, "xatol": 1e-7, "fatol": 1e-7}
    )
    return held.fun - best.fun - quantile


def test_ends_of_intervals_lie_where_another_optimiser_puts_them():
    n, d, loss, _ = study(sizes=5, run_sd=0.0, point_sd=0.003, seed=4)
    x = np.stack([np.log(n) - np.log(n).mean(), np.log(d) - np.log(d).mean()])
    cells = np.arange(len(n))
    inference = Inference(lambda _: x, 2, Runs(loss, cells, cells, n), 0.95, seed_noise=0.003)
    quantile = 1.959964**2
    ends = [
        *((2, side.value) for side in inference.exponent(0)),
        *((4, side.value) for side in inference.exponent(1)),
        (0, inference.offset().low),
        (0, inference.offset().high),
    ]
    for fixed in ends:
        assert brute_force(x, loss, 0.003, fixed, quantile) == pytest.approx(0.0, abs=0.05 * quantile)


def test_points_of_one_trunk_widen_the_interval_of_alpha_and_not_of_beta():
    n, d, loss, trunk = study(sizes=7, run_sd=0.006, point_sd=0.001, seed=1)
    together = fit_surface_arrays(n, d, loss, trunk=trunk, bootstrap=0, hold_out_largest=False).estimates
    apart = fit_surface_arrays(n, d, loss, bootstrap=0, hold_out_largest=False).estimates
    width = {
        name: [e[name].interval.high - e[name].interval.low for e in (together, apart)]
        for name in ("alpha", "beta")
    }
    assert width["alpha"][0] > 1.5 * width["alpha"][1]
    assert width["beta"][0] < width["beta"][1]


@pytest.mark.parametrize(("sizes", "seeds"), [(5, 1), (6, 2)])
def test_intervals_hold_the_planted_values(sizes, seeds):
    """30 studies each; a right 95% interval holds at least 24 of them with probability 0.997."""
    held = dict.fromkeys(("alpha", "beta", "E", "new run"), 0)
    for i in range(30):
        n, d, loss, trunk = study(sizes, seeds, seed=100 + i)
        fit = fit_surface_arrays(n, d, loss, trunk=trunk, bootstrap=0, hold_out_largest=False)
        for name in ("alpha", "beta", "E"):
            held[name] += PLANTED[name] in fit.estimates[name].interval
        _, interval = fit.law.predict(6e7, 8e7)
        new = np.random.default_rng(i).standard_normal(2) @ [0.003, 0.002]
        held["new run"] += law(6e7, 8e7) * math.exp(new) in interval
    assert min(held.values()) >= 24


def test_offset_that_cannot_be_told_from_zero_is_named():
    n, d, loss, trunk = study(
        sizes=5, run_sd=0.006, point_sd=0.003, offset=0.0, smallest=1e6, largest=8e6, seed=2
    )
    fit = fit_surface_arrays(n, d, loss, trunk=trunk, bootstrap=0, hold_out_largest=False)
    assert fit.estimates["E"].interval.low == 0.0
    assert not fit.estimates["E"].identified
    assert not fit.estimates["alpha"].identified
    text = " | ".join(fit.warnings)
    assert "E is not identifiable: it cannot be told from 0 on this range" in text
    assert "α and E cannot be told apart on this range" in text


def test_a_run_a_size_leaves_two_degrees_of_freedom_and_says_so():
    n, d, loss, trunk = study(sizes=5)
    fit = fit_surface_arrays(n, d, loss, trunk=trunk, bootstrap=0, hold_out_largest=False)
    assert fit.dof == pytest.approx(2.0, rel=0.05)
    assert "intervals rest on 2 degrees of freedom between runs; add seeds or sizes" in fit.warnings


def test_largest_size_is_held_out_at_every_d():
    n, d, loss, trunk = study(seeds=2, run_sd=0.001, point_sd=0.001)
    fit = fit_surface_arrays(n, d, loss, trunk=trunk, bootstrap=0, sizes={2e7: "dit_512"})
    assert [h.atoms_seen for h in fit.held_out] == pytest.approx([1e7, 2e7, 4e7, 8e7])
    for held in fit.held_out:
        assert (held.size, held.n_parameters) == ("dit_512", 20_000_000)
        top = loss[(n == n.max()) & (d == held.atoms_seen)]
        assert held.measured == pytest.approx(math.sqrt(top[0] * top[1]))
        assert abs(held.error) < 0.01
        assert held.inside
    broken = np.where(n == n.max(), 1.1 * loss, loss)
    fit = fit_surface_arrays(n, d, broken, trunk=trunk, bootstrap=0)
    assert not any(h.inside for h in fit.held_out)
    assert sum("lies outside the predicted interval" in w for w in fit.warnings) == 4


def test_repeats_are_chosen_only_where_the_runs_show_them():
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e5, 2e7, 5), np.geomspace(1e7, 4e8, 6)))
    unique = np.full(len(n), 2e7)
    noise = np.exp(0.003 * np.random.default_rng(0).standard_normal(len(n)))
    used_up = 0.3 + 8 * n**-0.25 + 30 * np.exp(-0.3 * log_effective(d, unique, 4.0))
    fit = fit_surface_arrays(n, d, used_up * noise, unique=unique, bootstrap=40, hold_out_largest=False)
    assert fit.form == "repeats"
    assert 4.0 in fit.estimates["r_star"].interval
    assert fit.estimates["r_star"].bootstrap.low < 4.0 < fit.estimates["r_star"].bootstrap.high
    assert any("repeats count less than new data (up to 20 epochs): r_star" in w for w in fit.warnings)
    new, old = (float(fit.law(2e7, 4e8, u)) for u in (4e8, 2e7))
    assert new < 0.99 * old
    plain = fit_surface_arrays(n, d, law(n, d) * noise, unique=unique, bootstrap=0, hold_out_largest=False)
    assert plain.form == "surface"
    assert "r_star" not in plain.estimates
    assert any("repeats as good as new data within the noise" in w for w in plain.warnings)


def test_misfit_that_repeats_reveal_counts_as_noise():
    n, d, loss, _ = study(run_sd=0.0, point_sd=0.0)
    rng = np.random.default_rng(1)
    cell = np.exp(0.01 * rng.standard_normal(len(n)))
    n, d, loss, cell = (np.tile(v, 2) for v in (n, d, loss, cell))
    fit = fit_surface_arrays(n, d, loss * cell * np.exp(0.0003 * rng.standard_normal(len(n))), bootstrap=0)
    assert any("lack of fit" in w for w in fit.warnings)
    assert fit.sigma == pytest.approx(0.01, rel=0.4)
    assert fit.dof == pytest.approx(24 - 5, rel=0.1)


def test_points_of_a_study_are_grouped_by_their_trunk():
    budgets = np.array([1e7, 2e7, 4e7])
    points = [
        dataclasses.replace(
            p, label=f"{p.size}-{k}", atoms_seen=int(d), final_loss=float(loss), trunk=p.label
        )
        for p in simulated_points(noise=0.003)
        for k, (d, loss) in enumerate(
            zip(budgets, law(p.n_parameters, budgets) * p.final_loss / law(p.n_parameters, 1e15), strict=True)
        )
    ]
    fit = fit_surface(points, bootstrap=0)
    assert "15 points of 5 runs" in fit.noise_text
    assert list(fit.residuals) == [p.label for p in points]
    assert fit.held_out[0].size == "dit_256"


def test_studies_too_thin_for_a_surface_are_refused_in_one_line():
    n, d, loss, _ = study(sizes=2)
    with pytest.raises(DataError, match="2 sizes, 2 of them at more than one D") as error:
        fit_surface_arrays(n, d, loss)
    assert "\n" not in str(error.value)
    n = np.array(list(SIZES.values()), dtype=float)
    with pytest.raises(DataError, match="5 sizes, 0 of them at more than one D"):
        fit_surface_arrays(n, np.full(5, 4e7), law(n, 4e7))
    n, d, loss, _ = study()
    with pytest.raises(DataError, match="not finite and positive"):
        fit_surface_arrays(n, d, np.where(n == n.min(), np.nan, loss))


def test_a_hundred_points_and_a_thousand_resamples_take_seconds():
    n, d, loss, trunk = study(sizes=5, seeds=5)
    start = time.process_time()
    fit_surface_arrays(n, d, loss, trunk=trunk, bootstrap=1000)
    assert len(n) == 100
    assert time.process_time() - start < 30

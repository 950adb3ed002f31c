"""The solver: planted laws, agreement with an independent optimiser, losses below 1, E at its bound."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import check_grad, minimize, nnls

from adit_scale.scaling.laws import fit_laws, fit_surfaces, log_effective
from adit_scale.scaling.solver import (
    HUBER_DELTA,
    huber,
    log_law,
    nonnegative_least_squares,
    normal_equations,
)

N = np.geomspace(1e5, 3e7, 6)


@pytest.mark.parametrize(
    ("offset", "scale", "exponent"),
    [(0.3, 8.0, 0.25), (1.7, 400.0, 0.34), (0.02, 3.0, 0.12), (2.5, 1e6, 1.1)],
)
def test_planted_law_is_recovered_without_noise(offset, scale, exponent):
    law = fit_laws(N, np.log(offset + scale * N**-exponent), with_offset=True).law()
    assert law.offset == pytest.approx(offset, rel=1e-5)
    assert law.scale == pytest.approx(scale, rel=1e-4)
    assert law.exponent == pytest.approx(exponent, rel=1e-5)


def test_power_law_without_offset_is_recovered_and_offset_goes_to_zero():
    log_loss = np.log(3.0 * N**-0.2)
    power = fit_laws(N, log_loss, with_offset=False).law()
    assert (power.offset, power.scale, power.exponent) == pytest.approx((0.0, 3.0, 0.2), rel=1e-8)
    full = fit_laws(N, log_loss, with_offset=True).law()
    assert full.offset < 1e-4
    assert full.exponent == pytest.approx(0.2, abs=1e-3)


def test_rising_losses_give_a_negative_exponent():
    assert fit_laws(N, np.log(0.1 * N**0.05), with_offset=False).law().exponent == pytest.approx(-0.05)


def test_objective_matches_the_best_of_many_starts_of_another_optimiser():
    rng = np.random.default_rng(0)
    log_loss = np.log(0.3 + 8 * N**-0.25) + 0.005 * rng.standard_normal((5, 6))
    ours = fit_laws(N, log_loss, with_offset=True).objective
    x = np.log(N) - np.log(N).mean()

    def objective(theta, target):
        fitted = np.logaddexp(theta[0], theta[1] - theta[2] * x)
        power = np.exp(theta[1] - theta[2] * x - fitted)
        slope = np.clip(fitted - target, -HUBER_DELTA, HUBER_DELTA)
        gradient = np.array([(slope * (1 - power)).sum(), (slope * power).sum(), -(slope * power * x).sum()])
        return 1e6 * huber(fitted - target).sum(), 1e6 * gradient

    starts = [
        (e, a, alpha) for e in (-15, -3, -1, -0.7) for a in (-3, -1.5, -1) for alpha in (0.03, 0.1, 0.3, 1)
    ]
    for row, value in zip(log_loss, ours, strict=True):
        best = min(
            minimize(objective, s, (row,), "L-BFGS-B", jac=True, bounds=[(-25, 5), (-25, 5), (1e-3, 5)]).fun
            for s in starts
        )
        assert value * 1e6 <= best * (1 + 1e-6)


@pytest.mark.parametrize("columns", [2, 3])
def test_least_squares_with_bounds_matches_scipy_nnls(columns):
    rng = np.random.default_rng(1)
    design = rng.uniform(0.1, 2, (200, columns, 4))
    solution, _ = nonnegative_least_squares(design @ design.transpose(0, 2, 1), design.sum(axis=2))
    bounded = 0
    for i in range(200):
        expected, _ = nnls(design[i].T, np.ones(4))
        assert solution[i] == pytest.approx(expected, abs=1e-8)
        bounded += (expected == 0).any()
    assert 20 < bounded < 200  # both kinds occur


@pytest.mark.parametrize("delta", [1e-3, np.inf])
def test_gradient_matches_finite_differences(delta):
    rng = np.random.default_rng(3)
    x = rng.uniform(-2, 2, (2, 12))
    target = rng.uniform(-0.5, 0.5, (1, 12))
    theta = np.array([-1.0, -0.5, 0.3, -1.4, 0.4])

    def objective(t):
        return huber(log_law(t[None], x) - target, delta).sum()

    def gradient(t):
        return normal_equations(t[None], x, target, delta)[0][0]

    error = check_grad(objective, gradient, theta)
    assert error < 1e-5 * np.linalg.norm(gradient(theta))


SURFACES = [(0.3, 8.0, 0.25, 30.0, 0.3), (1.69, 406.4, 0.34, 410.7, 0.28), (0.05, 3.0, 0.12, 4.0, 0.15)]


@pytest.mark.parametrize("planted", SURFACES)
def test_planted_surface_is_recovered_without_noise(planted):
    offset, scale, alpha, data_scale, beta = planted
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e5, 2e7, 6), np.geomspace(1e7, 2e8, 5)))
    found = fit_surfaces(n, d, np.log(offset + scale * n**-alpha + data_scale * d**-beta))
    values = [
        v[0] for v in (found.offset, found.scale(0), found.exponent(0), found.scale(1), found.exponent(1))
    ]
    assert values == pytest.approx(planted, rel=2e-4)


def test_repeats_are_recovered_without_noise():
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e5, 2e7, 5), np.geomspace(1e7, 1e9, 7)))
    unique = np.full(len(n), 3e7)
    loss = 0.3 + 8 * n**-0.25 + 30 * np.exp(-0.3 * log_effective(d, unique, 6.0))
    found = fit_surfaces(n, d, np.log(loss), unique=unique)
    assert found.log_r_star is not None
    assert np.exp(found.log_r_star[0]) == pytest.approx(6.0, rel=0.02)
    assert found.exponent(1)[0] == pytest.approx(0.3, rel=0.02)
    assert found.predict(n, d, unique)[0] == pytest.approx(loss, rel=1e-4)


def test_effective_data_is_all_data_at_first_and_saturates():
    """Muennighoff et al. (arXiv 2305.16264): U + U R* (1 - exp(-(D/U - 1)/R*)) beyond one epoch."""
    unique = np.array([1e6])
    assert np.exp(log_effective(np.array([4e5]), unique, 5.0)) == pytest.approx([4e5])
    expected = 1e6 + 1e6 * 5 * (1 - np.exp(-3 / 5))
    assert np.exp(log_effective(np.array([4e6]), unique, 5.0)) == pytest.approx([expected])
    assert np.exp(log_effective(np.array([1e12]), unique, 5.0)) == pytest.approx([6e6])
    assert np.exp(log_effective(np.array([4e6]), unique, 1e9)) == pytest.approx([4e6], rel=1e-6)


def test_rows_do_not_depend_on_each_other():
    rng = np.random.default_rng(2)
    log_loss = np.log(0.3 + 8 * N**-0.25) + 0.01 * rng.standard_normal((20, 6))
    together = fit_laws(N, log_loss, with_offset=True)
    alone = fit_laws(N, log_loss[7], with_offset=True)
    assert together.exponent[7] == pytest.approx(alone.exponent[0], rel=1e-9)


@pytest.mark.filterwarnings("error")
def test_a_resample_far_in_the_tail_overflows_nothing():
    """At one degree of freedom some resamples lie hundreds away in log loss; a NaN would spoil intervals."""
    law = np.log(0.3 + 8 * N**-0.25)
    tails = np.outer([180.0, 500.0], [1, -1, 0.5, -0.7, 0.2, -0.4])
    draws = fit_laws(N, law + tails, with_offset=True)
    assert np.isfinite([draws.offset, draws.log_scale, draws.exponent, draws.objective]).all()

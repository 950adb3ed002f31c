"""The solver: planted laws, agreement with an independent optimiser, losses below 1, E at its bound."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize, nnls

from adit_scale.scaling.laws import HUBER_DELTA, _nonnegative_pair, fit_laws, huber

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


def test_two_column_least_squares_matches_scipy_nnls():
    rng = np.random.default_rng(1)
    u, v = rng.uniform(0.1, 2, (200, 5)), rng.uniform(0.1, 2, (200, 5))
    first, second = _nonnegative_pair(u, v)
    for i in range(200):
        expected, _ = nnls(np.stack([u[i], v[i]], axis=1), np.ones(5))
        assert (first[i], second[i]) == pytest.approx(tuple(expected), abs=1e-9)


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

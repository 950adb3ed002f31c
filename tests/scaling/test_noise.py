"""Noise of runs and of points: agreement with the analysis of variance, degrees of freedom, lack of fit."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from adit_scale.scaling.noise import components, given, lack_of_fit
from adit_scale.scaling.resampling import draw

RUNS, POINTS = 8, 4
GROUPS = np.repeat(np.arange(RUNS), POINTS)
DESIGN = np.stack([np.ones(RUNS * POINTS), np.repeat(np.arange(RUNS), POINTS) / RUNS], axis=1)


def simulate(run: float, point: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return run * rng.standard_normal(RUNS)[GROUPS] + point * rng.standard_normal(RUNS * POINTS)


@pytest.mark.parametrize("seed", range(5))
def test_equal_numbers_of_points_give_the_variances_of_anova(seed):
    residual = simulate(0.003, 0.002, seed)
    found = components(residual, DESIGN, GROUPS)
    means = residual.reshape(RUNS, POINTS).mean(axis=1)
    left = means - DESIGN[::POINTS] @ np.linalg.lstsq(DESIGN[::POINTS], means, rcond=None)[0]
    between = POINTS * (left**2).sum() / (RUNS - 2)
    within = ((residual.reshape(RUNS, POINTS) - means[:, None]) ** 2).sum() / (RUNS * (POINTS - 1))
    assert found.point == pytest.approx(within, rel=0.02)
    assert found.point + POINTS * found.run == pytest.approx(between, rel=0.02)
    assert found.freedoms == pytest.approx((RUNS - 2, RUNS * (POINTS - 1)), rel=0.02)


def test_what_differs_between_runs_has_their_degrees_of_freedom():
    found = components(simulate(0.003, 0.002, 0), DESIGN, GROUPS)
    assert found.quantile(DESIGN, np.array([0.0, 1.0]), 0.95) == pytest.approx(
        stats.t.ppf(0.975, RUNS - 2) ** 2, rel=0.02
    )
    along = np.column_stack([DESIGN, np.tile(np.arange(POINTS), RUNS) - 1.5])
    found = components(simulate(0.003, 0.002, 0), along, GROUPS)
    assert found.quantile(along, np.array([0.0, 0.0, 1.0]), 0.95) == pytest.approx(
        stats.t.ppf(0.975, RUNS * (POINTS - 1) - 1) ** 2, rel=0.02
    )


def test_one_degree_of_freedom_between_runs_never_counts_as_many():
    """Three runs and a line: their variance may come out near 0; the quantile keeps its share of t² at 1."""
    groups, design = GROUPS[:12], DESIGN[:12]
    residual = simulate(0.0, 0.002, 1)[:12]
    found = components(residual, design, groups)
    assert found.freedoms[0] == pytest.approx(1.0, rel=0.1)
    assert found.quantile(design, np.array([0.0, 1.0]), 0.95) == pytest.approx(161.4, rel=0.15)


def test_independent_points_have_one_variance():
    residual = simulate(0.0, 0.002, 2)
    found = components(residual, DESIGN, np.arange(len(residual)))
    left = residual - DESIGN @ np.linalg.lstsq(DESIGN, residual, rcond=None)[0]
    assert found.sigma == pytest.approx(np.sqrt((left**2).sum() / 30))
    assert found.freedoms == pytest.approx((30, 30))
    assert components(residual[:2], DESIGN[[0, 8]], np.arange(2)) is None


def test_new_runs_average_their_noise_and_a_misfit_does_not():
    found = components(simulate(0.003, 0.001, 3), DESIGN, GROUPS)
    assert found.of_new_runs(4) == pytest.approx(found.of_new_runs(1) / 4)
    cells = components(simulate(0.003, 0.001, 3), DESIGN, GROUPS, cells=True)
    assert cells.of_new_runs(4) == pytest.approx(cells.run + cells.point / 4)
    assert given(0.002, 5).of_new_runs(1) == pytest.approx(4e-6)


def test_drawn_runs_have_the_covariance_asked_for():
    found = given(0.002, 6)
    assert draw(np.random.default_rng(0), found, 4000).std() == pytest.approx(0.002, rel=0.02)
    shared = components(simulate(0.003, 0.001, 4), DESIGN, GROUPS)
    noise = draw(np.random.default_rng(0), shared, 4000)
    same, other = (np.corrcoef(noise[:, 0], noise[:, k])[0, 1] for k in (1, POINTS))
    assert same > 0.8
    assert abs(other) < 0.15


def test_lack_of_fit_is_the_f_test():
    rng = np.random.default_rng(5)
    groups = np.repeat(np.arange(6), 3)
    p = [lack_of_fit(groups, rng.standard_normal(18) * 0.01, 0) for _ in range(400)]
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert lack_of_fit(groups, 0.1 * (groups % 2) + 0.001 * rng.standard_normal(18), 2) < 1e-6
    assert lack_of_fit(np.arange(5), np.zeros(5), 2) is None

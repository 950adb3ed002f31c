"""What the figures draw: ticks, envelope, colours."""

# ruff: noqa: RUF001 (Greek letters in text for readers)

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from adit_scale.scaling.fit import fit_points
from adit_scale.scaling.interactive import loss_vs_size
from adit_scale.scaling.plots import (
    envelope,
    error_bars,
    law_text,
    log_ticks,
    plot_loss_vs_size,
    size_colors,
)
from adit_scale.scaling.resampling import Interval
from adit_scale.scaling.study_data import LossCurve
from adit_scale.scaling.table import parameters
from tests.scaling.simulated import simulated_points


@pytest.mark.parametrize(
    ("low", "high"), [(0.44, 0.452), (0.3, 0.8), (0.4, 2.2), (1e5, 1.2e7), (87_000, 674e6), (2.71, 3.8)]
)
def test_ticks_are_few_round_and_inside(low, high):
    ticks = log_ticks(low, high)
    assert 3 <= len(ticks) <= 7
    assert all(low <= t <= high * (1 + 1e-9) for t in ticks)
    assert all(float(f"{t:.3g}") == pytest.approx(t) for t in ticks)


def test_envelope_is_the_running_minimum_over_runs():
    small, large = simulated_points()[:2]
    small = dataclasses.replace(small, curve=LossCurve([1, 2], [1e10, 1e12], [2.0, 1.0]))
    large = dataclasses.replace(large, curve=LossCurve([1, 2, 3], [1e11, 1e13, 1e14], [3.0, 0.5, math.nan]))
    flops, best = envelope([small, large])
    assert flops[0] == pytest.approx(1e10)
    assert flops[-1] == pytest.approx(1e13)
    assert (np.diff(best) <= 0).all()
    assert best[0] == pytest.approx(2.0)
    assert best[-1] == pytest.approx(0.5)
    assert np.interp(1e12, flops, best) == pytest.approx(1.0, rel=0.02)
    assert envelope([])[0].size == 0


def test_sizes_have_distinct_colours_that_darken_in_order():
    colors = size_colors(simulated_points(seeds=(0, 1)))
    assert len(set(colors.values())) == 5
    luminance = [
        np.dot([int(c[i : i + 2], 16) for i in (1, 3, 5)], [0.2126, 0.7152, 0.0722]) for c in colors.values()
    ]
    assert luminance == sorted(luminance)


def test_figure_of_final_loss_holds_runs_law_band_and_prediction():
    points = simulated_points(noise=0.001, seeds=(0, 1))
    figure = plot_loss_vs_size(points, fit_points(points))
    axes = figure.axes[0]
    assert axes.get_xscale() == axes.get_yscale() == "log"
    labels = axes.get_legend_handles_labels()[1]
    assert [next(label for label in labels if start in label) for start in ("95% band", "L = ", "runs")]
    assert any("dit_256 predicted from the smaller sizes" in label for label in labels)
    assert any(label.startswith("next size, 22.9 M") for label in labels)


def test_runs_without_any_scatter_are_drawn():
    """Then the interval is as narrow as rounding, and the prediction may lie just outside it."""
    points = simulated_points(noise=0.0, seeds=(0, 1))
    fit = fit_points(points, bootstrap=100)
    plot_loss_vs_size(points, fit)
    loss_vs_size(points, fit)
    assert error_bars(1.0, Interval(1.5, 2.0)) == [[0.0], [1.0]]


def test_words():
    assert [parameters(n) for n in (87_000, 999_400, 1_650_000, 673.9e6, 1.2e9)] == [
        "87 k", "999 k", "1.65 M", "674 M", "1.2 B",
    ]  # fmt: skip
    fit = fit_points(simulated_points(noise=0.0001, seeds=(0, 1)))
    assert law_text(fit).startswith("L = 0.3 + 8.02·N^-0.25, α 95% interval 0.25")
    assert "N^-0.25" in law_text(fit)

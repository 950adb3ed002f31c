"""Limits, ticks and words that print and screen share."""

# ruff: noqa: RUF001 (true minus signs)

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings

from adit_scale.scaling.chart_layout import (
    bar_boxes,
    broken,
    error_lengths,
    frame_of,
    interval_ends,
    linear_ticks,
    log_ticks,
    number_text,
    plain,
    rule_names,
    tick_texts,
    value_text,
)
from adit_scale.scaling.charts import Axis, Band, Bars, Line, Marks, Panel, Rule
from tests.scaling.chart_samples import HOSTILE, panels

LOSS, SIZE = Axis("loss", log=True), Axis("denoiser parameters N", log=True)


@pytest.mark.parametrize(
    ("low", "high"), [(0.44, 0.452), (0.3, 0.8), (0.4, 2.2), (1e5, 1.2e7), (87_000, 674e6), (2.71, 3.8)]
)
def test_ticks_are_few_round_and_inside(low, high):
    for ticks in (log_ticks(low, high), linear_ticks(low, high)):
        assert 3 <= len(ticks) <= 6
        assert all(low <= t <= high * (1 + 1e-9) for t in ticks)
        assert all(float(f"{t:.3g}") == pytest.approx(t) for t in ticks)


def test_ticks_over_hundreds_of_decades_are_whole_powers():
    ticks = log_ticks(1e-300, 1e300)
    assert 3 <= len(ticks) <= 6
    assert all(math.log10(t) == pytest.approx(round(math.log10(t))) for t in ticks)


def test_texts_of_ticks():
    sizes = [57_500, 999_400, 1_650_000, 673.9e6, 1.2e9]
    assert tick_texts(sizes, SIZE) == ["57.5 k", "999 k", "1.65 M", "674 M", "1.2 B"]
    assert tick_texts([0.2, 1.0], Axis("share", percent=True)) == ["20%", "100%"]
    assert tick_texts([1e18, 2e18], Axis("FLOPs", log=True)) == ["10^{18}", "2·10^{18}"]
    # One that needs a power makes them all powers, on a log axis.
    assert tick_texts([1e-4, 1e-3, 1.0], Axis("lr", log=True)) == ["10^{−4}", "10^{−3}", "1"]
    assert tick_texts([-0.05, 0.0], Axis("difference")) == ["−0.05", "0"]
    assert [number_text(v, 3) for v in (0.45678, -2e18, 1e-7)] == ["0.457", "−2·10^{18}", "10^{−7}"]
    assert value_text(1, Axis("", categories=["a", "b"])) == "b"


def test_wide_texts_along_an_axis_are_fewer():
    points = [Marks([6e13, 9.6e14], [6e13, 9.6e14])]
    panel = Panel(Axis("C (FLOPs)", log=True), Axis("C (FLOPs)", log=True), points)
    assert frame_of(panel, "x").ticks == [1e14, 2e14, 5e14, 1e15]
    assert frame_of(panel, "y").ticks == [1e14, 2e14, 3e14, 5e14, 1e15]


def test_limits_hold_every_value_and_the_ends_of_intervals():
    marks = Marks([1e5, 1e7], [0.5, 1.0], low=[0.45, 0.8], high=[0.55, 1.4])
    panel = Panel(SIZE, LOSS, [marks, Line([1e4, 1e7], [2.0, 0.4]), Rule(0.3)])
    x, y = frame_of(panel, "x"), frame_of(panel, "y")
    assert x.low < 1e4
    assert x.high > 1e7
    assert y.low < 0.3
    assert y.high > 2.0
    assert y.high < 2.6


def test_one_wild_interval_does_not_squash_the_others():
    y = [1.0, 0.95, 0.9, 0.88, 0.87]
    wild = Marks(range(5), y, low=[-1e9, *[v - 0.02 for v in y[1:]]], high=[1e9, *[v + 0.02 for v in y[1:]]])
    frame = frame_of(Panel(Axis("x"), Axis("loss"), [wild]), "y")
    assert frame.low > 0.5
    assert frame.high < 1.5
    alone = Marks([1], [1.0], low=[-100], high=[100])
    frame = frame_of(Panel(Axis("x"), Axis("loss"), [alone]), "y")
    assert (frame.low, frame.high) == (-110, 110)


def test_an_interval_beyond_the_axis_ends_at_it():
    marks = Marks([1, 2, 3], [1.0, 2.0, 3.0], low=[-1, math.nan, 2.5], high=[math.inf, math.nan, 3.5])
    frame = frame_of(Panel(Axis("x"), LOSS, [marks]), "y")
    low, high = interval_ends(marks, LOSS, frame) or pytest.fail("no intervals")
    np.testing.assert_array_equal(low, [frame.low, math.nan, 2.5])
    np.testing.assert_array_equal(high, [frame.high, math.nan, 3.5])


def test_rounding_may_leave_a_value_outside_its_interval():
    ends = (np.array([1.5, 0.5, np.nan]), np.array([2.0, 0.8, 3.0]))
    below, above = error_lengths(np.array([1.0, 1.0, 1.0]), ends) or pytest.fail("no lengths")
    np.testing.assert_array_equal(below, [0.0, 0.5, 0.0])
    np.testing.assert_array_equal(above, [1.0, 0.0, 2.0])


def test_rates_keep_to_the_unit_interval_and_bars_stand_on_zero():
    rates = Panel(SIZE, Axis("share", percent=True), [Marks([1e5, 1e6], [0.0, 1.0])])
    frame = frame_of(rates, "y")
    assert (frame.low, frame.high) == (-0.02, 1.02)
    bars = Panel(Axis("x"), Axis("hours"), [Bars([0, 1], [3, 4])])
    assert frame_of(bars, "y").low == 0.0


def test_stated_limits_hold_unless_the_axis_cannot():
    marks = [Marks([1, 2], [1, 2])]
    assert frame_of(Panel(Axis("x"), Axis("y", low=0.0, high=5.0), marks), "y").high == 5.0
    assert frame_of(Panel(Axis("x"), Axis("y", log=True, low=-1.0), marks), "y").low > 0.5
    assert frame_of(Panel(Axis("x"), Axis("y", low=5.0, high=0.0), marks), "y").low < 1.0


def test_series_of_bars_at_the_same_places_stand_abreast():
    panel = Panel(Axis("", categories="ab"), Axis("h"), [Bars([0, 1], [1, 2]), Bars([0, 1], [3, 4])])
    (_, _, left, right), (_, _, left2, right2) = bar_boxes(panel)
    np.testing.assert_allclose(left, [-0.4, 0.6])
    np.testing.assert_allclose(right, left2)
    np.testing.assert_allclose(right2, [0.4, 1.4])
    (_, centre, left, right) = bar_boxes(Panel(SIZE, LOSS, [Bars([1e4, 1e5], [1, 2])]))[0]
    np.testing.assert_allclose(centre, [1e4, 1e5])
    np.testing.assert_allclose(right / left, 10**0.8)


def test_names_beside_rules_do_not_touch():
    share = Axis("share", percent=True, low=0.0, high=1.0)
    rules = [Rule(v, name=n) for n, v in (("a", 0.884), ("b", 0.9), ("c", 0.99), ("d", 0.3), ("e", 0.3))]
    panel = Panel(SIZE, share, rules)
    found = {text: place for text, place, _ in rule_names(panel, "y", frame_of(panel, "y"))}
    assert found["d, e"] == 0.3
    assert found["a"] == pytest.approx(0.884 - 0.055)
    assert found["b"] == pytest.approx(0.9)
    places = sorted(found.values())
    assert min(np.diff(places)) >= 0.04
    assert places[-1] <= 1 - 0.055


def test_long_names_break_and_markup_stays_whole():
    assert broken("a law L = N^{-0.25 + 1}", 9) == ["a law L =", "N^{-0.25 + 1}"]
    lines = broken("word " * 100, 20, 3)
    assert len(lines) == 3
    assert lines[-1].endswith("…")
    assert max(map(len, lines)) <= 20
    assert plain("a\x00b\ud800\n") == "a b? "
    assert broken("N^{2} x " * 20, 9, 2) == ["N^{2} x N^{2} x", "N^{2} x N^{2} …"]
    assert broken(HOSTILE, 200) == [HOSTILE]


@settings(max_examples=300, deadline=None)
@given(panels)
def test_any_panel_has_finite_axes_with_ticks_inside(panel):
    for which, axis in (("x", panel.x), ("y", panel.y)):
        frame = frame_of(panel, which)
        assert math.isfinite(frame.low)
        assert math.isfinite(frame.high)
        assert frame.low < frame.high
        assert not axis.log or frame.low > 0
        assert len(frame.ticks) == len(frame.texts) <= 6
        slack = 1e-6 * max(abs(frame.low), abs(frame.high))
        assert all(frame.low - slack <= t <= frame.high + slack for t in [*frame.ticks, *frame.minor])
        assert all(0 <= place <= 1 for _, place, _ in rule_names(panel, which, frame))
    y = frame_of(panel, "y")
    for item in panel.items:
        if isinstance(item, Marks | Band | Bars) and (ends := interval_ends(item, panel.y, y)):
            assert not np.isinf(ends).any()

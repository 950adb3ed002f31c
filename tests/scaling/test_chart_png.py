"""Figures in print: what is drawn is what the chart says, whatever it says."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from adit_scale.scaling.chart_png import LEGEND_MOST, draw, maths, write_png
from adit_scale.scaling.charts import BLUE, GREEN, ORANGE, Axis, Chart, Line, Marks, Panel
from tests.scaling.chart_samples import QUICK, N, charts, every_kind


def panels_of(chart: Chart) -> tuple[Figure, Any]:
    figure = draw(chart)
    return figure, [axes for axes in figure.axes if axes.axison]


def test_the_numbers_of_the_chart_are_drawn():
    figure, (law, hours) = panels_of(every_kind())
    curve = next(line for line in law.lines if line.get_linestyle() == "--")
    runs = next(line for line in law.lines if line.get_marker() == "o")
    np.testing.assert_array_equal(curve.get_xydata(), np.column_stack([N, [0.9, 0.7, 0.55]]))
    np.testing.assert_array_equal(runs.get_xydata(), np.column_stack([N, [0.91, 0.69, 0.56]]))
    assert to_hex(runs.get_color()) == ORANGE.lower()
    bars = law.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose([s[:, 1] for s in bars], [[0.9, 0.92], [0.68, 0.7], [0.55, 0.57]])
    outline = law.collections[0].get_paths()[0].vertices
    np.testing.assert_allclose([outline[:, 1].min(), outline[:, 1].max()], [0.5, 0.95])
    assert law.get_xscale() == law.get_yscale() == "log"
    assert (law.get_xlabel(), law.get_title(loc="left")) == ("denoiser parameters N", "law")
    assert [t.get_text() for t in law.get_xticklabels()] == ["100 k", "300 k", "1 M", "3 M", "10 M"]
    np.testing.assert_allclose([p.get_height() for p in hours.patches], [1, 2, 4, 1.5, 2, 3])
    assert {p.get_hatch() for p in hours.patches[3:]} == {"///"}
    assert hours.get_ylim()[0] == 0.0
    names = [t.get_text() for t in figure.legends[0].get_texts()]
    assert names == ["95% band", "L = 0.3 + 8·N$^{-0.25}$", "runs", "planned", "used"]
    rules = {t.get_text(): t.get_color() for t in law.texts}
    assert rules["E of the law"] == GREEN


def test_a_hostile_name_is_drawn_as_it_is():
    _, (_, hours) = panels_of(every_kind())
    shown = "".join(hours.get_xticklabels()[2].get_text().split())
    assert shown.startswith('</script><script>alert("x")</script>')
    assert maths("a$b N^{2} \\") == r"a\$b N$^{2}$ " + "\\\u200b"


def test_size_follows_from_panels_and_legend_not_from_values(tmp_path):
    one = Chart("one", "", [Panel(Axis("x"), Axis("y"), [Marks([1], [2])])])
    path = write_png(one, tmp_path / "one.png", dpi=100)
    assert Image.open(path).size == (560, 420)
    other = Chart("one", "", [Panel(Axis("x"), Axis("y"), [Marks([1e300, -5], [2, 1e7])])])
    assert Image.open(write_png(other, tmp_path / "other.png", dpi=100)).size == (560, 420)
    several = Image.open(write_png(every_kind(), tmp_path / "several.png", dpi=50))
    assert several.size[0] == 470
    assert 200 < several.size[1] < 300
    assert several.info["Description"] == "A caption."
    pixels = np.asarray(several.convert("L"))
    assert 0.03 < (pixels < 200).mean() < 0.5
    assert (pixels[:, [0, -1]] > 250).all()  # nothing runs into the sides


def test_one_name_stands_once_and_too_many_are_counted():
    x = Axis("x")
    items = [Line([1, 2], [1, 2], "a"), Marks([1], [1], "a", colour=BLUE), Marks([2], [2], "")]
    figure = draw(Chart("k", "", [Panel(x, x, items), Panel(x, x, items)]))
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["a"]
    many = [Marks([i], [i], f"run {i}") for i in range(200)]
    texts = [t.get_text() for t in draw(Chart("k", "", [Panel(x, x, many)])).legends[0].get_texts()]
    assert len(texts) == LEGEND_MOST
    assert texts[-1] == "and 177 more"


@pytest.mark.parametrize("chart", [Chart("k", "t", []), Chart("k", "", [Panel(Axis("x"), Axis("y"), [])])])
def test_nothing_to_draw_is_drawn(chart, tmp_path):
    assert Image.open(write_png(chart, tmp_path / "a.png")).size[0] == 840
    assert all(axes.texts[0].get_text() == "no data" for axes in panels_of(chart)[1])


def test_legend_and_notes_keep_clear_of_the_panels(tmp_path):
    chart = dataclasses.replace(every_kind(), notes=["word " * 60, "another"])
    figure = draw(chart)
    figure.canvas.draw()
    legend = figure.legends[0].get_window_extent()
    panels = [axes.get_tightbbox() for axes in figure.axes]
    words = [text.get_window_extent() for text in figure.texts]
    assert all(not legend.overlaps(box) for box in [*panels, *words])
    assert all(not panel.overlaps(box) for panel in panels for box in words)
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in [legend, *panels, *words])


@settings(phases=QUICK, max_examples=15, deadline=None)
@given(charts)
def test_any_chart_is_drawn(tmp_path_factory, chart):
    path = write_png(chart, tmp_path_factory.getbasetemp() / "any.png", dpi=30)
    pixels = np.asarray(Image.open(path).convert("L"))
    assert min(pixels.shape) >= 100
    if chart.panels:
        assert (pixels < 200).any()

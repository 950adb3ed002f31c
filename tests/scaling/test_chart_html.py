"""Interactive figures: the chart's numbers in the traces, and no text of a run read as markup or code."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings

from adit_scale.scaling.chart_html import rich, to_figure, to_html
from adit_scale.scaling.charts import ORANGE, Axis, Band, Chart, Line, Marks, Panel
from tests.scaling.chart_samples import HOSTILE, QUICK, N, charts, every_kind


def test_the_numbers_of_the_chart_are_in_the_traces():
    figure = to_figure(every_kind())
    band, law, runs, planned, used = figure.data
    assert list(band.x) == [*N, *N[::-1]]
    assert list(band.y) == [0.95, 0.72, 0.6, 0.5, 0.68, 0.85]
    assert (list(law.x), list(law.y), law.line.dash) == (N, [0.9, 0.7, 0.55], "dash")
    assert (list(runs.x), list(runs.y), runs.marker.color) == (N, [0.91, 0.69, 0.56], ORANGE)
    np.testing.assert_allclose(runs.error_y.array, 0.01)
    np.testing.assert_allclose(runs.error_y.arrayminus, 0.01)
    assert runs.hovertext[0] == (
        "runs<br>a<br>denoiser parameters N: 57.5 k<br>final validation loss: 0.91 [0.9, 0.92]"
    )
    assert law.hovertemplate.endswith("N: %{x:.4~g}<br>final validation loss: %{y:.4~g}<extra></extra>")
    assert (list(planned.y), list(used.y)) == ([1, 2, 4], [1.5, 2, 3])
    np.testing.assert_allclose(used.x, [0.2, 1.2, 2.2])
    assert [t.name for t in figure.data] == [
        "95% band",
        "L = 0.3 + 8·N<sup>-0.25</sup>",
        "runs",
        "planned",
        "used",
    ]
    layout = figure.layout
    assert (layout.xaxis.type, layout.yaxis.type, layout.yaxis2.type) == ("log", "log", "linear")
    assert layout.xaxis.title.text == "denoiser parameters N"
    assert layout.xaxis.ticktext == ("100 k", "300 k", "1 M", "3 M", "10 M")
    assert layout.xaxis.range[0] == pytest.approx(math.log10(57_500) - 0.05 * math.log10(9.8e6 / 57_500))
    assert layout.yaxis2.range[0] == 0.0
    assert [s.y0 for s in layout.shapes] == [0.5, 0]
    assert {"E of the law", "optimum"} < {a.text for a in layout.annotations}
    assert layout.width is None


def test_no_text_is_code_or_markup():
    items = [Marks([1], [1], HOSTILE, text=[HOSTILE]), Line([1], [1], HOSTILE)]
    names = Panel(Axis(HOSTILE), Axis("y"), items, HOSTILE)
    page = to_html(Chart(HOSTILE, HOSTILE, [names], HOSTILE, notes=[HOSTILE]), include_library=False)
    assert page.count("<script>") == page.count("</script>") == 1
    assert "<b>&amp;" not in page
    assert rich("a < b & N^{2}") == "a &lt; b &amp; N<sup>2</sup>"
    figure = to_figure(Chart("k", "", [names]))
    assert all("<script" not in trace.name for trace in figure.data)
    assert "<script" not in figure.data[0].hovertext[0]
    # Plotly fills in what stands in %{}: the two values alone.
    assert re.findall(r"%\{[^}]*\}", figure.data[1].hovertemplate) == ["%{x:.4~g}", "%{y:.4~g}"]


def test_the_library_comes_once_and_nothing_from_elsewhere():
    chart = every_kind()
    first, second = to_html(chart, include_library=True), to_html(chart, include_library=False)
    assert len(first) > 3e6
    assert len(second) < 1e5
    assert not re.search(r'<(script|link|img)[^>]+(src|href)="http', first)
    assert '"showSendToCloud": false' in second
    assert 'id="chart-every_kind"' in second
    assert "A note." in second
    assert "A caption." not in second  # the page's own


def test_one_name_stands_once_in_the_legend_and_switches_all_its_traces():
    x = Axis("x")
    panel = Panel(x, x, [Line([1, 2], [1, 2], "a"), Marks([1], [1], "a"), Marks([2], [2])])
    traces = to_figure(Chart("k", "", [panel, panel])).data
    assert [bool(t.showlegend) for t in traces] == [False, True, False, False, False, False]
    assert [t.legendgroup for t in traces] == ["a", "a", None] * 2


def test_three_panels_stand_two_a_row():
    panel = Panel(Axis("x"), Axis("y"), [Marks([1], [1])])
    layout = to_figure(Chart("k", "", [panel] * 3, columns=3)).layout
    assert layout.xaxis.domain == layout.xaxis3.domain
    assert layout.xaxis2.domain[1] == 1.0
    assert layout.yaxis3.domain[1] < layout.yaxis.domain[0]


def test_gaps_stay_gaps():
    nan = math.nan
    items = [
        Line([1, 2, 3], [1, nan, 3]),
        Band([1, 2, 3, 4], [1, nan, 2, 2], [2, nan, 3, 4]),
        Marks([1, 2], [-1, 2]),
    ]
    panel = Panel(Axis("x"), Axis("y", log=True), items)
    line, band, marks = to_figure(Chart("k", "", [panel])).data
    np.testing.assert_array_equal(line.y, [1, nan, 3])
    assert list(band.x) == [1, 1, None, 3, 4, 4, 3]
    assert list(band.y) == [2, 1, None, 3, 4, 2, 2]
    np.testing.assert_array_equal(marks.y, [nan, 2])


@settings(phases=QUICK, max_examples=20, deadline=None)
@given(charts)
def test_any_chart_becomes_a_page_of_valid_data(chart):
    figure = to_figure(chart)
    found = json.loads(figure.to_json())  # NaN would not be JSON
    page = to_html(chart, include_library=False)
    page.encode()
    assert page.count("<script>") == 1
    for key, axis in found["layout"].items():
        if re.fullmatch(r"[xy]axis\d*", key) and "range" in axis:
            assert all(math.isfinite(end) for end in axis["range"])
            assert axis["range"][0] < axis["range"][1]
            assert len(axis["tickvals"]) == len(axis["ticktext"])
    for trace in figure.data:
        if trace.error_y.array is not None:
            assert np.isfinite(np.array(trace.error_y.array, dtype=float)).all()
            assert (np.array(trace.error_y.arrayminus, dtype=float) >= 0).all()

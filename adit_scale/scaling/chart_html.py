"""A figure (charts.py) for a page: plotly, drawn without a network and as wide as the page."""

from __future__ import annotations

import html
import re
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from adit_scale.scaling.chart_layout import (
    LEGEND_WIDTH,
    RAISED,
    Frame,
    bar_boxes,
    drawable,
    error_lengths,
    frame_of,
    free_side,
    interval_ends,
    legend_names,
    plain,
    points_of,
    rule_names,
    shortened,
    slanted,
    value_text,
)
from adit_scale.scaling.charts import Band, Bars, Chart, Line, Marks, Panel, Rule

SYMBOLS = {
    "circle": "circle",
    "square": "square",
    "triangle": "triangle-up",
    "diamond": "diamond",
    "cross": "x-thin",
}
PATTERNS = ("", "/", ".", "x")  # of the first, second ... bars of a panel, as in print
BAR_HEIGHT = 32  # of plotly's buttons, pixels
COLUMNS = 2  # at most: three are too narrow on a laptop
SINGLE_HEIGHT, ROW_HEIGHT, LEGEND_LINE = 470, 400, 22  # pixels
# Plotly's bar would offer to send the data to its makers' cloud; selecting does nothing here.
CONFIG = {
    "displaylogo": False,
    "responsive": True,
    "showSendToCloud": False,
    "modeBarButtonsToRemove": ["select2d", "lasso2d"],
}
LABEL_WIDTH = {True: 90, False: 46}  # characters of an axis's label: a panel alone, one of several
# Ticks are set for the range first shown: another range has plotly's own, and going back brings them back.
ZOOM = """
const plot = document.getElementById("{plot_id}"), first = {};
for (const axis of plot.layout.meta.zooming) first[axis] = [...plot.layout[axis].range];
plot.on("plotly_relayout", change => {
  const update = {};
  for (const axis in first) {
    if (!Object.keys(change).some(key => key.split(/[.[]/)[0] === axis && /range/.test(key))) continue;
    const now = plot.layout[axis].range, size = Math.abs(first[axis][1] - first[axis][0]);
    const same = now.every((end, i) => Math.abs(end - first[axis][i]) < 1e-6 * size);
    update[axis + ".tickmode"] = same ? "array" : "auto";
  }
  if (Object.keys(update).length) Plotly.relayout(plot, update);
});
"""
SETTINGS: dict[str, Any] = {
    "template": "plotly_white",
    "font": {"size": 13, "family": "system-ui, sans-serif", "color": "#222222"},
    "hoverlabel": {"align": "left"},
    "barmode": "overlay",
    "margin": {"l": 80, "r": 20, "b": 70},
}


def rich(text: str) -> str:
    """Text for plotly, which reads tags: names may hold none, the markup of RAISED becomes <sup>, <sub>."""
    escaped = html.escape(text, quote=False).replace("\n", "<br>")
    return RAISED.sub(lambda m: f"<sup>{m[2]}</sup>" if m[1] == "^" else f"<sub>{m[2]}</sub>", escaped)


def to_html(chart: Chart, include_library: bool) -> str:
    """The figure and its notes as a piece of a page, without title and caption. include_library: with plotly
    itself, in full (5 MB), which the first figure of a page must bring: nothing is loaded from elsewhere."""
    body = to_figure(chart).to_html(
        full_html=False,
        include_plotlyjs=include_library,
        config=CONFIG,
        div_id="chart-" + re.sub(r"[^A-Za-z0-9_-]", "-", chart.key),
        post_script=ZOOM,
    )
    return body + "".join(f'\n<p class="quiet">{rich(plain(note))}</p>' for note in chart.notes)


def to_figure(chart: Chart) -> go.Figure:
    """The panels as subplots, at most two a row. No width is set: the figure is as wide as its page."""
    n = max(1, len(chart.panels))
    columns = min(max(1, chart.columns), COLUMNS, n)
    rows = -(-n // columns)
    frames = [(frame_of(p, "x"), frame_of(p, "y")) for p in chart.panels]
    between = 150 if any(slanted(x, LABEL_WIDTH[False]) for x, _ in frames) else 115
    height = SINGLE_HEIGHT if n == 1 else rows * ROW_HEIGHT + (rows - 1) * (between - 115)
    grid = {"vertical_spacing": between / height} if rows > 1 else {}
    figure = make_subplots(rows, columns, horizontal_spacing=0.11, **grid)
    titles = [shortened(p.title, LABEL_WIDTH[n == 1], 2) for p in chart.panels[:columns] if p.title]
    above = BAR_HEIGHT + 18 * max((title.count("\n") + 1 for title in titles), default=0)
    figure.update_layout(**SETTINGS, margin_t=above)
    _legend(figure, chart, height, beside=n == 1)
    shown = _legend_carriers(chart)
    zooming: list[str] = []
    for i, (panel, (x, y)) in enumerate(zip(chart.panels, frames, strict=True)):
        number = "" if i == 0 else str(i + 1)
        _axes(figure, number, panel, (x, y), alone=n == 1)
        zooming += [f"{w}axis{number}" for w, a in (("x", panel.x), ("y", panel.y)) if not a.categories]
        _items(figure, number, panel, y, [shown.get((i, k)) for k in range(len(panel.items))])
        _rules(figure, number, panel, x, y)
        if x.empty or y.empty:
            # Plotly draws the axes of a panel only round a point, if one of no place.
            place = {"xaxis": f"x{number}", "yaxis": f"y{number}", "showlegend": False}
            figure.add_trace(go.Scatter(x=[None], y=[None], **place))
            _word(figure, "no data", *_domain(number, 0.5, 0.5), ("center", "middle"), "#777777")
    figure.update_layout(meta={"zooming": zooming})
    return figure


def _legend(figure: go.Figure, chart: Chart, height: int, *, beside: bool) -> None:
    """Beside one panel, below several: there plotly itself keeps as much room as the legend takes."""
    names = [shortened(name, LEGEND_WIDTH, 4) for name in legend_names(chart)]
    legend: dict[str, Any] = {"groupclick": "togglegroup", "font": {"size": 12.5}, "tracegroupgap": 2}
    if not beside and names:
        widest = max(len(line) for name in names for line in name.split("\n"))
        a_row = max(1, 1000 // (55 + 7 * widest))
        lines = max(name.count("\n") + 1 for name in names) * -(-len(names) // a_row)
        height += 30 + LEGEND_LINE * lines
        legend |= {"orientation": "h", "yref": "container", "y": 0.0, "yanchor": "bottom", "x": 0.0}
    figure.update_layout(height=height, legend=legend, showlegend=bool(names))


def _legend_carriers(chart: Chart) -> dict[tuple[int, int], int]:
    """(panel, item) -> place in the legend, of the one item that shows a name there: marks before others."""
    found: dict[str, tuple[int, int]] = {}
    marks: set[str] = set()
    for i, panel in enumerate(chart.panels):
        for k, item in enumerate(panel.items):
            if isinstance(item, Rule) or not item.name:
                continue
            if item.name not in found or (isinstance(item, Marks) and item.name not in marks):
                found[item.name] = (i, k)
            if isinstance(item, Marks):
                marks.add(item.name)
    return {found[name]: order for order, name in enumerate(legend_names(chart))}


def _axes(figure: go.Figure, number: str, panel: Panel, frames: tuple[Frame, Frame], *, alone: bool) -> None:
    width = LABEL_WIDTH[alone]
    for which, axis, frame in zip("xy", (panel.x, panel.y), frames, strict=True):
        ends = np.log10([frame.low, frame.high]) if axis.log else np.array([frame.low, frame.high])
        settings: dict[str, Any] = {
            "type": "log" if axis.log else "linear",
            "title": {"text": rich(shortened(axis.label, width, 2)), "standoff": 8},
            "range": ends.tolist(),
            "tickvals": list(frame.ticks),
            "ticktext": [rich(text) for text in frame.texts],
            "exponentformat": "B" if "parameters" in axis.label.lower() else "power",
            "showline": True,
            "linecolor": "#444444",
            "ticks": "outside",
            "gridcolor": "#e6e6e6",
            "zeroline": False,
            "automargin": True,
        }
        if frame.minor:
            settings["minor"] = {
                "tickvals": list(frame.minor),
                "ticks": "outside",
                "ticklen": 3,
                "showgrid": False,
            }
        if axis.percent:
            settings["tickformat"] = ".3~p"
        if which == "x":
            settings["tickangle"] = -35 if slanted(frame, width) else 0
        figure.update_layout({f"{which}axis{number}": settings})
    if panel.title:
        text = f"<b>{rich(shortened(panel.title, width, 2))}</b>"
        _word(figure, text, *_domain(number, 0.0, 1.02), ("left", "bottom"), "#222222", size=13)


def _word(
    figure: go.Figure,
    text: str,
    x: tuple[str, float],
    y: tuple[str, float],
    anchors: tuple[str, str],
    colour: str,
    size: int = 12,
    angle: int = 0,
) -> None:
    """Words at a place: x and y each an axis (or its "domain") with the coordinate, anchors as plotly's."""
    figure.add_annotation(
        text=text,
        xref=x[0],
        x=x[1],
        yref=y[0],
        y=y[1],
        xanchor=anchors[0],
        yanchor=anchors[1],
        showarrow=False,
        align="left",
        textangle=angle,
        font={"color": colour, "size": size},
        bgcolor="rgba(255,255,255,0.75)",
        borderpad=1,
    )


def _items(figure: go.Figure, number: str, panel: Panel, y: Frame, places: list[int | None]) -> None:
    boxes = iter(enumerate(bar_boxes(panel)))
    for item, place in zip(panel.items, places, strict=True):
        if isinstance(item, Rule):
            continue
        name = rich(shortened(item.name, LEGEND_WIDTH, 4))
        common: dict[str, Any] = {
            "name": name,
            "legendgroup": name or None,
            "showlegend": place is not None,
            "legendrank": 1000 + (place or 0),
            "xaxis": f"x{number}",
            "yaxis": f"y{number}",
        }
        if isinstance(item, Band):
            figure.add_trace(go.Scatter(**_band(item, panel, y), **common))
        elif isinstance(item, Line):
            figure.add_trace(go.Scatter(**_line(item, panel), **common))
        elif isinstance(item, Bars):
            i, (_, centres, left, right) = next(boxes)
            pattern = {"shape": PATTERNS[i % len(PATTERNS)], "fgcolor": "white", "size": 7}
            bars = {"x": centres.tolist(), "width": np.nan_to_num(right - left).tolist()}
            marker = {"color": item.colour, "pattern": pattern}
            figure.add_trace(go.Bar(**bars, **_values(item, panel, y, "#222222"), marker=marker, **common))
        else:
            x = points_of(item, panel)[0].tolist()
            values = _values(item, panel, y, item.colour)
            figure.add_trace(go.Scatter(x=x, **values, mode="markers", marker=_marker(item), **common))


def _values(item: Marks | Bars, panel: Panel, frame: Frame, colour: str) -> dict[str, Any]:
    """y, intervals and hover texts of marks and bars."""
    _, y = points_of(item, panel)
    found: dict[str, Any] = {"y": y.tolist(), "hovertext": _hover(item, panel), "hoverinfo": "text"}
    lengths = error_lengths(y, interval_ends(item, panel.y, frame))
    if lengths is not None:
        below, above = (length.tolist() for length in lengths)
        style = {"color": colour, "thickness": 1.4, "width": 4}
        found["error_y"] = {"array": above, "arrayminus": below, "symmetric": False, **style}
    return found


def _hover(item: Marks | Bars, panel: Panel) -> list[str]:
    """What stands beside a point: series, text, both values with their interval."""
    found = []
    for i, (x, y) in enumerate(zip(item.x, item.y, strict=True)):
        lines = [item.name, item.text[i] if i < len(item.text) else ""]
        lines.append(f"{panel.x.label or 'x'}: {value_text(x, panel.x)}")
        value = f"{panel.y.label or 'y'}: {value_text(y, panel.y)}"
        if i < len(item.low) and i < len(item.high) and not np.isnan([item.low[i], item.high[i]]).all():
            value += f" [{value_text(item.low[i], panel.y)}, {value_text(item.high[i], panel.y)}]"
        found.append("<br>".join(rich(shortened(line, 60, 4)) for line in [*lines, value] if line))
    return found


def _marker(item: Marks) -> dict[str, Any]:
    return {
        "symbol": SYMBOLS[item.shape],
        "size": 11 if item.shape == "triangle" else 9,
        "color": item.colour if item.filled else "white",
        "line": {"color": item.colour, "width": 2.2 if item.shape == "cross" else 1.6},
    }


def _line(item: Line, panel: Panel) -> dict[str, Any]:
    x, y = points_of(item, panel)
    words = [rich(shortened(item.name, 60, 4)).replace("%{", "%&#123;")] if item.name else []
    for which, axis in (("x", panel.x), ("y", panel.y)):
        label = rich(shortened(axis.label or which, 60, 4)).replace("%{", "%&#123;")
        words.append(f"{label}: %{{{which}:{'.3~p' if axis.percent else '.4~g'}}}")
    return {
        "x": x.tolist(),
        "y": y.tolist(),
        "mode": "lines",
        "line": {"color": item.colour, "width": item.width + 0.4, "dash": item.dash},
        "hovertemplate": "<br>".join(words) + "<extra></extra>",
    }


def _band(item: Band, panel: Panel, frame: Frame) -> dict[str, Any]:
    """One outline for each stretch without gaps: along the high values and back along the low ones."""
    x = drawable(item.x, panel.x)
    low, high = interval_ends(item, panel.y, frame) or (np.empty(0), np.empty(0))
    whole = np.isfinite(x) & np.isfinite(low) & np.isfinite(high)
    edges: tuple[list[float | None], list[float | None]] = ([], [])
    for part in np.split(np.arange(len(x)), np.flatnonzero(np.diff(whole)) + 1):
        if len(part) and whole[part[0]]:
            for edge, there, back in zip(edges, (x, high), (x, low), strict=True):
                edge += [*([None] if edge else []), *there[part].tolist(), *back[part][::-1].tolist()]
    red, green, blue = (int(item.colour[i : i + 2], 16) for i in (1, 3, 5))
    return {
        "x": edges[0],
        "y": edges[1],
        "mode": "lines",
        "fill": "toself",
        "fillcolor": f"rgba({red},{green},{blue},0.22)",
        "line": {"width": 0, "color": item.colour},
        "hoverinfo": "skip",
    }


def _rules(figure: go.Figure, number: str, panel: Panel, x: Frame, y: Frame) -> None:
    for rule in panel.items:
        if not isinstance(rule, Rule):
            continue
        at = drawable([rule.value], panel.x if rule.axis == "x" else panel.y)[0]
        if np.isnan(at):
            continue
        shape: dict[str, Any]
        if rule.axis == "y":
            shape = {"xref": f"x{number} domain", "yref": f"y{number}", "x0": 0, "x1": 1, "y0": at, "y1": at}
        else:
            shape = {"xref": f"x{number}", "yref": f"y{number} domain", "x0": at, "x1": at, "y0": 0, "y1": 1}
        line = {"color": rule.colour, "width": 1.5, "dash": rule.dash}
        figure.add_shape(type="line", line=line, **shape)
    for text, place, colour in rule_names(panel, "y", y):
        side = free_side(panel, x, y, place)
        across = (f"x{number} domain", 0.0 if side == "left" else 1.0)
        _word(
            figure,
            rich(text),
            across,
            (f"y{number}", _along(place, panel.y.log, y)),
            (side, "bottom"),
            colour,
        )
    for text, place, colour in rule_names(panel, "x", x):
        along = (f"x{number}", _along(place, panel.x.log, x))
        _word(figure, rich(text), along, (f"y{number} domain", 0.98), ("right", "top"), colour, angle=-90)


def _domain(number: str, x: float, y: float) -> tuple[tuple[str, float], tuple[str, float]]:
    """A place in a panel, each from 0 to 1."""
    return (f"x{number} domain", x), (f"y{number} domain", y)


def _along(place: float, log: bool, frame: Frame) -> float:
    """Share of an axis -> plotly's coordinate of words, which on a log axis is the logarithm."""
    low, high = np.log10([frame.low, frame.high]) if log else (frame.low, frame.high)
    return float(low + place * (high - low))

"""A figure (charts.py) as PNG, for print: 8.5 to 12 points, told apart in grey by shape, dash and hatch."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend import Legend
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedFormatter, FixedLocator, NullFormatter, NullLocator

from adit_scale.scaling.chart_layout import (
    LEGEND_WIDTH,
    RAISED,
    Frame,
    bar_boxes,
    broken,
    drawable,
    error_lengths,
    frame_of,
    free_side,
    interval_ends,
    legend_names,
    points_of,
    rule_names,
    slanted,
)
from adit_scale.scaling.charts import Band, Bars, Chart, Line, Marks, Panel, Rule
from adit_scale.scaling.results import Array

STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "mathtext.default": "regular",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10.5,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
}
MARKERS = {"circle": "o", "square": "s", "triangle": "^", "diamond": "D", "cross": "x"}
DASHES: dict[str, Any] = {"solid": "-", "dash": (0, (5, 2.5)), "dot": (0, (1, 1.6))}
HATCHES = ("", "///", "...", "xxx")  # of the first, second ... bars of a panel: grey print
SINGLE, ONE_OF_SEVERAL = (5.6, 4.2), (4.7, 3.6)  # a panel in inches, legend not counted
LEGEND_ROOM = 0.16  # inches round it
LEGEND_MOST = 24  # names; a longer legend says how many more there are
UNDER_WORDS = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.6}


def write_png(chart: Chart, path: Path, dpi: int = 150) -> Path:
    """Draw ``chart`` into ``path``. Its size follows from the number of panels and the legend alone.

    Title and notes stand in the picture; the caption is kept as the file's description.
    """
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # A name in a script the font lacks is drawn as boxes; the interactive figure shows it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = draw(chart)
        about = {"Title": _latin(chart.title), "Description": _latin(chart.caption)}
        figure.savefig(path, dpi=dpi, metadata=about)
    return path


def _latin(text: str) -> str:
    """Text of a PNG is Latin-1."""
    return text.encode("latin-1", "replace").decode("latin-1")


def maths(text: str) -> str:
    """Text for matplotlib: only the markup of chart_layout.RAISED is set as formula."""
    parts = [part.replace("\\", "\\\u200b").replace("$", r"\$") for part in RAISED.split(text)[::3]]
    found = [f"${m[1]}{{{m[2]}}}$".replace(" ", r"\ ") for m in RAISED.finditer(text)]
    return "".join(a + b for a, b in zip(parts, [*found, ""], strict=True))


def _wrapped(text: str, width: int, lines: int = 3) -> str:
    return "\n".join(maths(line) for line in broken(text, width, lines))


def draw(chart: Chart) -> Figure:
    """Panels in a grid; title above; the legend beside one panel or below several; notes at the foot."""
    n = max(1, len(chart.panels))
    columns = min(max(1, chart.columns), n)
    rows = math.ceil(n / columns)
    each = SINGLE if n == 1 else ONE_OF_SEVERAL
    width, height = each[0] * columns, each[1] * rows
    figure = Figure(figsize=(width, height), dpi=100)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(chart.panels) :]:
        axes.set_axis_off()
    for axes, panel in zip(panels, chart.panels, strict=False):
        _panel(axes, panel, alone=n == 1)
    legend, size = _legend(figure, chart, width if n > 1 else 0.0)
    beside, below = (size[0], 0.0) if n == 1 else (0.0, size[1])
    title = broken(chart.title, int((width + beside) / 0.11), 2) if chart.title else []
    notes = [line for note in chart.notes for line in broken(note, int((width + beside) / 0.075), 3)]
    above, foot = 0.26 * len(title), 0.17 * len(notes)
    total = (width + beside, max(height, size[1] if n == 1 else 0.0) + above + below + foot)
    figure.set_size_inches(*total)
    inner = (0.0, (below + foot) / total[1], width / total[0], 1.0 - (above + below + foot) / total[1])
    figure.set_layout_engine(ConstrainedLayoutEngine(rect=inner, w_pad=0.08, h_pad=0.08))
    if legend is not None:
        at = (width / total[0], 1.0 - above / total[1]) if n == 1 else (0.01, (below + foot) / total[1])
        legend.set_bbox_to_anchor(at)
    _words(figure, title, 1.0 - 0.06 / total[1], "top", fontsize=12, fontweight="bold")
    _words(figure, notes, 0.06 / total[1], "bottom", fontsize=9, color="#444444")
    return figure


def _words(figure: Figure, lines: list[str], y: float, side: str, **style: Any) -> None:
    if lines:
        figure.text(0.01, y, "\n".join(maths(line) for line in lines), ha="left", va=side, **style)


def _legend(figure: Figure, chart: Chart, width: float) -> tuple[Legend | None, tuple[float, float]]:
    """The legend, not yet in its place, and its size in inches. width: to fit into with several columns, or 0
    for one column."""
    names = legend_names(chart)
    if not names:
        return None, (0.0, 0.0)
    texts = [_wrapped(name, LEGEND_WIDTH, 4) for name in names[:LEGEND_MOST]]
    handles: list[Any] = [_handles(chart, name) for name in names[:LEGEND_MOST]]
    if len(names) > LEGEND_MOST:
        texts[-1], handles[-1] = f"and {len(names) - LEGEND_MOST + 1} more", Patch(alpha=0)
    for columns in range(min(5, len(texts)) if width else 1, 0, -1):
        legend = figure.legend(handles, texts, loc="upper left", ncols=columns, alignment="left",
                               handler_map={tuple: HandlerTuple(ndivide=1)})  # fmt: skip
        legend.set_in_layout(False)
        box = legend.get_window_extent(FigureCanvasAgg(figure).get_renderer())
        size = (box.width / figure.dpi + LEGEND_ROOM, box.height / figure.dpi + LEGEND_ROOM)
        if size[0] <= width or columns == 1:
            break
        legend.remove()
    return legend, size


def _handles(chart: Chart, name: str) -> tuple[Artist, ...]:
    """The first of each kind of item of that name, drawn over each other."""
    found: dict[type, Artist] = {}
    for panel in chart.panels:
        hatches = iter(HATCHES * len(panel.items))
        for item in panel.items:
            hatch = next(hatches) if isinstance(item, Bars) else ""
            if not isinstance(item, Rule) and item.name == name:
                found.setdefault(type(item), _handle(item, hatch))
    return tuple(found.values())


def _handle(item: Marks | Line | Band | Bars, hatch: str) -> Artist:
    if isinstance(item, Band):
        return Patch(color=item.colour, alpha=0.22, lw=0)
    if isinstance(item, Bars):
        return Patch(facecolor=item.colour, edgecolor="white", hatch=hatch)
    if isinstance(item, Line):
        return Line2D([], [], color=item.colour, ls=DASHES[item.dash], lw=item.width)
    return Line2D([], [], ls="", **_marker(item))


def _marker(item: Marks) -> dict[str, Any]:
    face = item.colour if item.filled else "white"
    edge = 1.8 if item.shape == "cross" else 1.3
    return {
        "marker": MARKERS[item.shape],
        "color": item.colour,
        "markerfacecolor": face,
        "markeredgecolor": item.colour,
        "markeredgewidth": edge,
        "markersize": {"triangle": 7.0, "diamond": 6.0}.get(item.shape, 6.5),
    }


def _panel(axes: Axes, panel: Panel, *, alone: bool) -> None:
    x, y = frame_of(panel, "x"), frame_of(panel, "y")
    _axis(axes, "x", panel, x, alone)
    _axis(axes, "y", panel, y, alone)
    if panel.title:
        axes.set_title(_wrapped(panel.title, 62 if alone else 50, 2), loc="left")
    boxes = iter(enumerate(bar_boxes(panel)))
    for order, item in enumerate(panel.items, start=3):
        if isinstance(item, Bars):
            i, (_, centres, left, right) = next(boxes)
            _bars(axes, panel, y, item, (centres, left, right), HATCHES[i % len(HATCHES)], order)
        elif isinstance(item, Band):
            low, high = interval_ends(item, panel.y, y) or (np.empty(0), np.empty(0))
            at = drawable(item.x, panel.x)
            axes.fill_between(at, low, high, color=item.colour, alpha=0.22, lw=0, zorder=order)
        elif isinstance(item, Rule):
            draw = axes.axhline if item.axis == "y" else axes.axvline
            if np.isfinite(drawable([item.value], panel.y if item.axis == "y" else panel.x)).all():
                draw(item.value, color=item.colour, ls=DASHES[item.dash], lw=1.2, zorder=order)
        elif isinstance(item, Line):
            axes.plot(*points_of(item, panel), color=item.colour, ls=DASHES[item.dash], lw=item.width,
                      zorder=order)  # fmt: skip
        else:
            _marks(axes, panel, y, item, order)
    _rule_words(axes, panel, x, y)
    if x.empty or y.empty:
        axes.text(0.5, 0.5, "no data", ha="center", va="center", transform=axes.transAxes, color="#777777")


def _axis(axes: Axes, which: str, panel: Panel, frame: Frame, alone: bool) -> None:
    of = panel.x if which == "x" else panel.y
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_label_text(_wrapped(of.label, 60 if alone else 50, 2))
    (axes.set_xscale if which == "x" else axes.set_yscale)("log" if of.log else "linear")
    (axes.set_xlim if which == "x" else axes.set_ylim)(frame.low, frame.high)
    axis.set_major_locator(FixedLocator(list(frame.ticks)))
    axis.set_major_formatter(
        FixedFormatter(["\n".join(map(maths, text.split("\n"))) for text in frame.texts])
    )
    axis.set_minor_locator(FixedLocator(list(frame.minor)) if frame.minor else NullLocator())
    axis.set_minor_formatter(NullFormatter())
    if which == "x" and slanted(frame, 60 if alone else 46):
        axes.tick_params(axis="x", rotation=35)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")


def _marks(axes: Axes, panel: Panel, frame: Frame, item: Marks, order: int) -> None:
    x, y = points_of(item, panel)
    lengths = error_lengths(y, interval_ends(item, panel.y, frame))
    if lengths is not None:
        axes.errorbar(x, y, yerr=lengths, fmt="none", ecolor=item.colour, elinewidth=1.2, capsize=3,
                      zorder=order)  # fmt: skip
    axes.plot(x, y, ls="", zorder=order + 0.5, **_marker(item))


def _bars(
    axes: Axes,
    panel: Panel,
    frame: Frame,
    item: Bars,
    box: tuple[Array, Array, Array],
    hatch: str,
    order: int,
) -> None:
    y = drawable(item.y, panel.y)
    centres, left, right = box
    floor = frame.low if panel.y.log else 0.0
    axes.bar(left, y - floor, right - left, floor, align="edge", color=item.colour, edgecolor="white",
             hatch=hatch, lw=0.6, zorder=order)  # fmt: skip
    lengths = error_lengths(y, interval_ends(item, panel.y, frame))
    if lengths is not None:
        axes.errorbar(centres, y, yerr=lengths, fmt="none", ecolor="#222222", elinewidth=1.2, capsize=3,
                      zorder=order + 0.5)  # fmt: skip


def _rule_words(axes: Axes, panel: Panel, x: Frame, y: Frame) -> None:
    style: dict[str, Any] = {"transform": axes.transAxes, "fontsize": 8.5, "bbox": UNDER_WORDS, "zorder": 99}
    for text, place, colour in rule_names(panel, "y", y):
        side = free_side(panel, x, y, place)
        at = 0.01 if side == "left" else 0.99
        axes.text(at, place + 0.008, maths(text), color=colour, ha=side, va="bottom", **style)
    for text, place, colour in rule_names(panel, "x", x):
        axes.text(place - 0.008, 0.98, maths(text), color=colour, ha="right", va="top", rotation=90, **style)

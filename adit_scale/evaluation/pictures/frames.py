"""What every figure shares: series of samples, style, shares with intervals, and the page of all figures."""

from __future__ import annotations

import base64
import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from adit_scale.evaluation.statistics import wilson_interval
from adit_scale.evaluation.verdicts import Verdicts

# Okabe and Ito 2008: told apart with any colour vision; each series also has its own marker.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
DATA_COLOUR, GREY = "#9aa5b1", "#5f6b76"
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
}
DPI = 130
CONFIDENCE = 0.95
_LONGEST_NAME = 32


@dataclass(frozen=True)
class Series:
    """Samples under one name. reference: real data, drawn in grey behind the others."""

    name: str
    verdicts: Mapping[int, Verdicts]
    reference: bool = False


@dataclass(frozen=True)
class Drawn:
    """A finished figure. rows: every number in it, one a line of its CSV. caption: how to read it."""

    name: str
    title: str
    caption: str
    figure: Figure
    rows: list[dict[str, Any]] = field(repr=False)


@dataclass(frozen=True)
class Shares:
    """Of ``trials`` samples, how many fall into each bin; shares with Wilson intervals."""

    counts: np.ndarray
    trials: int

    @property
    def share(self) -> np.ndarray:
        return self.counts / max(self.trials, 1)

    @property
    def bounds(self) -> np.ndarray:
        """``(2, bins)`` lower and upper."""
        intervals = [wilson_interval(float(k), float(self.trials), CONFIDENCE) for k in self.counts]
        return np.array(intervals).T.reshape(2, -1)

    def rows(self, labels: Sequence[Any], **common: Any) -> list[dict[str, Any]]:
        low, high = self.bounds
        return [
            {
                **common,
                "bin": label,
                "count": int(k),
                "trials": self.trials,
                "share": s,
                "lower": a,
                "upper": b,
            }
            for label, k, s, a, b in zip(labels, self.counts, self.share, low, high, strict=True)
        ]


def colour_of(series: Sequence[Series]) -> dict[str, str]:
    """Grey for real data, a colour of its own for every other series."""
    models = [s.name for s in series if not s.reference]
    return {s.name: DATA_COLOUR for s in series if s.reference} | {
        name: COLOURS[i % len(COLOURS)] for i, name in enumerate(models)
    }


def new_figure(panels: int, width: float = 5.4, height: float = 4.2) -> tuple[Figure, list[Axes]]:
    """``panels`` axes side by side, each of ``width`` × ``height`` inches."""
    figure = Figure(figsize=(width * panels, height), layout="constrained")
    return figure, list(np.atleast_1d(np.asarray(figure.subplots(1, panels))).ravel())


def percent_axis(axes: Axes, label: str) -> None:
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.3g}%"))
    axes.set_ylabel(label)


def bars(axes: Axes, series: Sequence[Series], shares: Mapping[str, Shares], width: float = 0.8) -> None:
    """Grouped bars at 0, 1, 2, …, one group a bin, with their intervals."""
    names = [s.name for s in series if s.name in shares]
    colours = colour_of(series)
    each = width / max(len(names), 1)
    for i, name in enumerate(names):
        of = shares[name]
        x = np.arange(len(of.counts)) + (i - (len(names) - 1) / 2) * each
        low, high = of.bounds
        axes.bar(x, of.share, each * 0.94, color=colours[name], label=f"{shown(name)} (n = {of.trials:,})")
        reach = [of.share - low, high - of.share]
        axes.errorbar(x, of.share, yerr=reach, fmt="none", ecolor="#222222", elinewidth=0.9)
    axes.set_xlim(-0.6, max((len(of.counts) for of in shares.values()), default=1) - 0.4)


def steps(
    axes: Axes,
    series: Sequence[Series],
    shares: Mapping[str, Shares],
    edges: np.ndarray,
    legends: Mapping[str, str],
) -> None:
    """Histograms over ``edges``: real data filled, others as lines; intervals as bars, set apart sideways."""
    colours = colour_of(series)
    present = [s for s in series if s.name in shares]
    middle, width = (edges[:-1] + edges[1:]) / 2, np.diff(edges)
    for i, s in enumerate(present):
        of, colour = shares[s.name], colours[s.name]
        low, high = of.bounds
        if s.reference:
            axes.stairs(of.share, edges, fill=True, color=colour, alpha=0.6, label=legends[s.name], zorder=1)
        else:
            axes.stairs(of.share, edges, color=colour, lw=1.9, label=legends[s.name], zorder=3)
        x = middle + width * 0.22 * (i - (len(present) - 1) / 2)
        reach = [of.share - low, high - of.share]
        shade = GREY if s.reference else colour
        axes.errorbar(x, of.share, yerr=reach, fmt="none", ecolor=shade, elinewidth=1.0, zorder=2)


def shown(name: str) -> str:
    """A series' name as a legend can hold it: not too long, and no formula to matplotlib."""
    text = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text  # a leading underscore hides an entry


def unique(name: str, taken: Sequence[str]) -> str:
    """The name, numbered where it is taken."""
    return name if name not in taken else next(n for k in range(2, 99) if (n := f"{name} {k}") not in taken)


def save(drawn: Drawn, folder: Path) -> list[Path]:
    """Write ``name.png`` and ``name.csv``."""
    png, table = folder / f"{drawn.name}.png", folder / f"{drawn.name}.csv"
    png.write_bytes(png_of(drawn.figure))
    columns = list(dict.fromkeys(key for row in drawn.rows for key in row))
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, restval="")
        writer.writeheader()
        writer.writerows({key: _plain(value) for key, value in row.items()} for row in drawn.rows)
    return [png, table]


def png_of(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return stream.getvalue()


def style() -> Any:
    """The context in which figures are drawn."""
    return matplotlib.rc_context(STYLE)


def write_page(drawn: Sequence[Drawn], title: str, path: Path) -> None:
    """One HTML file with every figure and its numbers; no scripts, nothing from outside."""
    css = resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    body = "".join(_section(figure, (path.parent / f"{figure.name}.png").read_bytes()) for figure in drawn)
    path.write_text(
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        f"style-src 'unsafe-inline'; img-src data:\">"
        f"<style>{css} .figure{{max-width:100%}} details{{margin:.3rem 0 1rem}}</style></head>"
        f"<body><h1>{escape(title)}</h1>{body}</body></html>\n",
        encoding="utf-8",
    )


def _section(drawn: Drawn, png: bytes) -> str:
    source = "data:image/png;base64," + base64.b64encode(png).decode()
    width = round(62 * drawn.figure.get_figwidth())  # 62 pixels an inch: text as large as the page's
    columns = list(dict.fromkeys(key for row in drawn.rows for key in row))
    head = "".join(f"<th>{escape(c)}</th>" for c in columns)
    lines = "".join(
        "<tr>" + "".join(f"<td>{escape(_short(row.get(c, '')))}</td>" for c in columns) + "</tr>"
        for row in drawn.rows
    )
    return (
        f"<h2>{escape(drawn.title)}</h2>"
        f'<img class="figure" width="{width}" alt="{escape(drawn.title)}" src="{source}">'
        f'<p class="quiet">{escape(drawn.caption)}</p>'
        f"<details><summary>{len(drawn.rows)} numbers ({escape(drawn.name)}.csv)</summary>"
        f"<table><tr>{head}</tr>{lines}</table></details>"
    )


def _plain(value: Any) -> Any:
    """NumPy scalars as Python's, missing numbers as the empty text."""
    value = value.item() if isinstance(value, np.generic) else value
    return "" if isinstance(value, float) and math.isnan(value) else value


def _short(value: Any) -> str:
    value = _plain(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)

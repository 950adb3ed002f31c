"""Pictures of a data set from the histograms of its manifest: one page, a PNG, for each data set in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from adit_scale.data.manifest import SPLITS, Manifest
from adit_scale.data.sources.structures import ATOMIC_NUMBERS, ELEMENT_SYMBOLS
from adit_scale.data.tools.info import histogram
from adit_scale.errors import DataError

INK, FAINT, BLUE = "#1f2933", "#e4e7eb", "#2f6f9f"
# The last spacegroup of each crystal system, and its colour.
SYSTEMS = (
    ("triclinic", 2, "#7b8794"),
    ("monoclinic", 15, "#4c78a8"),
    ("orthorhombic", 74, "#59a14f"),
    ("tetragonal", 142, "#edae49"),
    ("trigonal", 167, "#d1603d"),
    ("hexagonal", 194, "#9c4f96"),
    ("cubic", 230, "#1b7f79"),
)
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color"), INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
}
# Runs of elements in the long form of the periodic table, the f block below: first, last, row, column.
_RUNS = (
    (1, 1, 0, 0),
    (2, 2, 0, 17),
    (3, 4, 1, 0),
    (5, 10, 1, 12),
    (11, 12, 2, 0),
    (13, 18, 2, 12),
    (19, 36, 3, 0),
    (37, 54, 4, 0),
    (55, 56, 5, 0),
    (57, 70, 7, 3),
    (71, 86, 5, 2),
    (87, 88, 6, 0),
    (89, 102, 8, 3),
    (103, 118, 6, 2),
)


def draw(manifest: Manifest, folder: Path) -> list[Path]:
    """Write ``<folder>/<data set>.png`` for each data set: atom counts, elements, spacegroups of crystals.

    Raises DataError where the manifest states no statistics, OSError where the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with matplotlib.rc_context(_STYLE):
        for name in manifest.datasets:
            known = manifest.descriptions.get(name, {})
            if not known.get("atom_counts") or not known.get("elements"):
                raise DataError(
                    f"{manifest.storage}: no statistics of {name} in its manifest; build it again"
                )
            figure = page(name, known)
            path = folder / f"{re.sub(r'[^A-Za-z0-9_.+-]', '_', name)}.png"
            figure.savefig(path, dpi=150, facecolor="white", metadata={"Software": None})
            paths.append(path)
    return paths


def page(name: str, known: dict[str, Any]) -> Figure:
    """One data set's page; ``known`` is its description in the manifest."""
    spacegroups = {number: n for number, n in histogram(known, "spacegroups").items() if number}
    heights = [1.5, 3.1, 1.5] if spacegroups else [1.5, 3.1]
    figure = Figure(figsize=(11, 2.0 * sum(heights) + 1.2), layout=ConstrainedLayoutEngine(h_pad=0.12))
    axes = figure.subplots(len(heights), 1, height_ratios=heights)
    n_sets = known.get("n_sets", {})
    splits = ", ".join(f"{split} {n_sets.get(split, 0):,}" for split in SPLITS)
    figure.suptitle(f"{name}: {sum(n_sets.values()):,} structures ({splits})", fontsize=15, fontweight="bold")
    _atom_counts(axes[0], histogram(known, "atom_counts"))
    _elements(figure, axes[1], {ATOMIC_NUMBERS[symbol]: n for symbol, n in known.get("elements", {}).items()})
    if spacegroups:
        unknown = histogram(known, "spacegroups").get(0, 0)
        _spacegroups(axes[2], spacegroups, unknown)
    return figure


def _atom_counts(axes: Axes, counts: dict[int, int]) -> None:
    sizes, n = np.array(list(counts)), np.array(list(counts.values()))
    spread = int(sizes.max() - sizes.min()) + 1
    width = max(1, -(-spread // 120))
    edges = np.arange(sizes.min(), sizes.max() + width + 1, width) - 0.5
    heights, _ = np.histogram(sizes, bins=edges, weights=n)
    axes.bar(edges[:-1] + width / 2, heights, width=width * 0.88, color=BLUE)
    mean = float((sizes * n).sum() / n.sum())
    axes.axvline(mean, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_xlim(edges[0] - 0.5, edges[-1] + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=16))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    about = f"Atoms a structure: {sizes.min()} to {sizes.max()}, mean {mean:.1f} (dashed)"
    _titles(axes, about, "atoms" if width == 1 else f"atoms, {width} a bar", "structures")


def _elements(figure: Figure, axes: Axes, counts: dict[int, int]) -> None:
    """A periodic table, coloured by how many atoms of each element there are (logarithmic)."""
    most = max(counts.values())
    norm, colour_map = LogNorm(vmin=1, vmax=max(most, 10)), matplotlib.colormaps["YlGnBu"]
    for z in range(1, 104):
        row, column = _place(z)
        n = counts.get(z, 0)
        colour = colour_map(norm(n)) if n else (1.0, 1.0, 1.0, 1.0)
        axes.add_patch(Rectangle((column + 0.03, row + 0.03), 0.94, 0.94, facecolor=colour, edgecolor=FAINT))
        dark = n and 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] < 0.55
        ink = "white" if dark else INK if n else "#9aa5b1"
        symbol = ELEMENT_SYMBOLS[z]
        axes.text(column + 0.5, row + 0.42, symbol, ha="center", va="center", color=ink, fontsize=11,
                  fontweight="bold" if n else "normal")  # fmt: skip
        if n:
            axes.text(column + 0.5, row + 0.78, _short(n), ha="center", va="center", color=ink, fontsize=7)
    axes.set_xlim(0, 18)
    axes.set_ylim(9.6, 0)
    axes.set_aspect("equal")
    axes.axis("off")
    axes.set_title(f"Elements: {len(counts)}", loc="left", fontsize=12, fontweight="bold")
    bar = figure.colorbar(ScalarMappable(norm, colour_map), ax=axes, shrink=0.7, pad=0.01, aspect=25)
    bar.set_label("atoms")
    bar.outline.set_visible(False)


def _place(z: int) -> tuple[float, int]:
    """Row and column of an element; a gap parts the f block from the rest."""
    for first, last, row, column in _RUNS:
        if first <= z <= last:
            return row + (0.6 if row >= 7 else 0), column + z - first
    raise AssertionError(z)


def _spacegroups(axes: Axes, counts: dict[int, int], unknown: int) -> None:
    first = 1
    for system, last, colour in SYSTEMS:
        inside = {number: n for number, n in counts.items() if first <= number <= last}
        share = sum(inside.values()) / (sum(counts.values()) + unknown)
        axes.bar(list(inside) or [0], list(inside.values()) or [0], width=1.0, color=colour, edgecolor=colour,
                 linewidth=0.6, label=f"{system} {share:.1%}" if inside else None)  # fmt: skip
        axes.axvspan(first - 0.5, last + 0.5, color=colour, alpha=0.08, linewidth=0)
        first = last + 1
    named: list[int] = []
    for number, n in sorted(counts.items(), key=lambda item: -item[1])[:8]:
        if any(abs(number - other) < 6 for other in named):  # their names would overlap
            continue
        named.append(number)
        axes.annotate(
            str(number), (number, n), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=8
        )
    axes.set_xlim(0.5, 230.5)
    axes.set_ylim(0, max(counts.values()) * 1.12)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=7, frameon=False, fontsize=8.5,
                handlelength=1, columnspacing=1.2)  # fmt: skip
    more = f", {unknown:,} structures without one" if unknown else ""
    _titles(axes, f"Spacegroups: {len(counts)}{more}", "", "structures")


def _titles(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)


def _short(n: int) -> str:
    """At most four characters: 844, 9.3k, 61k, 1.2M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= size:
            return f"{n / size:.1f}{unit}" if n < 10 * size else f"{n / size:.0f}{unit}"
    return str(n)

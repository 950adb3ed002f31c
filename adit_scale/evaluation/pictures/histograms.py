"""Histograms of values, model against data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from scipy.stats import wasserstein_distance

from adit_scale.evaluation.pictures.frames import (
    Drawn,
    Series,
    Shares,
    new_figure,
    percent_axis,
    shown,
    steps,
)
from adit_scale.evaluation.verdicts import Verdicts

BAND = "Bars: 95% Wilson intervals of each bin."
MOST_BINS = 40


@dataclass(frozen=True)
class Value:
    """A value column to draw. whole: it counts something. marks: (place, name) of lines to draw.
    central: the share of values inside the drawn range, half of the rest beyond each end."""

    column: str
    label: str
    unit: str = ""
    whole: bool = False
    marks: tuple[tuple[float, str], ...] = ()
    central: float = 0.99


ENERGIES = (
    Value(
        "e_above_hull_ev_per_atom",
        "energy above hull",
        "eV/atom",
        marks=((0.0, "stable"), (0.1, "metastable")),
        central=0.96,
    ),
    Value("formation_energy_ev_per_atom", "formation energy", "eV/atom", central=0.98),
)
STRUCTURE = (
    Value("density_g_cm3", "density", "g/cm³"),
    Value("volume_a3_per_atom", "volume per atom", "Å³"),
    Value("n_atoms", "atoms in the cell", whole=True),
)
RELAXATION = (
    Value("mmff_rmsd_angstrom", "RMSD to the MMFF minimum", "Å", central=0.98),
    Value("mmff_energy_drop_kcal_mol_per_atom", "drop to the MMFF minimum", "kcal/mol/atom", central=0.96),
    Value("xtb_rmsd_angstrom", "RMSD to the xTB minimum", "Å", central=0.98),
    Value("xtb_energy_drop_kcal_mol_per_atom", "drop to the xTB minimum", "kcal/mol/atom", central=0.96),
    Value("relaxation_rmsd_angstrom", "RMSD to the relaxed crystal", "Å", central=0.98),
)  # fmt: skip


def values_of(verdicts: Verdicts, column: str) -> np.ndarray:
    """The finite values of a column; ``n_atoms`` is one."""
    values = verdicts.n_atoms if column == "n_atoms" else verdicts.values.get(column, np.empty(0))
    values = np.asarray(values, dtype=float)
    return values[np.isfinite(values)]


def value_figure(
    series: Sequence[Series], domain: int, values: Sequence[Value], name: str, title: str
) -> Drawn | None:
    """One panel a value that any series but the reference has; None without any."""
    present = [v for v in values if any(has_value(s, domain, v.column) for s in series if not s.reference)]
    if not present:
        return None
    figure, panels = new_figure(len(present))
    rows = []
    for axes, value in zip(panels, present, strict=True):
        rows += _histogram(axes, series, domain, value)
    caption = f"{BAND} In brackets: samples that have the value; W₁: Wasserstein distance to the real data."
    return Drawn(name, title, caption, figure, rows)


def has_value(series: Series, domain: int, column: str) -> bool:
    return domain in series.verdicts and len(values_of(series.verdicts[domain], column)) > 0


def _histogram(axes: Axes, series: Sequence[Series], domain: int, value: Value) -> list[dict]:
    found = {
        s.name: values_of(s.verdicts[domain], value.column)
        for s in series
        if has_value(s, domain, value.column)
    }
    edges = _edges(list(found.values()), value)
    shares, legends, rows = {}, {}, []
    real = next((found[s.name] for s in series if s.reference and s.name in found), None)
    for s in series:
        if s.name not in found:
            continue
        of = found[s.name]
        counts, _ = np.histogram(of, edges)
        shares[s.name] = Shares(counts, len(of))
        beyond = 1 - counts.sum() / len(of)
        distance = (
            ""
            if real is None or s.reference
            else f", W₁ {wasserstein_distance(of, real):.2g} {value.unit}".rstrip()
        )
        outside = f", {beyond:.1%} outside" if beyond > 0 else ""
        legends[s.name] = f"{shown(s.name)} ({len(of):,} of {len(s.verdicts[domain]):,}{distance}{outside})"
        labels = [f"{a:.6g} to {b:.6g}" for a, b in pairwise(edges)]
        rows += shares[s.name].rows(labels, value=value.column, unit=value.unit, series=s.name)
    steps(axes, series, shares, edges, legends)
    top = axes.get_ylim()[1]
    for place, text in value.marks:
        if edges[0] < place < edges[-1]:
            axes.vlines(place, 0, top, color="#444444", lw=1, ls=(0, (5, 3)), zorder=4)  # not into the legend
            axes.annotate(text, (place, top), xytext=(3, -2), textcoords="offset points", fontsize=8.5,
                          rotation=90, va="top", color="#444444")  # fmt: skip
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, top * (1.06 + 0.09 * len(found)))
    axes.set_xlabel(f"{value.label} ({value.unit})" if value.unit else value.label)
    if value.whole:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    width = edges[1] - edges[0]
    percent_axis(
        axes,
        "share of samples" if value.whole and width == 1 else f"share per {width:.2g} {value.unit}".strip(),
    )
    axes.legend(loc="upper right", handlelength=1.4)
    return rows


def _edges(found: Sequence[np.ndarray], value: Value) -> np.ndarray:
    """Common bins of all series, over the central part of each, so that one far value hides nothing.

    About 2·n^(1/3) bins (Rice's rule) for the smallest series: as many as its intervals can tell apart.
    """
    tail = (1 - value.central) / 2
    low = min(float(np.quantile(of, tail)) for of in found)
    high = max(float(np.quantile(of, 1 - tail)) for of in found)
    bins = int(min(MOST_BINS, max(8, 2 * min(len(of) for of in found) ** (1 / 3))))
    if value.whole:
        width = max(1, -(-int(high - low + 1) // MOST_BINS))
        first = int(low) - 0.5
        return np.arange(first, high + width + 0.5, width)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    margin = 0.02 * (high - low)
    low = min([low, *(place - margin for place, _ in value.marks)])
    high = max([high, *(place + margin for place, _ in value.marks)])
    if value.marks:
        return _through_marks(low, high, bins, [place for place, _ in value.marks])
    return np.linspace(low, high, bins + 1)


def _through_marks(low: float, high: float, bins: int, marks: Sequence[float]) -> np.ndarray:
    """Edges of about ``bins`` bins that stand on the first mark, and on the last where they are not too many:
    no bin has samples on both sides of a mark."""
    width, apart = (high - low) / bins, marks[-1] - marks[0]
    through = apart / max(1, round(apart / width))
    if apart > 0 and (high - low) / through <= MOST_BINS:
        width = through
    first, last = np.floor((low - marks[0]) / width), np.ceil((high - marks[0]) / width)
    return marks[0] + width * np.arange(first, last + 1)

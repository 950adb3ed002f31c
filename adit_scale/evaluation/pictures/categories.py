"""Histograms of kinds, model against data: number of elements, elements, crystal systems, spacegroups."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from rdkit import Chem

from adit_scale.atoms import CRYSTAL, DOMAIN_NAMES
from adit_scale.data.tools.pictures import SYSTEMS
from adit_scale.evaluation.pictures.cards import international_symbols
from adit_scale.evaluation.pictures.frames import Drawn, Series, Shares, bars, new_figure, percent_axis
from adit_scale.evaluation.pictures.histograms import BAND, has_value, values_of

TOP_SPACEGROUPS, TOP_ELEMENTS = 14, 30
SPACEGROUP_COLUMNS = ("spacegroup_0.1", "spacegroup_0.01")


def counts_figure(series: Sequence[Series], domain: int = CRYSTAL) -> Drawn | None:
    """Number of different elements in a sample."""
    found = {
        s.name: values_of(s.verdicts[domain], "n_elements")
        for s in series
        if has_value(s, domain, "n_elements")
    }
    if not any(s.name in found for s in series if not s.reference):
        return None
    most = int(max(of.max() for of in found.values()))
    shares = {
        name: Shares(np.bincount(of.astype(int), minlength=most + 1)[1 : most + 1], len(of))
        for name, of in found.items()
    }
    figure, (axes,) = new_figure(1, width=6.4)
    bars(axes, series, shares)
    axes.set_xticks(range(most), [str(n) for n in range(1, most + 1)])
    axes.set_xlabel(f"different elements in a {DOMAIN_NAMES[domain]}")
    percent_axis(axes, "share of samples")
    axes.legend(loc="upper right")
    rows = [r for name, of in shares.items() for r in of.rows(range(1, most + 1), series=name)]
    return Drawn("n_elements", "Number of elements", BAND, figure, rows)


def elements_figure(series: Sequence[Series], domain: int) -> Drawn | None:
    """Share of samples that contain an element, for the commonest ones, by the formulas of the verdicts."""
    found = {
        s.name: [_elements(text) for text in s.verdicts[domain].labels["formula"] if text]
        for s in series
        if domain in s.verdicts and "formula" in s.verdicts[domain].labels
    }
    if not any(found.get(s.name) for s in series if not s.reference):
        return None
    having = {name: Counter(e for of in formulas for e in of) for name, formulas in found.items()}
    largest = Counter(
        {e: max(having[n][e] / max(len(found[n]), 1) for n in found) for of in having.values() for e in of}
    )
    number = Chem.GetPeriodicTable().GetAtomicNumber
    shown = sorted((e for e, _ in largest.most_common(TOP_ELEMENTS)), key=number)
    shares = {n: Shares(np.array([having[n][e] for e in shown]), len(found[n])) for n in found}
    figure, (axes,) = new_figure(1, width=max(5.0, 0.38 * len(shown) + 1.5))
    bars(axes, series, shares)
    axes.set_xticks(range(len(shown)), shown)
    axes.grid(axis="x", visible=False)
    axes.set_xlabel("element")
    percent_axis(axes, f"share of {DOMAIN_NAMES[domain]}s with it")
    axes.set_ylim(0, axes.get_ylim()[1] * (1.08 + 0.05 * len(shares)))
    axes.legend(loc="upper right")
    rows = [r for n, of in shares.items() for r in of.rows(shown, series=n)]
    title = f"Elements of {DOMAIN_NAMES[domain]}s"
    left = len(largest) - len(shown)
    more = f" The {left} rarest are left out." if left else ""
    return Drawn(f"elements_{DOMAIN_NAMES[domain]}", title, BAND + more, figure, rows)


@functools.cache
def _elements(formula: str) -> frozenset[str]:
    return frozenset(re.findall(r"[A-Z][a-z]?", formula))


def spacegroups_figure(series: Sequence[Series]) -> Drawn | None:
    """Crystal systems, and the commonest spacegroups, of crystals that have one."""
    models = [s for s in series if not s.reference]
    column = next((c for c in SPACEGROUP_COLUMNS if any(has_value(s, CRYSTAL, c) for s in models)), None)
    if column is None:
        return None
    found = {}
    for s in series:
        if has_value(s, CRYSTAL, column):
            of = values_of(s.verdicts[CRYSTAL], column).astype(int)
            found[s.name] = of[of > 0]
    figure, panels = new_figure(2, width=6.6, height=4.4)
    tolerance = column.removeprefix("spacegroup_")
    rows = _systems(panels[0], series, found) + _commonest(panels[1], series, found)
    panels[0].legend(loc="upper right")
    caption = f"spglib at {tolerance} Å, of crystals with a spacegroup; P1 is group 1. {BAND}"
    return Drawn("spacegroups", "Spacegroups, model against data", caption, figure, rows)


def _systems(axes: Axes, series: Sequence[Series], found: Mapping[str, np.ndarray]) -> list[dict]:
    """P1 stands apart from the rest of the triclinic groups: it is what a model without symmetry gives."""
    names = ["P1", "P-1", *(name for name, _, _ in SYSTEMS[1:])]
    lasts = [0, 1, *(last for _, last, _ in SYSTEMS)]
    shares = {}
    for name, groups in found.items():
        counts = [int(((groups > a) & (groups <= b)).sum()) for a, b in pairwise(lasts)]
        shares[name] = Shares(np.array(counts), len(groups))
    bars(axes, series, shares)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
    axes.grid(axis="x", visible=False)
    axes.set_xlabel("crystal system")
    percent_axis(axes, "share of crystals")
    return [r for n, of in shares.items() for r in of.rows(names, panel="system", series=n)]


def _commonest(axes: Axes, series: Sequence[Series], found: Mapping[str, np.ndarray]) -> list[dict]:
    """The commonest groups of the real data (of all series where there are none), P1 first."""
    source = [found[s.name] for s in series if s.reference and s.name in found] or list(found.values())
    groups = [
        g for g, _ in Counter(np.concatenate(source).tolist()).most_common(TOP_SPACEGROUPS + 1) if g != 1
    ]
    shown = [1, *groups[:TOP_SPACEGROUPS]]
    shares = {n: Shares(np.array([(of == g).sum() for g in shown]), len(of)) for n, of in found.items()}
    bars(axes, series, shares)
    symbols = [f"{international_symbols()[g]} ({g})" for g in shown]
    axes.set_xticks(range(len(shown)), symbols, rotation=45, ha="right", rotation_mode="anchor", fontsize=8.5)
    axes.grid(axis="x", visible=False)
    axes.set_xlabel("spacegroup: P1, then the data's commonest")
    percent_axis(axes, "share of crystals")
    return [r for n, of in shares.items() for r in of.rows(symbols, panel="spacegroup", series=n)]

"""Validity against the number of atoms, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from adit_scale.atoms import CRYSTAL, DOMAIN_NAMES, MOLECULE
from adit_scale.evaluation.pictures.frames import (
    MARKERS,
    Drawn,
    Series,
    Shares,
    colour_of,
    shown,
)
from adit_scale.evaluation.rates import quantile_edges

# Checks whose rates are drawn against the number of atoms: (check, name).
BY_SIZE = {
    MOLECULE: (("edm_valid", "valid (edm)"), ("edm_stable", "all atoms stable (edm)"),
               ("rdkit_valid", "valid (rdkit)"), ("posebusters", "PoseBusters, all checks")),
    CRYSTAL: (("valid", "valid"), ("structural", "structurally valid"), ("p1_not_0.1", "not P1 (0.1 Å)")),
}  # fmt: skip


def validity_by_size(series: Sequence[Series]) -> Drawn | None:
    """Rates against the number of atoms, one panel a domain and check; the same bins for every series."""
    panels = [
        (domain, check, name)
        for domain in (MOLECULE, CRYSTAL)
        for check, name in BY_SIZE[domain]
        if any(domain in s.verdicts and check in s.verdicts[domain].checks for s in series if not s.reference)
    ]
    if not panels:
        return None
    domains = list(dict.fromkeys(domain for domain, _, _ in panels))
    columns = max(sum(d == domain for d, _, _ in panels) for domain in domains)
    figure = Figure(figsize=(4.2 * columns, 3.7 * len(domains)), layout="constrained")
    grid = figure.subplots(len(domains), columns, squeeze=False)
    rows: list[dict[str, Any]] = []
    for line, domain in zip(grid, domains, strict=True):
        checks = [(check, name) for d, check, name in panels if d == domain]
        for of, (check, name) in zip(line, checks, strict=False):
            rows += _rate_by_size(of, series, domain, check)
            of.set_title(f"{DOMAIN_NAMES[domain]}s: {name}", loc="left", fontsize=11)
        for spare in line[len(checks) :]:
            spare.axis("off")
        line[0].set_ylabel("share of samples")
    caption = "Bins of about equally many samples, at the mean number of atoms of each; 95% Wilson intervals."
    return Drawn("validity_by_size", "Validity by number of atoms", caption, figure, rows)


def _rate_by_size(axes: Axes, series: Sequence[Series], domain: int, check: str) -> list[dict]:
    having = [s for s in series if domain in s.verdicts and check in s.verdicts[domain].checks]
    firsts = quantile_edges(np.concatenate([s.verdicts[domain].n_atoms for s in having]), 6)
    colours, rows = colour_of(series), []
    for i, s in enumerate(having):
        of = s.verdicts[domain]
        asked = of.checks[check].asked
        place = np.clip(np.searchsorted(firsts, of.n_atoms, side="right") - 1, 0, None)
        x, shares, common = [], [], {"domain": DOMAIN_NAMES[domain], "check": check, "series": s.name}
        for b in range(len(firsts)):
            trials = asked & (place == b)
            if not trials.any():
                continue
            share = Shares(np.array([(of.checks[check].passed & trials).sum()]), int(trials.sum()))
            x.append(float(of.n_atoms[trials].mean()))
            shares.append(share)
            label = f"{of.n_atoms[trials].min()} to {of.n_atoms[trials].max()}"
            rows += share.rows([label], **common, mean_n_atoms=x[-1])
        y = np.array([share.share[0] for share in shares])
        low, high = np.array([share.bounds[:, 0] for share in shares]).reshape(-1, 2).T
        legend = f"{shown(s.name)} (n = {int(asked.sum()):,})"
        looks: dict[str, Any] = {
            "color": colours[s.name],
            "marker": MARKERS[i % len(MARKERS)],
            "ls": "--" if s.reference else "-",
        }
        axes.errorbar(x, y, yerr=[y - low, high - y], ms=5, capsize=3, lw=1.4, label=legend, **looks)
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.0f}%")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("number of atoms")
    axes.legend(loc="best")
    return rows

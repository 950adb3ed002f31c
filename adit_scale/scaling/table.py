"""The table of a study's points: for the terminal, for CSV, for the report."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from adit_scale.evaluation.statistics import Rate
from adit_scale.scaling.results import Exclusion
from adit_scale.scaling.study_data import Point
from adit_scale.scaling.trends import Trend, metric_names, rate_trends

# The rates that stand in the table of every study; all others are in the CSV and the report.
MOLECULE_VALIDITY = "molecule/edm_validity"
ATOM_STABILITY = "molecule/edm_atom_stability"
CRYSTAL_VALIDITY = "crystal/validity"
TABLE_RATES = {
    "molecule validity": MOLECULE_VALIDITY,
    "atom stability": ATOM_STABILITY,
    "crystal validity": CRYSTAL_VALIDITY,
}
# What samples cannot be expected to beat: the data's own scores, and those after the autoencoder.
REFERENCE_ROW, RECONSTRUCTION_ROW = "real data", "real data, reconstructed"
CONSTANT_ROW = "constant"
SERIES = ("curve", "rates", "training_rates")  # of a point: in points.json, or in columns of their own

Ceilings = Mapping[str, Mapping[str, Rate]]  # the rates of each such row


def by_size(points: Sequence[Point]) -> list[Point]:
    return sorted(points, key=lambda p: (p.n_parameters, p.atoms_seen, p.seed, p.label))


def parameters(n: float) -> str:
    """A parameter count: 87 k, 1.65 M, 674 M."""
    if n < 999_500:
        return f"{n / 1e3:.3g} k"
    return f"{n / 1e6:.3g} M" if n < 999.5e6 else f"{n / 1e9:.3g} B"


def rate_text(rate: Rate | None) -> str:
    """Per cent with its interval; one decimal, which is what a thousand samples carry."""
    if rate is None or not rate.trials:
        return "-"
    low, high = rate.interval
    return f"{100 * rate.value:.1f}% [{100 * low:.1f}, {100 * high:.1f}]"


def loss_text(loss: float) -> str:
    return f"{loss:.4g}" if math.isfinite(loss) else str(loss)


def trend_text(trend: Trend) -> str:
    return (
        f"{trend.metric}: {trend.verdict} "
        f"(logit slope {trend.slope:+.2f} per tenfold N, interval {trend.low:+.2f} to {trend.high:+.2f})"
    )


def render_table(points: Sequence[Point], ceilings: Ceilings) -> str:
    """A Markdown table, aligned for a terminal; below the points the bounds between which they lie.

    ``constant`` is the loss of the best constant prediction. Below the table, for each rate in it, whether it
    rises with size or stays within noise.
    """
    header = ["size", "parameters", "final loss", *TABLE_RATES, "status"]
    rows = [
        [
            p.label,
            parameters(p.n_parameters),
            loss_text(p.final_loss),
            *(rate_text(p.rates.get(name)) for name in TABLE_RATES.values()),
            p.status,
        ]
        for p in by_size(points)
    ]
    constant = {loss_text(p.constant_loss) for p in points if math.isfinite(p.constant_loss)}
    rows += [[CONSTANT_ROW, "", loss, *("" for _ in TABLE_RATES), ""] for loss in sorted(constant)]
    for row, rates in ceilings.items():
        rows.append([row, "", "", *(rate_text(rates.get(name)) for name in TABLE_RATES.values()), ""])
    lines = _markdown(header, rows)
    trends = rate_trends(_done(points), tuple(TABLE_RATES.values()))
    if trends:
        lines += ["", *map(trend_text, trends.values())]
    return "\n".join(lines) + "\n"


def left_out_text(excluded: Sequence[Exclusion], warnings: Sequence[str]) -> str:
    """Below the table: which points no fit used, by name, and what a reader of the fits must know."""
    lines = ["left out of the fit:", *(f"  {e.label}: {e.reason}" for e in excluded)] if excluded else []
    lines += ["warnings:", *(f"  {warning}" for warning in warnings)] if warnings else []
    return "\n".join(lines) + "\n" if lines else ""


def write_points_csv(points: Sequence[Point], ceilings: Ceilings, path: Path) -> None:
    """One row a point with all its fields but curves, and one row a ceiling.

    Fields of several values have a column each, such as domain_losses/molecule; each rate is value, low,
    high and trials, in fractions.
    """
    metrics = metric_names(points, ceilings.get(REFERENCE_ROW, {}))
    rate_columns = [f"{m}{suffix}" for m in metrics for suffix in ("", "/low", "/high", "/trials")]
    rows = [_flat_fields(point) for point in by_size(points)]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, *rate_columns])
        for point, row in zip(by_size(points), rows, strict=True):
            writer.writerow([row.get(name, "") for name in columns] + _rate_cells(point.rates, metrics))
        for name, rates in ceilings.items():
            cells = [name if column == "label" else "" for column in columns]
            writer.writerow(cells + _rate_cells(rates, metrics))


def _flat_fields(point: Point) -> dict[str, Any]:
    """Every field that is a number or a word; dictionaries of such as name/key."""
    found: dict[str, Any] = {}
    for field in fields(point):
        value = getattr(point, field.name)
        if field.name in SERIES:
            continue
        if isinstance(value, dict):
            found |= {f"{field.name}/{key}": entry for key, entry in value.items()}
        else:
            found[field.name] = value
    return found


def _rate_cells(rates: Mapping[str, Rate], metrics: Sequence[str]) -> list:
    cells: list = []
    for metric in metrics:
        rate = rates.get(metric)
        cells += ["", "", "", ""] if rate is None else [rate.value, *rate.interval, rate.trials]
    return cells


def _done(points: Sequence[Point]) -> list[Point]:
    return [p for p in points if p.status == "done"]


def _markdown(header: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    left = (0, len(header) - 1)

    def line(cells: list[str]) -> str:
        padded = (
            c.ljust(w) if i in left else c.rjust(w)
            for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * w if i in left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return [line(header), line(rule), *map(line, rows)]

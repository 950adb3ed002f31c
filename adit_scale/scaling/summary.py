"""A study's results in brief: a table of key numbers, the same for a tracking store, and a description."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from adit_scale.scaling.fit import ScalingFit
from adit_scale.scaling.headline import Outlook
from adit_scale.scaling.report_tables import SYMBOLS, estimates, held_out_error, held_out_runs
from adit_scale.scaling.results import Estimate, Interval, SurfaceFit
from adit_scale.scaling.study_data import Point
from adit_scale.scaling.study_fit import StudyFit
from adit_scale.scaling.table import loss_text
from adit_scale.scaling.table_formats import Cell, Column, Table, text

# Prefixes of the metrics on a study's run in the tracking store.
SIZE, SURFACE, ISOFLOP, OUTLOOK = "law", "surface", "isoflop", "ten_times_compute"
COLUMNS = (Column("quantity"), Column("value"), Column("interval (95%)", "interval"), Column("remark"))


def key_numbers(study: StudyFit, ahead: Outlook | None, total_points: int) -> Table:
    """What a reader looks for first."""
    rows: list[list[Cell]] = [["points done", n_done(study.points), None, f"of {total_points}"]]
    if (best := best_point(study.points)) is not None:
        rows.append(["lowest final loss", best.final_loss, None, best.label])
    if ahead is not None:
        remark = f"C_total {ahead.flops:.3g} to ten times that"
        rows.append(["change of loss for ten times the compute", _percent(ahead.change.value),
                     _percent_interval(ahead.change), remark])  # fmt: skip
    for name, fit in _laws(study):
        rows += [_law_row(name, quantity, e) for quantity, e in estimates(fit).items() if quantity != "A"]
        rows += [_held_out_row(name, fit)] if held_out_runs(fit) else []
    exponent = study.isoflop.n_exponent if study.isoflop else None
    if exponent is not None:
        rows.append(["IsoFLOP: a of N_opt ~ C^a", exponent.value, exponent.interval, ""])
    if study.seed_noise is not None:
        sigma = study.seed_noise.sigma
        remark = f"{study.seed_noise.dof} degrees of freedom"
        rows.append(["seed noise: standard deviation of log loss", sigma.value, sigma.interval, remark])
    hours = sum(p.gpu_hours for p in study.points if not math.isnan(p.gpu_hours))
    if hours:
        rows.append(["device hours used", hours, None, ""])
    return Table("key_numbers", "Key numbers", COLUMNS, rows)


def headline_metrics(study: StudyFit, ahead: Outlook | None, total_points: int) -> dict[str, float]:
    """Numbers for the study's run in a tracking store; nothing for what was not fitted."""
    metrics = {"points_done": float(n_done(study.points)), "points_total": float(total_points)}
    if (best := best_point(study.points)) is not None:
        metrics["best_loss"] = best.final_loss
    for prefix, fit in ((SIZE, study.size_law), (SURFACE, study.surface)):
        if fit is None:
            continue
        for quantity, estimate in estimates(fit).items():
            metrics |= _with_bounds(f"{prefix}/{quantity}", estimate)
        if (error := held_out_error(fit)) is not None:
            metrics[f"{prefix}/held_out_error"] = error
    if study.size_law is not None:
        metrics[f"{SIZE}/rms_log_residual"] = study.size_law.fit.rms_log_residual
    if study.surface is not None:
        metrics[f"{SURFACE}/rms_log_residual"] = study.surface.rms_log_residual
    for name in ("n_exponent", "d_exponent"):
        found = getattr(study.isoflop, name, None)
        if found is not None:
            metrics |= _with_bounds(f"{ISOFLOP}/{name}", found)
    if ahead is not None:
        metrics |= _with_bounds(f"{OUTLOOK}/loss", ahead.loss_ten)
        metrics |= _with_bounds(f"{OUTLOOK}/change", ahead.change)
    if study.seed_noise is not None:
        metrics |= _with_bounds("seed_noise/sigma_log_loss", study.seed_noise.sigma)
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def description(headline: str, hypothesis: str, numbers: Table, warnings: Sequence[str]) -> str:
    """Markdown for the study's run in a tracking store; the mirror adds links to the report's files."""
    rows = [[text(cell, c) for cell, c in zip(row, numbers.columns, strict=True)] for row in numbers.rows]
    header = [c.name for c in numbers.columns]
    lines = [_row(header), _row(["---"] * len(header)), *map(_row, rows)]
    parts = [f"**{_escape(headline)}**"]
    if hypothesis:
        parts.append(f"Hypothesis: {_escape(hypothesis)}")
    parts.append("\n".join(lines))
    if warnings:
        parts.append("\n".join(f"- {_escape(warning)}" for warning in warnings))
    return "\n\n".join(parts) + "\n"


def n_done(points: Sequence[Point]) -> int:
    return sum(p.status == "done" for p in points)


def best_point(points: Sequence[Point]) -> Point | None:
    done = [p for p in points if p.status == "done" and math.isfinite(p.final_loss)]
    return min(done, key=lambda p: p.final_loss, default=None)


def _laws(study: StudyFit) -> Iterator[tuple[str, ScalingFit | SurfaceFit]]:
    if study.size_law is not None:
        yield "L(N)", study.size_law
    if study.surface is not None:
        yield "L(N, D)", study.surface


def _law_row(law: str, quantity: str, estimate: Estimate) -> list[Cell]:
    if quantity == "E" and estimate.value == 0 and estimate.interval is None:
        return [f"{law}: E", "0 (fixed)", None, "cannot be told from 0 on this range"]
    remark = "" if estimate.identified else "not identified"
    return [f"{law}: {SYMBOLS.get(quantity, quantity)}", estimate.value, estimate.interval, remark]


def _held_out_row(law: str, fit: ScalingFit | SurfaceFit) -> list[Cell]:
    """The worst of the held-out predictions."""
    worst = max(held_out_runs(fit), key=lambda h: abs(h.error))
    place = (
        "" if worst.inside is None else ", inside its interval" if worst.inside else ", OUTSIDE its interval"
    )
    remark = (
        f"{worst.size}: measured {loss_text(worst.measured)}, predicted {loss_text(worst.predicted)}{place}"
    )
    return [f"{law}: error of the largest size, held out", _percent(worst.error), None, remark]


def _with_bounds(name: str, estimate: Estimate) -> dict[str, float]:
    found = {name: estimate.value}
    if estimate.interval is not None:
        found |= {f"{name}_low": estimate.interval.low, f"{name}_high": estimate.interval.high}
    return found


def _percent(share: float) -> str:
    return f"{100 * share:+.2f}%"


def _percent_interval(estimate: Estimate) -> Cell:
    interval: Interval | None = estimate.interval
    return None if interval is None else f"[{_percent(interval.low)}, {_percent(interval.high)}]"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_escape(cell).replace("|", "\\|") for cell in cells) + " |"


def _escape(words: str) -> str:
    """Text that Markdown shows as it stands."""
    for character in "\\`*_<>[]#~":
        words = words.replace(character, f"\\{character}")
    return words.replace("\n", " ")

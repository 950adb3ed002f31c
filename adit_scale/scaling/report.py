"""The report of a study: one HTML file that needs no network, with PNG, CSV, JSON and text beside it."""

# ruff: noqa: RUF001 (Greek letters and true minus signs in text for readers)

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from adit_scale.errors import DataError
from adit_scale.evaluation.statistics import WITHIN_NOISE
from adit_scale.scaling import interactive
from adit_scale.scaling.config import SweepConfig
from adit_scale.scaling.exclusions import select_points
from adit_scale.scaling.fit import Interval, LawFit, ScalingFit, fit_points
from adit_scale.scaling.plots import law_text, write_pngs
from adit_scale.scaling.study_data import Point, json_safe, save_points
from adit_scale.scaling.table import (
    REFERENCE_ROW,
    TABLE_RATES,
    Ceilings,
    by_size,
    loss_text,
    parameters,
    rate_text,
    render_table,
    trend_text,
    write_csv,
)
from adit_scale.scaling.trends import Trend, metric_names, rate_trends

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#222;max-width:1180px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.7rem;margin-bottom:.2rem} h2{font-size:1.2rem;margin-top:2.2rem} .headline{font-size:1.15rem}
table{border-collapse:collapse;font-size:.86rem;font-variant-numeric:tabular-nums} .wide{overflow-x:auto}
th,td{padding:.3rem .6rem;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left} tr.reference td{font-weight:600;border-top:2px solid #888}
tr.bad td{color:#888} li{margin:.2rem 0} .quiet{color:#666}
.warning{background:#fff4e0;border-left:4px solid #e69f00;padding:.3rem .8rem;margin:.4rem 0}
"""


@dataclass(frozen=True)
class ReportResult:
    """What ``write_report`` wrote. fit: None where too few sizes have a loss; ``headline`` then says so."""

    html: Path
    pngs: list[Path]
    csv: Path
    fit_json: Path
    table: Path
    points_json: Path
    fit: ScalingFit | None
    trends: dict[str, Trend]
    headline: str
    table_text: str

    @property
    def files(self) -> list[Path]:
        return [self.html, *self.pngs, self.csv, self.fit_json, self.table, self.points_json]


def write_report(
    points: Sequence[Point],
    ceilings: Ceilings,
    config: SweepConfig,
    out: Path,
    total_points: int,
    *,
    seed_noise: float | None = None,
    pictures: Mapping[str, Path] | None = None,
) -> ReportResult:
    """Fit, draw and write report.html, three PNG, points.csv, points.json, fit.json, table.txt into ``out``.

    ceilings: rows of rates to set the points against (table.py); the figures show the real data's.
    pictures: by title, further PNG files to show in the page.
    total_points: points the study was to have; the title line says how many of them are there. With fewer
    than three usable sizes everything but the law is written. Raises DataError when there is no point at all.
    """
    if not points:
        raise DataError(
            f"study {config.name}: no points to report; expected at least one finished diffusion run"
        )
    out.mkdir(parents=True, exist_ok=True)
    reference_scores = ceilings.get(REFERENCE_ROW, {})
    fit, no_fit = _try_fit(points, config, seed_noise)
    done = [p for p in points if p.status == "done"]
    metrics = metric_names(points, reference_scores)
    # Uniqueness falls with the number of valid samples, which itself changes with size.
    trends = rate_trends(done, [m for m in metrics if not m.endswith("uniqueness")])
    headline = _headline(fit, no_fit, trends, done)
    table_text = render_table(points, ceilings)
    result = ReportResult(
        html=out / "report.html",
        pngs=write_pngs(points, fit, trends, reference_scores, metrics, out),
        csv=out / "points.csv",
        fit_json=out / "fit.json",
        table=out / "table.txt",
        points_json=out / "points.json",
        fit=fit,
        trends=trends,
        headline=headline,
        table_text=table_text,
    )
    write_csv(points, ceilings, result.csv)
    save_points(points, result.points_json)
    result.table.write_text(f"{headline}\n\n{table_text}")
    record = {"points_done": len(done), "points_total": total_points, "headline": headline, "no_fit": no_fit}
    record |= fit.to_json() if fit else {}
    record["trends"] = {name: vars(t) | {"verdict": t.verdict} for name, t in trends.items()}
    result.fit_json.write_text(json.dumps(json_safe(record), indent=1, allow_nan=False) + "\n")
    page = _html(points, ceilings, config, result, metrics, total_points, no_fit, pictures or {})
    result.html.write_text(page)
    return result


def _try_fit(
    points: Sequence[Point], config: SweepConfig, seed_noise: float | None
) -> tuple[ScalingFit | None, str]:
    """The fit, or the line that says why there is none: a report of two sizes is still a report."""
    try:
        fit = fit_points(
            points,
            bootstrap=config.bootstrap,
            hold_out_largest=config.hold_out_largest,
            seed_noise=seed_noise,
        )
    except DataError as error:
        return None, str(error)
    return fit, ""


def _headline(fit: ScalingFit | None, no_fit: str, trends: Mapping[str, Trend], done: Sequence[Point]) -> str:
    """One sentence that a reader may quote."""
    parts = [f"no scaling law: {no_fit.split(';')[0]}" if fit is None else _law_sentence(fit)]
    for label, name in TABLE_RATES.items():
        trend = trends.get(name)
        if trend is None:
            continue
        if trend.verdict == WITHIN_NOISE:
            parts.append(f"{label} changes with size by no more than noise")
            continue
        scored = [p for p in by_size(done) if name in p.rates and p.rates[name].trials]
        first, last = (100 * _pooled(scored, name, p.n_parameters) for p in (scored[0], scored[-1]))
        parts.append(f"{label} {trend.verdict} ({first:.0f}% at the smallest, {last:.0f}% at the largest)")
    sentence = "; ".join(parts)
    return sentence[0].upper() + sentence[1:] + "."


def _law_sentence(fit: ScalingFit) -> str:
    sizes = sorted(p.n_parameters for p in fit.used)
    span = f"from {parameters(sizes[0])} to {parameters(sizes[-1])} parameters"
    interval = fit.fit.exponent
    if interval is not None and interval.high < 0:
        return f"final loss rises with size {span} ({law_text(fit)})"
    if interval is not None and interval.low <= 0:
        return f"final loss does not change with size beyond the noise {span} ({law_text(fit)})"
    condition = "" if fit.identifiable else " (E not identifiable, taken as 0)"
    return f"final loss follows {law_text(fit)}, {span}{condition}"


def _pooled(points: Sequence[Point], name: str, n_parameters: int) -> float:
    """The rate over all runs of one size."""
    rates = [p.rates[name] for p in points if p.n_parameters == n_parameters]
    return sum(r.successes for r in rates) / sum(r.trials for r in rates)


def _html(
    points: Sequence[Point],
    ceilings: Ceilings,
    config: SweepConfig,
    result: ReportResult,
    metrics: Sequence[str],
    total_points: int,
    no_fit: str,
    pictures: Mapping[str, Path],
) -> str:
    n_done = sum(p.status == "done" for p in points)
    done = [p for p in points if p.status == "done"]
    figures = {
        "Loss against compute": interactive.loss_vs_compute(points),
        "Final loss against size": interactive.loss_vs_size(points, result.fit),
        "Validity against size": interactive.validity(
            done, result.trends, ceilings.get(REFERENCE_ROW, {}), metrics
        ),
    }
    plots = ""
    for i, (title, figure) in enumerate(figures.items()):
        # The plotting library goes in once, in full: the file must open without a network.
        body = figure.to_html(
            full_html=False, include_plotlyjs=i == 0, config={"displaylogo": False, "responsive": True}
        )
        plots += f"<h2>{title}</h2>\n{body}\n"
    for title, path in pictures.items():
        source = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
        plots += (
            f'<h2>{escape(title)}</h2>\n<img style="max-width:100%" alt="{escape(title)}" src="{source}">\n'
        )
    hypothesis = f"<p>Hypothesis: {escape(config.hypothesis)}</p>" if config.hypothesis else ""
    return "\n".join(
        [
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
            f"<title>{escape(config.name)}</title>",
            f"<style>{STYLE}</style></head><body>",
            f"<h1>Scaling study: {escape(config.name)}</h1>",
            f'<p class="quiet">{n_done} of {total_points} points done</p>',
            f'<p class="headline">{escape(result.headline)}</p>{hypothesis}',
            plots,
            "<h2>Points</h2>",
            _points_table(points, ceilings, metrics),
            "<h2>Scaling law</h2>",
            _fit_section(result.fit, no_fit),
            "<h2>Rates and size</h2>",
            _list([trend_text(t) for t in result.trends.values()], "No rate was measured at two sizes."),
            "<h2>Left out of the fit</h2>",
            _list(
                [f"{e.label}: {e.reason}" for e in select_points(points).excluded], "No point was left out."
            ),
            "<h2>Methods</h2>",
            _list(_methods(config, result.fit), ""),
            "</body></html>\n",
        ]
    )


def _points_table(points: Sequence[Point], ceilings: Ceilings, metrics: Sequence[str]) -> str:
    header = ["point", "parameters", "in matrices", "atoms", "sets", "epochs", "C (FLOPs)", "C_total (FLOPs)",
              "final loss", *(m.replace("_", " ") for m in metrics), "status"]  # fmt: skip
    rows = []
    for p in by_size(points):
        counts = [parameters(p.n_parameters), parameters(p.n_matrix_parameters), f"{p.atoms_seen:.3g}"]
        rates = [rate_text(p.rates.get(m)) for m in metrics]
        cells = [p.label, *counts,
                 f"{p.sets_seen:.3g}", f"{p.epochs:.3g}", f"{p.flops:.3g}", f"{p.flops_total:.3g}",
                 loss_text(p.final_loss), *rates, p.status]  # fmt: skip
        rows.append(_row(cells, "" if p.status == "done" else "bad"))
    for row, of in ceilings.items():
        rows.append(_row([row, *[""] * 8, *(rate_text(of.get(m)) for m in metrics), ""], "reference"))
    head = "".join(f"<th>{escape(h)}</th>" for h in header)
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _row(cells: Sequence[str], css_class: str) -> str:
    return f'<tr class="{css_class}">' + "".join(f"<td>{escape(c)}</td>" for c in cells) + "</tr>"


def _fit_section(fit: ScalingFit | None, no_fit: str) -> str:
    if fit is None:
        return f'<p class="warning">{escape(no_fit)}</p>'
    laws = [("quoted", fit.fit)]
    if fit.with_offset is not None and fit.with_offset is not fit.fit:
        laws.append(("with E free (not identifiable)", fit.with_offset))
    head = "".join(f"<th>{h}</th>" for h in ("law", "E", "A", "α", "RMS of log residual"))
    rows = "".join(_row(_law_cells(name, law), "") for name, law in laws)
    lines = [f"Intervals hold {fit.fit.noise.holds}."]
    if fit.held_out is not None:
        held = fit.held_out
        lines.append(
            f"Held out: {held.size} ({parameters(held.n_parameters)}) measured {loss_text(held.measured)}, "
            f"predicted {loss_text(held.predicted)}{_bracket(held.interval)} from the smaller sizes: "
            f"error {100 * held.error:+.2f}%."
        )
    if fit.forecast is not None:
        ahead = fit.forecast
        lines.append(
            f"Next size: {parameters(ahead.n_parameters)} on the same data is expected at "
            f"{loss_text(ahead.loss)}{_bracket(ahead.interval)}, for {ahead.flops_total:.3g} FLOPs (C_total)."
        )
    warnings = "".join(f'<p class="warning">{escape(w)}</p>' for w in fit.warnings)
    return f"<table><tr>{head}</tr>{rows}</table>{warnings}{_list(lines, '')}"


def _law_cells(name: str, law: LawFit) -> list[str]:
    offset = f"{law.law.offset:.4g}{_bracket(law.offset)}" if law.form == "offset" else "0 (fixed)"
    return [
        name,
        offset,
        f"{law.law.scale:.4g}{_bracket(law.scale)}",
        f"{law.law.exponent:.4g}{_bracket(law.exponent)}",
        f"{law.rms_log_residual:.2g}",
    ]


def _bracket(interval: Interval | None) -> str:
    return " (no interval)" if interval is None else f" [{interval.low:.4g}, {interval.high:.4g}]"


def _methods(config: SweepConfig, fit: ScalingFit | None) -> list[str]:
    """What moves an exponent, spelled out, so that two studies can be compared."""
    lines = [
        "N: trainable parameters of the denoiser; parameters in matrices (12·d²·depth) beside it.",
        "D: real atoms seen, repeats included.",
        "C: 3 × the forward over real atoms, embeddings and heads included, plus self-conditioning's share "
        "of one forward; padding and recomputation left out. C_total adds the frozen encoder's forward.",
        "L: validation loss of the EMA weights on a fixed grid of (t, noise), at each run's end.",
        "Rates: over all samples drawn, with Wilson intervals; trends by logistic regression on log10 N, "
        "widened where runs scatter by more than their samples.",
        "The envelope of minima is drawn, never fitted: learning rates had not decayed along it.",
    ]
    if fit is not None:
        lines += [
            f"Objective: sum of Huber(log L_fit − log L) with δ = {fit.delta:g}; starts by non-negative "
            "least squares over a grid of α, refined with analytic derivatives.",
            f"Runs in the fit: {len(fit.used)}, of {len({p.n_parameters for p in fit.used})} sizes; "
            f"left out by name: {len(fit.excluded)}.",
            f"Intervals: {round(100 * fit.fit.confidence)}%, {config.bootstrap} resamples, seed {fit.seed}.",
        ]
    return lines


def _list(lines: Sequence[str], empty: str) -> str:
    if not lines:
        return f"<p>{escape(empty)}</p>"
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"

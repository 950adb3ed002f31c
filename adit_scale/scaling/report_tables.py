"""The tables of a study's report: what was fitted, how well it predicts, and what it rests on."""

# ruff: noqa: RUF001 (Greek letters and true minus signs in text for readers)

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from adit_scale.evaluation.statistics import Rate
from adit_scale.scaling.fit import ScalingFit
from adit_scale.scaling.results import Estimate, HeldOut, Interval, SurfaceFit
from adit_scale.scaling.size_law import LawFit
from adit_scale.scaling.study_data import Point
from adit_scale.scaling.study_fit import StudyFit
from adit_scale.scaling.table import Ceilings, by_size
from adit_scale.scaling.table_formats import Cell, Column, Table

SYMBOLS = {"alpha": "α", "beta": "β", "n_exponent": "a of N_opt ~ C^a", "d_exponent": "b of D_opt ~ C^b",
           "r_star": "R* (epochs)"}  # fmt: skip
INTERVAL, BOOTSTRAP = Column("interval (95%)", "interval"), Column("by resampled runs", "bootstrap")
N = Column("N (parameters)", "n_parameters", count=True)
D = Column("D (atoms)", "atoms_seen")


def exponents(study: StudyFit) -> Table:
    """Every fitted quantity with its intervals; the held-out error is that of its law."""
    columns = [Column("law"), Column("quantity"), Column("estimate"), INTERVAL, BOOTSTRAP,
               Column("identified"), Column("held-out error", "held_out_error", percent=True),
               Column("runs")]  # fmt: skip
    rows: list[list[Cell]] = []
    for law, fit in _laws(study):
        error = held_out_error(fit)
        n_runs = len(fit.used)
        for name, estimate in estimates(fit).items():
            rows.append([law, *_estimate_cells(name, estimate), error, n_runs])
        for other, beside in _not_quoted(fit):
            for name, estimate in beside.items():
                rows.append([f"{law}, {other}", *_estimate_cells(name, estimate), None, n_runs])
    if study.isoflop is not None:
        n_runs = sum(sum(p.in_window) for p in study.isoflop.parabolas)
        for name in ("n_exponent", "d_exponent"):
            estimate = getattr(study.isoflop, name)
            if estimate is not None:
                rows.append(["IsoFLOP", *_estimate_cells(name, estimate), None, n_runs])
    note = "Not identified: the data cannot tell the quantity from a bound of its range. "
    return Table("exponents", "Fitted laws", columns, rows, note + _noise_text(study))


def held_out(study: StudyFit) -> Table:
    """Predictions of runs that the law did not see."""
    columns = [Column("left out"), Column("size"), N, D, Column("law"), Column("measured loss", "measured"),
               Column("predicted", "predicted"), INTERVAL, Column("error", percent=True),
               Column("inside")]  # fmt: skip
    rows: list[list[Cell]] = []
    for law, fit in _laws(study):
        rows += [["largest size, " + law, *_held_out_cells(h)] for h in held_out_runs(fit)]
    rows += [["one size in turn", *_held_out_cells(h)] for h in study.leave_one_out]
    note = "The interval is that of the measurement: the law's error and the noise of runs together."
    return Table("held_out", "Held out and predicted", columns, rows, note)


def sensitivity(study: StudyFit) -> Table:
    columns = [Column("choice"), Column("setting"), Column("runs", "n_used"), Column("α", "alpha"),
               Column("β", "beta"), Column("E", "offset"),
               Column("held-out error", "held_out_error", percent=True), Column("note")]  # fmt: skip
    rows: list[list[Cell]] = [
        [r.what, r.setting, r.n_used, r.alpha, r.beta, r.offset, r.held_out_error, r.note]
        for r in study.sensitivity
    ]
    note = "The law again with one choice changed: how far the exponents depend on how they were got."
    return Table("sensitivity", "Sensitivity", columns, rows, note)


def optima(study: StudyFit) -> Table:
    """One row a compute budget of the IsoFLOP fit."""
    columns = [Column("C (FLOPs)", "flops"), Column("N at the minimum", "n_optimum", count=True),
               Column("interval of N", "n_optimum_interval", count=True),
               Column("D at the minimum (atoms)", "d_optimum"), Column("loss there", "loss_optimum"),
               Column("runs in the window", "n_used"), Column("note")]  # fmt: skip
    rows: list[list[Cell]] = []
    for p in study.isoflop.parabolas if study.isoflop else ():
        n, d, loss = p.n_optimum, p.d_optimum, p.loss_optimum
        rows.append([p.flops, _value(n), n.interval if n else None, _value(d), _value(loss),
                     sum(p.in_window), p.note])  # fmt: skip
    window = study.isoflop.window_text if study.isoflop else ""
    return Table("optima", "Compute-optimal sizes", columns, rows, window)


def transfer(study: StudyFit) -> Table:
    columns = [Column("domain"), Column("size"), N, Column("equal", "match"), Column("joint loss"),
               Column("single-domain loss"), Column("Δ log L (joint − single)", "delta"), INTERVAL,
               Column("verdict"), Column("compute multiplier", "multiplier"),
               Column("its interval", "multiplier_interval")]  # fmt: skip
    rows: list[list[Cell]] = [
        [t.domain, t.size, t.n_parameters, t.match, t.joint_loss, t.single_loss, t.delta.value,
         t.delta.interval, t.verdict, _value(t.multiplier), t.multiplier.interval if t.multiplier else None]
        for t in study.transfer
    ]  # fmt: skip
    note = (
        "Below 0 joint training helps. Multiplier: how many times the single-domain run's compute joint "
        "training needs for the same loss."
    )
    return Table("transfer", "Joint against single-domain training", columns, rows, note)


def basins(study: StudyFit) -> Table:
    columns = [Column("size"), N, Column("rates tried", "rates"), Column("best rate", "optimum"), INTERVAL,
               Column("best is at the edge", "at_edge"), Column("rate of the study", "used"),
               Column("excess log loss there", "excess")]  # fmt: skip
    rows: list[list[Cell]] = [
        [b.size, b.n_parameters, ", ".join(f"{lr:.3g}" for lr in b.lr), _value(b.optimum),
         b.optimum.interval if b.optimum else None, b.at_edge, b.used, b.excess]
        for b in study.basins
    ]  # fmt: skip
    return Table("learning_rates", "Learning rates", columns, rows)


def rates_and_size(study: StudyFit) -> Table:
    """Whether a rate changes with size (logit slope), and how it hangs on the loss."""
    columns = [Column("rate"), Column("verdict"), Column("logit per tenfold N", "slope"), INTERVAL,
               Column("loss at half its ceiling", "midpoint"), Column("its interval", "midpoint_interval"),
               Column("points", "n_points")]  # fmt: skip
    rows: list[list[Cell]] = []
    for name, trend in study.trends.items():
        link = study.links.get(name)
        middle = link.midpoint if link else None
        rows.append([name, trend.verdict, trend.slope, Interval(trend.low, trend.high), _value(middle),
                     middle.interval if middle else None, trend.n_points])  # fmt: skip
    return Table("rates", "Rates and size", columns, rows)


def points(points: Sequence[Point], ceilings: Ceilings, metrics: Sequence[str]) -> Table:
    """What a reader compares; all fields stand in points.csv."""
    columns = [Column("point", "label"), N, Column("in matrices", "n_matrix_parameters", count=True), D,
               Column("epochs"), Column("C (FLOPs)", "flops"), Column("C_total (FLOPs)", "flops_total"),
               Column("learning rate", "lr"), Column("final loss", "final_loss"),
               *(Column(m.replace("_", " "), m) for m in metrics),
               Column("status"), Column("note")]  # fmt: skip
    ordered = by_size(points)
    rows: list[list[Cell]] = [
        [p.label, p.n_parameters, p.n_matrix_parameters, p.atoms_seen, p.epochs, p.flops, p.flops_total,
         p.lr, _loss(p.final_loss), *(p.rates.get(m) for m in metrics), p.status, p.note]
        for p in ordered
    ]  # fmt: skip
    quiet = [i for i, p in enumerate(ordered) if p.status != "done"]
    for row, of in ceilings.items():
        rows.append([row, *[None] * 8, *_rates(of, metrics), "", ""])
    return Table("points", "Points", columns, rows, quiet=quiet)


def left_out(study: StudyFit) -> Table:
    rows: list[list[Cell]] = [[e.label, e.reason] for e in study.selection.excluded]
    return Table("left_out", "Left out of the fit", [Column("point"), Column("reason")], rows)


def all_tables(study: StudyFit, ceilings: Ceilings, metrics: Sequence[str]) -> list[Table]:
    """In the order of the page; those without rows are left out."""
    found = [exponents(study), held_out(study), sensitivity(study), optima(study), transfer(study),
             basins(study), rates_and_size(study), points(study.points, ceilings, metrics),
             left_out(study)]  # fmt: skip
    return [table for table in found if table.rows]


def estimates(fit: ScalingFit | SurfaceFit) -> Mapping[str, Estimate]:
    """Fitted quantities of a law by name."""
    if isinstance(fit, SurfaceFit):
        return fit.estimates
    return law_estimates(fit.fit)


def law_estimates(law: LawFit) -> dict[str, Estimate]:
    """E, A and alpha; E is 0 and nothing more where the law has none."""
    fixed = Estimate(0.0, identified=False)
    return {name: law.estimates.get(name, fixed) for name in ("E", "A", "alpha")}


def held_out_runs(fit: ScalingFit | SurfaceFit) -> Sequence[HeldOut]:
    if isinstance(fit, SurfaceFit):
        return fit.held_out
    return () if fit.held_out is None else (fit.held_out,)


def held_out_error(fit: ScalingFit | SurfaceFit) -> float | None:
    """The largest error of prediction of the held-out runs, by size and with its sign."""
    return max((h.error for h in held_out_runs(fit)), key=abs, default=None)


def _laws(study: StudyFit) -> Iterator[tuple[str, ScalingFit | SurfaceFit]]:
    if study.size_law is not None:
        yield "L(N)", study.size_law
    if study.surface is not None:
        yield "L(N, D)", study.surface
    for domain, fit in study.domains.items():
        yield f"{domain}: {'L(N, D)' if isinstance(fit, SurfaceFit) else 'L(N)'}", fit


def _not_quoted(fit: ScalingFit | SurfaceFit) -> Iterator[tuple[str, Mapping[str, Estimate]]]:
    """The forms of L(N) that stand beside the quoted one."""
    if isinstance(fit, SurfaceFit):
        return
    for name, law in (("E free (not quoted)", fit.with_offset), ("E fixed at 0 (not quoted)", fit.power)):
        if law is not None and law is not fit.fit:
            yield name, law_estimates(law)


def _noise_text(study: StudyFit) -> str:
    parts = []
    if study.size_law is not None:
        parts.append(f"Intervals of L(N) hold {study.size_law.fit.noise.holds}.")
    if study.surface is not None:
        parts.append(f"Intervals of L(N, D) hold {study.surface.noise_text}.")
    return " ".join(parts)


def _estimate_cells(name: str, estimate: Estimate) -> list[Cell]:
    return [SYMBOLS.get(name, name), estimate.value, estimate.interval, estimate.bootstrap,
            estimate.identified]  # fmt: skip


def _held_out_cells(h: HeldOut) -> list[Cell]:
    return [h.size, h.n_parameters, h.atoms_seen or None, h.form, h.measured, h.predicted, h.interval,
            h.error, h.inside]  # fmt: skip


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value


def _loss(loss: float) -> Cell:
    """A loss that is not a number says so: an empty cell would hide a diverged run."""
    return "nan" if math.isnan(loss) else loss


def _rates(of: Mapping[str, Rate], metrics: Sequence[str]) -> list[Cell]:
    return [of.get(m) for m in metrics]

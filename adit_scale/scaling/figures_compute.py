"""Figures against compute: the loss along runs, and at equal compute the best size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from adit_scale.scaling.chart_layout import number_text
from adit_scale.scaling.charts import BLACK, GREY, Axis, Chart, Item, Line, Marks, Panel
from adit_scale.scaling.figures_style import (
    COMPUTE,
    LEFT_OUT,
    LOSS,
    LOSS_LABEL,
    PALE,
    PLASMA,
    SIZE,
    comparable,
    describe,
    ends,
    fitted_labels,
    grid,
    interval_text,
    line,
    positive,
    shade,
    shape,
    spread,
    trained,
)
from adit_scale.scaling.results import Array, Estimate, Parabola, WindowRow
from adit_scale.scaling.study_data import Point
from adit_scale.scaling.table import Ceilings, parameters

if TYPE_CHECKING:
    from adit_scale.scaling.study_fit import StudyFit

# The first part of a run is steep and says nothing of laws: the frame of the curves leaves it out.
FRAME_FROM = 0.03


Drawn = Sequence[tuple[Point, Array, Array]]  # a run with FLOPs and losses of its curve


def curves(fit: StudyFit, ceilings: Ceilings) -> Chart | None:
    """Validation loss of every run along its compute; the ends alone, with the envelope of the finished."""
    runs = sorted(trained(comparable(fit)), key=lambda p: (-p.n_parameters, p.atoms_seen))
    drawn = [(p, *_finite_curve(p)) for p in runs]
    drawn = [(p, x, y) for p, x, y in drawn if len(x)]
    if not drawn:
        return None
    fitted = fitted_labels(fit)
    panels = [_along_runs(drawn, fitted, _envelope(fit))]
    finished = [d for d in drawn if d[0].status == "done"]
    if finished:
        items = [*_envelope(fit), *_ends(finished, fitted)]
        last = Axis("final " + LOSS_LABEL, log=True)
        panels.append(Panel(COMPUTE, last, items, "finished runs alone"))
    caption = (
        "Left: every training run, colour by parameters N; dotted: not finished; the first part of the runs "
        "lies outside the frame. Right: where the finished runs ended. Learning rates decay only at each "
        "run's end, so that ends alone compare: the envelope joins the finished runs below which no other "
        "lies. It is a guide to the eye: no law is fitted to it."
    )
    return Chart("loss_vs_compute", "Loss against training compute", panels, caption)


def _envelope(fit: StudyFit) -> list[Item]:
    hull = sorted(fit.envelope, key=lambda e: e.flops)
    x, y = [e.flops for e in hull], [e.loss for e in hull]
    return [Line(x, y, "envelope of finished runs", PALE, width=6)] if hull else []


def _along_runs(drawn: Drawn, fitted: set[str], under: list[Item]) -> Panel:
    sizes = [p.n_parameters for p, _, _ in drawn]
    items = list(under)
    for p, x, y in sorted(drawn, key=lambda d: d[0].label in fitted):
        sound, kept = p.status == "done", p.label in fitted
        colour = shade(p.n_parameters, sizes) if kept or not sound else PALE
        items.append(line(x, y, "", colour, "solid" if sound else "dot", 1.1))
    items += _ends(drawn, fitted)
    tops = [float(np.max(y[x >= FRAME_FROM * x[-1]])) for _, x, y in drawn]
    lows = [float(np.min(y)) for _, _, y in drawn]
    frame = Axis(LOSS_LABEL, log=True, low=min(lows) / 1.03, high=max(tops) * 1.03)
    first = Axis(COMPUTE.label, log=True, low=FRAME_FROM * min(x[-1] for _, x, _ in drawn) / 1.5)
    return Panel(first, frame, items, "along the runs")


def _ends(drawn: Drawn, fitted: set[str]) -> list[Item]:
    """Marks where runs end: pale and open where left out of the fit, a cross where not finished."""
    sizes = sorted({p.n_parameters for p, _, _ in drawn})
    out = [d for d in drawn if d[0].status == "done" and d[0].label not in fitted]
    items = [_end_marks(out, LEFT_OUT, PALE, "circle", False)] if out else []
    for n in sizes:
        kept = [d for d in drawn if d[0].n_parameters == n and d[0].label in fitted]
        if kept:
            items.append(_end_marks(kept, parameters(n), shade(n, sizes), shape(n, sizes), True))
    running = [d for d in drawn if d[0].status != "done"]
    return [*items, _end_marks(running, "not finished", GREY, "cross", True)] if running else [*items]


def _end_marks(drawn: Drawn, name: str, colour: str, mark: str, filled: bool) -> Item:
    x, y = [float(d[1][-1]) for d in drawn], [float(d[2][-1]) for d in drawn]
    text = [describe(d[0]) for d in drawn]
    return Marks(x, y, name, text=text, colour=colour, shape=mark, filled=filled)


def _finite_curve(p: Point) -> tuple[Array, Array]:
    flops, loss = np.array(p.curve.flops_cum, dtype=float), np.array(p.curve.loss, dtype=float)
    keep = np.isfinite(loss) & (loss > 0) & (flops > 0)
    return flops[keep], loss[keep]


def isoflop(fit: StudyFit, ceilings: Ceilings) -> Chart | None:
    """Loss against N at each budget with its parabola, and the optima against compute."""
    found = fit.isoflop
    if found is None or not found.parabolas:
        return None
    budgets = [p.flops for p in found.parabolas]
    items = [item for p in found.parabolas for item in _parabola(p, budgets)]
    panels = [Panel(SIZE, LOSS, items, "loss at equal compute")]
    having = [p for p in found.parabolas if p.n_optimum is not None]
    notes = [f"C = {number_text(p.flops, 2)} FLOPs: {p.note}" for p in found.parabolas if p.note]
    notes += found.warnings
    for what, label, exponent, scale in (
        ("N", "optimal N (parameters)", found.n_exponent, found.n_scale),
        ("D", "optimal D (atoms seen)", found.d_exponent, found.d_scale),
    ):
        optima = [(p, o) for p in having if (o := p.n_optimum if what == "N" else p.d_optimum) is not None]
        if optima:
            panels.append(_optima(what, label, exponent, scale, optima, budgets))
        if exponent is not None:
            power = f"{what}_{{opt}} ∝ C^{{{exponent.value:.3g}}}"
            notes.append(f"{power}, 95% interval {interval_text(exponent.interval)}")
    if len(found.windows) > 1 and having:
        panels.append(_windows(budgets, found.windows))
    caption = (
        "First: runs of one compute budget; filled points lie in the window of the parabola "
        f"({found.window_text}), open ones do not. Diamonds: its minimum, with the 95% interval of the best "
        "N as a bar. Then: optima against compute, with 95% intervals and, over two or more budgets, a power "
        "law; and the best N again with other windows, which a parabola should not depend on."
    )
    if found.noise_text:
        caption += f" Intervals hold {found.noise_text}."
    return Chart("isoflop", "IsoFLOP profiles", panels, caption, notes=notes)


def _parabola(p: Parabola, budgets: Sequence[float]) -> list[Item]:
    colour, mark = shade(p.flops, budgets, PLASMA), shape(p.flops, budgets)
    name = f"{number_text(p.flops, 2)} FLOPs"
    items: list[Item] = []
    for inside in (True, False):
        chosen = [i for i, kept in enumerate(p.in_window) if kept == inside]
        if chosen:
            n, loss = [p.n[i] for i in chosen], [p.loss[i] for i in chosen]
            text = [p.labels[i] for i in chosen]
            items.append(Marks(n, loss, name, text=text, colour=colour, shape=mark, filled=inside))
    if p.coefficients is not None:
        curve = grid([n for n, kept in zip(p.n, p.in_window, strict=True) if kept], beyond=1.05)
        c0, c1, c2 = p.coefficients
        log_n = np.log10(curve)
        items.append(line(curve, np.exp(c0 + c1 * log_n + c2 * log_n**2), colour=colour))
    if p.n_optimum is not None and p.loss_optimum is not None:
        lowest, interval = p.loss_optimum.value, p.n_optimum.interval
        if interval is not None:
            items.append(Line([interval.low, interval.high], [lowest, lowest], colour=BLACK, width=3))
        text = [f"best N = {parameters(p.n_optimum.value)}, {name}"]
        x, y = [p.n_optimum.value], [lowest]
        items.append(Marks(x, y, "minimum and interval", text=text, colour=BLACK, shape="diamond"))
    return items


def _optima(
    what: str,
    label: str,
    exponent: Estimate | None,
    scale: float,
    optima: Sequence[tuple[Parabola, Estimate]],
    budgets: Sequence[float],
) -> Panel:
    items: list[Item] = []
    if exponent is not None and positive(scale):
        x = grid([p.flops for p, _ in optima])
        items.append(line(x, scale * x**exponent.value, dash="dash"))
    for p, optimum in optima:
        low, high = ends([optimum])
        colour, mark = shade(p.flops, budgets, PLASMA), shape(p.flops, budgets)
        items.append(Marks([p.flops], [optimum.value], "", low, high, colour=colour, shape=mark))
    title = f"{what}_{{opt}} against C"
    return Panel(COMPUTE, Axis(label, log=True), items, title)


def _windows(budgets: Sequence[float], rows: Sequence[WindowRow]) -> Panel:
    """The best N of each budget by window."""
    items: list[Item] = []
    for i, row in enumerate(rows):
        x, y = [c * spread(i, len(rows), 0.1) for c in budgets], list(row.n_optima)
        mark = ("triangle", "diamond", "square", "circle")[i % 4]
        items.append(Marks(x, y, row.setting, colour=GREY, shape=mark, filled=False))
    return Panel(COMPUTE, Axis("optimal N (parameters)", log=True), items, "best N with other windows")

"""Figures of the runs themselves: learning rates, epochs, seeds, speed, what they cost."""

# ruff: noqa: RUF001 (Greek letters and true minus signs in text for readers)

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from adit_scale.scaling.charts import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    SHAPES,
    VERMILION,
    Axis,
    Band,
    Bars,
    Chart,
    Item,
    Line,
    Marks,
    Panel,
    Rule,
)
from adit_scale.scaling.figures_rates import MAIN, ceiling_rules, full_name, share_axis
from adit_scale.scaling.figures_style import (
    LOSS,
    LOSS_LABEL,
    SIZE,
    comparable,
    describe,
    ends,
    fitted_labels,
    interval_text,
    positive,
    shade,
    shape,
    trained,
)
from adit_scale.scaling.results import Basin, Estimate
from adit_scale.scaling.seeds import pooled_sigma
from adit_scale.scaling.study_data import Point
from adit_scale.scaling.table import Ceilings, parameters

if TYPE_CHECKING:
    from adit_scale.scaling.study_fit import StudyFit

RATE = Axis("peak learning rate", log=True)
EPOCHS = Axis("epochs (passes over the training data)", log=True)


def basins(fit: StudyFit, ceilings: Ceilings) -> Chart | None:
    """Final loss against learning rate by size, and the best rate against size."""
    if not fit.basins:
        return None
    sizes = sorted({b.n_parameters for b in fit.basins})
    items = [item for b in sorted(fit.basins, key=lambda b: b.n_parameters) for item in _basin(b, sizes)]
    panels = [Panel(RATE, LOSS, items, "final loss by learning rate")]
    found = [b for b in fit.basins if b.optimum is not None]
    if found:
        optima: list[Item] = []
        used = [b for b in fit.basins if positive(b.used)]
        for b in found:
            low, high = ends([b.optimum])
            value = b.optimum.value if b.optimum else math.nan
            colour, mark = shade(b.n_parameters, sizes), shape(b.n_parameters, sizes)
            optima.append(Marks([b.n_parameters], [value], "", low, high, colour=colour, shape=mark))
        if used:
            x, y = [float(b.n_parameters) for b in used], [b.used for b in used]
            optima.append(Marks([1.08 * n for n in x], y, USED, colour=BLACK, shape="cross"))
        panels.append(Panel(SIZE, Axis("best peak learning rate", log=True), optima, "best rate by size"))
    notes = [_basin_text(b) for b in fit.basins]
    caption = (
        "Left: runs that differ in learning rate alone; open: the lowest tried where it is at the edge of "
        "the rates tried, so that the best may lie beyond. Right: minimum of a parabola in log rate around "
        "the lowest, with its 95% interval; crosses: the rate that the study's other runs used."
    )
    return Chart("learning_rates", "Learning rates", panels, caption, notes=notes)


USED = "used by the study's other runs"


def _basin(b: Basin, sizes: Sequence[float]) -> list[Item]:
    colour, mark, name = (
        shade(b.n_parameters, sizes),
        shape(b.n_parameters, sizes),
        parameters(b.n_parameters),
    )
    order = np.argsort(b.lr)
    x, y = [float(b.lr[i]) for i in order], [float(b.loss[i]) for i in order]
    items: list[Item] = [Line(x, y, "", colour, width=1.0)]
    lowest = int(np.nanargmin(y)) if any(map(math.isfinite, y)) else -1
    edge = [i for i in range(len(x)) if b.at_edge and i == lowest]
    inner = [i for i in range(len(x)) if i not in edge]
    text = [f"{name}: rate {rate:g}, L = {loss:.4g}" for rate, loss in zip(x, y, strict=True)]
    for chosen, filled in ((inner, True), (edge, False)):
        if chosen:
            some = [text[i] for i in chosen]
            at = [x[i] for i in chosen], [y[i] for i in chosen]
            items.append(Marks(*at, name, text=some, colour=colour, shape=mark, filled=filled))
    return items


def _basin_text(b: Basin) -> str:
    text = f"{parameters(b.n_parameters)}: "
    if b.optimum is None:
        text += b.note or "no optimum"
    else:
        text += f"best rate {b.optimum.value:.2g} {interval_text(b.optimum.interval, 2)}"
    if positive(b.used):
        text += f", used {b.used:.2g}"
    if math.isfinite(b.excess):
        text += f", whose loss is {100 * b.excess:.2f}% above the best"
    lost = [f"{rate:g}" for rate, loss in zip(b.lr, b.loss, strict=True) if not math.isfinite(loss)]
    return text + (f"; diverged at {', '.join(lost)}" if lost else "")


def epochs(fit: StudyFit, ceilings: Ceilings) -> Chart | None:
    """Loss, gap of training and validation, and rates scored while training, against epochs."""
    runs = [p for p in trained(comparable(fit)) if p.curve.loss and positive(p.epochs)]
    fitted = fitted_labels(fit)
    runs = [p for p in runs if p.label in fitted or not fitted]
    if not runs:
        return None
    runs.sort(key=lambda p: (p.n_parameters, p.atoms_seen))
    sizes = sorted({p.n_parameters for p in runs})
    alone = _longest(runs)
    loss = Axis(LOSS_LABEL, log=True, high=_top(alone))
    panels = [Panel(EPOCHS, loss, _epoch_curves(alone, sizes), "loss, the longest run of each size")]
    gaps = [p for p in runs if positive(p.train_loss) and positive(p.final_loss)]
    if gaps:
        panels.append(Panel(EPOCHS, GAP, _gaps(gaps, sizes), "gap at the end of every run"))
    logged = {m for p in runs for m in p.training_rates}
    for metric in [m for m in MAIN if m in logged] or sorted(logged)[: len(MAIN)]:
        some = _longest([p for p in runs if p.training_rates.get(metric)])
        items = [*ceiling_rules(metric, ceilings, GREY), *_training_rates(some, metric, sizes)]
        panels.append(Panel(EPOCHS, share_axis("share of samples while training"), items, full_name(metric)))
    caption = (
        "Runs of the fit against epochs, colour by parameters N. Gap: log of validation over training loss "
        "of the last interval; training losses are means over random times and raw weights, so its level "
        "says little, its rise with epochs says overfitting. Rates of samples drawn while training, with "
        "Wilson intervals as bands where they were logged; dashed: the real data after the autoencoder, "
        "dotted: the real data."
    )
    return Chart("epochs", "Epochs, and training against validation", panels, caption)


def _longest(runs: Sequence[Point]) -> list[Point]:
    """One run a size, small ones first: that of the most data, and of those the first seed."""
    by_size = {p.n_parameters: p for p in sorted(runs, key=lambda p: (p.atoms_seen, -p.seed))}
    return [by_size[n] for n in sorted(by_size)]


GAP = Axis("ln(validation / training loss)", percent=True)


def _epochs_at(p: Point, atoms: Sequence[float]) -> list[float]:
    return [p.epochs * a / p.atoms_seen if p.atoms_seen else math.nan for a in atoms]


def _curve_epochs(p: Point) -> list[float]:
    """Epochs of a run's validations: by atoms seen, or by steps where a record has no atoms."""
    if p.curve.atoms:
        return _epochs_at(p, p.curve.atoms)
    last = p.curve.steps[-1] or 1
    return [p.epochs * step / last for step in p.curve.steps]


def _epoch_curves(runs: Sequence[Point], sizes: Sequence[float]) -> list[Item]:
    return [
        Line(
            _curve_epochs(p),
            p.curve.loss,
            parameters(p.n_parameters),
            shade(p.n_parameters, sizes),
            width=1.3,
        )
        for p in runs
    ]


def _top(runs: Sequence[Point]) -> float | None:
    """The first steps are far above all that follows: the frame begins at a thirtieth of each run."""
    tops = []
    for p in runs:
        at = _curve_epochs(p)
        tops += [
            loss for e, loss in zip(at, p.curve.loss, strict=True) if e >= at[-1] / 30 and positive(loss)
        ]
    return 1.03 * max(tops) if tops else None


def _gaps(runs: Sequence[Point], sizes: Sequence[float]) -> list[Item]:
    items: list[Item] = [Rule(0.0, "y", colour=GREY, dash="solid")]
    for n in sizes:
        chosen = [p for p in runs if p.n_parameters == n]
        y = [math.log(p.final_loss / p.train_loss) for p in chosen]
        text = [f"{describe(p)}, training loss {p.train_loss:.4g}" for p in chosen]
        colour, mark = shade(n, sizes), shape(n, sizes)
        items.append(
            Marks([p.epochs for p in chosen], y, parameters(n), text=text, colour=colour, shape=mark)
        )
    return items


def _training_rates(runs: Sequence[Point], metric: str, sizes: Sequence[float]) -> list[Item]:
    items: list[Item] = []
    for p in runs:
        if rows := p.training_rates.get(metric):
            x = _epochs_at(p, [row[0] for row in rows])
            y, low, high = ([row[i] for row in rows] for i in (1, 2, 3))
            colour, name = shade(p.n_parameters, sizes), parameters(p.n_parameters)
            mark = shape(p.n_parameters, sizes)
            items += [Band(x, low, high, "", colour), Line(x, y, "", colour, width=1.0)]
            items.append(Marks(x, y, name, text=[p.label] * len(x), colour=colour, shape=mark))
    return items


def seeds(fit: StudyFit, ceilings: Ceilings) -> Chart | None:
    """Losses of runs that differ in seed alone, about their mean, and their spread by size."""
    noise = fit.seed_noise
    if noise is None or not noise.by_size:
        return None
    sizes = sorted({n for _, n, _ in noise.by_size})
    sigma = noise.sigma
    apart: list[Item] = [
        Rule(0.0, "y", colour=GREY, dash="solid"),
        Rule(2 * sigma.value, "y", "+2σ"),
        Rule(-2 * sigma.value, "y", "−2σ"),
    ]
    spreads: list[Item] = [Rule(sigma.value, "y", "all sizes", BLACK)]
    if sigma.interval is not None:
        ends_at = [min(sizes) / 1.3, max(sizes) * 1.3]
        low, high = [sigma.interval.low] * 2, [sigma.interval.high] * 2
        spreads.insert(0, Band(ends_at, low, high, "95% interval, all sizes"))
    for size, n, losses in noise.by_size:
        logs = np.log(np.asarray(losses, dtype=float))
        colour, mark = shade(n, sizes), shape(n, sizes)
        text = [f"{size}: L = {loss:.4g}" for loss in losses]
        y = (logs - logs.mean()).tolist()
        apart.append(Marks([n] * len(y), y, "", text=text, colour=colour, shape=mark))
        found = pooled_sigma([logs.tolist()])
        if found is not None:
            bounds = ends([found[0]])
            text = [f"{size}: {len(losses)} runs"]
            spreads.append(Marks([n], [found[0].value], "", *bounds, text, colour, mark))
    panels = [
        Panel(SIZE, Axis("ln L − mean of the size", percent=True), apart, "runs about their mean"),
        Panel(SIZE, Axis("standard deviation of ln L", percent=True, log=True), spreads, "spread by size"),
    ]
    notes = [
        f"σ = {100 * sigma.value:.2g}% of ln L {_percent_interval(sigma)}, {noise.dof} degrees of "
        f"freedom: single runs that differ by less than {100 * 2.77 * sigma.value:.2g}% differ within noise"
    ]
    caption = (
        "Runs that differ in seed alone. Left: log loss about the mean of its size (and amount of data). "
        "Right: standard deviation by size with 95% intervals (chi square), and pooled over sizes."
    )
    return Chart("seeds", "Noise between seeds", panels, caption, notes=notes)


def _percent_interval(sigma: Estimate) -> str:
    if sigma.interval is None:
        return interval_text(None)
    return f"[{100 * sigma.interval.low:.2g}%, {100 * sigma.interval.high:.2g}%]"


def throughput(fit: StudyFit, ceilings: Ceilings) -> Chart | None:
    """Atoms a second and model FLOPs utilisation against size, by hardware."""
    runs = [p for p in trained(fit.points) if positive(p.atoms_per_s)]
    if not runs:
        return None
    speed = Axis("throughput (atoms / s)", log=True)
    panels = [Panel(SIZE, speed, _by_hardware(runs, lambda p: p.atoms_per_s, _speed_text), "throughput")]
    if any(positive(p.mfu) for p in runs):
        share = Axis("model FLOPs utilisation (MFU)", percent=True, low=0.0)
        panels.append(Panel(SIZE, share, _by_hardware(runs, lambda p: p.mfu, _speed_text), "utilisation"))
    caption = (
        "Median speed of each run, real atoms alone, over all its ranks. MFU: training FLOPs C over wall "
        "time and the peak of the hardware."
    )
    return Chart("throughput", "Throughput and utilisation", panels, caption)


def _speed_text(p: Point) -> str:
    return f"{p.label}: {p.atoms_per_s:.4g} atoms/s, MFU {100 * p.mfu:.3g}%"


def _hours_text(p: Point) -> str:
    return f"{p.label}: {p.gpu_hours:.3g} device hours"


def _by_hardware(
    runs: Sequence[Point], value: Callable[[Point], float], describe_run: Callable[[Point], str]
) -> list[Item]:
    hardware = sorted({p.devices or "unknown" for p in runs})
    items: list[Item] = []
    for i, name in enumerate(hardware):
        chosen = [p for p in runs if (p.devices or "unknown") == name and positive(value(p))]
        if chosen:
            x, y = [float(p.n_parameters) for p in chosen], [value(p) for p in chosen]
            text = [describe_run(p) for p in chosen]
            colour, mark = (BLUE, VERMILION, ORANGE, BLACK)[i % 4], SHAPES[i % len(SHAPES)]
            items.append(Marks(x, y, name, text=text, colour=colour, shape=mark, filled=False))
    return items


def cost(fit: StudyFit, ceilings: Ceilings) -> Chart | None:
    """Device hours by size and hardware, used against planned, and restarts by size."""
    runs = [p for p in trained(fit.points) if positive(p.gpu_hours)]
    if not runs:
        return None
    sizes = sorted({p.n_parameters for p in runs})
    hours = Axis("device hours of a run", log=True)
    panels = [Panel(SIZE, hours, _by_hardware(runs, lambda p: p.gpu_hours, _hours_text), "hours by size")]
    planned = [p for p in runs if positive(p.planned_gpu_hours)]
    if planned:
        first, used = Axis("GPU-hours planned", log=True), Axis("GPU-hours used", log=True)
        panels.append(Panel(first, used, _used(planned, sizes), "used against planned"))
    restarts = [sum(p.restarts for p in runs if p.n_parameters == n) for n in sizes]
    if any(restarts):
        axis = Axis("denoiser parameters N", categories=[parameters(n) for n in sizes])
        text = [f"{sum(p.n_parameters == n for p in runs)} runs" for n in sizes]
        bars = Bars(
            [float(i) for i in range(len(sizes))], [float(r) for r in restarts], text=text, colour=ORANGE
        )
        panels.append(Panel(axis, Axis("restarts", low=0.0), [bars], "restarts, all runs of a size"))
    total = f"{sum(p.gpu_hours for p in runs):.3g} device hours used by {len(runs)} runs"
    if planned:
        total += (
            f"; on the GPU of the plan: {sum(p.gpu_hours for p in planned):.3g} used of "
            f"{sum(p.planned_gpu_hours for p in planned):.3g} planned"
        )
    notes = [total, f"{sum(restarts)} restarts in all"]
    caption = (
        "Hours of every run over all its attempts: ranks times wall time, of GPUs or of processor ranks as "
        "the hardware says. Runs on the GPU of the study's budget stand against the plan by C_total: above "
        "the dashed line a run cost more than planned."
    )
    return Chart("cost", "Device hours planned and used, restarts", panels, caption, notes=notes)


def _used(planned: Sequence[Point], sizes: Sequence[float]) -> list[Item]:
    both = [h for p in planned for h in (p.planned_gpu_hours, p.gpu_hours)]
    ends_at = [min(both) / 1.2, max(both) * 1.2]
    items: list[Item] = [Line(ends_at, ends_at, "as planned", GREY, "dash")]
    for n in sizes:
        chosen = [p for p in planned if p.n_parameters == n]
        if chosen:
            x, y = [p.planned_gpu_hours for p in chosen], [p.gpu_hours for p in chosen]
            text = [
                f"{p.label}: {p.gpu_hours:.3g} of {p.planned_gpu_hours:.3g} planned, {p.restarts} restarts"
                for p in chosen
            ]
            colour, mark = shade(n, sizes), shape(n, sizes)
            items.append(Marks(x, y, parameters(n), text=text, colour=colour, shape=mark))
    return items

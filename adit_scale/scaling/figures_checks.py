"""Figures that test the law: sizes it had not seen, and what it leaves over."""

# ruff: noqa: RUF001 (Greek letters and true minus signs in text for readers)

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from adit_scale.scaling.charts import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    VERMILION,
    Axis,
    Chart,
    Item,
    Line,
    Marks,
    Panel,
    Rule,
)
from adit_scale.scaling.figures_style import (
    DATA,
    SIZE,
    comparable,
    data_of,
    describe,
    interval_text,
    percent,
    shade,
    shape,
    size_of,
    spread,
    with_loss,
)
from adit_scale.scaling.results import HeldOut
from adit_scale.scaling.study_data import Point
from adit_scale.scaling.table import Ceilings, parameters

if TYPE_CHECKING:
    from adit_scale.scaling.study_fit import StudyFit


RELATIVE = Axis("measured / predicted loss − 1", percent=True)
RESIDUAL = Axis("log residual, ln(L / L_{fit})", percent=True)


def held_out(fit: StudyFit, ceilings: Ceilings) -> Chart | None:
    """Measured over predicted loss of sizes that the law had not seen."""
    by_size = list(fit.leave_one_out)
    if not by_size and fit.size_law is not None and fit.size_law.held_out is not None:
        by_size = [fit.size_law.held_out]
    panels = []
    if by_size:
        panels.append(Panel(SIZE, RELATIVE, _predictions(by_size, size_of), "each size left out"))
    largest = list(fit.surface.held_out) if fit.surface is not None else []
    if largest:
        title = f"the largest size ({largest[0].size}), by data"
        panels.append(Panel(DATA, RELATIVE, _predictions(largest, data_of), title))
    if not panels:
        return None
    judged = [h for h in (*by_size, *largest) if h.inside is not None]
    inside = sum(bool(h.inside) for h in judged)
    notes = [f"{inside} of {len(judged)} measurements lie inside their interval"] if judged else []
    notes += _errors(by_size, largest)
    caption = (
        "0 is the law's prediction; bars are the 95% interval of such a measurement (the law's error and the "
        "noise of runs together), points what was measured: above 0 the loss is worse than predicted. Left: "
        "each size predicted from all others, by each law; right, where D varies: the largest from the "
        "smaller ones."
    )
    return Chart("held_out", "Held-out sizes: predicted and measured", panels, caption, notes=notes)


def _errors(by_size: Sequence[HeldOut], largest: Sequence[HeldOut]) -> list[str]:
    """How far predictions of the largest size were off."""
    tops = largest or [h for h in by_size if h.n_parameters == max(h.n_parameters for h in by_size)]
    errors = sorted(h.error for h in tops)
    span = (
        percent(errors[0], 2) if len(errors) == 1 else f"{percent(errors[0], 2)} to {percent(errors[-1], 2)}"
    )
    return [f"{tops[0].size} ({parameters(tops[0].n_parameters)}): predicted / measured − 1 is {span}"]


def _predictions(held: Sequence[HeldOut], x: Callable[[Any], float]) -> list[Item]:
    """By each form of the law, the two set apart where both predict a size."""
    forms = [f for f in PREDICTORS if any((h.form in SURFACE_FORMS) == f[0] for h in held)]
    items: list[Item] = [Rule(0.0, "y", colour=GREY, dash="solid")]
    for i, (surface, name, colour, mark) in enumerate(forms):
        chosen = sorted((h for h in held if (h.form in SURFACE_FORMS) == surface), key=x)
        at = [x(h) * spread(i, len(forms), 0.16) for h in chosen]
        low = [h.interval.low / h.predicted - 1 if h.interval else math.nan for h in chosen]
        high = [h.interval.high / h.predicted - 1 if h.interval else math.nan for h in chosen]
        items.append(Marks(at, [0.0] * len(at), name, low, high, colour=colour, shape=mark, filled=False))
        items += _measured(chosen, at)
    return items


SURFACE_FORMS = ("surface", "repeats")
PREDICTORS = (
    (False, "predicted by L(N), 95%", BLUE, "diamond"),
    (True, "predicted by L(N, D), 95%", GREEN, "square"),
)


def _measured(held: Sequence[HeldOut], x: Sequence[float]) -> list[Item]:
    items: list[Item] = []
    for name, colour, mark, wanted in (
        ("measured", BLACK, "circle", (True, None)),
        ("measured, outside the interval", VERMILION, "triangle", (False,)),
    ):
        chosen = [(h, at) for h, at in zip(held, x, strict=True) if h.inside in wanted]
        if chosen:
            y = [h.measured / h.predicted - 1 for h, _ in chosen]
            text = [
                f"{h.size} ({parameters(h.n_parameters)}): measured {h.measured:.4g}, "
                f"predicted {h.predicted:.4g} {interval_text(h.interval, 4)}, error {percent(h.error)}"
                for h, _ in chosen
            ]
            items.append(Marks([at for _, at in chosen], y, name, text=text, colour=colour, shape=mark))
    return items


def residuals(fit: StudyFit, ceilings: Ceilings) -> Chart | None:
    """Log residuals of the law against N, D and the fitted loss, beside the noise of one run."""
    runs = with_loss(comparable(fit))
    left, sigma = _residuals(fit, runs)
    kept = [p for p in runs if p.label in left]
    if not kept:
        return None
    fitted = {p.label: p.final_loss / math.exp(left[p.label]) for p in kept}
    panels = [Panel(SIZE, RESIDUAL, _leftovers(kept, left, size_of, sigma), "against parameters")]
    if len({p.atoms_seen for p in kept}) > 1 and fit.surface is not None:
        items = _leftovers(kept, left, data_of, sigma)
        panels.append(Panel(DATA, RESIDUAL, items, "against data"))
    items = _leftovers(kept, left, lambda p: fitted[p.label], sigma)
    panels.append(Panel(Axis("fitted loss", log=True), RESIDUAL, items, "against the fitted loss"))
    panels.append(_quantiles(kept, left))
    caption = "Natural log of measured over fitted loss, colour and shape by parameters N."
    if math.isfinite(sigma):
        caption += (
            f" Dashed: ±2σ of one run, σ = {100 * sigma:.2g}%, as the fit estimated it. A curve or a "
            "slope here would say that the law's form is wrong."
        )
    caption += " Last: residuals in order against those of a normal distribution of the same spread."
    return Chart("residuals", "Residuals of the law", panels, caption)


def _residuals(fit: StudyFit, runs: Sequence[Point]) -> tuple[dict[str, float], float]:
    """By label, log L - log fitted, and the standard deviation of one run's noise; of L(N, D) where it was
    fitted, else of L(N)."""
    if fit.surface is not None:
        return dict(fit.surface.residuals), fit.surface.sigma
    if fit.size_law is None:
        return {}, math.nan
    found = fit.size_law.fit
    left = {
        p.label: math.log(p.final_loss / float(found.law(p.n_parameters)))
        for p in fit.size_law.used
        if p in runs
    }
    return left, found.noise.sigma


def _leftovers(
    kept: Sequence[Point], left: Mapping[str, float], x: Callable[[Any], float], sigma: float
) -> list[Item]:
    items: list[Item] = [Rule(0.0, "y", colour=GREY, dash="solid")]
    if math.isfinite(sigma):
        items += [Rule(2 * sigma, "y", "+2σ"), Rule(-2 * sigma, "y", "−2σ")]
    sizes = sorted({p.n_parameters for p in kept})
    for n in sizes:
        chosen = [p for p in kept if p.n_parameters == n]
        text = [f"{describe(p)}, residual {percent(left[p.label], 2)}" for p in chosen]
        items.append(
            Marks([x(p) for p in chosen], [left[p.label] for p in chosen], parameters(n), text=text,
                  colour=shade(n, sizes), shape=shape(n, sizes))
        )  # fmt: skip
    return items


def _quantiles(kept: Sequence[Point], left: Mapping[str, float]) -> Panel:
    """Ordered residuals against normal quantiles (Blom's positions), with the line of equality."""
    ordered = sorted(kept, key=lambda p: left[p.label])
    y = [left[p.label] for p in ordered]
    scale = math.sqrt(sum(v * v for v in y) / len(y))
    normal = NormalDist()
    x = [scale * normal.inv_cdf((i + 0.625) / (len(y) + 0.25)) for i in range(len(y))]
    sizes = sorted({p.n_parameters for p in kept})
    items: list[Item] = [Line([x[0], x[-1]], [x[0], x[-1]], "", GREY, "dash", 1.2)]
    for n in sizes:
        chosen = [i for i, p in enumerate(ordered) if p.n_parameters == n]
        text = [describe(ordered[i]) for i in chosen]
        at = [x[i] for i in chosen], [y[i] for i in chosen]
        items.append(Marks(*at, parameters(n), text=text, colour=shade(n, sizes), shape=shape(n, sizes)))
    return Panel(Axis("normal quantile", percent=True), RESIDUAL, items, "against a normal distribution")

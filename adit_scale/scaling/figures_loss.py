"""Figure of the final losses against N and D, with the law and its band."""

# ruff: noqa: RUF001 (Greek letters and true minus signs in text for readers)

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from adit_scale.scaling.chart_layout import number_text
from adit_scale.scaling.charts import BLACK, BLUE, GREY, Axis, Chart, Item, Marks, Panel
from adit_scale.scaling.figures_style import (
    DATA,
    LEFT_OUT,
    LOSS,
    PALE,
    PLASMA,
    SIZE,
    Key,
    band,
    comparable,
    data_levels,
    data_of,
    ends,
    fitted_labels,
    grid,
    interval_text,
    law_curve,
    levels,
    line,
    loss_marks,
    near,
    positive,
    shade,
    shape,
    size_of,
    with_loss,
)
from adit_scale.scaling.results import Array, Estimate, SurfaceFit
from adit_scale.scaling.study_data import Point
from adit_scale.scaling.table import Ceilings, parameters

if TYPE_CHECKING:
    from adit_scale.scaling.fit import ScalingFit
    from adit_scale.scaling.study_fit import StudyFit

OTHER_DATA = "other amounts of data"


def law(fit: StudyFit, ceilings: Ceilings) -> Chart | None:
    """Final losses with the law and its band: against N, and against D where it varies."""
    runs = with_loss(comparable(fit))
    if not runs:
        return None
    fitted = fitted_labels(fit)
    kept = [p for p in runs if p.label in fitted] or runs
    labels = {p.label for p in kept}
    out = [p for p in runs if p.label not in labels]
    panels, notes = [_against_n(fit, kept, out)], []
    if len({p.atoms_seen for p in kept}) > 1 and fit.surface is not None:
        panels.append(_against_d(fit.surface, kept, out))
    if fit.surface is not None:
        notes.append(surface_text(fit.surface))
    if fit.size_law is not None:
        notes.append(size_law_text(fit.size_law))
    holds = fit.surface.noise_text if fit.surface else fit.size_law.fit.noise.holds if fit.size_law else ""
    caption = "Final losses of the runs in the fit; crosses were left out, by name in the list of the report."
    if holds:
        caption += f" Bands: 95% interval of the law (not of one more run); it holds {holds}."
    return Chart("loss_vs_size_and_data", "Loss against size and data", panels, caption, notes=notes)


def _against_n(fit: StudyFit, kept: Sequence[Point], out: Sequence[Point]) -> Panel:
    items: list[Item] = []
    frame = _loss_frame(kept, fit.size_law)
    if fit.surface is not None:
        items += _left_out(out, size_of)
        amounts = data_levels(kept)
        x = grid(p.n_parameters for p in kept)
        for d in amounts:
            colour = shade(d, amounts, PLASMA)
            items += _law_lines(law_curve(fit.surface, x, d, kept), x, colour)
        rest = [p for p in kept if not any(near(p.atoms_seen, d) for d in amounts)]
        if rest:
            items.append(loss_marks(rest, size_of, OTHER_DATA, GREY, "circle", filled=False))
        for d in amounts:
            chosen = [p for p in kept if near(p.atoms_seen, d)]
            name = f"D = {parameters(d)} atoms"
            items.append(loss_marks(chosen, size_of, name, shade(d, amounts, PLASMA), shape(d, amounts)))
        return Panel(SIZE, frame, items, "against parameters")
    amounts = levels(p.atoms_seen for p in kept)
    elsewhere = [p for p in out if not any(near(p.atoms_seen, d) for d in amounts)]
    if elsewhere:
        items.append(loss_marks(elsewhere, size_of, OTHER_DATA, PALE, "circle", filled=False))
    items += _left_out([p for p in out if p not in elsewhere], size_of)
    if fit.size_law is not None:
        reach = [fit.size_law.forecast.n_parameters] if fit.size_law.forecast else []
        n = grid([*(p.n_parameters for p in kept), *reach])
        items += _law_lines(law_curve(fit.size_law, n, 0.0, kept), n, BLUE, "law with its 95% band")
    name = f"runs at D = {parameters(amounts[0])} atoms" if len(amounts) == 1 else "runs"
    items.append(loss_marks(kept, size_of, name, BLACK, "circle", filled=False))
    items += _forecast(fit.size_law)
    return Panel(SIZE, frame, items, "against parameters")


def _left_out(out: Sequence[Point], x: Key) -> list[Item]:
    return [loss_marks(out, x, LEFT_OUT, GREY, "cross")] if out else []


def _against_d(surface: SurfaceFit, kept: Sequence[Point], out: Sequence[Point]) -> Panel:
    items = _left_out(out, data_of)
    sizes = sorted({p.n_parameters for p in kept})
    x = grid(p.atoms_seen for p in kept)
    for n in sizes:
        items += _law_lines(law_curve(surface, np.full_like(x, n), x, kept), x, shade(n, sizes))
    for n in sizes:
        chosen = [p for p in kept if p.n_parameters == n]
        items.append(loss_marks(chosen, data_of, f"N = {parameters(n)}", shade(n, sizes), shape(n, sizes)))
    return Panel(DATA, _loss_frame(kept), items, "against data")


def _law_lines(
    curve: tuple[Array, Array | None, Array | None], x: Array, colour: str, name: str = ""
) -> list[Item]:
    value, low, high = curve
    return [*band(x, low, high, colour), line(x, value, name, colour)]


def _forecast(size_law: ScalingFit | None) -> list[Item]:
    if size_law is None or size_law.forecast is None:
        return []
    ahead = size_law.forecast
    low, high = ends([Estimate(ahead.loss, ahead.interval)])
    name = f"next size: {parameters(ahead.n_parameters)}, {number_text(ahead.flops_total, 2)} FLOPs"
    return [
        Marks([ahead.n_parameters], [ahead.loss], name, low, high, colour=GREY, shape="square", filled=False)
    ]


def _loss_frame(kept: Sequence[Point], size_law: ScalingFit | None = None) -> Axis:
    """The losses of the fit and the forecast fill the frame; runs left out far above may lie outside."""
    losses = [p.final_loss for p in kept]
    if size_law is not None and size_law.forecast is not None:
        ahead = size_law.forecast
        losses.append(ahead.interval.low if ahead.interval else ahead.loss)
    losses = [loss for loss in losses if positive(loss)]
    room = max((max(losses) / min(losses)) ** 0.1, 1.01)
    return Axis(LOSS.label, log=True, low=min(losses) / room, high=max(losses) * room)


def surface_text(surface: SurfaceFit) -> str:
    """L = E + A·N^-α + B·D^-β in numbers, with the intervals of its exponents."""
    e = surface.estimates
    text = f"L = {e['E'].value:.3g} + {number_text(e['A'].value, 3)}·N^{{−{e['alpha'].value:.3g}}}"
    text += f" + {number_text(e['B'].value, 3)}·D^{{−{e['beta'].value:.3g}}}; 95% intervals"
    for name, symbol in (("alpha", "α"), ("beta", "β"), ("E", "E")):
        text += f" {symbol} {interval_text(e[name].interval)}" + (
            "" if e[name].identified else " (not identified)"
        )
    if surface.form == "repeats" and "r_star" in e:
        text += f"; D counts repeated epochs down, R* = {e['r_star'].value:.3g}"
    return text


def size_law_text(size_law: ScalingFit) -> str:
    """L(N) at one D in numbers, with the interval of its exponent."""
    found = size_law.fit
    start = f"{found.law.offset:.3g} + " if found.form == "offset" else ""
    amounts = [parameters(d) for d in levels(p.atoms_seen for p in size_law.used)]
    at = f"D = {amounts[0]} atoms" if len(amounts) == 1 else "several D"
    text = f"at {at}: L = {start}{number_text(found.law.scale, 3)}·N^{{−{found.law.exponent:.3g}}}"
    text += f"; {100 * found.confidence:.0f}% interval α {interval_text(found.exponent)}"
    return text if found.form == "offset" else f"{text} (E taken as 0)"

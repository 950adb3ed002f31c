"""Figures of the two domains: their losses and exponents, and joint training against one domain alone."""

# ruff: noqa: RUF001 (Greek letters and true minus signs in text for readers)

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from adit_scale.scaling.charts import (
    BLUE,
    GREY,
    VERMILION,
    Axis,
    Chart,
    Item,
    Marks,
    Panel,
    Rule,
)
from adit_scale.scaling.figures_style import (
    DOMAIN_NAMES,
    DOMAINS,
    SIZE,
    band,
    commonest_data,
    comparable,
    describe,
    ends,
    fitted_labels,
    grid,
    interval_text,
    law_curve,
    line,
    near,
    percent,
    positive,
    spread,
    with_loss,
)
from adit_scale.scaling.fit import ScalingFit
from adit_scale.scaling.results import Estimate, SurfaceFit, TransferPair
from adit_scale.scaling.study_data import Point
from adit_scale.scaling.table import Ceilings, parameters

if TYPE_CHECKING:
    from adit_scale.scaling.study_fit import StudyFit

MATCHES = {
    "flops": ("equal FLOPs", BLUE, "circle"),
    "samples": ("equal samples of the domain", VERMILION, "square"),
}
HELPS, HURTS = "helps", "hurts"


def domains(fit: StudyFit, ceilings: Ceilings) -> Chart | None:
    """Loss of each domain against N with its own law, and the exponents beside each other."""
    fitted = fitted_labels(fit)
    runs = [p for p in with_loss(comparable(fit)) if p.label in fitted]
    having = [p for p in runs if any(positive(v) for v in p.domain_losses.values())]
    if not having:
        return None
    amount = _amount(fit.domains.values(), having)
    items: list[Item] = []
    for domain in ("molecule", "crystal"):
        chosen = [
            p for p in having if near(p.atoms_seen, amount) and positive(p.domain_losses.get(domain, 0))
        ]
        if chosen:
            items += _domain_losses(chosen, domain, fit.domains.get(domain), amount)
    title = f"joint runs at D = {parameters(amount)} atoms"
    panels = [Panel(SIZE, Axis("final validation loss of the domain", log=True), items, title)]
    laws: dict[str, ScalingFit | SurfaceFit | None] = {"": fit.surface or fit.size_law, **fit.domains}
    estimates = {domain: exponents(law) for domain, law in laws.items() if law is not None}
    if estimates:
        panels.append(_exponents(estimates))
    notes = [
        f"{DOMAIN_NAMES[domain]}: "
        + ", ".join(f"{s} = {e.value:.3g} {interval_text(e.interval)}" for s, e in of.items())
        for domain, of in estimates.items()
    ]
    caption = (
        "Left: loss on each domain's own validation sets, with its law and the law's 95% band. Right: "
        "exponents with 95% intervals; open marks are not identified (E was taken as 0, or the data cannot "
        "tell). Exponents whose intervals overlap are not told apart by this."
    )
    return Chart("domains", "Losses and exponents by domain", panels, caption, notes=notes)


def _amount(laws: Iterable[ScalingFit | SurfaceFit], runs: Sequence[Point]) -> float:
    """D of the runs to draw, in atoms: that of a law of N alone, else the commonest."""
    of_size = [p for law in laws if isinstance(law, ScalingFit) for p in law.used]
    return commonest_data(of_size or runs)


def _domain_losses(
    chosen: Sequence[Point], domain: str, law: ScalingFit | SurfaceFit | None, amount: float
) -> list[Item]:
    colour, mark = DOMAINS[domain]
    items: list[Item] = []
    if law is not None:
        n = grid(p.n_parameters for p in chosen)
        value, low, high = law_curve(law, n, amount, chosen)
        items += [*band(n, low, high, colour), line(n, value, colour=colour)]
    x, y = [float(p.n_parameters) for p in chosen], [p.domain_losses[domain] for p in chosen]
    text = [f"{describe(p)}, {domain} loss {p.domain_losses[domain]:.4g}" for p in chosen]
    items.append(Marks(x, y, DOMAIN_NAMES[domain], text=text, colour=colour, shape=mark))
    return items


def exponents(law: ScalingFit | SurfaceFit) -> dict[str, Estimate]:
    """α of either law, and β where D was varied."""
    if isinstance(law, ScalingFit):
        return {"α": Estimate(law.fit.law.exponent, law.fit.exponent, identified=law.identifiable)}
    return {symbol: law.estimates[name] for name, symbol in (("alpha", "α"), ("beta", "β"))}


def _exponents(estimates: dict[str, dict[str, Estimate]]) -> Panel:
    symbols = [s for s in ("α", "β") if any(s in of for of in estimates.values())]
    items: list[Item] = []
    for i, (domain, of) in enumerate(estimates.items()):
        colour, mark = DOMAINS[domain]
        for identified in (True, False):
            chosen = [s for s in symbols if s in of and of[s].identified == identified]
            if chosen:
                x = [symbols.index(s) + 0.2 * (i - (len(estimates) - 1) / 2) for s in chosen]
                low, high = ends([of[s] for s in chosen])
                y = [of[s].value for s in chosen]
                name = DOMAIN_NAMES[domain]
                text = [f"{name}: {s} = {of[s].value:.3g} {interval_text(of[s].interval)}" for s in chosen]
                items.append(Marks(x, y, name, low, high, text, colour, mark, identified))
    axis = Axis("exponent", categories=[_SYMBOL_TEXT[s] for s in symbols])
    return Panel(axis, Axis("estimate, with 95% interval"), items, "exponents of the laws")


_SYMBOL_TEXT = {"α": "α (size N)", "β": "β (data D)"}


def transfer(fit: StudyFit, ceilings: Ceilings) -> Chart | None:
    """What joint training changes for each domain: difference of log loss, and multiplier of compute."""
    if not fit.transfer:
        return None
    panels = []
    for domain in ("molecule", "crystal"):
        pairs = [p for p in fit.transfer if p.domain == domain]
        if pairs:
            axis = _whole(DELTA, [p.delta for p in pairs], 0.0)
            panels.append(Panel(SIZE, axis, _deltas(pairs), f"{DOMAIN_NAMES[domain]}: joint minus alone"))
    for domain in ("molecule", "crystal"):
        pairs = [p for p in fit.transfer if p.domain == domain and p.multiplier is not None]
        if pairs:
            axis = _whole(MULTIPLIER, [p.multiplier for p in pairs], 1.0)
            panels.append(Panel(SIZE, axis, _multipliers(pairs), f"{DOMAIN_NAMES[domain]}: multiplier"))
    counts = {v: sum(p.verdict == v for p in fit.transfer) for v in {p.verdict for p in fit.transfer}}
    notes = [", ".join(f"{count} of {len(fit.transfer)} pairs: {v}" for v, count in sorted(counts.items()))]
    notes.append("at 95%, one pair in twenty leaves 0 out by chance alone")
    caption = (
        "Difference of log validation loss on one domain, joint training minus training on it alone, with "
        "95% intervals of the noise between runs: below 0 joint training helps; open marks are within noise. "
        "Multiplier: how many times the compute (or data) of the run on one domain joint training would need "
        "for its loss, by the joint law; below 1 joint training saves."
    )
    return Chart("transfer", "Joint training against one domain alone", panels, caption, notes=notes)


DELTA = Axis("Δ ln L, joint − alone", percent=True)
MULTIPLIER = Axis("compute multiplier", log=True)


def _whole(axis: Axis, estimates: Sequence[Estimate | None], rule: float) -> Axis:
    """The axis with limits that hold every interval and the rule."""
    low, high = ends(estimates)
    found = [v for v in (*low, *high, rule, *(e.value for e in estimates if e)) if math.isfinite(v)]
    if axis.log:
        found = [v for v in found if v > 0]
        room = (max(found) / min(found)) ** 0.06
        return replace(axis, low=min(found) / room, high=max(found) * room)
    room = 0.06 * (max(found) - min(found))
    return replace(axis, low=min(found) - room, high=max(found) + room)


def _deltas(pairs: Sequence[TransferPair]) -> list[Item]:
    items: list[Item] = [Rule(0.0, "y", "no difference", GREY, "solid")]
    for i, (match, (name, colour, mark)) in enumerate(MATCHES.items()):
        for certain in (True, False):
            chosen = [p for p in pairs if p.match == match and (p.verdict in (HELPS, HURTS)) == certain]
            if chosen:
                x = [p.n_parameters * spread(i, len(MATCHES), 0.12) for p in chosen]
                low, high = ends([p.delta for p in chosen])
                y = [p.delta.value for p in chosen]
                text = [_pair_text(p) for p in chosen]
                items.append(Marks(x, y, name, low, high, text, colour, mark, certain))
    return items


def _multipliers(pairs: Sequence[TransferPair]) -> list[Item]:
    items: list[Item] = [Rule(1.0, "y", "no difference", GREY, "solid")]
    for i, (match, (name, colour, mark)) in enumerate(MATCHES.items()):
        for certain in (True, False):
            found = [(p, p.multiplier) for p in pairs if p.match == match and p.multiplier is not None]
            found = [
                (p, e) for p, e in found if (e.interval is not None and 1.0 not in e.interval) == certain
            ]
            if found:
                low, high = ends([e for _, e in found])
                x = [p.n_parameters * spread(i, len(MATCHES), 0.12) for p, _ in found]
                y, text = [e.value for _, e in found], [_pair_text(p) for p, _ in found]
                items.append(Marks(x, y, name, low, high, text, colour, mark, certain))
    return items


def _pair_text(p: TransferPair) -> str:
    return (
        f"{p.size} ({parameters(p.n_parameters)}), {p.domain}s, {MATCHES.get(p.match, (p.match,))[0]}: joint "
        f"{p.joint_loss:.4g} ({p.n_joint} runs), alone {p.single_loss:.4g} ({p.n_single} runs), "
        f"{percent(p.delta.value)}, {p.verdict}"
    )

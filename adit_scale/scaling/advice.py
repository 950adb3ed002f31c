"""What to train with a budget: the least loss on a study's surface L(N, D) along C_total(N, D) = budget.

Everything here is read off the fitted law. Intervals of losses are the law's own, those of sizes, data and
differences are of its bootstrap, each resampled study with an optimum of its own. Two sizes are compared draw
by draw, so that an error they share does not blur them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from adit_scale.errors import DataError
from adit_scale.models.ladder import LADDER, denoiser_parameters
from adit_scale.scaling.advice_rates import link_rate
from adit_scale.scaling.atom_cost import AtomCost
from adit_scale.scaling.resampling import tails
from adit_scale.scaling.results import Array, Estimate, Interval, LossLaw, SurfaceFit
from adit_scale.scaling.study_data import Point
from adit_scale.scaling.study_fit import StudyFit

CONFIDENCE = 0.95
GRID_N = np.geomspace(1e3, 1e13, 700)
# Budgets searched for a wanted loss, as multiples of the study's largest run.
GRID_C = np.geomspace(1e-4, 1e8, 145)
RUNGS_EACH_SIDE = 2
# Up to so many epochs repeated data are nearly as good as new (Muennighoff et al., arXiv 2305.16264).
EPOCHS_AS_NEW = 4
FAR = 1.5  # times the range of the runs is beyond it
NUDGE = 1.02  # a step so small that it has a slope
TENFOLD = 10.0

Cost = Callable[[Array], Array]


@dataclass(frozen=True)
class Optimum:
    """The compute-optimal size and data at a budget (C_total, FLOPs). n, d: with the draws' own optima.

    loss: with the interval of the law at ``n`` and ``d``. bounded: False where the least loss is at an end of
    all sizes searched: the surface then has no optimum.
    """

    flops: float
    n: Estimate
    d: Estimate
    loss: Estimate
    bounded: bool


@dataclass(frozen=True)
class Rung:
    """A size of the ladder trained with the whole budget. excess: log loss over the best rung's.

    tied: the draws cannot tell it from the best rung; None where there are no draws. rates: by metric.
    """

    size: str
    n: float
    d: float
    epochs: float
    loss: Estimate
    excess: Estimate
    tied: bool | None
    rates: Mapping[str, Estimate]


@dataclass(frozen=True)
class Doubling:
    """What log loss gains by twice the parameters and by twice the data, from N and D.

    n_cost: how many times the compute twice the parameters take at the same D (twice the data take 2).
    verdict: which of the two gains more for its compute: parameters, data or cannot tell.
    """

    where: str
    n: float
    d: float
    by_parameters: Estimate
    by_data: Estimate
    n_cost: float
    verdict: str


@dataclass(frozen=True)
class Growth:
    """From the optimum to that of ten times the budget: factors of N and D, and what log loss changes by."""

    n: Estimate
    d: Estimate
    log_loss: Estimate


@dataclass(frozen=True)
class Advice:
    """optimum, rungs, growth, doublings: of the budget. ties: pairs of rungs the data cannot tell apart.

    epochs: of the unique data U that the optimum's D is; NaN where U is not known. within_epochs: where that
    is more than EPOCHS_AS_NEW and the law takes repeats for new data, what the budget buys with no more.
    needed: C_total for a wanted loss, None where none was wanted; its interval's high end may be inf.
    warnings: in words.
    """

    optimum: Optimum
    within_epochs: Optimum | None
    growth: Growth
    rungs: Sequence[Rung]
    ties: Sequence[tuple[str, str]]
    doublings: Sequence[Doubling]
    epochs: float
    unique_atoms: float
    rates: Mapping[str, Estimate]
    warnings: Sequence[str]
    needed: Estimate | None = None
    wanted_loss: float = math.nan


def advise(study: StudyFit, flops: float) -> Advice:
    """What to train with ``flops`` (C_total). Raises DataError where the study has no L(N, D) or no costs."""
    surface, cost = surface_of(study), AtomCost(study.costs)
    used = [p for p in study.points if p.label in set(surface.used)]
    unique = _unique_atoms(used)
    best = optimum(surface.law, cost, flops, unique)
    rungs, ties = _rungs(study, surface.law, cost, best, unique)
    largest = max(used, key=lambda p: (p.flops_total, -p.final_loss))
    places = [("at the optimum", best.n.value, best.d.value)]
    places.append((f"at {largest.label}", float(largest.n_parameters), float(largest.atoms_seen)))
    return Advice(
        optimum=best,
        within_epochs=_within_epochs(surface, cost, best, unique),
        growth=growth(surface.law, cost, flops, unique),
        rungs=rungs,
        ties=ties,
        doublings=[doubling(surface.law, cost, *place, unique) for place in places],
        epochs=best.d.value / unique if unique else math.nan,
        unique_atoms=unique or math.nan,
        rates=_rates(study, best.loss),
        warnings=_warnings(surface, best, used, unique),
    )


def with_wanted_loss(advice: Advice, study: StudyFit, loss: float) -> Advice:
    """``advice`` with the budget that ``loss`` would need."""
    return replace(advice, needed=budget_for(study, loss), wanted_loss=loss)


def surface_of(study: StudyFit) -> SurfaceFit:
    """Raises DataError naming the design that would give one."""
    if study.surface is None:
        reason = study.refusals.get("surface", "D does not vary")
        cure = "" if "sweep=" in reason else "; sweep=isoflop or sweep=chinchilla gives one"
        raise DataError(f"no L(N, D) to advise from: {reason}{cure}")
    if not study.costs:
        raise DataError("no run says what it cost; expected finished runs with FLOPs and atoms seen")
    return study.surface


def optimum(law: LossLaw, cost: Cost, flops: float, unique: float | None = None) -> Optimum:
    """The least loss along D = flops / cost(N)."""
    least, drawn = _least(law, cost, flops, unique)
    at = np.array([least.n[0]])
    d_at = flops / cost(at)
    n, d = Estimate(float(at[0])), Estimate(float(d_at[0]))
    if drawn is not None:
        identified = float(1 - drawn.inside.mean()) <= tails(CONFIDENCE)[0]
        n = Estimate(n.value, _interval(drawn.n), identified=identified)
        d = Estimate(d.value, _interval(flops / cost(drawn.n)), identified=identified)
    return Optimum(flops, n, d, _losses(law, at, d_at, unique)[0], bool(least.inside[0]))


def growth(law: LossLaw, cost: Cost, flops: float, unique: float | None = None) -> Growth:
    """What ten times ``flops`` change, each draw compared with itself."""
    (now, now_drawn), (ten, ten_drawn) = (_least(law, cost, c, unique) for c in (flops, TENFOLD * flops))

    def factors(a: _Least, b: _Least) -> tuple[Array, Array, Array]:
        return b.n / a.n, TENFOLD * cost(a.n) / cost(b.n), np.log(b.loss / a.loss)

    values = factors(now, ten)
    drawn = None if now_drawn is None or ten_drawn is None else factors(now_drawn, ten_drawn)
    return Growth(*(_estimate(v[0], None if drawn is None else drawn[i]) for i, v in enumerate(values)))


def doubling(
    law: LossLaw, cost: Cost, where: str, n: float, d: float, unique: float | None = None
) -> Doubling:
    """Twice the parameters or twice the data, compared for equal compute."""
    sizes = np.array([n, 2 * n, n, NUDGE * n, n])
    data = np.array([d, d, 2 * d, d, NUDGE * d])
    value = np.log(law(sizes, data, unique))
    drawn = law.draws(sizes, data, _repeated(unique, sizes))
    logs = None if drawn is None else np.log(drawn)
    gains = [
        _estimate(value[i] - value[0], None if logs is None else logs[:, i] - logs[:, 0]) for i in (1, 2)
    ]
    n_cost, nudge_cost = (float(cost(np.array([k * n]))[0] / cost(np.array([n]))[0]) for k in (2, NUDGE))
    verdict = "cannot tell"
    if logs is not None:
        # d log L / d log C of each at this place, and which of the two falls faster.
        by_n = (logs[:, 3] - logs[:, 0]) / math.log(nudge_cost)
        between = _interval(by_n - (logs[:, 4] - logs[:, 0]) / math.log(NUDGE))
        verdict = "parameters" if between.high < 0 else "data" if between.low > 0 else verdict
    return Doubling(where, n, d, gains[0], gains[1], n_cost, verdict)


def budget_for(study: StudyFit, loss: float) -> Estimate:
    """C_total at whose optimum the law says ``loss``; inf where no budget searched reaches it.

    The search goes up to 10^8 times the study's largest run. Raises DataError as ``advise`` does.
    """
    surface, cost = surface_of(study), AtomCost(study.costs)
    used = [p for p in study.points if p.label in set(surface.used)]
    unique = _unique_atoms(used)
    budgets = GRID_C * max(p.flops_total for p in used)
    sizes = GRID_N[::4]  # the least loss is flat in N
    least, least_draws = [], []
    for budget in budgets:
        d = budget / cost(sizes)
        least.append(surface.law(sizes, d, unique).min())
        drawn = surface.law.draws(sizes, d, _repeated(unique, sizes))
        least_draws.append(None if drawn is None else drawn.min(axis=1))
    needed = _reached(np.array(least)[None], budgets, loss)
    by_draw = [row for row in least_draws if row is not None]
    if not by_draw:
        return Estimate(float(needed[0]))
    drawn_budgets = _reached(np.stack(by_draw, axis=1), budgets, loss)
    return Estimate(float(needed[0]), _interval(drawn_budgets), identified=bool(np.isfinite(needed[0])))


def _reached(least: Array, budgets: Array, loss: float) -> Array:
    """The budgets (R,) at which falling losses (R, C) reach ``loss``, log-log; inf where none does."""
    below = least <= loss
    first = below.argmax(axis=1)
    found = np.where(below.any(axis=1), budgets[first], math.inf)
    inside = below.any(axis=1) & (first > 0)
    rows, i = np.flatnonzero(inside), first[inside]
    y0, y1 = np.log(least[rows, i - 1]), np.log(least[rows, i])
    share = (y0 - math.log(loss)) / np.maximum(y0 - y1, 1e-300)
    found[rows] = budgets[i - 1] * (budgets[i] / budgets[i - 1]) ** np.clip(share, 0, 1)
    return found


def _rungs(
    study: StudyFit, law: LossLaw, cost: Cost, best: Optimum, unique: float | None
) -> tuple[list[Rung], list[tuple[str, str]]]:
    """Rungs about the optimum, and the pairs among them that draws cannot tell apart."""
    sizes = {name: float(denoiser_parameters(shape)) for name, shape in LADDER.items()}
    names = sorted(sizes, key=lambda name: sizes[name])
    above = sum(sizes[name] < best.n.value for name in names)
    chosen = names[max(0, min(above - RUNGS_EACH_SIDE, len(names) - 2)) : above + RUNGS_EACH_SIDE]
    n = np.array([sizes[name] for name in chosen])
    d = best.flops / cost(n)
    losses = _losses(law, n, d, unique)
    drawn = law.draws(n, d, _repeated(unique, n))
    logs = None if drawn is None else np.log(drawn)
    first = int(np.argmin([loss.value for loss in losses]))

    def against(i: int, j: int) -> Estimate:
        value = math.log(losses[i].value / losses[j].value)
        return _estimate(value, None if logs is None else logs[:, i] - logs[:, j])

    rungs = []
    for i, name in enumerate(chosen):
        excess = against(i, first)
        tied = None if excess.interval is None else 0.0 in excess.interval
        epochs = float(d[i]) / unique if unique else math.nan
        rates = _rates(study, losses[i])
        rungs.append(Rung(name, float(n[i]), float(d[i]), epochs, losses[i], excess, tied, rates))
    ties = [
        (chosen[i], chosen[j])
        for i in range(len(chosen))
        for j in range(i + 1, len(chosen))
        if (pair := against(i, j).interval) is not None and 0.0 in pair
    ]
    return rungs, ties


def _rates(study: StudyFit, loss: Estimate) -> dict[str, Estimate]:
    rates = {metric: link_rate(link, loss) for metric, link in study.links.items()}
    return {metric: rate for metric, rate in rates.items() if rate is not None}


def _warnings(surface: SurfaceFit, best: Optimum, used: Sequence[Point], unique: float | None) -> list[str]:
    found = []
    if not best.bounded:
        found.append("the surface has no optimum at this budget: its least loss is at an end of all sizes")
    elif not best.n.identified:
        found.append("some resampled studies have no optimum at this budget: its interval is too narrow")
    if best.n.interval is None:
        found.append("no intervals: the runs leave nothing to estimate noise from; add seeds")
    beyond = {
        "C_total": best.flops / max(p.flops_total for p in used),
        "N": best.n.value / max(p.n_parameters for p in used),
        "D": best.d.value / max(p.atoms_seen for p in used),
    }
    if far := [f"{times:.3g}x in {what}" for what, times in beyond.items() if times > FAR]:
        found.append(f"extrapolates {', '.join(far)} beyond the study's runs")
    largest = max(denoiser_parameters(shape) for shape in LADDER.values())
    if best.n.value > FAR * largest:
        found.append(f"the optimum is {best.n.value / largest:.3g}x the ladder's largest rung")
    if unique is None:
        found.append("epochs are not known: the points do not say how many atoms their data have")
    elif best.d.value > EPOCHS_AS_NEW * unique:
        counted = "counts that" if surface.form == "repeats" else "does not know that"
        found.append(
            f"the optimum is {best.d.value / unique:.3g} epochs of {unique:.3g} different atoms; beyond "
            f"{EPOCHS_AS_NEW} repeats are worth less than new data, and the law {counted}"
        )
    return [*found, *surface.warnings]


def _within_epochs(surface: SurfaceFit, cost: Cost, best: Optimum, unique: float | None) -> Optimum | None:
    """The largest size that the budget trains on EPOCHS_AS_NEW epochs."""
    if unique is None or surface.form == "repeats" or best.d.value <= EPOCHS_AS_NEW * unique:
        return None
    d = np.array([EPOCHS_AS_NEW * unique])
    n = np.exp(np.interp(np.log(best.flops / d), np.log(cost(GRID_N)), np.log(GRID_N)))
    loss = _losses(surface.law, n, d, unique)[0]
    return Optimum(best.flops, Estimate(float(n[0])), Estimate(float(d[0])), loss, bounded=True)


def _unique_atoms(used: Sequence[Point]) -> float | None:
    """U of the runs' data; of several data sets the largest."""
    known = [p.unique_atoms for p in used if math.isfinite(p.unique_atoms) and p.unique_atoms > 0]
    return max(known) if known else None


def _repeated(unique: float | None, n: Array) -> Array | None:
    return None if unique is None else np.full(np.shape(n), unique)


def _losses(law: LossLaw, n: Array, d: Array, unique: float | None) -> list[Estimate]:
    """Of the law, not of one more run: its stated interval, and that of the draws beside it."""
    drawn = law.draws(n, d, _repeated(unique, n))
    values, low, high = law.band(n, d, _repeated(unique, n))
    return [
        Estimate(
            float(value),
            None if low is None or high is None else Interval(float(low[i]), float(high[i])),
            None if drawn is None else _interval(drawn[:, i]),
        )
        for i, value in enumerate(values)
    ]


class _Least(NamedTuple):
    """The least losses of R laws: N, the loss, and whether it lies inside the sizes searched; each (R,)."""

    n: Array
    loss: Array
    inside: Array


def _least(law: LossLaw, cost: Cost, flops: float, unique: float | None) -> tuple[_Least, _Least | None]:
    """Of the law (R = 1) and of its draws."""
    d = flops / cost(GRID_N)
    drawn = law.draws(GRID_N, d, _repeated(unique, GRID_N))
    return _minimum(law(GRID_N, d, unique)[None]), None if drawn is None else _minimum(drawn)


def _minimum(losses: Array) -> _Least:
    """Of each row (R, G) over GRID_N, between its points by a parabola in log N."""
    i = losses.argmin(axis=1)
    inside = (i > 0) & (i < len(GRID_N) - 1)
    middle = np.clip(i, 1, len(GRID_N) - 2)
    rows = np.arange(len(losses))
    a, b, c = (losses[rows, middle + step] for step in (-1, 0, 1))
    bend = a - 2 * b + c
    bent = inside & (bend > 0)
    shift = np.clip(np.where(bent, 0.5 * (a - c) / np.where(bent, bend, 1.0), 0.0), -1, 1)
    step = math.log(GRID_N[1] / GRID_N[0])
    loss = np.where(bent, b - (a - c) ** 2 / (8 * np.where(bent, bend, 1.0)), losses[rows, i])
    return _Least(GRID_N[i] * np.exp(shift * step), loss, inside)


def _estimate(value: float, draws: Array | None) -> Estimate:
    return Estimate(float(value), None if draws is None else _interval(draws))


def _interval(draws: Array) -> Interval:
    # "nearest", since draws may be inf and no number lies between inf and another.
    low, high = np.quantile(draws, tails(CONFIDENCE), method="nearest")
    return Interval(float(low), float(high))

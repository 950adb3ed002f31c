"""What a study says in three sentences: what ten times the compute buys, and where it should go."""

# ruff: noqa: RUF001 (Greek letters and true minus signs in text for readers)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adit_scale.evaluation.statistics import WITHIN_NOISE
from adit_scale.scaling.atom_cost import AtomCost
from adit_scale.scaling.fit import ScalingFit
from adit_scale.scaling.resampling import tails
from adit_scale.scaling.results import Array, Estimate, Interval, SurfaceFit
from adit_scale.scaling.study_data import Point
from adit_scale.scaling.study_fit import StudyFit
from adit_scale.scaling.table import TABLE_RATES, by_size, loss_text, parameters

GROWTH = 10.0  # of compute
CONFIDENCE = 0.95
# The optimum is looked for from a tenth of the smallest size to a hundred times the largest.
BELOW, ABOVE, GRID = 0.1, 100.0, 1500
# An optimum this many times beyond the largest run is said to lie outside what was run.
FAR = 2.0
# An interval of dlogN/dlogC as wide as this tells neither parameters from data nor both from either.
TOO_WIDE = 0.6
DESIGNS = "sweep=isoflop or sweep=chinchilla would tell"


@dataclass(frozen=True)
class Outlook:
    """From flops to ten times as many (C_total). change: of the loss, as a share; below 0 it falls.

    n_growth, d_growth: of the compute-optimal size and data; None where D did not vary. loss_ten: with the
    interval of the law; where D is fixed, that of one more run. beyond: how far the optimum at ten times the
    compute lies outside the runs, in words; empty inside them.
    """

    flops: float
    loss: float
    loss_ten: Estimate
    change: Estimate
    n_growth: Estimate | None = None
    d_growth: Estimate | None = None
    beyond: str = ""


def outlook(study: StudyFit) -> Outlook | None:
    """By the surface where there is one, else by L(N) at the study's D; None without a law or its costs."""
    if study.surface is not None and study.costs:
        return _surface_outlook(study.surface, study)
    if study.size_law is not None and study.costs:
        return _size_outlook(study.size_law, study)
    return None


def headline(study: StudyFit) -> str:
    """Two or three sentences that a reader may quote, and one a rate."""
    ahead = outlook(study)
    if study.surface is not None and ahead is not None:
        sentences = [_change_sentence(ahead, "split as is best"), _split_sentence(study.surface, ahead)]
        if ahead.beyond:
            sentences.append(f"that extrapolates: {ahead.beyond}")
    elif study.size_law is not None:
        sentences = [_isoflop_sentence(study), _law_sentence(study.size_law)]
        if ahead is not None and _falls(study.size_law):
            sentences.insert(0, _change_sentence(ahead, "spent on parameters alone"))
        else:
            sentences.reverse()
    else:
        reason = study.refusals.get("size_law", "no law was fitted").split(";")[0]
        sentences = [f"No scaling law: {reason}", _isoflop_sentence(study)]
    sentences += _rate_sentences(study)
    return " ".join(f"{s[0].upper()}{s[1:]}." for s in sentences)


def _surface_outlook(fit: SurfaceFit, study: StudyFit) -> Outlook:
    used = _used(study)
    flops = max(p.flops_total for p in used)
    n = _size_grid(used)
    cost = AtomCost(study.costs)(n)
    budgets = (flops, GROWTH * flops)
    losses = [fit.law(n, budget / cost) for budget in budgets]
    draws = [draw for b in budgets if (draw := fit.law.draws(n, b / cost)) is not None]
    now, ten = (float(loss.min()) for loss in losses)
    loss_ten, change = None, None
    if draws:
        low, high = (draw.min(axis=1) for draw in draws)
        loss_ten, change = _quantiles(high), _quantiles(high / low - 1)
    n_growth, d_growth = _growth(n, cost, losses, draws)
    best = int(losses[1].argmin())
    beyond = _beyond(float(n[best]), float(budgets[1] / cost[best]), used)
    change_by = Estimate(ten / now - 1, change)
    return Outlook(flops, now, Estimate(ten, loss_ten), change_by, n_growth, d_growth, beyond)


def _beyond(n: float, d: float, used: Sequence[Point]) -> str:
    """What of an optimum (N, D) no run came near to; a law of fresh data says nothing of many epochs."""
    largest_n, largest_d = (max(getattr(p, key) for p in used) for key in ("n_parameters", "atoms_seen"))
    parts = []
    if n > FAR * largest_n:
        parts.append(f"the size is {n / largest_n:.2g} times the largest here")
    if d > FAR * largest_d:
        unique = max(p.unique_atoms for p in used)
        epochs = f" ({d / unique:,.0f} epochs of these data)" if unique and d > unique else ""
        parts.append(f"the data are {d / largest_d:.2g} times what any run saw{epochs}")
    return " and ".join(parts)


def _growth(
    n: Array, cost: Array, losses: Sequence[Array], draws: Sequence[Array]
) -> tuple[Estimate | None, Estimate | None]:
    """How the optimum moves in N and in D, from two budgets' losses over n (P,) and any draws (R, P) of both.

    None where an optimum is no minimum but an end of the grid; no interval where many draws are such.
    """
    first, last = (int(loss.argmin()) for loss in losses)
    if {first, last} & {0, len(n) - 1}:
        return None, None
    grown = Estimate(float(n[last] / n[first]))
    data = Estimate(float(GROWTH * cost[first] / cost[last]))
    if not draws:
        return grown, data
    low, high = (draw.argmin(axis=1) for draw in draws)
    at_end = (low == 0) | (high == 0) | (low == len(n) - 1) | (high == len(n) - 1)
    if at_end.mean() > tails(CONFIDENCE)[0]:
        return grown, data
    by_draw = n[high] / n[low], GROWTH * cost[low] / cost[high]
    return Estimate(grown.value, _quantiles(by_draw[0])), Estimate(data.value, _quantiles(by_draw[1]))


def _size_outlook(fit: ScalingFit, study: StudyFit) -> Outlook | None:
    """Ten times the compute of the largest run as a larger model on the same data."""
    largest = max(fit.used, key=lambda p: p.n_parameters)
    n = np.geomspace(largest.n_parameters, ABOVE * largest.n_parameters, GRID)
    cost = AtomCost(study.costs)(n)
    if cost[-1] < GROWTH * cost[0]:
        return None
    n_ten = float(np.exp(np.interp(np.log(GROWTH * cost[0]), np.log(cost), np.log(n))))
    now = float(fit.fit.law(largest.n_parameters))
    ten, interval = fit.fit.predict(n_ten)
    change = None if interval is None else Interval(interval.low / now - 1, interval.high / now - 1)
    return Outlook(largest.flops_total, now, Estimate(ten, interval), Estimate(ten / now - 1, change))


def _change_sentence(ahead: Outlook, how: str) -> str:
    span = f"{ahead.flops:.2g} to {GROWTH * ahead.flops:.2g} FLOPs, {how}"
    moved = f"take the loss from {loss_text(ahead.loss)} to {_with_interval(ahead.loss_ten)}"
    change = ahead.change
    if change.interval is None:
        return f"ten times the compute ({span}) would {moved}; how sure that is cannot be told without noise"
    if 0.0 in change.interval:
        return f"whether ten times the compute ({span}) lowers the loss cannot be told: it would {moved}"
    low, high = 100 * change.interval.low, 100 * change.interval.high
    return (
        f"ten times the compute ({span}) would {moved}: {100 * change.value:+.1f}% [{low:+.1f}, {high:+.1f}]"
    )


def _split_sentence(fit: SurfaceFit, ahead: Outlook) -> str:
    if ahead.n_growth is None or ahead.d_growth is None:
        return f"{_where(None)}: the fitted surface has no minimum at these budgets"
    growth = f"N × {_with_interval(ahead.n_growth, 2)} and D × {_with_interval(ahead.d_growth, 2)}"
    return f"{_where(fit.estimates.get('n_exponent'))}: at the optimum {growth}"


def _where(exponent: Estimate | None) -> str:
    """Parameters or data, by the interval of a in N_opt ~ C^a."""
    interval = None if exponent is None else exponent.interval
    if exponent is None or interval is None or interval.high - interval.low >= TOO_WIDE:
        return "whether it should go to parameters or to data cannot be told"
    if not exponent.identified:
        return "whether it should go to parameters or to data cannot be told (an exponent is at its bound)"
    if interval.low > 0.5:
        return "more of it should go to parameters than to data"
    if interval.high < 0.5:
        return "more of it should go to data than to parameters"
    return "parameters and data should grow alike, as far as can be told"


def _isoflop_sentence(study: StudyFit) -> str:
    exponent = study.isoflop.n_exponent if study.isoflop else None
    if exponent is None:
        return f"whether more compute should go to parameters or to data cannot be told: {DESIGNS}"
    growth = f"the best size moves as C^{_with_interval(exponent, 2)}"
    return f"by the IsoFLOP minima {_where(exponent)}: {growth}"


def _law_sentence(fit: ScalingFit) -> str:
    sizes = sorted(p.n_parameters for p in fit.used)
    span = f"from {parameters(sizes[0])} to {parameters(sizes[-1])} parameters"
    interval = fit.fit.exponent
    if interval is not None and interval.high < 0:
        return f"final loss rises with size {span} ({law_text(fit)})"
    if interval is not None and interval.low <= 0:
        return f"final loss does not change with size beyond the noise {span} ({law_text(fit)})"
    if fit.fit.form == "offset":
        condition = "" if fit.identifiable else " (E cannot be told from 0)"
    else:
        condition = " (E taken as 0)"
    return f"final loss follows {law_text(fit)}, {span}{condition}"


def law_text(fit: ScalingFit) -> str:
    """The quoted law with the interval of its exponent."""
    law, interval = fit.fit.law, fit.fit.exponent
    offset = f"{law.offset:.3g} + " if fit.fit.form == "offset" else ""
    text = f"L = {offset}{law.scale:.3g}·N^−{law.exponent:.3g}".replace("^−-", "^")
    if interval is None:
        return f"{text}, α without an interval"
    return f"{text}, α {interval.low:.3g} to {interval.high:.3g}"


def _falls(fit: ScalingFit) -> bool:
    return fit.fit.exponent is None or fit.fit.exponent.low > 0


def _rate_sentences(study: StudyFit) -> list[str]:
    done = [p for p in study.points if p.status == "done"]
    sentences = []
    for label, name in TABLE_RATES.items():
        trend = study.trends.get(name)
        if trend is None:
            continue
        if trend.verdict == WITHIN_NOISE:
            sentences.append(f"{label} changes with size by no more than noise")
            continue
        scored = [p for p in by_size(done) if name in p.rates and p.rates[name].trials]
        first, last = (100 * _pooled(scored, name, p.n_parameters) for p in (scored[0], scored[-1]))
        sentences.append(
            f"{label} {trend.verdict} ({first:.0f}% at the smallest, {last:.0f}% at the largest)"
        )
    return sentences


def _pooled(points: Sequence[Point], name: str, n_parameters: int) -> float:
    """The rate over all runs of one size."""
    rates = [p.rates[name] for p in points if p.n_parameters == n_parameters and name in p.rates]
    return sum(r.successes for r in rates) / sum(r.trials for r in rates)


def _used(study: StudyFit) -> list[Point]:
    assert study.surface is not None
    labels = set(study.surface.used)
    return [p for p in study.points if p.label in labels]


def _size_grid(used: Sequence[Point]) -> Array:
    sizes = [p.n_parameters for p in used]
    return np.geomspace(BELOW * min(sizes), ABOVE * max(sizes), GRID)


def _quantiles(values: Array) -> Interval:
    low, high = np.quantile(values, tails(CONFIDENCE))
    return Interval(float(low), float(high))


def _with_interval(estimate: Estimate, digits: int = 3) -> str:
    text = f"{estimate.value:.{digits}g}"
    if estimate.interval is None:
        return text
    return f"{text} [{estimate.interval.low:.{digits}g}, {estimate.interval.high:.{digits}g}]"

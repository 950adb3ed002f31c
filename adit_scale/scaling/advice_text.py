"""An advice as a compact table for the terminal, and as plain JSON types."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from adit_scale.scaling.advice import Advice, Doubling
from adit_scale.scaling.advice_budget import Hardware
from adit_scale.scaling.results import Estimate
from adit_scale.scaling.study_data import json_safe
from adit_scale.scaling.table import TABLE_RATES, parameters

NAMES = {metric: name for name, metric in TABLE_RATES.items()}
HEADER = ("size", "parameters", "atoms", "epochs", "loss", "over the best rung")


def as_json(advice: Advice, machine: Hardware, studies: Sequence[str]) -> dict[str, Any]:
    """Non-finite numbers are the strings "nan", "inf", "-inf"."""
    budget = {
        "flops_total": advice.optimum.flops,
        "gpu_hours": machine.gpu_hours(advice.optimum.flops),
        "gpu": machine.gpu,
        "peak": machine.peak.source,
        "mfu": machine.mfu,
        "mfu_from": machine.mfu_from,
        "cost": machine.gpu_hours(advice.optimum.flops) * machine.price,
    }
    return json_safe({"studies": list(studies), "budget": budget, **asdict(advice)})


def as_text(advice: Advice, machine: Hardware, studies: Sequence[str]) -> str:
    """Budget, optimum, rungs, what cannot be told apart, parameters or data, warnings."""
    best = advice.optimum
    lines = [
        f"{' + '.join(studies)}: {_budget(best.flops, machine)}, {best.flops:.3g} FLOPs "
        f"at MFU {machine.mfu:.3g} of {machine.peak.source} ({machine.mfu_from})",
        "",
        f"optimum: N {_estimate(best.n)}, D {_estimate(best.d)} atoms{_epochs(advice.epochs)}, "
        f"loss {_estimate(best.loss, 4)}",
        *_rate_lines(advice),
        *_within_epochs(advice),
        _growth(advice),
        "",
        *_rungs(advice),
        _ties(advice),
        "",
        _doubling_row("log loss falls by", "twice the parameters", "twice the data", "more for its compute"),
        *(_doubling(one) for one in advice.doublings),
    ]
    if advice.needed is not None:
        lines += ["", _needed(advice, machine)]
    lines += ["", *(f"warning: {warning}" for warning in advice.warnings)]
    return "\n".join(lines).rstrip()


def _budget(flops: float, machine: Hardware) -> str:
    hours = machine.gpu_hours(flops)
    device = machine.peak.source.rsplit(maxsplit=2)[0]  # of "H200 NVL bf16 836T"
    price = f" for {hours * machine.price:,.4g}" if machine.price else ""
    return f"{hours:,.4g} GPU-hours of {device}{price}"


def _estimate(estimate: Estimate, digits: int = 3) -> str:
    text = f"{estimate.value:.{digits}g}"
    if estimate.interval is None:
        return f"{text} [no interval]"
    low, high = estimate.interval.low, estimate.interval.high
    return f"{text} [{low:.{digits}g}, {high:.{digits}g}]"


def _epochs(epochs: float) -> str:
    return "" if math.isnan(epochs) else f" ({epochs:.3g} epochs)"


def _rate_lines(advice: Advice) -> list[str]:
    lines = []
    for metric, rate in advice.rates.items():
        if metric in NAMES:
            beyond = "" if rate.identified else " (beyond the losses seen)"
            lines.append(f"  {NAMES[metric]} {_percent(rate)}{beyond}")
    return lines


def _percent(rate: Estimate) -> str:
    if rate.interval is None:
        return f"{100 * rate.value:.1f}%"
    return f"{100 * rate.value:.1f}% [{100 * rate.interval.low:.1f}, {100 * rate.interval.high:.1f}]"


def _within_epochs(advice: Advice) -> list[str]:
    if (less := advice.within_epochs) is None:
        return []
    return [
        f"within {less.d.value / advice.unique_atoms:.3g} epochs: N {less.n.value:.3g}, D {less.d.value:.3g} "
        f"atoms, loss {_estimate(less.loss, 4)}"
    ]


def _growth(advice: Advice) -> str:
    n, d, log_loss = advice.growth.n, advice.growth.d, advice.growth.log_loss
    change = f"{100 * math.expm1(log_loss.value):+.2f}%"
    if log_loss.interval is not None:
        ends = (100 * math.expm1(end) for end in (log_loss.interval.low, log_loss.interval.high))
        change += " [{:+.2f}, {:+.2f}]".format(*ends)
    return f"ten times the budget: N x {_estimate(n)}, D x {_estimate(d)}, loss {change}"


def _rungs(advice: Advice) -> list[str]:
    rows = [HEADER]
    for rung in advice.rungs:
        percent = (
            "the best"
            if rung.excess.value == 0
            else f"{100 * math.expm1(rung.excess.value):+.2f}%" + (" tied" if rung.tied else "")
        )
        epochs = "-" if math.isnan(rung.epochs) else f"{rung.epochs:.3g}"
        rows.append(
            (rung.size, parameters(rung.n), f"{rung.d:.3g}", epochs, _estimate(rung.loss, 4), percent)
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _ties(advice: Advice) -> str:
    if any(rung.tied is None for rung in advice.rungs):
        return "without intervals, nothing says which of these differ"
    if not advice.ties:
        return "your data tell all of these apart"
    return f"your data cannot tell these apart: {', '.join(f'{a} and {b}' for a, b in advice.ties)}"


def _doubling(one: Doubling) -> str:
    def gain(estimate: Estimate) -> str:
        value = -estimate.value
        if estimate.interval is None:
            return f"{value:.3f}"
        return f"{value:.3f} [{-estimate.interval.high:.3f}, {-estimate.interval.low:.3f}]"

    cost = f"{gain(one.by_parameters)}, C x{one.n_cost:.2g}"
    return _doubling_row(one.where, cost, gain(one.by_data), one.verdict)


def _doubling_row(*cells: str) -> str:
    return "{:28.28s}  {:30s}  {:22s}  {}".format(*cells)


def _needed(advice: Advice, machine: Hardware) -> str:
    needed = advice.needed
    assert needed is not None
    wanted = f"a loss of {advice.wanted_loss:g}"
    if math.isinf(needed.value):
        return f"{wanted}: no budget reaches it, as far as the law goes (its E is the least there is)"
    text = f"{wanted} needs {_budget(needed.value, machine)} ({needed.value:.3g} FLOPs)"
    if needed.interval is None:
        return text
    hours = [machine.gpu_hours(end) for end in (needed.interval.low, needed.interval.high)]
    high = "no upper bound" if math.isinf(hours[1]) else f"{hours[1]:,.4g}"
    return f"{text}, interval {hours[0]:,.4g} to {high} GPU-hours"

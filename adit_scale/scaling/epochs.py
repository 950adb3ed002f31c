"""Loss and validity against epochs, one curve a size: what more passes over the data still buy.

Unlike the report's other figures it needs the journals of the runs: the rates scored while they trained.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from adit_scale.evaluation.statistics import Rate
from adit_scale.scaling.plots import GREY, LOSS_LABEL, STYLE, log_ticks
from adit_scale.scaling.study_data import VALIDATION_LOSS_KEY
from adit_scale.scaling.table import parameters
from adit_scale.tracking.journal import FILE_NAME, read_run, series

SAMPLES_PREFIX = (
    "samples/"  # in-training rates in a run's journal: samples/crystal/validity, …_lower, …_upper
)
SETS_KEY = "train/sets_seen"
# Rates worth a panel, where a run has them, in this order.
RATES = (
    "molecule/edm_validity",
    "molecule/edm_atom_stability",
    "crystal/validity",
    "crystal/structural_validity",
)
EPOCHS_LABEL = "epochs (passes over the training data)"


@dataclass(frozen=True)
class TrainingCurve:
    """One run along its epochs.

    loss: (epoch, EMA validation loss). rates: by flat name, (epoch, value, lower, upper) of samples scored
    while it trained; bounds are NaN where they were not logged.
    """

    label: str
    n_parameters: int
    loss: list[tuple[float, float]] = field(default_factory=list)
    rates: dict[str, list[tuple[float, float, float, float]]] = field(default_factory=dict)


def read_training_curve(
    run_folder: Path, label: str, n_parameters: int, sets_an_epoch: float
) -> TrainingCurve:
    """From a run's journals; empty where it has none yet. A step logged twice counts with its last values."""
    curve = TrainingCurve(label, n_parameters)
    if not (run_folder / FILE_NAME).is_file() or sets_an_epoch <= 0:
        return curve
    records = read_run(run_folder)
    by_step = _by_step(records, SETS_KEY)
    if not by_step:
        return curve
    steps, sets = np.array(sorted(by_step)), np.array([by_step[s] for s in sorted(by_step)])

    def epoch(step: int) -> float:
        return float(np.interp(step, np.append(0, steps), np.append(0.0, sets))) / sets_an_epoch

    curve.loss.extend((epoch(s), v) for s, v in sorted(_by_step(records, VALIDATION_LOSS_KEY).items()))
    for name in RATES:
        ends = ("", "_lower", "_upper")
        values, lower, upper = (_by_step(records, f"{SAMPLES_PREFIX}{name}{end}") for end in ends)
        if values:
            curve.rates[name] = [
                (epoch(s), values[s], lower.get(s, math.nan), upper.get(s, math.nan)) for s in sorted(values)
            ]
    return curve


def _by_step(records: Sequence[Mapping[str, Any]], key: str) -> dict[int, float]:
    return dict(zip(*series(records, key), strict=True))


def plot_epochs(curves: Sequence[TrainingCurve], ceilings: Mapping[str, Rate] | None = None) -> Figure | None:
    """Loss, then a panel a rate, against epochs; colours by parameters. None where nothing was logged.

    ceilings: the real data's own rates, drawn dashed.
    """
    if not any(c.loss for c in curves):
        return None
    names = [name for name in RATES if any(name in c.rates for c in curves)]
    figure, panels = plt.subplots(
        1, 1 + len(names), figsize=(5.2 * (1 + len(names)) + 0.6, 4.4), squeeze=False
    )
    sizes = sorted({c.n_parameters for c in curves})
    shades = plt.colormaps["viridis"](np.linspace(0.0, 0.85, len(sizes)))
    colours = dict(zip(sizes, shades, strict=True))
    labelled: set[int] = set()
    for curve in sorted(curves, key=lambda c: c.n_parameters):
        colour = colours[curve.n_parameters]
        label = None if curve.n_parameters in labelled else parameters(curve.n_parameters)
        labelled.add(curve.n_parameters)
        _loss(panels[0][0], curve, colour, label)
        for axes, name in zip(panels[0][1:], names, strict=True):
            _rate(axes, curve.rates.get(name, []), colour)
    _finish_loss(panels[0][0], curves)
    for axes, name in zip(panels[0][1:], names, strict=True):
        _finish_rate(axes, name, (ceilings or {}).get(name))
    figure.tight_layout()
    return figure


def _loss(axes: Axes, curve: TrainingCurve, colour: Any, label: str | None) -> None:
    points = np.array([(e, v) for e, v in curve.loss if math.isfinite(v) and v > 0 and e > 0]).reshape(-1, 2)
    axes.plot(points[:, 0], points[:, 1], color=colour, lw=1.7, label=label)


def _rate(axes: Axes, points: Sequence[tuple[float, float, float, float]], colour: Any) -> None:
    if not points:
        return
    x, y, low, high = np.array(points).T
    axes.plot(x, y, color=colour, lw=1.7, marker="o", ms=4)
    axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)


def _finish_loss(axes: Axes, curves: Sequence[TrainingCurve]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(EPOCHS_LABEL)
    axes.set_ylabel(LOSS_LABEL)
    values = [v for c in curves for _, v in c.loss if math.isfinite(v) and v > 0]
    epochs = [e for c in curves for e, _ in c.loss if e > 0]
    if values:
        axes.yaxis.set_major_locator(FixedLocator(log_ticks(min(values), max(values))))
    if epochs:
        axes.xaxis.set_major_locator(FixedLocator(log_ticks(min(epochs), max(epochs))))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.6g}"))
        axis.set_minor_locator(NullLocator())
    axes.legend(title="parameters", fontsize=9)


def _finish_rate(axes: Axes, name: str, ceiling: Rate | None) -> None:
    axes.set_title(name.replace("/", ": ").replace("_", " "), loc="left", fontsize=11)
    axes.set_xlabel(EPOCHS_LABEL)
    axes.set_ylabel("share of samples (Wilson interval)")
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f}%"))
    if ceiling is not None and ceiling.trials:
        axes.axhline(ceiling.value, color=GREY, lw=1.2, ls=(0, (6, 3)), label="real data")
        axes.legend(fontsize=9)


def write_epochs(
    curves: Sequence[TrainingCurve], out: Path, ceilings: Mapping[str, Rate] | None = None
) -> list[Path]:
    """Write epochs.png and epochs.csv into ``out``; nothing where no run has a loss yet."""
    with plt.rc_context(STYLE):
        figure = plot_epochs(curves, ceilings)
        if figure is None:
            return []
        png, table = out / "epochs.png", out / "epochs.csv"
        figure.savefig(png, bbox_inches="tight")
        plt.close(figure)
    with table.open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(["run", "parameters", "epoch", "what", "value", "lower", "upper"])
        for c in curves:
            rows.writerows([c.label, c.n_parameters, e, VALIDATION_LOSS_KEY, v, "", ""] for e, v in c.loss)
            for name, points in c.rates.items():
                rows.writerows([c.label, c.n_parameters, e, name, *map(_plain, rest)] for e, *rest in points)
    return [png, table]


def _plain(value: float) -> float | str:
    return value if math.isfinite(value) else ""

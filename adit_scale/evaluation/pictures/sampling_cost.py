"""Time and validity against the number of sampling steps: what a step more costs, and what it buys."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from adit_scale.errors import DataError
from adit_scale.evaluation.pictures.frames import COLOURS, GREY, MARKERS, Drawn, new_figure, percent_axis
from adit_scale.evaluation.statistics import Rate


@dataclass(frozen=True)
class Measurement:
    """One way of sampling the same networks.

    steps: as asked for. evaluations: of the denoiser a sample, a guided one counted once.
    seconds: wall time of drawing ``samples``. rates: by flat name.
    """

    solver: str
    steps: int
    evaluations: int
    seconds: float
    samples: int
    rates: Mapping[str, Rate]

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {"rates": {name: rate.to_dict() for name, rate in self.rates.items()}}

    @staticmethod
    def from_json(record: Mapping[str, Any], where: str) -> Measurement:
        """The inverse of ``to_json``; keys it does not know are passed over. Raises DataError."""
        try:
            rates = {name: Rate.from_dict(rate) for name, rate in record["rates"].items()}
            numbers = {key: int(record[key]) for key in ("steps", "evaluations", "samples")}
            return Measurement(
                solver=str(record["solver"]), seconds=float(record["seconds"]), rates=rates, **numbers
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{where}: got {error!r}; expected measurements of sampling") from error


def read_measurements(path: Path) -> list[Measurement]:
    """From the result of benchmarks/sampling_steps.py. Raises DataError."""
    try:
        raw = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; expected benchmarks/sampling_steps.py's result") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(raw, dict) or not isinstance(raw.get("rows"), list) or not raw["rows"]:
        raise DataError(f"{path}: no rows; expected benchmarks/sampling_steps.py's result")
    return [Measurement.from_json(row.get("measurement", {}), str(path)) for row in raw["rows"]]


def cost_figure(
    measurements: Sequence[Measurement], rates: Sequence[str], ceilings: Mapping[str, Rate] | None = None
) -> Drawn:
    """Panel 1: wall time a sample against steps. Then, a panel a rate, validity against evaluations.

    rates: flat names. ceilings: the same rates of real data, drawn dashed.
    """
    shown = [name for name in rates if any(name in m.rates for m in measurements)]
    solvers = list(dict.fromkeys(m.solver for m in measurements))
    figure, panels = new_figure(1 + len(shown), width=4.6, height=4.0)
    rows: list[dict[str, Any]] = []
    for i, solver in enumerate(solvers):
        of = sorted((m for m in measurements if m.solver == solver), key=lambda m: m.evaluations)
        looks: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        looks |= {"ms": 6, "lw": 1.6}
        per_sample = [m.seconds / m.samples for m in of]
        panels[0].plot([m.steps for m in of], per_sample, label=solver, **looks)
        for axes, name in zip(panels[1:], shown, strict=True):
            having = [m for m in of if name in m.rates and m.rates[name].trials]
            y = np.array([m.rates[name].value for m in having])
            low, high = np.array([m.rates[name].interval for m in having]).reshape(-1, 2).T
            x = [m.evaluations for m in having]
            axes.errorbar(x, y, yerr=[y - low, high - y], capsize=3, label=solver, **looks)
        rows += [_row(m, shown) for m in of]
    _label(panels, measurements, shown, ceilings or {})
    samples = sorted({m.samples for m in measurements})
    count = f"{samples[0]:,}" if len(samples) == 1 else f"{samples[0]:,} to {samples[-1]:,}"
    caption = (
        f"{count} samples a point, from the same noise. Time is wall time of drawing, on one machine; rates "
        f"with 95% Wilson intervals; dashed: the real data's own."
    )
    return Drawn("sampling_steps", "Time and validity against sampling steps", caption, figure, rows)


def _label(
    panels: Sequence[Axes],
    measurements: Sequence[Measurement],
    shown: Sequence[str],
    ceilings: Mapping[str, Rate],
) -> None:
    panels[0].set_yscale("log")
    panels[0].yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panels[0].yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    panels[0].yaxis.set_minor_locator(NullLocator())
    panels[0].set_ylabel("wall time a sample (s)")
    panels[0].legend(title="solver")
    _ticks(panels[0], sorted({m.steps for m in measurements}))
    panels[0].set_xlabel("sampling steps")
    for axes, name in zip(panels[1:], shown, strict=True):
        axes.set_title(name.replace("/", ": ").replace("_", " "), loc="left", fontsize=11)
        percent_axis(axes, "share of samples")
        _ticks(axes, sorted({m.evaluations for m in measurements}))
        axes.set_xlabel("evaluations of the denoiser a sample")
        if name in ceilings and ceilings[name].trials:
            axes.axhline(ceilings[name].value, color=GREY, lw=1.2, ls=(0, (6, 3)), label="real data")
            axes.legend()
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -0.02), min(high, 1.02))


def _ticks(axes: Axes, places: Sequence[int]) -> None:
    """A log axis with the measured places written out, where they do not touch."""
    axes.set_xscale("log")
    kept: list[int] = []
    for place in places:
        if not kept or place / kept[-1] > 1.45:
            kept.append(place)
    axes.xaxis.set_major_locator(FixedLocator(kept))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _row(measurement: Measurement, shown: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {
        key: getattr(measurement, key) for key in ("solver", "steps", "evaluations", "seconds", "samples")
    }
    for name in shown:
        if name in measurement.rates:
            rate = measurement.rates[name]
            row |= {name: rate.value, f"{name}_lower": rate.interval[0], f"{name}_upper": rate.interval[1]}
    return row

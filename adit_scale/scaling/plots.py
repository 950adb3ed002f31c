"""The three figures of a study as PNG: loss against compute, final loss against size, validity against size.

What both the PNG and the interactive figures draw (colours, envelope, ticks, grids) is computed here.
"""

# ruff: noqa: RUF001 (Greek letters and true minus signs in text for readers)

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display; must come before pyplot

import numpy as np
from matplotlib import patheffects
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogFormatterSciNotation, LogLocator, NullLocator

from adit_scale.evaluation.statistics import Rate
from adit_scale.scaling.fit import ScalingFit
from adit_scale.scaling.laws import Array
from adit_scale.scaling.resampling import Interval
from adit_scale.scaling.study_data import LossCurve, Point
from adit_scale.scaling.table import by_size, parameters
from adit_scale.scaling.trends import Trend

# Okabe and Ito 2008: told apart with any colour vision. Each rate also has its own marker.
RATE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
RATE_MARKERS = ("o", "s", "^", "D", "v", "P")
FIT_COLOR, HELD_OUT_COLOR, GREY = "#0072B2", "#D55E00", "#777777"
COMPUTE_LABEL = "training compute C (FLOPs)"
LOSS_LABEL = "validation loss (EMA weights)"
SIZE_LABEL = "denoiser parameters N"
N_BAND_POINTS = 120
MATH_POWER = "$N^{{{0}}}$"
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.dpi": 100,
    "savefig.dpi": 160,
}


def size_colors(points: Sequence[Point]) -> dict[int, str]:
    """Parameters -> colour, dark to light along viridis (an ordered quantity, readable in grey)."""
    sizes = sorted({p.n_parameters for p in points})
    shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, len(sizes)))
    return {n: matplotlib.colors.to_hex(shade) for n, shade in zip(sizes, shades, strict=True)}


def finite_curve(curve: LossCurve) -> tuple[Array, Array]:
    """(FLOPs, loss) of a curve where both can stand on log axes."""
    flops, loss = np.array(curve.flops_cum, dtype=float), np.array(curve.loss, dtype=float)
    keep = np.isfinite(loss) & (loss > 0) & (flops > 0)
    return flops[keep], loss[keep]


def envelope(points: Sequence[Point], n_grid: int = 200) -> tuple[Array, Array]:
    """Smallest loss any run had reached at each compute: (FLOPs, loss), empty without curves."""
    curves = [(f, v) for f, v in (finite_curve(p.curve) for p in points) if len(f) > 1]
    if not curves:
        return np.empty(0), np.empty(0)
    grid = np.geomspace(min(f[0] for f, _ in curves), max(f[-1] for f, _ in curves), n_grid)
    best = np.full(n_grid, math.inf)
    for flops, loss in curves:
        reached = np.exp(np.interp(np.log(grid), np.log(flops), np.log(loss), left=math.inf))
        # A run that has ended still counts with the best it reached.
        best = np.minimum(best, np.minimum.accumulate(reached))
    return grid, best


def log_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """At most ``most`` round values in [low, high] for a log axis that may span far less than a decade; the
    value itself where there is only one."""
    if low == high:
        return [low]
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    for multiples in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        ticks = [m * 10.0**d for d in decades for m in multiples if low <= m * 10.0**d <= high]
        if len(ticks) <= most:
            break
    if len(ticks) >= 3:
        return ticks
    exponent = math.floor(math.log10((high - low) / 4))
    for step in (m * 10.0 ** (exponent + e) for e in (0, 1) for m in (1, 2, 5)):
        first = math.ceil(low / step - 1e-9)
        ticks = [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]
        if len(ticks) <= most:
            return ticks
    return ticks


def band_grid(points: Sequence[Point], reach: float = 1.0) -> Array:
    """Parameters along the fitted curve: the range of the points, and to ``reach`` if that is larger."""
    n = [p.n_parameters for p in points]
    return np.geomspace(min(n) / 1.15, max(*n, reach) * 1.15, N_BAND_POINTS)


def error_bars(value: float, interval: Interval | None) -> list[list[float]] | None:
    """[[length below], [length above]] of ``value``; 0 where rounding leaves it outside its interval."""
    if interval is None:
        return None
    return [[max(0.0, value - interval.low)], [max(0.0, interval.high - value)]]


def law_text(fit: ScalingFit, power: str = "N^{0}") -> str:
    """The fitted law with its exponent's interval; ``power`` sets how N to an exponent is written."""
    law, interval = fit.fit.law, fit.fit.exponent
    offset = f"{law.offset:.3g} + " if fit.fit.form == "offset" else ""
    text = f"L = {offset}{law.scale:.3g}·{power.format(f'{-law.exponent:.3g}')}"
    if interval is None:
        return text
    return f"{text}, α {round(100 * fit.fit.confidence)}% interval {interval.low:.3g} to {interval.high:.3g}"


def validity_metrics(metrics: Sequence[str]) -> list[str]:
    """The rates of figure (c): validities and stabilities, not uniqueness or novelty."""
    return [m for m in metrics if "validity" in m or "stability" in m]


def drawn_and_flat(points: Sequence[Point], metrics: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The rates worth a curve, and by domain a line that names those at 0% (or 100%) in every run."""
    drawn: list[str] = []
    flat: dict[str, list[str]] = {}
    for name in validity_metrics(metrics):
        values = {p.rates[name].value for p in points if name in p.rates and p.rates[name].trials}
        domain, _, label = name.partition("/")
        if values in ({0.0}, {1.0}):
            flat.setdefault(domain, []).append(f"{label.replace('_', ' ')} {100 * values.pop():.0f}%")
        elif values:
            drawn.append(name)
    return drawn, {
        domain: "the same for every size, not drawn: " + ", ".join(names) for domain, names in flat.items()
    }


def write_pngs(
    points: Sequence[Point],
    fit: ScalingFit | None,
    trends: Mapping[str, Trend],
    reference_scores: Mapping[str, Rate],
    metrics: Sequence[str],
    out: Path,
) -> list[Path]:
    """Write loss_vs_compute.png, loss_vs_size.png and validity_vs_size.png into ``out``."""
    done = [p for p in points if p.status == "done"]
    with plt.rc_context(STYLE):
        figures = {
            "loss_vs_compute.png": plot_loss_vs_compute(points),
            "loss_vs_size.png": plot_loss_vs_size(points, fit),
            "validity_vs_size.png": plot_validity(done, trends, reference_scores, metrics),
        }
        paths = []
        for name, figure in figures.items():
            figure.savefig(out / name, bbox_inches="tight")
            plt.close(figure)
            paths.append(out / name)
    return paths


def plot_loss_vs_compute(points: Sequence[Point]) -> Figure:
    """(a) Validation loss of every run against cumulative FLOPs, by size, over the envelope of minima."""
    figure, axes = plt.subplots(figsize=(8, 5.2))
    colors = size_colors(points)
    flops, best = envelope([p for p in points if p.status == "done"])
    if len(flops):
        axes.plot(flops, best, color="#c9c9c9", lw=7, alpha=0.7, zorder=1, label="envelope of minima")
    ends: list[tuple[float, float, str, str]] = []
    labelled: set[int] = set()
    for point in reversed(by_size(points)):
        x, y = finite_curve(point.curve)
        if not len(x):
            continue
        sound = point.status == "done"
        color = colors[point.n_parameters]
        axes.plot(x, y, color=color, lw=1.6, ls="-" if sound else ":", zorder=2)
        axes.plot(x[-1], y[-1], "o" if sound else "x", color=color, ms=5, zorder=3)
        if sound and point.n_parameters not in labelled:
            ends.append((x[-1], y[-1], parameters(point.n_parameters), color))
            labelled.add(point.n_parameters)
    _end_labels(axes, ends)
    _log_axes(axes, COMPUTE_LABEL, LOSS_LABEL)
    axes.set_title("Loss against training compute, by parameters N", loc="left")
    if any(p.status != "done" and len(finite_curve(p.curve)[0]) for p in points):
        axes.plot([], [], ":x", color=GREY, label="failed, diverged or still running")
    if len(flops):
        title = "Learning rates decay only at each run's end:\nthe envelope is a guide to the eye, not a law."
        axes.legend(loc="upper right", title=title, title_fontsize=9, fontsize=9, alignment="left")
    if not axes.lines:
        _say(axes, "no run has a loss curve yet")
    return figure


def plot_loss_vs_size(points: Sequence[Point], fit: ScalingFit | None) -> Figure:
    """(b) Final loss against parameters with the law and its band, and the held-out prediction."""
    figure, axes = plt.subplots(figsize=(8, 5.2))
    shown = [p for p in points if math.isfinite(p.final_loss) and p.final_loss > 0]
    if not shown:
        _say(axes, "no run has a final loss yet")
        return figure
    used = {p.label for p in fit.used} if fit else {p.label for p in shown}
    if fit is not None:
        n = band_grid(shown, fit.forecast.n_parameters if fit.forecast else 1.0)
        value, low, high = fit.fit.curve(n)
        if low is not None and high is not None:
            percent = round(100 * fit.fit.confidence)
            axes.fill_between(
                n, low, high, color=FIT_COLOR, alpha=0.18, lw=0, label=f"{percent}% band of the law"
            )
        axes.plot(n, value, color=FIT_COLOR, lw=1.8, label=law_text(fit, MATH_POWER))
    for inside, marker, label in ((True, "o", "runs"), (False, "x", "left out of the fit")):
        chosen = [p for p in shown if (p.label in used) == inside]
        if chosen:
            face: dict[str, Any] = {"markerfacecolor": "white", "markeredgewidth": 1.6} if inside else {}
            x, y = [p.n_parameters for p in chosen], [p.final_loss for p in chosen]
            axes.plot(x, y, marker, color="#222222",
                      ms=7, ls="", zorder=4, label=label, **face)  # fmt: skip
    if fit is not None:
        _held_out(axes, fit)
        _forecast(axes, fit)
    _log_axes(axes, SIZE_LABEL, "final " + LOSS_LABEL)
    _size_ticks(axes)
    axes.set_title("Final loss against size", loc="left")
    axes.legend(loc="upper right", fontsize=9)
    return figure


def plot_validity(
    points: Sequence[Point],
    trends: Mapping[str, Trend],
    reference_scores: Mapping[str, Rate],
    metrics: Sequence[str],
) -> Figure:
    """(c) One panel a domain: rates with intervals against size; dashed, the real data's own rate."""
    drawn, flat = drawn_and_flat(points, metrics)
    domains = domains_of(drawn, flat) or [""]
    figure, panels = plt.subplots(
        1, len(domains), figsize=(5.6 * len(domains) + 0.4, 5.4), squeeze=False, sharey=True
    )
    for axes, domain in zip(panels[0], domains, strict=True):
        names = [m for m in drawn if m.split("/")[0] == domain]
        if not names:
            _say(axes, flat.get(domain, "no run has been scored yet"))
            continue
        for i, name in enumerate(names):
            _rate_series(axes, points, name, i, len(names), trends.get(name), reference_scores.get(name))
        axes.set_xscale("log")
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f}%"))
        axes.set_xlabel(SIZE_LABEL)
        _size_ticks(axes)
        axes.set_title(f"{domain}s", loc="left")
        axes.plot(
            [], [], color=GREY, lw=1.2, ls=(0, (6, 3)), label="the real data's own score (same colours)"
        )
        if domain in flat:
            axes.plot([], [], " ", label=flat[domain])
        axes.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.14), fontsize=9)
    panels[0][0].set_ylabel("share of samples (Wilson interval)")
    figure.tight_layout()
    return figure


def domains_of(drawn: Sequence[str], flat: Mapping[str, str]) -> list[str]:
    """Molecules before crystals."""
    return sorted({m.split("/")[0] for m in drawn} | set(flat), key=lambda d: d != "molecule")


def jitter(i: int, n: int) -> float:
    """Factor on N that sets the i-th of n series apart, so that intervals do not hide each other."""
    return 1.0 + 0.035 * (i - (n - 1) / 2)


def rate_label(name: str, trend: Trend | None, ceiling: Rate | None) -> str:
    """A rate's line in a legend: its name, its verdict, the real data's score."""
    label = name.split("/", 1)[-1].replace("_", " ")
    if trend is not None:
        label += f": {trend.verdict}"
    if ceiling is not None and ceiling.trials:
        label += f" (real data {100 * ceiling.value:.1f}%)"
    return label


def _rate_series(
    axes: Axes, points: Sequence[Point], name: str, i: int, n: int, trend: Trend | None, ceiling: Rate | None
) -> None:
    color, marker = RATE_COLORS[i % len(RATE_COLORS)], RATE_MARKERS[i % len(RATE_MARKERS)]
    having = [p for p in by_size(points) if name in p.rates and p.rates[name].trials]
    x = [p.n_parameters * jitter(i, n) for p in having]
    y = np.array([p.rates[name].value for p in having])
    bounds = np.array([p.rates[name].interval for p in having]).T
    label = rate_label(name, trend, ceiling)
    axes.errorbar(
        x, y, yerr=[y - bounds[0], bounds[1] - y], fmt=marker, color=color, ms=5, capsize=3, label=label
    )
    sizes = sorted({p.n_parameters for p in having})
    means = [np.mean([p.rates[name].value for p in having if p.n_parameters == s]) for s in sizes]
    axes.plot(np.array(sizes) * jitter(i, n), means, color=color, lw=1, alpha=0.5)
    if ceiling is not None and ceiling.trials:
        axes.axhline(ceiling.value, color=color, lw=1.2, ls=(0, (6, 3)), zorder=1)


def _held_out(axes: Axes, fit: ScalingFit) -> None:
    held = fit.held_out
    if held is None:
        return
    error = error_bars(held.predicted, held.interval)
    label = f"{held.size} predicted from the smaller sizes: {100 * held.error:+.1f}%"
    axes.errorbar([held.n_parameters], [held.predicted], yerr=error, fmt="D", color=HELD_OUT_COLOR, ms=6,
                  capsize=4, zorder=5, label=label)  # fmt: skip


def _forecast(axes: Axes, fit: ScalingFit) -> None:
    forecast = fit.forecast
    if forecast is None:
        return
    error = error_bars(forecast.loss, forecast.interval)
    axes.errorbar([forecast.n_parameters], [forecast.loss], yerr=error, fmt="s", color=GREY, ms=6, capsize=4,
                  markerfacecolor="white", label=f"next size, {parameters(forecast.n_parameters)}: "
                  f"{forecast.loss:.3g}, {forecast.flops_total:.2g} FLOPs")  # fmt: skip


def _end_labels(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Direct labels at the curves' ends.

    Runs of growing compute end along a falling line with nothing below it: labels go below left. Runs of
    equal compute end in a column: labels go right of it, pushed apart where they would touch.
    """
    if not ends:
        return
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    in_column = max(e[0] for e in ends) < 1.5 * min(e[0] for e in ends)
    if not in_column:
        axes.set_ylim(low * (low / high) ** 0.06, high)  # room below the lowest end
    gap = (math.log(high) - math.log(low)) / 24
    floor = -math.inf
    halo = [patheffects.withStroke(linewidth=3, foreground="white")]
    for x, y, text, color in sorted(ends, key=lambda end: end[1]):
        floor = max(math.log(y), floor + gap)
        axes.annotate(
            text,
            (x, math.exp(floor) if in_column else y),
            xytext=(8, 0) if in_column else (-4, -7),
            textcoords="offset points",
            ha="left" if in_column else "right",
            va="center" if in_column else "top",
            color=color,
            fontsize=9.5,
            path_effects=halo,
            zorder=6,
        )


def _log_axes(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.xaxis.set_major_locator(LogLocator(numticks=9))
    axes.xaxis.set_major_formatter(LogFormatterSciNotation())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(FixedLocator(log_ticks(*axes.get_ylim())))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.6g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _size_ticks(axes: Axes) -> None:
    axes.xaxis.set_major_locator(FixedLocator(log_ticks(*axes.get_xlim())))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: parameters(v)))
    axes.xaxis.set_minor_locator(NullLocator())


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color=GREY)

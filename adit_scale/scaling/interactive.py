"""The three figures of a study as plotly figures, for the report's single HTML file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from adit_scale.evaluation.statistics import Rate
from adit_scale.scaling.fit import Interval, ScalingFit
from adit_scale.scaling.plots import (
    COMPUTE_LABEL,
    FIT_COLOR,
    GREY,
    HELD_OUT_COLOR,
    LOSS_LABEL,
    RATE_COLORS,
    SIZE_LABEL,
    band_grid,
    domains_of,
    drawn_and_flat,
    envelope,
    error_bars,
    finite_curve,
    jitter,
    law_text,
    log_ticks,
    rate_label,
    size_colors,
)
from adit_scale.scaling.study_data import Point
from adit_scale.scaling.table import by_size, loss_text, parameters
from adit_scale.scaling.trends import Trend

SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")
LAYOUT = {
    "template": "plotly_white",
    "height": 520,
    "margin": {"l": 70, "r": 20, "t": 20, "b": 60},
    "font": {"size": 14},
    "hoverlabel": {"align": "left"},
}


def loss_vs_compute(points: Sequence[Point]) -> go.Figure:
    """(a) Curves by size over the envelope of minima."""
    figure = go.Figure(layout=LAYOUT)
    flops, best = envelope([p for p in points if p.status == "done"])
    if len(flops):
        line = {"color": "#d5d5d5", "width": 9}
        figure.add_scatter(
            x=flops, y=best, mode="lines", line=line, name="envelope of minima", hoverinfo="skip"
        )
    colors, named = size_colors(points), set()
    losses: list[float] = []
    for point in by_size(points):
        x, y = finite_curve(point.curve)
        if not len(x):
            continue
        losses += [float(y.min()), float(y.max())]
        sound = point.status == "done"
        figure.add_scatter(
            x=x,
            y=y,
            mode="lines+markers",
            marker={"size": 4},
            line={"color": colors[point.n_parameters], "width": 2, "dash": "solid" if sound else "dot"},
            name=f"{point.size}, {parameters(point.n_parameters)}",
            legendgroup=str(point.n_parameters),
            showlegend=point.n_parameters not in named,
            hovertemplate=f"{point.label}<br>C = %{{x:.3g}} FLOPs<br>loss = %{{y:.4g}}"
            f"<extra>{point.status}</extra>",
        )
        named.add(point.n_parameters)
    figure.update_xaxes(type="log", title=COMPUTE_LABEL, exponentformat="power", dtick=1)
    _loss_axis(figure, losses, LOSS_LABEL)
    return figure


def loss_vs_size(points: Sequence[Point], fit: ScalingFit | None) -> go.Figure:
    """(b) Final losses, the law with its band, the held-out prediction and the next size."""
    figure = go.Figure(layout=LAYOUT)
    shown = [p for p in points if math.isfinite(p.final_loss) and p.final_loss > 0]
    if not shown:
        return figure
    used = {p.label for p in fit.used} if fit else {p.label for p in shown}
    losses = [p.final_loss for p in shown]
    reach = float(max(p.n_parameters for p in shown))
    if fit is not None:
        if fit.forecast is not None:
            reach = fit.forecast.n_parameters
            losses.append(fit.forecast.loss)
        _law(figure, fit, band_grid(shown, reach))
    for inside, symbol, name in (
        (True, "circle-open", "runs"),
        (False, "x-thin-open", "left out of the fit"),
    ):
        chosen = [p for p in shown if (p.label in used) == inside]
        if chosen:
            figure.add_scatter(
                x=[p.n_parameters for p in chosen],
                y=[p.final_loss for p in chosen],
                mode="markers",
                marker={"symbol": symbol, "size": 11, "color": "#222222", "line": {"width": 2}},
                name=name,
                customdata=[[p.label, parameters(p.n_parameters), p.atoms_seen] for p in chosen],
                hovertemplate="%{customdata[0]}<br>N = %{customdata[1]}<br>D = %{customdata[2]:.3g} atoms<br>"
                "loss = %{y:.4g}<extra></extra>",
            )
    if fit is not None and fit.held_out is not None:
        held = fit.held_out
        name = f"{held.size} predicted from the smaller sizes: {100 * held.error:+.1f}%"
        _marked(figure, held.n_parameters, held.predicted, held.interval, "diamond", HELD_OUT_COLOR, name)
    if fit is not None and fit.forecast is not None:
        ahead = fit.forecast
        name = f"next size, {parameters(ahead.n_parameters)}: {loss_text(ahead.loss)}"
        name += f", {ahead.flops_total:.2g} FLOPs"
        _marked(figure, ahead.n_parameters, ahead.loss, ahead.interval, "square-open", GREY, name)
    _size_axis(figure, [p.n_parameters for p in shown] + [reach])
    _loss_axis(figure, losses, "final " + LOSS_LABEL)
    figure.update_layout(legend={"x": 0.98, "y": 0.98, "xanchor": "right", "yanchor": "top"})
    return figure


def validity(
    points: Sequence[Point],
    trends: Mapping[str, Trend],
    reference_scores: Mapping[str, Rate],
    metrics: Sequence[str],
) -> go.Figure:
    """(c) One panel a domain: rates with intervals, the real data's own rate dashed."""
    drawn, flat = drawn_and_flat(points, metrics)
    domains = domains_of(drawn, flat)
    if not domains:
        return go.Figure(layout=LAYOUT)
    figure = make_subplots(1, len(domains), shared_yaxes=True, subplot_titles=[f"{d}s" for d in domains])
    figure.update_layout(**(LAYOUT | {"margin": {"l": 70, "r": 20, "t": 40, "b": 60}}))
    for column, domain in enumerate(domains, start=1):
        names = [m for m in drawn if m.split("/")[0] == domain]
        for i, name in enumerate(names):
            _rates(
                figure, column, points, name, (i, len(names)), trends.get(name), reference_scores.get(name)
            )
        if domain in flat:
            figure.add_scatter(x=[None], y=[None], mode="none", name=f"{domain}s, {flat[domain]}")
    _size_axis(figure, [p.n_parameters for p in points])
    figure.update_yaxes(range=[-0.02, 1.02], tickformat=".0%")
    figure.update_yaxes(title="share of samples (Wilson interval)", col=1)
    figure.update_layout(legend={"orientation": "h", "y": -0.18, "groupclick": "togglegroup"})
    return figure


def _law(figure: go.Figure, fit: ScalingFit, n: np.ndarray) -> None:
    value, low, high = fit.fit.curve(n)
    if low is not None and high is not None:
        figure.add_scatter(
            x=np.concatenate([n, n[::-1]]),
            y=np.concatenate([high, low[::-1]]),
            fill="toself",
            fillcolor="rgba(0,114,178,0.18)",
            line={"width": 0},
            hoverinfo="skip",
            name=f"{round(100 * fit.fit.confidence)}% band of the law",
        )
    text = law_text(fit, "N<sup>{0}</sup>")
    figure.add_scatter(
        x=n, y=value, mode="lines", line={"color": FIT_COLOR, "width": 2}, name=text, hoverinfo="skip"
    )


def _marked(
    figure: go.Figure, n: float, loss: float, interval: Interval | None, symbol: str, color: str, name: str
) -> None:
    bars = None
    if lengths := error_bars(loss, interval):
        bars = {"array": lengths[1], "arrayminus": lengths[0], "symmetric": False}
    marker = {"symbol": symbol, "size": 11, "color": color, "line": {"width": 2}}
    figure.add_scatter(x=[n], y=[loss], mode="markers", marker=marker, error_y=bars, name=name)


def _rates(
    figure: go.Figure,
    column: int,
    points: Sequence[Point],
    name: str,
    place: tuple[int, int],
    trend: Trend | None,
    ceiling: Rate | None,
) -> None:
    i, n = place
    color = RATE_COLORS[i % len(RATE_COLORS)]
    having = [p for p in by_size(points) if name in p.rates and p.rates[name].trials]
    values = [p.rates[name].value for p in having]
    bounds = [p.rates[name].interval for p in having]
    figure.add_scatter(
        x=[p.n_parameters * jitter(i, n) for p in having],
        y=values,
        error_y={
            "array": [high - v for v, (_, high) in zip(values, bounds, strict=True)],
            "arrayminus": [v - low for v, (low, _) in zip(values, bounds, strict=True)],
            "symmetric": False,
        },
        mode="markers",
        marker={"color": color, "size": 9, "symbol": SYMBOLS[i % len(SYMBOLS)]},
        name=f"{name.split('/')[0]} {rate_label(name, trend, ceiling)}",
        legendgroup=name,
        customdata=[[p.label, *bound] for p, bound in zip(having, bounds, strict=True)],
        hovertemplate="%{customdata[0]}<br>%{y:.1%} [%{customdata[1]:.1%}, %{customdata[2]:.1%}]"
        "<extra></extra>",
        row=1,
        col=column,
    )
    if ceiling is not None and ceiling.trials and having:
        figure.add_scatter(
            x=[having[0].n_parameters / 1.2, having[-1].n_parameters * 1.2],
            y=[ceiling.value, ceiling.value],
            mode="lines",
            line={"color": color, "width": 1.5, "dash": "dash"},
            legendgroup=name,
            showlegend=False,
            hovertemplate=f"real data, {name}: {100 * ceiling.value:.1f}%<extra></extra>",
            row=1,
            col=column,
        )


def _size_axis(figure: go.Figure, sizes: Sequence[float]) -> None:
    low, high = min(sizes) / 1.3, max(sizes) * 1.3
    ticks = log_ticks(low, high)
    figure.update_xaxes(
        type="log",
        title=SIZE_LABEL,
        range=[math.log10(low), math.log10(high)],
        tickvals=ticks,
        ticktext=[parameters(t) for t in ticks],
    )


def _loss_axis(figure: go.Figure, losses: Sequence[float], title: str) -> None:
    figure.update_yaxes(type="log", title=title)
    if losses:
        ticks = log_ticks(min(losses) / 1.1, max(losses) * 1.1)
        figure.update_yaxes(tickvals=ticks, ticktext=[f"{t:.6g}" for t in ticks])

"""Every figure: its numbers are those of the fits and points, and it is absent where there are none."""

# ruff: noqa: RUF001 (Greek letters and true minus signs in text for readers)

from __future__ import annotations

import dataclasses
import json
import math
import re
from itertools import pairwise

import numpy as np
import pytest

from adit_scale.scaling.charts import Band, Bars, Chart, Line, Marks, Rule
from adit_scale.scaling.figures import FIGURES
from adit_scale.scaling.figures_style import (
    PLASMA,
    VIRIDIS,
    commonest_data,
    data_levels,
    levels,
    shade,
    shape,
)
from adit_scale.scaling.study_data import LossCurve, Point
from tests.scaling.planted import BAND, PlantedLaw, empty_fit, items, planted_study, values
from tests.scaling.simulated import (
    ATOMS,
    BUDGETS,
    FULL_SIZES,
    RUN_NOISE,
    full_ceilings,
    full_loss,
    simulated_points,
)

BUILD = {figure.key: figure.build for figure in FIGURES}
# In the order in which the report tells its story.
KEYS = [
    "loss_vs_compute", "isoflop", "loss_vs_size_and_data", "held_out", "residuals", "learning_rates", "rates",
    "loss_and_rates", "domains", "transfer", "epochs", "seeds", "throughput", "cost", "sampling",
    "autoencoders",
]  # fmt: skip
FROM_POINTS = {"loss_vs_compute", "loss_vs_size_and_data", "rates", "domains", "epochs"}


@pytest.fixture(scope="module")
def study():
    return planted_study()


@pytest.fixture(scope="module")
def charts(study) -> dict[str, Chart]:
    drawn = {figure.key: figure.build(study, full_ceilings()) for figure in FIGURES}
    found = {key: chart for key, chart in drawn.items() if chart is not None}
    assert list(found) == KEYS
    return found


def test_the_order_and_the_designs_that_give_each_figure():
    assert [figure.key for figure in FIGURES] == KEYS
    for figure in FIGURES:
        assert figure.title
        assert len(figure.given_by) > 20


def test_charts_are_whole(charts):
    """Equal columns, labelled axes, a caption; keys and titles as the registry has them."""
    for figure in FIGURES:
        chart = charts[figure.key]
        assert (chart.key, chart.title) == (figure.key, figure.title)
        assert len(chart.caption) > 80
        assert chart.columns <= 2
        for panel in chart.panels:
            assert panel.x.label
            assert panel.y.label
            assert items(panel, Marks) or items(panel, Bars) or items(panel, Line)
            for item in panel.items:
                if isinstance(item, Marks | Bars):
                    assert len(item.x) == len(item.y)
                    assert len(item.low) == len(item.high)
                    assert len(item.low) in (0, len(item.x))
                    assert len(item.text) in (0, len(item.x))
                    assert all(isinstance(v, int | float) for v in (*item.x, *item.y))
                if isinstance(item, Rule | Line | Band | Marks | Bars):
                    assert re.fullmatch("#[0-9A-Fa-f]{6}", item.colour)
        json.dumps(dataclasses.asdict(chart))  # plain numbers and words


@pytest.mark.parametrize("key", KEYS)
def test_no_points_no_figure(key):
    assert BUILD[key](empty_fit(), {}) is None


@pytest.mark.parametrize("key", KEYS)
def test_thin_studies_show_what_they_have(key):
    """One run, and runs that have failed: a figure of the points where there are any; never an error."""
    one = simulated_points()[:1]
    chart = BUILD[key](empty_fit(one), {})
    assert (chart is not None) == (key in FROM_POINTS - {"domains"})
    lost = [
        dataclasses.replace(p, status="failed", final_loss=math.nan, rates={}, curve=LossCurve())
        for p in simulated_points()
    ]
    assert BUILD[key](empty_fit(lost), {}) is None


def test_compute_shows_every_run_with_its_curve(study, charts):
    along, finished = charts["loss_vs_compute"].panels
    joint = [p for p in study.points if not p.domain and p.autoencoder_id == "ae128x8"]
    runs = {p.run: p for p in joint}
    lines = [line for line in items(along, Line) if not line.name]
    assert len(lines) == len(runs)
    a_run = runs["dit_96-seed1"]
    assert any(line.x == a_run.curve.flops_cum and line.y == a_run.curve.loss for line in lines)
    assert sum(line.dash == "dot" for line in lines) == 2  # diverged, unfinished
    assert len(values(along, "not finished")) == 2
    done = [(p.flops, p.final_loss) for p in runs.values() if p.status == "done"]
    assert np.array(sorted(values(finished))) == pytest.approx(np.array(sorted(done)))
    (hull,) = items(finished, Line, "envelope of finished runs")
    assert list(zip(hull.x, hull.y, strict=True)) == [(e.flops, e.loss) for e in study.envelope]
    assert along.y.high < 5  # the first steps are outside the frame


def test_isoflop_parabolas_optima_and_power_law(study, charts):
    profile, n_opt, d_opt, windows = charts["isoflop"].panels
    parabola = study.isoflop.parabolas[1]
    inside = [
        (n, loss) for n, loss, kept in zip(parabola.n, parabola.loss, parabola.in_window, strict=True) if kept
    ]
    filled, open_ = (
        [
            v
            for m in items(profile, Marks, "2.4·10^{14} FLOPs")
            if m.filled is f
            for v in zip(m.x, m.y, strict=True)
        ]
        for f in (True, False)
    )
    assert filled == inside
    assert len(open_) == len(parabola.n) - len(inside)
    optima = values(profile, "minimum and interval")
    assert [x for x, _ in optima] == [p.n_optimum.value for p in study.isoflop.parabolas]
    bars = [line for line in items(profile, Line) if line.width == 3]
    assert [list(bar.x) for bar in bars] == [
        [p.n_optimum.interval.low, p.n_optimum.interval.high] for p in study.isoflop.parabolas
    ]
    assert values(n_opt) == [(p.flops, p.n_optimum.value) for p in study.isoflop.parabolas]
    assert [m.high for m in items(d_opt, Marks)] == [
        [p.d_optimum.interval.high] for p in study.isoflop.parabolas
    ]
    (power,) = items(n_opt, Line)
    assert np.interp(BUDGETS[0], power.x, power.y) == pytest.approx(
        parabola_power(study, BUDGETS[0]), rel=1e-3
    )
    assert {m.name for m in items(windows, Marks)} == {"within a factor of 3", "all"}
    a = study.isoflop.n_exponent
    assert charts["isoflop"].notes[0].startswith(f"N_{{opt}} ∝ C^{{{a.value:.3g}}}, 95% interval [")


def parabola_power(study, flops: float) -> float:
    return study.isoflop.n_scale * flops**study.isoflop.n_exponent.value


def test_a_budget_without_an_optimum_says_so(study):
    lost = dataclasses.replace(
        study.isoflop.parabolas[0], n_optimum=None, d_optimum=None, loss_optimum=None, note="least at an edge"
    )
    isoflop = dataclasses.replace(
        study.isoflop, parabolas=[lost], n_exponent=None, d_exponent=None, windows=()
    )
    chart = BUILD["isoflop"](dataclasses.replace(study, isoflop=isoflop), {})
    assert len(chart.panels) == 1
    assert chart.notes == ["C = 6·10^{13} FLOPs: least at an edge"]


def test_law_with_band_at_every_amount_of_data(study, charts):
    against_n, against_d = charts["loss_vs_size_and_data"].panels
    assert [m.name for m in items(against_n, Marks)] == [
        "left out of the fit", "other amounts of data", "D = 20 M atoms", "D = 40 M atoms", "D = 80 M atoms",
        "D = 160 M atoms",
    ]  # fmt: skip
    lines, bands = items(against_n, Line), items(against_n, Band)
    assert len(lines) == len(bands) == 4
    assert lines[1].y == pytest.approx([full_loss(n, ATOMS) for n in lines[1].x], rel=2e-3)
    assert bands[1].high == pytest.approx([y * (1 + BAND) for y in lines[1].y])
    assert lines[0].colour in PLASMA
    drawn = {y for name in [m.name for m in items(against_n, Marks)] for _, y in values(against_n, name)}
    comparable = [p for p in study.points if p.autoencoder_id == "ae128x8" and not p.domain]
    assert drawn == {p.final_loss for p in comparable if p.status == "done"}
    assert len(items(against_d, Line)) == len(FULL_SIZES)
    assert sorted(values(against_d, "N = 87 k")) == sorted(
        (p.atoms_seen, p.final_loss) for p in study.selection.used if p.size == "dit_32"
    )
    text = charts["loss_vs_size_and_data"].notes
    assert text[0].startswith("L = 0.45 + 18·N^{−0.31} + 420·D^{−0.43}; 95% intervals α [0.279, 0.341]")
    assert text[1].startswith("at D = 40 M atoms: L = ")
    assert "noise between seeds" in charts["loss_vs_size_and_data"].caption


def test_law_of_size_alone(study):
    chart = BUILD["loss_vs_size_and_data"](dataclasses.replace(study, surface=None), {})
    (panel,) = chart.panels
    curve, low, high = study.size_law.fit.curve(np.array(items(panel, Line)[0].x))
    assert items(panel, Line)[0].y == pytest.approx(curve)
    # The interval is asked for at a few places and interpolated.
    assert items(panel, Band)[0].low == pytest.approx(low, rel=2e-3)
    assert items(panel, Band)[0].high == pytest.approx(high, rel=2e-3)
    ahead = study.size_law.forecast
    (mark,) = [m for m in items(panel, Marks) if m.name.startswith("next size")]
    assert (list(mark.x), list(mark.y)) == ([ahead.n_parameters], [ahead.loss])
    assert panel.y.low < ahead.interval.low
    assert sorted(values(panel, "runs at D = 40 M atoms")) == sorted(
        (p.n_parameters, p.final_loss) for p in study.size_law.used
    )


def test_held_out_is_relative_to_the_prediction(study, charts):
    each, largest = charts["held_out"].panels
    held = {h.n_parameters: h for h in study.leave_one_out}
    measured = dict(values(each, "measured") + values(each, "measured, outside the interval"))
    assert measured == {n: pytest.approx(h.measured / h.predicted - 1) for n, h in held.items()}
    (predicted,) = items(each, Marks, "predicted by L(N, D), 95%")
    assert set(predicted.y) == {0.0}
    assert predicted.low[0] == pytest.approx(held[87_000].interval.low / held[87_000].predicted - 1)
    outside = [h for h in held.values() if not h.inside]
    assert [x for x, _ in values(each, "measured, outside the interval")] == [h.n_parameters for h in outside]
    assert outside
    assert len(values(largest, "predicted by L(N, D), 95%")) == len(study.surface.held_out)
    n = len(study.leave_one_out) + len(study.surface.held_out)
    assert charts["held_out"].notes[0].endswith(f" of {n} measurements lie inside their interval")
    alone = dataclasses.replace(study, leave_one_out=[], surface=None)
    (panel,) = BUILD["held_out"](alone, {}).panels
    assert [x for x, _ in values(panel, "predicted by L(N), 95%")] == [FULL_SIZES["dit_256"]]


def test_both_laws_predict_beside_each_other(study):
    by_size = [dataclasses.replace(h, form="offset") for h in study.leave_one_out]
    both = dataclasses.replace(study, leave_one_out=[*by_size, *study.leave_one_out])
    each = BUILD["held_out"](both, {}).panels[0]
    left, right = (
        items(each, Marks, "predicted by L(N), 95%"),
        items(each, Marks, "predicted by L(N, D), 95%"),
    )
    assert all(a < h.n_parameters < b for a, h, b in zip(left[0].x, by_size, right[0].x, strict=True))


def test_residuals_against_everything_with_the_noise(study, charts):
    against_n, against_d, against_fitted, normal = charts["residuals"].panels
    p = study.selection.used[0]
    left = study.surface.residuals[p.label]
    assert (p.n_parameters, left) in values(against_n)
    assert (p.atoms_seen, left) in values(against_d)
    fitted = float(PlantedLaw()(p.n_parameters, p.atoms_seen))
    assert any(x == pytest.approx(fitted) and y == left for x, y in values(against_fitted))
    for panel in (against_n, against_d, against_fitted, normal):
        assert len(values(panel)) == len(study.selection.used)
    assert [r.value for r in items(against_n, Rule)] == [0.0, 2 * RUN_NOISE, -2 * RUN_NOISE]
    ordered = sorted(values(normal))
    assert all(a[1] <= b[1] for a, b in pairwise(ordered))
    assert ordered[0][0] == pytest.approx(-ordered[-1][0])
    by_size = BUILD["residuals"](dataclasses.replace(study, surface=None), {})
    assert len(by_size.panels) == 3  # one amount of data
    used = study.size_law.used[0]
    expected = math.log(used.final_loss / float(study.size_law.fit.law(used.n_parameters)))
    assert any(y == pytest.approx(expected) for _, y in values(by_size.panels[0]))


@pytest.mark.parametrize("steps", [VIRIDIS, PLASMA])
def test_shades_are_ordered_distinct_and_dark_enough_for_white_paper(steps):
    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    for n in (1, 2, 6, 11):
        found = [luminance(shade(float(i), map(float, range(n)), steps)) for i in range(n)]
        assert found == sorted(found)
        assert len(set(found)) == n
        assert 1.05 / (found[-1] + 0.05) > 1.8  # contrast with white (WCAG)
    assert [shape(float(i), map(float, range(5))) for i in range(5)] == [
        "circle", "square", "triangle", "diamond", "circle",
    ]  # fmt: skip


def test_levels_of_data():
    assert levels([1e6, 1.01e6, 2e6, math.nan, 0.0]) == pytest.approx([math.sqrt(1.01) * 1e6, 2e6])
    points = [_seen(n, d) for d in (1e6, 2e6) for n in (1, 2, 3)] + [_seen(1, 5e6)]
    assert data_levels(points) == pytest.approx([1e6, 2e6])
    assert commonest_data(points) == pytest.approx(2e6)


def _seen(n: int, atoms: float) -> Point:
    return Point(
        label=f"{n}-{atoms:g}", size=f"dit_{n}", n_parameters=n, atoms_seen=int(atoms), final_loss=1.0
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0])
def test_numbers_that_no_axis_can_hold_are_no_error(study, value):
    """Records of broken runs: every third point has the value in every field that measures something."""
    fields = (
        "epochs", "flops", "flops_total", "final_loss", "constant_loss", "train_loss", "lr", "gpu_hours",
        "planned_gpu_hours", "atoms_per_s", "mfu", "unique_atoms", "guidance",
    )  # fmt: skip
    broken = dict.fromkeys(fields, value) | {"atoms_seen": 0, "steps": 0}
    points = []
    for i, p in enumerate(study.points):
        curve = dataclasses.replace(p.curve, loss=[value] * len(p.curve.loss), atoms=[])
        changed: dict = broken | {"curve": curve, "domain_losses": dict.fromkeys(p.domain_losses, value)}
        changed["training_rates"] = {"crystal/validity": [[value] * 4]}
        points.append(p if i % 3 else dataclasses.replace(p, **changed))
    damaged = dataclasses.replace(study, points=points)
    for figure in FIGURES:
        for fit in (damaged, empty_fit(points)):
            figure.build(fit, full_ceilings())

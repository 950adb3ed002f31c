"""Figures of samples, domains and runs: their numbers are those of the fits and points."""

# ruff: noqa: RUF001 (Greek letters and true minus signs in text for readers)

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from adit_scale.evaluation.statistics import Rate
from adit_scale.scaling.charts import Band, Bars, Chart, Line, Marks, Rule
from adit_scale.scaling.figures import FIGURES
from adit_scale.scaling.figures_rates import _link_note
from adit_scale.scaling.results import Estimate, Interval, LossLink
from adit_scale.scaling.table import RECONSTRUCTION_ROW, REFERENCE_ROW
from tests.scaling.planted import empty_fit, items, planted_study, values
from tests.scaling.simulated import (
    ATOMS,
    FULL_SIZES,
    full_ceilings,
)

BUILD = {figure.key: figure.build for figure in FIGURES}


@pytest.fixture(scope="module")
def study():
    return planted_study()


@pytest.fixture(scope="module")
def charts(study) -> dict[str, Chart]:
    drawn = {figure.key: figure.build(study, full_ceilings()) for figure in FIGURES}
    return {key: chart for key, chart in drawn.items() if chart is not None}


def test_rates_against_size_and_compute_with_ceilings(study, charts):
    chart = charts["rates"]
    assert [panel.title for panel in chart.panels][:2] == [
        "molecules: validity, D = 40 M atoms", "molecules: validity, all runs",
    ]  # fmt: skip
    (marks,) = items(chart.panels[3], Marks, "crystals: structural validity")
    scored = {p.label: p for p in study.selection.used if p.rates}
    assert len(marks.x) == len(scored)
    rate = scored["dit_192-seed0-d2"].rates["crystal/structural_validity"]
    at = marks.y.index(rate.value)
    assert (marks.low[at], marks.high[at]) == rate.interval
    real = full_ceilings()[REFERENCE_ROW]["crystal/structural_validity"].value
    decoded = full_ceilings()[RECONSTRUCTION_ROW]["crystal/structural_validity"].value
    rules = {(r.value, r.dash) for r in items(chart.panels[3], Rule)}
    assert {(real, "dot"), (decoded, "dash")} <= rules
    at_one = items(chart.panels[2], Marks, "crystals: structural validity")[0]
    assert len(at_one.x) == sum(p.atoms_seen == ATOMS for p in scored.values())
    assert any(note.startswith("molecule/edm_uniqueness: within noise") for note in chart.notes)


def test_a_rate_that_is_the_same_in_every_run_is_named_not_drawn(study):
    points = [dataclasses.replace(p, rates={"crystal/validity": Rate(5, 10), "crystal/novelty": Rate(9, 9)})
              for p in study.selection.used]  # fmt: skip
    chart = BUILD["rates"](dataclasses.replace(study, points=points, trends={}), {})
    assert chart.notes == ["not drawn: crystal/novelty is 100% in every run"]
    assert len(chart.panels) == 2


def test_loss_and_rates_show_the_curve_of_the_link(study, charts):
    panel = charts["loss_and_rates"].panels[1]
    link = study.links["crystal/validity"]
    assert items(panel, Line)[0].y == pytest.approx(link.curve[1])
    assert items(panel, Band)[0].low == pytest.approx(link.curve[2])
    assert [r.value for r in items(panel, Rule)] == [link.ceiling]
    p = next(p for p in study.selection.used if p.label == "dit_256-seed0-d4")
    assert (p.final_loss, p.rates["crystal/validity"].value) in values(panel, "13.6 M")


def test_domains_have_their_own_laws_and_exponents(study, charts):
    losses, exponents = charts["domains"].panels
    assert losses.title == "joint runs at D = 40 M atoms"
    at_one = study.size_law.used
    assert sorted(values(losses, "crystals")) == sorted(
        (p.n_parameters, p.domain_losses["crystal"]) for p in at_one
    )
    law = study.domains["molecule"].fit
    line = items(losses, Line)[0]
    assert line.y == pytest.approx(law.curve(np.array(line.x))[0])
    (molecules,) = items(exponents, Marks, "molecules")
    assert molecules.y == [law.law.exponent]
    assert (molecules.low[0], molecules.high[0]) == (law.exponent.low, law.exponent.high)
    (both,) = items(exponents, Marks, "both domains")
    assert both.y == [0.31, 0.43]
    assert exponents.x.categories == ["α (size N)", "β (data D)"]


def test_transfer_marks_what_is_within_noise(study, charts):
    molecules, crystals, *multipliers = charts["transfer"].panels
    for panel, domain in ((molecules, "molecule"), (crystals, "crystal")):
        pairs = [p for p in study.transfer if p.domain == domain]
        certain = [y for m in items(panel, Marks) if m.filled for y in m.y]
        assert sorted(certain) == sorted(p.delta.value for p in pairs if p.verdict != "within noise")
        assert len(values(panel)) == len(pairs) == 6
        ends = [e for p in pairs for e in (p.delta.interval.low, p.delta.interval.high)]
        assert panel.y.low < min(0, *ends)
        assert panel.y.high > max(0, *ends)
    assert len(multipliers) == 2
    assert sum(len(values(panel)) for panel in multipliers) == 11  # one pair has none
    assert any("within noise" in note for note in charts["transfer"].notes)


def test_learning_rates_with_the_edge_and_the_rate_used(study, charts):
    basins, best = charts["learning_rates"].panels
    smallest, middle, _ = study.basins
    edge = [m for m in items(basins, Marks, "87 k") if not m.filled]
    assert [list(m.y) for m in edge] == [[min(smallest.loss)]]
    assert sorted(values(basins, "1.02 M")) == sorted(zip(middle.lr, middle.loss, strict=True))
    assert [x for m in items(best, Marks) if not m.name for x in m.x] == [
        b.n_parameters for b in study.basins[1:]
    ]
    assert [y for _, y in values(best, "used by the study's other runs")] == [b.used for b in study.basins]
    diverged = dataclasses.replace(middle, loss=[*middle.loss[:-1], math.inf])
    chart = BUILD["learning_rates"](dataclasses.replace(study, basins=[diverged]), {})
    assert chart.notes[0].endswith("0.10% above the best; diverged at 0.01")


def test_epochs_gap_and_rates_while_training(study, charts):
    loss, gap, molecules, crystals = charts["epochs"].panels
    assert len(items(loss, Line)) == len(FULL_SIZES)
    longest = next(p for p in study.points if p.label == "dit_256-seed0-d4")
    line = items(loss, Line, "13.6 M")[0]
    assert line.x[-1] == pytest.approx(longest.epochs)
    assert line.y[-1] == longest.final_loss
    at = next(p for p in study.points if p.label == "dit_64-seed1")
    assert (at.epochs, math.log(at.final_loss / at.train_loss)) in values(gap, "410 k")
    row = longest.training_rates["crystal/validity"][2]
    band = next(b for b in items(crystals, Band) if b.low[2] == row[2])
    assert band.high[2] == row[3]
    assert (pytest.approx(longest.epochs * 0.6), row[1]) in values(crystals, "13.6 M")
    assert molecules.title == "molecules: EDM validity"


def test_seed_noise_by_size_and_pooled(study, charts):
    apart, spread = charts["seeds"].panels
    _, n, losses = study.seed_noise.by_size[0]
    logs = np.log(losses)
    assert [y for x, y in values(apart) if x == n] == pytest.approx(list(logs - logs.mean()))
    assert dict(values(spread))[n] == pytest.approx(np.std(logs, ddof=1))
    assert [r.value for r in items(spread, Rule)] == [study.seed_noise.sigma.value]
    (band,) = items(spread, Band)
    assert Interval(band.low[0], band.high[0]) == study.seed_noise.sigma.interval
    assert "differ within noise" in charts["seeds"].notes[0]


def test_speed_and_cost(study, charts):
    speed, use = charts["throughput"].panels
    runs = {p.run or p.label: p for p in study.points}.values()
    first = next(iter(runs))
    assert (first.n_parameters, first.atoms_per_s) in values(speed, "2 cores")
    assert (first.n_parameters, first.mfu) in values(use, "2 cores")
    hours, used, restarts = charts["cost"].panels
    assert (first.n_parameters, first.gpu_hours) in values(hours, "2 cores")
    assert (first.planned_gpu_hours, first.gpu_hours) in values(used, "87 k")
    (bars,) = items(restarts, Bars)
    by_size = {n: sum(p.restarts for p in runs if p.n_parameters == n) for n in FULL_SIZES.values()}
    assert list(bars.y) == [float(by_size[n]) for n in sorted(by_size)]
    total = sum(p.gpu_hours for p in runs)
    assert charts["cost"].notes[0].startswith(f"{total:.3g} device hours used by {len(runs)} runs")
    unknown = [dataclasses.replace(p, mfu=math.nan, planned_gpu_hours=math.nan, restarts=0) for p in runs]
    assert len(BUILD["throughput"](empty_fit(unknown), {}).panels) == 1
    assert len(BUILD["cost"](empty_fit(unknown), {}).panels) == 1


def test_sampling_shows_runs_sampled_in_several_ways(study, charts):
    panel = charts["sampling"].panels[0]
    sampled = next(p for p in study.points if p.label == "dit_192-heun-25")
    rate = sampled.rates["molecule/edm_validity"]
    assert (25.0, rate.value) in values(panel, "5.9 M, heun")
    assert {m.name for m in items(panel, Marks)} == {
        f"{n}, {s}" for n in ("410 k", "5.9 M") for s in ("euler", "heun")
    }


def test_autoencoders_beside_their_ceilings(study, charts):
    molecules, _, loss = charts["autoencoders"].panels
    assert molecules.x.categories == ["64 x 8", "128 x 8", "128 x 4", "128 x 16", "256 x 8"]
    wide = next(p for p in study.points if p.label == "dit_128-ae256x8")
    assert (4.0, wide.final_loss / wide.constant_loss) in values(loss)
    own = {f"{RECONSTRUCTION_ROW} ae256x8": {"molecule/edm_validity": Rate(95, 100)}}
    panel = BUILD["autoencoders"](study, own).panels[0]
    (real,) = [m for m in items(panel, Marks) if not m.filled]
    assert (list(real.y), real.low[0]) == ([0.95], Rate(95, 100).interval[0])


def test_a_rate_that_does_not_rise_has_no_midpoint_in_the_notes():
    """As validity that did not follow the loss: its note said ``half of its ceiling at L = nan``."""
    nowhere = Estimate(float("nan"), identified=False)
    curve = (np.array([1.0, 2.0]),) * 4
    link = LossLink("crystal/validity", 0.9, nowhere, nowhere, 1.0, curve, 3, "no rise of the rate")
    assert _link_note(link) == "no rise of the rate"
    risen = dataclasses.replace(link, midpoint=Estimate(1.234, Interval(1.1, 1.3)), note="")
    assert _link_note(risen) == "half of its ceiling at L = 1.23"

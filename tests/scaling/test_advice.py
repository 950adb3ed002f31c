"""Advice from planted surfaces: the analytic optimum, its intervals, ties, budgets, rates, text."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from adit_scale.errors import ConfigError, DataError
from adit_scale.models.ladder import LADDER, denoiser_parameters, training_flops
from adit_scale.scaling.advice import advise, budget_for, doubling, growth, optimum, with_wanted_loss
from adit_scale.scaling.advice_budget import hardware
from adit_scale.scaling.advice_rates import link_rate
from adit_scale.scaling.advice_text import as_json, as_text
from adit_scale.scaling.atom_cost import AtomCost
from adit_scale.scaling.exclusions import Selection
from adit_scale.scaling.results import Estimate, Interval, LossLink, ModelCost, SurfaceFit
from adit_scale.scaling.study_data import Point
from adit_scale.scaling.study_fit import StudyFit

E, A, ALPHA, B, BETA = 0.5, 20.0, 0.32, 300.0, 0.40
ENCODER = 2e6  # FLOPs an atom
UNIQUE = 5e7


class PlantedLaw:
    """L = E + A N^-alpha + B D^-beta, and R laws about it. noise: of log A, log B and the exponents."""

    def __init__(self, noise: float | None, n_draws: int = 400) -> None:
        self.theta = np.array([E, A, ALPHA, B, BETA])
        self.noise = noise
        z = np.random.default_rng(0).standard_normal((n_draws, 4)) * (noise or 0.0)
        e = np.full(n_draws, E)
        # The exponents move with the scales, so that losses at N = 1e6 and D = 1e8 stay what they are.
        alpha, beta = ALPHA * (1 + z[:, 0]), BETA * (1 + z[:, 1])
        a = A * 1e6 ** (alpha - ALPHA) * (1 + 0.1 * z[:, 2])
        b = B * 1e8 ** (beta - BETA) * (1 + 0.1 * z[:, 3])
        self.drawn = np.stack([e, a, alpha, b, beta], axis=1)

    @staticmethod
    def _loss(theta, n, d):
        e, a, alpha, b, beta = (theta[..., i, None] for i in range(5))
        return e + a * n**-alpha + b * d**-beta

    def __call__(self, n, d, unique=None):
        n, d = np.asarray(n, float), np.asarray(d, float)
        return self._loss(self.theta, np.atleast_1d(n), np.atleast_1d(d)).reshape(n.shape)

    def draws(self, n, d, unique=None):
        return None if self.noise is None else self._loss(self.drawn, n, d)

    def band(self, n, d, unique=None):
        value = self(n, d)
        if self.noise is None:
            return value, None, None
        low, high = np.quantile(self.draws(n, d), [0.025, 0.975], axis=0)
        return value, low, high

    def predict(self, n, d, unique=None, n_runs=1):
        raise NotImplementedError


def six(n):
    return 6.0 * np.asarray(n, float)


def analytic(flops: float) -> float:
    """N of least loss where C = 6 N D (Hoffmann et al. 2022, equation 4)."""
    g = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
    return g * (flops / 6) ** (BETA / (ALPHA + BETA))


def study(noise: float | None = 0.02, **changes) -> StudyFit:
    """Five sizes at three amounts of data, with the ladder's own costs."""
    points, costs = [], []
    for name in ("dit_64", "dit_96", "dit_128", "dit_192", "dit_256"):
        n = denoiser_parameters(LADDER[name])
        own = training_flops(LADDER[name], [16], 0.5) / 16
        costs.append(ModelCost(name, n, own, own + ENCODER))
        for d in (2.5e7, 1e8, 4e8):
            loss = E + A * n**-ALPHA + B * d**-BETA
            points.append(
                Point(f"{name}-{d:g}", name, n, atoms_seen=int(d), flops=own * d, final_loss=loss,
                      flops_total=(own + ENCODER) * d, unique_atoms=UNIQUE, study="planted")
            )  # fmt: skip
    surface = SurfaceFit(
        "surface", PlantedLaw(noise), {}, 0.002, 9.0, "planted", 0.0, {}, [p.label for p in points]
    )
    found = StudyFit(
        points=points, selection=Selection(points, (), ()), size_law=None, surface=surface, isoflop=None,
        envelope=(), links={}, trends={}, domains={}, transfer=(), basins=(), seed_noise=None,
        leave_one_out=(), sensitivity=(), costs=costs, refusals={}, warnings=(),
    )  # fmt: skip
    return replace(found, **changes)


LARGEST = max(p.flops_total for p in study().points)


# -- the optimum ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flops", [1e15, 1e19, 1e23])
def test_the_optimum_is_the_analytic_one(flops):
    found = optimum(PlantedLaw(0.02), six, flops)
    n = analytic(flops)
    assert found.bounded
    assert found.n.value == pytest.approx(n, rel=1e-3)
    assert found.d.value == pytest.approx(flops / 6 / n, rel=1e-3)
    assert found.loss.value == pytest.approx(E + A * n**-ALPHA + B * (flops / 6 / n) ** -BETA, rel=1e-6)
    for estimate, truth in ((found.n, n), (found.d, flops / 6 / n), (found.loss, found.loss.value)):
        assert truth in estimate.interval
        assert estimate.interval.low < estimate.interval.high
    assert optimum(PlantedLaw(None), six, flops).n == Estimate(found.n.value)


def test_each_draw_has_an_optimum_of_its_own():
    """The interval of N is that of the draws' analytic optima."""
    law, flops = PlantedLaw(0.02), 1e19
    _, a, alpha, b, beta = law.drawn.T
    g = (alpha * a / (beta * b)) ** (1 / (alpha + beta))
    expected = np.quantile(g * (flops / 6) ** (beta / (alpha + beta)), [0.025, 0.975])
    found = optimum(law, six, flops).n.interval
    assert (found.low, found.high) == pytest.approx(tuple(expected), rel=0.02)


def test_ten_times_the_budget():
    """N_opt ~ C^(beta / (alpha + beta)), and D the rest."""
    found = optimum(PlantedLaw(0.02), six, 1e19), optimum(PlantedLaw(0.02), six, 1e20)
    grown = growth(PlantedLaw(0.02), six, 1e19)
    share = BETA / (ALPHA + BETA)
    assert grown.n.value == pytest.approx(10**share, rel=1e-3)
    assert grown.d.value == pytest.approx(10 ** (1 - share), rel=1e-3)
    assert grown.log_loss.value == pytest.approx(
        math.log(found[1].loss.value / found[0].loss.value), rel=1e-4
    )
    law = PlantedLaw(0.02)
    shares = law.drawn[:, 4] / (law.drawn[:, 2] + law.drawn[:, 4])
    expected = np.quantile(10**shares, [0.025, 0.975])
    assert (grown.n.interval.low, grown.n.interval.high) == pytest.approx(tuple(expected), rel=0.005)


def test_a_surface_without_an_optimum_says_so():
    law = PlantedLaw(None)
    law.theta[1] = 0.0  # nothing gained by parameters: the smallest size is best
    found = optimum(law, six, 1e19)
    assert not found.bounded
    surface = study(None).surface
    assert surface is not None
    advice = advise(study(surface=replace(surface, law=law)), 1e19)
    assert any("no optimum at this budget" in warning for warning in advice.warnings)


def test_costs_are_the_measured_ones_and_the_ladders_beyond():
    costs = study().costs
    found = AtomCost(costs)
    for cost in costs:
        assert found(cost.n_parameters) == pytest.approx(cost.flops_total_an_atom, rel=1e-9)
    large = LADDER["dit_xl"]
    exact = ENCODER + training_flops(large, [16], 0.5) / 16
    assert found(denoiser_parameters(large)) == pytest.approx(exact, rel=1e-9)
    # Runs of other sets than the formula's cost 10% more: so does everything else.
    dearer = [replace(c, flops_an_atom=1.1 * c.flops_an_atom) for c in costs]
    dearer = [replace(c, flops_total_an_atom=c.flops_an_atom + ENCODER) for c in dearer]
    expected = ENCODER + 1.1 * (exact - ENCODER)
    assert AtomCost(dearer)(denoiser_parameters(large)) == pytest.approx(expected, rel=1e-9)


# -- rungs and ties ------------------------------------------------------------------------------------------


def test_rungs_spend_the_budget_and_are_compared_draw_by_draw():
    flops = 30 * LARGEST
    advice = advise(study(), flops)
    cost = AtomCost(study().costs)
    sizes = [rung.n for rung in advice.rungs]
    assert len(sizes) == 4
    assert sizes[1] < advice.optimum.n.value < sizes[2]
    for rung in advice.rungs:
        assert rung.d * cost(rung.n) == pytest.approx(flops)
        assert rung.epochs == pytest.approx(rung.d / UNIQUE)
        truth = E + A * rung.n**-ALPHA + B * rung.d**-BETA
        assert rung.loss.value == pytest.approx(truth)
        assert rung.loss.value >= advice.optimum.loss.value
    best = min(advice.rungs, key=lambda rung: rung.loss.value)
    assert best.excess.value == 0
    assert best.tied
    # Losses themselves are uncertain by more than they differ; their difference is not.
    second = sorted(advice.rungs, key=lambda rung: rung.loss.value)[1]
    assert second.loss.interval.low < best.loss.interval.high
    assert second.excess.interval.low > 0
    assert not second.tied


def test_ties_are_said():
    precise, vague = advise(study(1e-4), 30 * LARGEST), advise(study(0.3), 30 * LARGEST)
    assert precise.ties == []
    names = [rung.size for rung in vague.rungs]
    assert (names[1], names[2]) in vague.ties
    machine = hardware(study().points, "h200", None, 0.4)
    assert f"your data cannot tell these apart: {', '.join(' and '.join(p) for p in vague.ties)}" in as_text(
        vague, machine, ["planted"]
    )
    assert "your data tell all of these apart" in as_text(precise, machine, ["planted"])
    blind = advise(study(None), 30 * LARGEST)
    assert blind.ties == []
    assert all(rung.tied is None for rung in blind.rungs)
    assert "nothing says which of these differ" in as_text(blind, machine, ["planted"])


# -- parameters or data --------------------------------------------------------------------------------------


def test_doublings_and_what_gains_more():
    law = PlantedLaw(0.02)
    short = doubling(law, six, "here", 1e8, 1e6)  # far too little data
    large = doubling(law, six, "here", 1e5, 1e12)
    assert (short.verdict, large.verdict) == ("data", "parameters")
    assert short.n_cost == 2
    now = E + A * 1e8**-ALPHA + B * 1e6**-BETA
    expected = math.log((E + A * 1e8**-ALPHA + B * 2e6**-BETA) / now)
    assert short.by_data.value == pytest.approx(expected)
    assert expected in short.by_data.interval
    n = analytic(1e19)
    at = doubling(law, six, "optimum", n, 1e19 / 6 / n)
    assert at.verdict == "cannot tell"
    assert doubling(PlantedLaw(None), six, "x", 1e8, 1e6).verdict == "cannot tell"


def test_a_loss_has_its_budget():
    fit = study()
    flops = 100 * LARGEST
    cost = AtomCost(fit.costs)
    loss = optimum(fit.surface.law, cost, flops).loss.value
    needed = budget_for(fit, loss)
    assert needed.value == pytest.approx(flops, rel=0.02)
    assert flops in needed.interval
    out_of_reach = budget_for(fit, 0.99 * E)
    assert math.isinf(out_of_reach.value)
    advice = with_wanted_loss(advise(fit, flops), fit, 0.99 * E)
    assert "no budget reaches it" in as_text(advice, hardware(fit.points, "h100", 0.5, 0.4), ["planted"])


# -- what goes with it ---------------------------------------------------------------------------------------


def test_warnings_of_repeats_and_extrapolation():
    inside = advise(study(), 0.1 * LARGEST)
    assert not any("extrapolates" in w for w in inside.warnings)
    beyond = advise(study(), 300 * LARGEST)
    assert any(w.startswith("extrapolates 300x in C_total, ") and "x in N" in w for w in beyond.warnings)
    assert beyond.epochs == pytest.approx(beyond.optimum.d.value / UNIQUE)
    assert beyond.epochs > 4
    assert any("repeats are worth less than new data, and the law does not" in w for w in beyond.warnings)
    less = beyond.within_epochs
    assert less.d.value == 4 * UNIQUE
    assert float(AtomCost(study().costs)(less.n.value)) * less.d.value == pytest.approx(
        300 * LARGEST, rel=1e-3
    )
    assert less.loss.value == pytest.approx(E + A * less.n.value**-ALPHA + B * less.d.value**-BETA)
    assert inside.within_epochs is None
    assert any("ladder's largest rung" in w for w in advise(study(), 1e9 * LARGEST).warnings)
    assert any("no intervals" in w for w in advise(study(None), LARGEST).warnings)


def link(identified: bool = True) -> LossLink:
    loss = np.linspace(0.9, 1.5, 40)
    eta, half = (1.1 - loss) / 0.1, np.sqrt(0.2 + 3 * (loss - 1.2) ** 2)
    rate, low, high = (0.9 / (1 + np.exp(-x)) for x in (eta, eta - half, eta + half))
    midpoint = Estimate(1.1, Interval(1.05, 1.15) if identified else None, identified=identified)
    return LossLink("crystal/validity", 0.9, midpoint, Estimate(0.1), 1.0, (loss, rate, low, high), 8)


def test_rates_beyond_the_losses_seen():
    inside = link_rate(link(), Estimate(1.0, Interval(1.0, 1.0)))
    assert inside.value == pytest.approx(0.9 / (1 + math.exp(-1)))
    half = math.sqrt(0.2 + 3 * 0.2**2)
    ends = [0.9 / (1 + math.exp(-(1 + sign * half))) for sign in (-1, 1)]
    assert (inside.interval.low, inside.interval.high) == pytest.approx(ends, rel=1e-6)
    assert inside.identified
    beyond = link_rate(link(), Estimate(0.8, Interval(0.75, 0.85)))
    half = math.hypot(math.sqrt(0.2 + 3 * 0.4**2), 0.5)
    assert beyond.interval.low == pytest.approx(0.9 / (1 + math.exp(-(3 - half))), rel=1e-6)
    assert beyond.interval.high < 0.9
    assert not beyond.identified
    assert link_rate(link(identified=False), Estimate(1.0)) is None


def test_budgets_in_gpu_hours():
    points = [
        replace(p, mfu=0.3 + 0.02 * i, devices="NVIDIA H200", precision="bf16")
        for i, p in enumerate(study().points)
    ]
    given = hardware(points, "h200", 0.5, 0.4, 2.5)
    assert given.flops(10_000) == pytest.approx(10_000 * 3600 * 989.4e12 * 0.5)
    assert given.gpu_hours(given.flops(7.0)) == pytest.approx(7.0)
    measured = hardware(points, "h200", None, 0.4)
    assert measured.mfu == pytest.approx(0.3 + 0.02 * 13)  # the median of the largest size's three
    assert measured.mfu_from == "as dit_256 of the study reached"
    assert hardware(points, "h100", None, 0.4).mfu == 0.4
    with pytest.raises(ConfigError, match="gpu is 'abacus'; expected one of a100, b200"):
        hardware(points, "abacus", None, 0.4)


def test_text_and_json_say_the_same():
    fit = study(links={"crystal/validity": link()})
    machine = hardware(fit.points, "h200", None, 0.4, 2.5)
    advice = with_wanted_loss(advise(fit, machine.flops(0.01)), fit, 0.7)
    text = as_text(advice, machine, ["planted", "other"])
    assert text.startswith("planted + other: 0.01 GPU-hours of H200 for 0.025, 1.42e+16 FLOPs at MFU 0.4")
    assert f"N {advice.optimum.n.value:.3g} [" in text
    assert "crystal validity" in text
    assert "a loss of 0.7 needs" in text
    for rung in advice.rungs:
        assert f"\n{rung.size} " in text
    record = json.loads(json.dumps(as_json(advice, machine, ["planted"]), allow_nan=False))
    assert record["optimum"]["n"]["value"] == advice.optimum.n.value
    assert record["budget"]["gpu_hours"] == pytest.approx(0.01)
    assert record["budget"]["cost"] == pytest.approx(0.025)
    assert [rung["size"] for rung in record["rungs"]] == [rung.size for rung in advice.rungs]
    assert len(text.splitlines()) < 25
    assert max(len(line) for line in text.splitlines() if not line.startswith("warning")) < 150


def test_without_a_surface_one_line_says_what_would_give_it():
    expected = r"no L\(N, D\) to advise from: one amount of data \(D\)[;:] sweep=isoflop"
    for reason in ("one amount of data (D)", "one amount of data (D): sweep=isoflop varies it"):
        with pytest.raises(DataError, match=expected) as caught:
            advise(study(surface=None, refusals={"surface": reason}), 1e18)
        assert str(caught.value).count("sweep=isoflop") == 1
    with pytest.raises(DataError, match="no run says what it cost"):
        advise(study(costs=()), 1e18)

"""The fits of ``full_study`` written down from its planted truths: what figures draw, without fitting it."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from adit_scale.scaling.charts import Marks, Panel
from adit_scale.scaling.envelope import lower_envelope
from adit_scale.scaling.exclusions import select_points
from adit_scale.scaling.fit import fit_points
from adit_scale.scaling.results import (
    Basin,
    Estimate,
    HeldOut,
    Interval,
    IsoflopFit,
    LossLink,
    Parabola,
    SeedNoise,
    SurfaceFit,
    TransferPair,
    WindowRow,
)
from adit_scale.scaling.study_data import Point
from adit_scale.scaling.study_fit import StudyFit
from adit_scale.scaling.trends import rate_trends
from tests.scaling.simulated import (
    ATOMS,
    BUDGETS,
    FULL_LAW,
    FULL_SIZES,
    RATE_LAWS,
    RUN_NOISE,
    best_rate,
    flops_an_atom,
    full_loss,
    full_study,
)

BAND = 0.008  # of the planted law, each side


class PlantedLaw:
    """``full_loss`` with a band of BAND."""

    def __call__(self, n, d, unique=None):
        return (
            FULL_LAW["E"]
            + FULL_LAW["A"] * np.asarray(n, dtype=float) ** -FULL_LAW["alpha"]
            + (FULL_LAW["B"] * np.asarray(d, dtype=float) ** -FULL_LAW["beta"])
        )

    def band(self, n, d, unique=None):
        value = self(n, d)
        return value, value * (1 - BAND), value * (1 + BAND)

    def draws(self, n, d, unique=None):
        return None

    def predict(self, n, d, unique=None, n_runs=1):
        value = float(self(n, d))
        return value, Interval(value * (1 - BAND), value * (1 + BAND))


def about(value: float, width: float = 0.1, identified: bool = True) -> Estimate:
    """An estimate with an interval of ``width`` of its value, each side."""
    ends = sorted((value * (1 - width), value * (1 + width)))
    return Estimate(value, Interval(*ends), identified=identified)


def planted_surface(used: Sequence[Point]) -> SurfaceFit:
    law = PlantedLaw()
    residuals = {p.label: math.log(p.final_loss / float(law(p.n_parameters, p.atoms_seen))) for p in used}
    largest = max(p.n_parameters for p in used)
    return SurfaceFit(
        form="surface",
        law=law,
        estimates={name: about(value) for name, value in FULL_LAW.items()},
        sigma=RUN_NOISE,
        dof=30.0,
        noise_text="noise between seeds",
        rms_log_residual=RUN_NOISE,
        residuals=residuals,
        used=[p.label for p in used],
        held_out=[_held(p, 0.01) for p in used if p.n_parameters == largest],
    )


def _held(p: Point, width: float) -> HeldOut:
    predicted = full_loss(p.n_parameters, p.atoms_seen)
    interval = Interval(predicted * (1 - width), predicted * (1 + width))
    return HeldOut(
        p.size, p.n_parameters, p.final_loss, predicted, interval, predicted / p.final_loss - 1, "surface",
        p.atoms_seen,
    )  # fmt: skip


def _parabola(budget: float, points: Sequence[Point]) -> Parabola:
    """Through the planted loss at a budget's best size, and at three times and a third of it."""
    sizes = np.geomspace(1e5, 1e7, 400)
    optimum = float(min(sizes, key=lambda n: full_loss(n, budget / flops_an_atom(n))))
    at = [optimum / 3, optimum, optimum * 3]
    y = [math.log(full_loss(n, budget / flops_an_atom(n))) for n in at]
    c2, c1, c0 = np.polyfit(np.log10(at), y, 2)
    lowest = -c1 / (2 * c2)
    chosen = sorted((p for p in points if near_budget(p, budget)), key=lambda p: p.n_parameters)
    return Parabola(
        flops=budget,
        n=[float(p.n_parameters) for p in chosen],
        loss=[p.final_loss for p in chosen],
        labels=[p.label for p in chosen],
        in_window=[abs(math.log10(p.n_parameters) - lowest) < 1 for p in chosen],
        coefficients=(float(c0), float(c1), float(c2)),
        n_optimum=about(10**lowest),
        d_optimum=about(budget / flops_an_atom(10**lowest)),
        loss_optimum=about(math.exp(c0 - c1**2 / (4 * c2)), 0.01),
    )


def near_budget(p: Point, budget: float) -> bool:
    return p.axes.get("sweep.budgets_flops") == budget


def _isoflop(points: Sequence[Point]) -> IsoflopFit:
    parabolas = [_parabola(budget, points) for budget in BUDGETS]
    optima = [p.n_optimum.value for p in parabolas]
    a, scale = np.polyfit(np.log(BUDGETS), np.log(optima), 1)
    windows = [WindowRow("within a factor of 3", [0.9 * n for n in optima], a), WindowRow("all", optima, a)]
    return IsoflopFit(
        parabolas, "within a factor of 10", about(a), math.exp(scale), about(1 - a),
        math.exp(-scale) / flops_an_atom(1.0), windows=windows, noise_text="noise between seeds",
    )  # fmt: skip


def _basins(points: Sequence[Point]) -> list[Basin]:
    found = []
    for size in ("dit_32", "dit_96", "dit_192"):
        n = FULL_SIZES[size]
        tried = sorted((p for p in points if p.label.startswith(f"{size}-lr")), key=lambda p: p.lr)
        lr, loss = [p.lr for p in tried], [p.final_loss for p in tried]
        optimum = about(best_rate(n), 0.2) if size != "dit_32" else None
        found.append(Basin(size, n, lr, loss, optimum, optimum is None, best_rate(n), 0.001))
    return found


def _link(metric: str) -> LossLink:
    _, logit, slope, ceiling = RATE_LAWS[metric]
    loss = np.linspace(0.6, 1.3, 50)
    rate = ceiling / (1 + np.exp(-(logit + slope * (loss - 0.9))))
    midpoint, width = about(0.9 - logit / slope, 0.02), about(-1 / slope)
    return LossLink(metric, ceiling, midpoint, width, 1.2, (loss, rate, rate - 0.02, rate + 0.02), 30)


def _pairs(points: Sequence[Point]) -> list[TransferPair]:
    """Deltas of the study's own runs, with intervals of twice the noise: the last has none."""
    pairs = []
    for p in points:
        if p.domain and p.seed == 0:
            joint = next(q for q in points if q.label == f"{p.size}-seed0-d1")
            losses = joint.domain_losses[p.domain], p.domain_losses[p.domain]
            delta = math.log(losses[0] / losses[1])
            interval = Interval(delta - 3 * RUN_NOISE, delta + 3 * RUN_NOISE)
            verdict = "within noise" if 0 in interval else "helps" if delta < 0 else "hurts"
            pairs.append(
                TransferPair(p.domain, p.size, p.n_parameters, p.domain_match, *losses, 1, 1,
                             Estimate(delta, interval), verdict, about(math.exp(8 * delta), 0.1))
            )  # fmt: skip
    return [*pairs[:-1], replace(pairs[-1], multiplier=None)]


def planted_fit(points: Sequence[Point]) -> StudyFit:
    """Of the points of ``full_study``; L(N), the envelope and trends are worked out from the points."""
    selection = select_points(points, one_budget=False)
    size_law = fit_points(points, bootstrap=100)
    at_one = size_law.used
    by_size = [
        (size, n, [p.final_loss for p in at_one if p.size == size])
        for size, n in FULL_SIZES.items()
        if sum(p.size == size for p in at_one) > 1
    ]
    domains = {
        domain: fit_points([replace(p, final_loss=p.domain_losses[domain]) for p in at_one], bootstrap=100)
        for domain in ("molecule", "crystal")
    }
    scored = [p for p in selection.used if p.rates]
    return StudyFit(
        points=points,
        selection=selection,
        size_law=size_law,
        surface=planted_surface(selection.used),
        isoflop=_isoflop(points),
        envelope=lower_envelope(selection.used),
        links={metric: _link(metric) for metric in ("molecule/edm_validity", "crystal/validity")},
        trends=rate_trends(scored, sorted(RATE_LAWS)),
        domains=domains,
        transfer=_pairs(points),
        basins=_basins(points),
        seed_noise=SeedNoise(about(RUN_NOISE, 0.4), 8, by_size),
        leave_one_out=[
            replace(_held(p, 0.001 if p.size == "dit_128" else 0.02), measured=p.final_loss * 1.005)
            for p in at_one
            if p.seed == 0 and abs(p.atoms_seen - ATOMS) < 1
        ],
        sensitivity=[],
        costs=[],
        refusals={},
        warnings=[],
    )


def empty_fit(points: Sequence[Point] = ()) -> StudyFit:
    """A study of which nothing could be fitted."""
    nothing: dict = dict.fromkeys(("envelope", "transfer", "basins", "leave_one_out", "sensitivity"), ())
    nothing |= {name: {} for name in ("links", "trends", "domains", "refusals")}
    nothing |= dict.fromkeys(("size_law", "surface", "isoflop", "seed_noise"))
    return StudyFit(points=points, selection=select_points(points), costs=(), warnings=(), **nothing)


@functools.cache
def planted_study() -> StudyFit:
    return planted_fit(full_study())


def items(panel: Panel, kind: type, name: str | None = None) -> list:
    """The panel's items of a kind, and of a name."""
    return [i for i in panel.items if isinstance(i, kind) and (name is None or i.name == name)]


def values(panel: Panel, name: str | None = None) -> list[tuple[float, float]]:
    """Every drawn mark, (x, y)."""
    return [pair for m in items(panel, Marks, name) for pair in zip(m.x, m.y, strict=True)]

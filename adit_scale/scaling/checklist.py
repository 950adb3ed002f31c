"""What a reader must know to compare a study with another, filled in from its points and fits."""

# ruff: noqa: RUF001 (Greek letters and true minus signs in text for readers)

from __future__ import annotations

import math
import platform
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

import adit_scale
from adit_scale.scaling.config import SweepConfig
from adit_scale.scaling.report_tables import held_out_runs
from adit_scale.scaling.results import HeldOut
from adit_scale.scaling.solver import HUBER_DELTA
from adit_scale.scaling.study_data import Point
from adit_scale.scaling.study_fit import StudyFit
from adit_scale.scaling.table import loss_text, parameters

NOT_STATED = "not stated"


@dataclass(frozen=True)
class Item:
    """answer: "" where the study's records do not tell: a gap that the reader must see."""

    question: str
    answer: str


def checklist(study: StudyFit, config: SweepConfig) -> list[Item]:
    """The items in the order of a methods section."""
    runs = [p for p in study.points if p.status == "done"]
    items = [*_definitions(), *_training(runs, study), *_data(runs), *_fits(study, config)]
    items += [
        Item("Samples", _samples(runs)),
        Item("Compute", _compute(study.points)),
        Item("Software", f"adit_scale {adit_scale.__version__}, Python {platform.python_version()}, "
                         f"numpy {np.__version__}, scipy {scipy.__version__}"),
        Item("Not done", "; ".join(f"{name}: {why}" for name, why in study.refusals.items()) or "nothing"),
    ]  # fmt: skip
    return items


def _definitions() -> list[Item]:
    return [
        Item("N", "trainable parameters of the denoiser; parameters in matrices (12·d²·depth) beside it"),
        Item("D", "real atoms seen, repeats included"),
        Item(
            "C",
            "3 × the forward over real atoms, embeddings and heads included, plus self-conditioning's share "
            "of one forward; padding and recomputation left out. C_total adds the frozen encoder's forward",
        ),
        Item("L", "validation loss of the EMA weights on a fixed grid of (t, noise), at each run's end"),
    ]


def _training(runs: Sequence[Point], study: StudyFit) -> list[Item]:
    return [
        Item("Sizes", _by_size(runs, lambda p: parameters(p.n_parameters))),
        Item("Data seen (D)", _range([p.atoms_seen for p in runs], "atoms")),
        Item("Seeds", _seeds(runs)),
        Item("Schedule", _schedules(runs)),
        Item("Learning rates", _learning_rates(runs, study)),
        Item("Parametrization", _values(p.parametrization for p in runs)),
        Item("Precision", _values(p.precision for p in runs)),
    ]


def _data(runs: Sequence[Point]) -> list[Item]:
    encoder = sorted({_autoencoder(p) for p in runs} - {""})
    return [
        Item("Data", _data_text(runs)),
        Item("Epochs", _range([p.epochs for p in runs if p.epochs], "")),
        Item("Held-out structures that stand in training", _leakage(runs)),
        Item("Autoencoder", "; ".join(encoder)),
        Item("Validation grid", _values(p.validation_grid for p in runs)),
    ]


def _fits(study: StudyFit, config: SweepConfig) -> list[Item]:
    intervals = f"95%; {config.bootstrap} resamples"
    if study.size_law is not None:
        intervals += f"; seed {study.size_law.seed}; L(N) holds {study.size_law.fit.noise.holds}"
    if study.surface is not None:
        intervals += f"; L(N, D) holds {study.surface.noise_text}"
    excluded = study.selection.excluded
    fitted = study.size_law is not None or study.surface is not None
    how = {
        "Objective": f"sum of Huber(log L_fit − log L), δ = {HUBER_DELTA:g}",
        "Starts": "non-negative least squares of E, A (and B) over a grid of the exponents, the best refined "
        "with analytic derivatives",
        "Intervals": intervals,
    }
    return [
        *(Item(question, answer if fitted else "no law fitted") for question, answer in how.items()),
        Item("Rates", "over all samples drawn, Wilson intervals; trends by logistic regression on log10 N, "
                      "widened where runs scatter by more than their samples"),
        Item("Held out", _held_out(study, config)),
        Item("Exclusions", f"{len(excluded)} of {len(study.points)} points, by name above" if excluded
             else "none"),
        Item("Envelope", "finished runs only; drawn, never fitted: learning rates had not decayed along it"),
    ]  # fmt: skip


def _learning_rates(runs: Sequence[Point], study: StudyFit) -> str:
    """How each size in the fit got its rate: that is what makes sizes comparable."""
    runs = [p for p in study.selection.used or runs if not math.isnan(p.lr)]
    rates = _by_size(runs, lambda p: f"{p.lr:.3g}")
    if not rates:
        return ""
    if study.basins:
        best = [
            f"{b.size} {b.optimum.value:.3g}" if b.optimum else f"{b.size} no minimum inside"
            for b in study.basins
        ]
        return f"{rates}; measured optimum: {', '.join(best)}"
    if {p.parametrization for p in runs} == {"mup"}:
        return f"{rates} at the base width, transferred by muP"
    one = len({p.lr for p in runs}) == 1
    how = "one for all sizes" if one else "set by size"
    return f"{rates}; {how}, the optimum of each size was not measured in this study"


def _schedules(runs: Sequence[Point]) -> str:
    steps: dict[str, list[int]] = defaultdict(list)
    for p in runs:
        if p.schedule:
            steps[f"{p.schedule}, warm-up {p.warmup_steps}" + (", from a trunk" if p.trunk else "")].append(
                p.steps
            )
    spans = {how: (min(found), max(found)) for how, found in sorted(steps.items())}
    return "; ".join(
        f"{how}, {low:,} steps" if low == high else f"{how}, {low:,} to {high:,} steps"
        for how, (low, high) in spans.items()
    )


def _seeds(runs: Sequence[Point]) -> str:
    counts: dict[str, set[int]] = defaultdict(set)
    for p in sorted(runs, key=lambda p: p.n_parameters):
        counts[p.size].add(p.seed)
    return ", ".join(f"{size} {len(seeds)}" for size, seeds in counts.items())


def _data_text(runs: Sequence[Point]) -> str:
    prints = _values(p.data_fingerprint for p in runs)
    if not prints:
        return ""
    unique = {p.unique_atoms for p in runs if not math.isnan(p.unique_atoms)}
    domains = sorted({p.domain or "joint" for p in runs})
    atoms = f"; {_range(sorted(unique), 'different atoms')}" if unique else ""
    return f"fingerprint {prints}{atoms}; {', '.join(domains)} training"


def _leakage(runs: Sequence[Point]) -> str:
    worst: dict[str, float] = {}
    for p in runs:
        for domain, share in p.leakage.items():
            worst[domain] = max(share, worst.get(domain, 0.0))
    return ", ".join(f"{domain} {100 * share:.2g}%" for domain, share in sorted(worst.items()))


def _autoencoder(p: Point) -> str:
    if not p.autoencoder_id:
        return ""
    shape = ", ".join(f"{key} {_plain(value)}" for key, value in p.autoencoder.items())
    return p.autoencoder_id[:8] + (f" ({shape})" if shape else "")


def _held_out(study: StudyFit, config: SweepConfig) -> str:
    if not config.hold_out_largest:
        return "nothing: sweep.hold_out_largest is false"
    laws = [fit for fit in (study.size_law, study.surface) if fit is not None]
    found = [_held_out_text(h) for fit in laws for h in held_out_runs(fit)]
    return "; ".join(found) if found else "nothing: too few sizes"


def _held_out_text(h: HeldOut) -> str:
    bounds = f" [{loss_text(h.interval.low)}, {loss_text(h.interval.high)}]" if h.interval else ""
    at = f" at {h.atoms_seen:.3g} atoms" if h.atoms_seen else ""
    return (
        f"{h.size}{at} measured {loss_text(h.measured)}, predicted {loss_text(h.predicted)}{bounds}: "
        f"{100 * h.error:+.2f}%"
    )


def _samples(runs: Sequence[Point]) -> str:
    drawn = {(p.solver, p.sampling_steps, p.guidance) for p in runs if p.solver}
    trials = sorted({r.trials for p in runs for r in p.rates.values() if r.trials})
    how = [f"{solver}, {steps} steps, guidance {guidance:g}" for solver, steps, guidance in sorted(drawn)]
    if not how:
        return ""
    return "; ".join(how) + (f"; {trials[0]:,} to {trials[-1]:,} trials a rate" if trials else "")


def _compute(points: Sequence[Point]) -> str:
    used = sum(p.gpu_hours for p in points if not math.isnan(p.gpu_hours))
    devices = _values(p.devices for p in points)
    if not used or not devices:
        return devices
    return f"{used:.3g} device hours on {devices}, {sum(p.restarts for p in points)} restarts"


def _by_size(runs: Sequence[Point], say: Callable[[Point], str]) -> str:
    said: dict[str, list[str]] = defaultdict(list)
    for p in sorted(runs, key=lambda p: p.n_parameters):
        if say(p) not in said[p.size]:
            said[p.size].append(say(p))
    return ", ".join(f"{size} {' and '.join(words)}" for size, words in said.items())


def _values(found: Iterable[str]) -> str:
    return ", ".join(sorted({value for value in found if value}))


def _range(values: Sequence[float], unit: str) -> str:
    if not values:
        return ""
    low, high = min(values), max(values)
    span = f"{low:.3g}" if high <= 1.02 * low else f"{low:.3g} to {high:.3g}"
    return f"{span} {unit}".strip()


def _plain(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)

"""What a study measured: one ``Point`` a diffusion run, read from the folders of its nodes.

The fit, the plots and the report see only these records, so that a report can be rebuilt from
``points.json`` alone, without the runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from adit_scale.errors import DataError
from adit_scale.evaluation.statistics import Rate
from adit_scale.tracking.journal import FILE_NAME, read_journal, series

# Keys of a diffusion run's journal (kind "metrics").
VALIDATION_LOSS_KEY = "validation/loss"
FLOPS_KEY = "validation/flops_cum"
ATOMS_KEY = "validation/atoms_seen"
TRAINING_LOSS_KEY = "train/loss"
DOMAINS = ("molecule", "crystal")

# running: a process holds the node now. unfinished: it stopped, was stopped or waits for its next attempt.
STATUSES = ("done", "failed", "diverged", "running", "unfinished", "missing")


@dataclass(frozen=True)
class LossCurve:
    """Validation loss along a run: applied steps, cumulative training FLOPs (C), EMA validation loss.

    atoms: real atoms seen until then. domain: by domain ("molecule", "crystal") its validation loss. train:
    mean training loss of the intervals logged since the validation before, NaN where there is none. Columns
    of older records may be empty.
    """

    steps: list[int] = field(default_factory=list)
    flops_cum: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    atoms: list[float] = field(default_factory=list)
    train: list[float] = field(default_factory=list)
    domain: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert len(self.steps) == len(self.flops_cum) == len(self.loss), "columns of a curve differ in length"
        for column in (self.atoms, self.train, *self.domain.values()):
            assert len(column) in (0, len(self.steps)), "columns of a curve differ in length"

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> LossCurve:
        """Raises DataError for unknown fields."""
        unknown = sorted(set(record) - {f.name for f in fields(LossCurve)})
        if unknown:
            raise DataError(f"curve has unknown fields {unknown}; expected those of LossCurve")
        columns = {name: _numbers(record.get(name, [])) for name in ("flops_cum", "loss", "atoms", "train")}
        domain = {name: _numbers(column) for name, column in record.get("domain", {}).items()}
        return LossCurve([int(v) for v in record.get("steps", [])], **columns, domain=domain)


@dataclass(frozen=True)
class Point:
    """One point of a study: a diffusion run, what it was, what it cost, what it reached.

    run: id of the diffusion node; points that differ in sampling or evaluation alone share it, and are one
    run in a loss fit. trunk: id of the run whose trunk a decay branch left, "" for a run of its own; points
    of one trunk are correlated. study: its name. axes: of the sweep, with this point's values.
    n_parameters: N, trainable parameters of the denoiser. n_matrix_parameters: 12·d²·depth.
    atoms_seen: D, real atoms with repeats. unique_atoms: atoms of the different structures it may see.
    flops: C of docs/method.md. flops_total: C and the frozen encoder.
    final_loss: EMA validation loss on the fixed (t, noise) grid; NaN where there is none. domain_losses: its
    parts by domain. train_loss: mean of the last logged interval.
    constant_loss: what the best constant prediction would score there: the loss of having learned nothing.
    autoencoder_id, data_fingerprint, validation_grid: losses compare only where all three agree; the last is
    a digest of the number of sets, the times, the noise and the split.
    domain: "" for joint training, else the one it was trained on; domain_match: "flops" or "samples", what
    it then has in common with the joint run. domain_atoms, domain_sets: those it saw, by domain.
    autoencoder: width, latent, parameters. solver, sampling_steps, guidance: how its samples were drawn.
    gpu_hours: used, ranks times wall time over all attempts (of processor-only ranks on a machine without
    GPU); planned_gpu_hours: by study.budget, of runs on its GPU. restarts: attempts after the first.
    devices: what it ran on. atoms_per_s: median over the run. mfu: 0 to 1. NaN where a number is not known.
    leakage: by domain the share of held-out sets that stand in the training data; empty where not looked at.
    training_rates: by metric, rows (atoms seen, rate, lower, upper) of samples scored while it trained.
    status: one of STATUSES. note: why a point has no result, in a few words.
    """

    label: str
    size: str
    n_parameters: int
    n_matrix_parameters: int = 0
    atoms_seen: int = 0
    sets_seen: int = 0
    epochs: float = 0.0
    flops: float = 0.0
    flops_total: float = 0.0
    seed: int = 0
    final_loss: float = math.nan
    constant_loss: float = math.nan
    curve: LossCurve = field(default_factory=LossCurve)
    rates: dict[str, Rate] = field(default_factory=dict)
    status: str = "done"
    autoencoder_id: str = ""
    data_fingerprint: str = ""
    note: str = ""
    study: str = ""
    run: str = ""
    trunk: str = ""
    axes: dict[str, Any] = field(default_factory=dict)
    lr: float = math.nan
    schedule: str = ""
    parametrization: str = "standard"
    precision: str = "fp32"
    warmup_steps: int = 0
    steps: int = 0
    domain: str = ""
    domain_match: str = ""
    domain_losses: dict[str, float] = field(default_factory=dict)
    domain_atoms: dict[str, float] = field(default_factory=dict)
    domain_sets: dict[str, float] = field(default_factory=dict)
    unique_atoms: float = math.nan
    validation_grid: str = ""
    train_loss: float = math.nan
    autoencoder: dict[str, Any] = field(default_factory=dict)
    sampling_steps: int = 0
    guidance: float = math.nan
    solver: str = ""
    gpu_hours: float = math.nan
    planned_gpu_hours: float = math.nan
    restarts: int = 0
    atoms_per_s: float = math.nan
    mfu: float = math.nan
    devices: str = ""
    leakage: dict[str, float] = field(default_factory=dict)
    training_rates: dict[str, list[list[float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise DataError(
                f"point {self.label}: status is {self.status!r}; expected one of {', '.join(STATUSES)}"
            )
        if self.n_parameters <= 0:
            raise DataError(
                f"point {self.label}: n_parameters is {self.n_parameters}; expected a positive count"
            )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; non-finite numbers become the strings "nan", "inf", "-inf"."""
        record = {f.name: getattr(self, f.name) for f in fields(self)}
        record["curve"] = asdict(self.curve)
        record["rates"] = {name: rate.to_dict() for name, rate in self.rates.items()}
        return json_safe(record)

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Point:
        """The inverse of ``to_json``; what older records lack takes its default.

        Raises DataError for unknown or missing fields.
        """
        known = {f.name for f in fields(Point)}
        unknown = sorted(set(record) - known)
        missing = sorted({"label", "size", "n_parameters"} - set(record))
        if unknown or missing:
            raise DataError(
                f"point {record.get('label', '?')}: unknown fields {unknown}, missing fields {missing}; "
                f"expected a record written by Point.to_json"
            )
        values = dict(record)
        for f in fields(Point):
            if f.name not in record:
                continue
            if f.type == "float":
                values[f.name] = _number(record[f.name])
            elif f.type == "dict[str, float]":
                values[f.name] = {key: _number(value) for key, value in record[f.name].items()}
        values["curve"] = LossCurve.from_json(record.get("curve", {}))
        values["rates"] = parse_rates(record.get("rates", {}), where=f"point {values['label']}")
        values["training_rates"] = {
            name: [_numbers(row) for row in rows] for name, rows in record.get("training_rates", {}).items()
        }
        return Point(**values)


def _numbers(values: Iterable[Any]) -> list[float]:
    return [_number(value) for value in values]


def _number(value: Any) -> float:
    """Of a JSON number or "nan", "inf", "-inf"; NaN as one object, so that equal records compare equal."""
    number = float(value)
    return math.nan if math.isnan(number) else number


def save_points(points: Iterable[Point], path: Path) -> None:
    """Write ``points.json``: a JSON list of ``Point.to_json`` records."""
    path.write_text(json.dumps([p.to_json() for p in points], indent=1, allow_nan=False) + "\n")


def load_points(path: Path) -> list[Point]:
    """Read ``points.json``. Raises DataError when it is missing or not such a list."""
    records = _load_json(path)
    if not isinstance(records, list):
        raise DataError(f"{path}: got a {type(records).__name__}; expected a JSON list of points")
    return [Point.from_json(record) for record in records]


def read_loss_curve(run_folder: Path) -> LossCurve:
    """The curve in a run's journal; empty when it has no such values yet. Raises DataError."""
    path = run_folder / FILE_NAME
    return loss_curve(read_journal(path)) if path.is_file() else LossCurve()


def loss_curve(records: Sequence[Mapping[str, Any]]) -> LossCurve:
    """Of a journal's records. A step logged twice counts once, with its last value. FLOPs and atoms of a step
    are those logged at it or at the last step before it."""
    losses = by_step(records, VALIDATION_LOSS_KEY)
    flops, atoms = by_step(records, FLOPS_KEY), by_step(records, ATOMS_KEY)
    training = by_step(records, TRAINING_LOSS_KEY)
    parts = {name: by_step(records, f"{VALIDATION_LOSS_KEY}/{name}") for name in DOMAINS}
    steps = sorted(losses)
    return LossCurve(
        steps=steps,
        flops_cum=_last_before(flops, steps),
        loss=[losses[step] for step in steps],
        atoms=_last_before(atoms, steps),
        train=_means_between(training, steps),
        domain={name: [part.get(step, math.nan) for step in steps] for name, part in parts.items() if part},
    )


def by_step(records: Sequence[Mapping[str, Any]], key: str) -> dict[int, float]:
    """The values of one metric; of a step logged twice the last."""
    return {step: float(value) for step, value in zip(*series(records, key), strict=True)}


def _last_before(values: Mapping[int, float], steps: Sequence[int]) -> list[float]:
    """The values at the steps or at the last ones before them; 0 where there is none."""
    known = sorted(values)
    places = np.searchsorted(known, steps, side="right")
    return [values[known[place - 1]] if place else 0.0 for place in places.tolist()]


def _means_between(values: Mapping[int, float], steps: Sequence[int]) -> list[float]:
    """Mean of the values behind the step before and up to each step; NaN where there are none."""
    known = sorted(values)
    column = np.array([values[step] for step in known])
    edges = np.searchsorted(known, (-1, *steps), side="right").tolist()
    return [float(column[a:b].mean()) if b > a else math.nan for a, b in pairwise(edges)]


def read_evaluation(node_folder: Path, scores: str = "scores") -> dict[str, Rate]:
    """The scores in the ``DONE.json`` of an evaluation node (samples) or a reference node (real data).

    scores: ``reconstruction_scores`` for those of a reference node's reconstructions. Raises DataError when
    the file is missing or holds no such rates.
    """
    path = node_folder / "DONE.json"
    record = _load_json(path)
    if not isinstance(record, dict) or scores not in record:
        raise DataError(f'{path}: no "{scores}"; expected the DONE.json of an evaluation or reference node')
    return parse_rates(record[scores], where=str(path))


def parse_rates(record: Mapping[str, Any], where: str) -> dict[str, Rate]:
    """Named rates from plain JSON: successes, trials and, where given, confidence and effective_trials.

    Intervals are derived from these, not read. Raises DataError naming ``where`` and the rate.
    """
    rates = {}
    for name, entry in record.items():
        try:
            successes, trials = int(entry["successes"]), int(entry["trials"])
            confidence, worth = float(entry.get("confidence", 0.95)), entry.get("effective_trials")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{where}: rate {name!r} is {entry!r}; expected successes and trials") from error
        if not 0 <= successes <= trials:
            raise DataError(f"{where}: rate {name!r} has {successes} successes in {trials} trials")
        rates[name] = Rate(successes, trials, confidence, effective_trials=worth)
    return rates


def _load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; expected the result of a finished node") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not valid JSON ({error})") from error


def json_safe(value: Any) -> Any:
    """``value`` with non-finite floats as strings, which ``float()`` reads back: JSON has no NaN."""
    if isinstance(value, dict):
        return {key: json_safe(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value

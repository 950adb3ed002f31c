"""What a study measured: one ``Point`` a diffusion run, read from the folders of its nodes.

The fit, the plots and the report see only these records, so that a report can be rebuilt from
``points.json`` alone, without the runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from adit_scale.errors import DataError
from adit_scale.evaluation.statistics import Rate
from adit_scale.tracking.journal import FILE_NAME, read_journal, series

# Keys of a diffusion run's journal (kind "metrics").
VALIDATION_LOSS_KEY = "validation/loss"
FLOPS_KEY = "validation/flops_cum"

STATUSES = ("done", "failed", "diverged", "running", "missing")


@dataclass(frozen=True)
class LossCurve:
    """Validation loss along a run: applied steps, cumulative training FLOPs (C), EMA validation loss."""

    steps: list[int] = field(default_factory=list)
    flops_cum: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert len(self.steps) == len(self.flops_cum) == len(self.loss), "columns of a curve differ in length"


@dataclass(frozen=True)
class Point:
    """One diffusion run of a study: what it was, what it cost, what it reached.

    n_parameters: N, trainable parameters of the denoiser. n_matrix_parameters: 12·d²·depth.
    atoms_seen: D, real atoms with repeats. flops: C of docs/method.md. flops_total: C and the frozen encoder.
    final_loss: EMA validation loss on the fixed (t, noise) grid; NaN where there is none.
    constant_loss: what the best constant prediction would score there: the loss of having learned nothing.
    autoencoder_id, data_fingerprint: losses compare only where both agree.
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
        """The inverse of ``to_json``. Raises DataError for unknown or missing fields."""
        known = {f.name for f in fields(Point)}
        unknown = sorted(set(record) - known)
        missing = sorted({"label", "size", "n_parameters"} - set(record))
        if unknown or missing:
            raise DataError(
                f"point {record.get('label', '?')}: unknown fields {unknown}, missing fields {missing}; "
                f"expected a record written by Point.to_json"
            )
        values = dict(record)
        for key in ("epochs", "flops", "flops_total", "final_loss", "constant_loss"):
            if key in values:
                values[key] = float(values[key])
        curve = values.get("curve", {})
        values["curve"] = LossCurve(
            steps=[int(v) for v in curve.get("steps", [])],
            flops_cum=[float(v) for v in curve.get("flops_cum", [])],
            loss=[float(v) for v in curve.get("loss", [])],
        )
        values["rates"] = parse_rates(values.get("rates", {}), where=f"point {values['label']}")
        return Point(**values)


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
    """Validation loss against cumulative FLOPs from a run's journal; empty when it has no such values yet.

    A step logged twice counts once, with its last value. FLOPs of a step are those logged at it or at the
    last step before it.
    """
    path = run_folder / FILE_NAME
    if not path.is_file():
        return LossCurve()
    records = read_journal(path)
    loss_steps, losses = series(records, VALIDATION_LOSS_KEY)
    flops_steps, flops = series(records, FLOPS_KEY)
    flops_at = sorted(dict(zip(flops_steps, flops, strict=True)).items())
    curve = LossCurve()
    position = -1
    for step, loss in sorted(dict(zip(loss_steps, losses, strict=True)).items()):
        while position + 1 < len(flops_at) and flops_at[position + 1][0] <= step:
            position += 1
        curve.steps.append(int(step))
        curve.flops_cum.append(float(flops_at[position][1]) if position >= 0 else 0.0)
        curve.loss.append(float(loss))
    return curve


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

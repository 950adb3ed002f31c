"""What of a journal a tracking store does not hold yet. Knows journals, not MLflow.

A store holds one value a key and step. Two things decide what is new: the ``Mark`` (how far the journal was
read, kept with the run in the store) spares reading again what was mirrored, and the store's own latest step
of each key decides what may still be written. The second alone keeps values single, also where the journal
was cut and rewritten by a resumed run, or where a mirror died between its values and its mark.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from adit_scale.tracking.journal import Line, scan

MAX_PARAM_CHARACTERS = 6000  # MLflow's limits
MAX_TAG_CHARACTERS = 8000
MAX_KEY_CHARACTERS = 250
FLOPS = ("flops_cum", "flops_total_cum")
_FORBIDDEN = re.compile(r"[^\w\-. :/]", flags=re.ASCII)


@dataclass(frozen=True)
class Mark:
    """How far a journal was mirrored: its last line's bytes [start, offset), that line's digest and step.

    The line holds a time stamp, so a journal that was cut below ``offset`` and grew again does not match.
    """

    offset: int = 0
    start: int = 0
    digest: str = ""
    step: int = 0

    def matches(self, path: Path) -> bool:
        """Whether the journal still has the marked line at the marked place."""
        with path.open("rb") as file:
            file.seek(self.start)
            return self.offset > 0 and digest(file.read(self.offset - self.start)) == self.digest

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str | None) -> Mark:
        """The mark in a tag; the beginning of the journal if there is none or it cannot be read."""
        try:
            return Mark(**json.loads(text or "{}"))
        except (ValueError, TypeError):
            return Mark()


@dataclass(frozen=True)
class Point:
    """One value of one metric; ``time_ms`` since 1970."""

    key: str
    value: float
    time_ms: int
    step: int


@dataclass
class Increment:
    """New values of a journal, and the mark to store once they are written. Times in ms since 1970."""

    mark: Mark
    points: list[Point] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    end_ms: int | None = None


def read_increment(path: Path, mark: Mark, latest_steps: Mapping[str, int]) -> Increment:
    """Everything behind ``mark`` whose step lies above the store's ``latest_steps`` of its key.

    A journal that no longer matches the mark is read from its beginning. Wall-clock values get the prefix
    ``clock/``, cumulative FLOPs come with their logarithm, events become tags ``event/<name>``. Raises
    DataError for a damaged line.
    """
    mark = mark if mark.matches(path) else Mark()
    steps = dict(latest_steps)
    increment = Increment(mark)
    last: Line | None = None
    for line in scan(path, mark.start):
        increment.end_ms = time_ms(line.record)
        if line.end <= mark.offset:  # the marked line itself, read for its time stamp
            continue
        last = line
        _collect(line.record, increment, steps)
    if last is not None:
        increment.mark = Mark(last.end, last.start, _digest_of(path, last), last.record["step"])
    return increment


def first_time_ms(path: Path) -> int | None:
    """The time stamp of a journal's first record; None while there is none."""
    return next((time_ms(line.record) for line in scan(path)), None)


def time_ms(record: Mapping[str, Any]) -> int:
    return round(record["clock"].get("time_s", 0.0) * 1000)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def clean_key(key: str) -> str:
    """A key that MLflow accepts: other characters than letters, digits and ``_-. :/`` become ``_``."""
    return _FORBIDDEN.sub("_", key)[:MAX_KEY_CHARACTERS]


def _collect(record: Mapping[str, Any], increment: Increment, steps: dict[str, int]) -> None:
    kind, values = record["kind"], record["values"]
    if kind == "metrics":
        clock = {f"clock/{key}": value for key, value in record["clock"].items() if key != "time_s"}
        for key, value in {**values, **clock, **_logarithms(values)}.items():
            name = clean_key(key)
            if record["step"] > steps.get(name, -1):
                steps[name] = record["step"]
                increment.points.append(Point(name, value, time_ms(record), record["step"]))
    elif kind == "params":
        for key, value in _flatten(values):
            increment.params.setdefault(clean_key(key), str(value)[:MAX_PARAM_CHARACTERS])
    elif kind == "tags":
        increment.tags.update({clean_key(k): str(v)[:MAX_TAG_CHARACTERS] for k, v in values.items()})
    else:
        details = {key: value for key, value in values.items() if key != "event"}
        text = f"step {record['step']} {json.dumps(details)}"
        increment.tags[clean_key(f"event/{values['event']}")] = text[:MAX_TAG_CHARACTERS]


def _logarithms(values: Mapping[str, float]) -> dict[str, float]:
    """log10 of cumulative FLOPs, as further metrics: MLflow's charts have no log axis for a metric."""
    return {
        f"{group}/log10_{name}": math.log10(value)
        for key, value in values.items()
        for group, _, name in [key.rpartition("/")]
        if group and name in FLOPS and value > 0
    }


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as ``group.key``."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _digest_of(path: Path, line: Line) -> str:
    with path.open("rb") as file:
        file.seek(line.start)
        return digest(file.read(line.end - line.start))

"""What the nodes of a study took: hours of their ranks, attempts, speed, devices."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adit_scale.jobs.attempts import attempts
from adit_scale.jobs.node import DONE, read_done
from adit_scale.scaling.study_data import by_step
from adit_scale.training.peaks import DEVICE_TAG


@dataclass(frozen=True)
class Usage:
    """rank_hours: ranks times wall time over all attempts; NaN where not known. restarts: attempts after the
    first. reason: why the last attempt ended, "" where it did not say."""

    rank_hours: float
    restarts: int
    reason: str


def usage_of(folder: Path, ranks: int, records: Sequence[Mapping[str, Any]] = ()) -> Usage:
    """Of a node's folder. ranks: where no attempt says how many. records: of its journal.

    An attempt that was killed ended, as far as can be known, with the last record before the next one; a
    resumed run cuts off what it lost, so that this is a lower bound. Without attempts (a node that no
    launcher started) the last run's wall time counts. Raises DataError for a damaged DONE.json.
    """
    begun = attempts(folder)
    times = sorted(float(r["clock"]["time_s"]) for r in records if "time_s" in r["clock"])
    if not begun:
        if (folder / DONE).is_file():
            return Usage(float(read_done(folder).get("wall_s", math.nan)) * ranks / 3600, 0, "")
        return Usage((times[-1] - times[0]) * ranks / 3600 if times else math.nan, 0, "")
    seconds = 0.0
    for i, attempt in enumerate(begun):
        until = begun[i + 1].start_s if i + 1 < len(begun) else math.inf
        last = max((t for t in times if attempt.start_s <= t < until), default=attempt.start_s)
        seconds += attempt.tasks * ((attempt.end_s or last) - attempt.start_s)
    return Usage(seconds / 3600, len(begun) - 1, begun[-1].reason)


def median_of(records: Sequence[Mapping[str, Any]], key: str) -> float:
    """Median over a run of a value of its log lines, such as atoms_per_s; NaN where there is none."""
    finite = [value for value in by_step(records, key).values() if math.isfinite(value)]
    return statistics.median(finite) if finite else math.nan


def devices_of(records: Sequence[Mapping[str, Any]], ranks: int) -> str:
    """Such as "8 x NVIDIA H200"; "" where the journal names no device."""
    names = [r["values"][DEVICE_TAG] for r in records if r["kind"] == "tags" and DEVICE_TAG in r["values"]]
    return f"{ranks} x {names[-1]}" if names else ""

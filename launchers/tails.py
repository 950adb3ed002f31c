"""The ends of files that another process is writing: a log's last line, a journal's last records.

Journals grow to gigabytes; what a person wants to know now stands in their last kilobytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from adit_scale.jobs.node import ATTEMPT
from adit_scale.tracking.journal import FILE_NAME, SIDE_FOLDER

SHORT_BYTES = 16 << 10  # a dozen lines of a journal: the last interval, and how fast steps go
INTERVALS = 8  # over which the speed is taken
LONG_BYTES = 1 << 20  # from one validation to the next, where that is further apart
TRAIN, VALIDATION = "train/loss", "validation/loss"
# The rate that says most, by domain; a study that has only others shows the first it has.
VALIDITY = {"crystal": "crystal/validity", "molecule": "molecule/edm_validity"}
SAMPLES = "samples/"  # before the names of rates that were measured beside the training


@dataclass(frozen=True)
class Progress:
    """How far a training run is. step: of its last line. loss: of the last validation, else of that line.

    atoms_per_s: of the last interval. step_s: seconds a step over the attempt's last intervals, validations
    and saves included. None: not known yet.
    """

    step: int | None = None
    loss: float | None = None
    loss_of: str = ""
    atoms_per_s: float | None = None
    step_s: float | None = None


def progress(run: Path, since_s: float = 0.0) -> Progress:
    """From the journal of the run in ``run``. since_s: when its attempt began; steps before do not tell how
    fast it is now."""
    path = run / FILE_NAME
    data = tail(path, SHORT_BYTES)
    newest = next(records(data, TRAIN), None)
    validation = next(records(data, VALIDATION), None)
    if validation is None and len(data) >= SHORT_BYTES // 2:  # there is more before it
        data = tail(path, LONG_BYTES)
        newest = newest or next(records(data, TRAIN), None)
        validation = next(records(data, VALIDATION), None)
    if newest is None and validation is None:
        return Progress()
    loss = validation or newest
    assert loss is not None
    name = VALIDATION if validation else TRAIN
    clock = newest["clock"] if newest else {}
    return Progress(
        step=max(record["step"] for record in (newest, validation) if record),
        loss=float(loss["values"][name]),
        loss_of=name.partition("/")[0],
        atoms_per_s=_number(clock.get("atoms_per_s")),
        step_s=_step_s(data, newest, since_s) if newest else None,
    )


def side_validity(run: Path) -> dict[str, float]:
    """The newest rates by domain that were measured beside the training; see ``validity``."""
    data = tail(run / SIDE_FOLDER / FILE_NAME, 2 * SHORT_BYTES)
    newest = next(records(data, SAMPLES), None)
    return validity(newest["values"], SAMPLES) if newest else {}


def validity(rates: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Of named rates (0 to 1) the one of each domain that says most.

    >>> validity({"samples/crystal/validity": 0.5, "samples/molecule/rdkit_validity": 0.25}, "samples/")
    {'crystal': 0.5, 'molecule': 0.25}
    """
    found = {}
    for domain, name in VALIDITY.items():
        others = (key for key in rates if key.startswith(f"{prefix}{domain}/") and key.endswith("_validity"))
        key = f"{prefix}{name}" if f"{prefix}{name}" in rates else next(others, None)
        if key is not None and (value := _number(rates[key])) is not None:
            found[domain] = value
    return found


def last_line(log: Path) -> str:
    """The last line that is not empty; "" where an attempt has only begun."""
    lines = [line.strip() for line in tail(log, SHORT_BYTES // 2).decode(errors="replace").splitlines()]
    last = next((line for line in reversed(lines) if line), "").rpartition("\r")[2]
    return "" if last.startswith(ATTEMPT) else last


def tail(path: Path, n_bytes: int) -> bytes:
    """At most the last n_bytes, from the beginning of a line on; nothing where there is no such file."""
    if not path.is_file():
        return b""
    with path.open("rb") as stream:
        begin = max(0, stream.seek(0, 2) - n_bytes)
        stream.seek(begin)
        data = stream.read()
    return data[data.find(b"\n") + 1 :] if begin else data


def records(data: bytes, key: str) -> Iterator[dict[str, Any]]:
    """The journal's metrics that hold ``key`` (or, where it ends with "/", any below it), newest first.

    Other lines are not even parsed, and one that is torn is passed over.
    """
    wanted = b'"' + key.encode() + (b"" if key.endswith("/") else b'"')
    end = len(data)
    while (place := data.rfind(wanted, 0, end)) >= 0:
        begin = data.rfind(b"\n", 0, place) + 1
        stop = data.find(b"\n", place)
        end = begin
        if stop >= 0 and (record := _metrics(data[begin:stop])) is not None:
            yield record


def _step_s(data: bytes, newest: Mapping[str, Any], since_s: float) -> float | None:
    first = newest
    for record in islice(records(data, TRAIN), INTERVALS):
        if record["clock"]["time_s"] < since_s:
            break
        first = record
    if first["step"] < newest["step"]:
        return (newest["clock"]["time_s"] - first["clock"]["time_s"]) / (newest["step"] - first["step"])
    return _number(newest["clock"].get("step_s"))


def _metrics(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and record.get("kind") == "metrics" else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None

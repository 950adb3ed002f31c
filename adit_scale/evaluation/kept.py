"""Results of long stages of scoring, kept so that a scoring that was killed does not start over.

A stage is known by what decides its result: the samples, the settings, what they are compared with, and the
versions of the packages. A kept result of anything else, or a damaged one, is made again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adit_scale.atoms import AtomSet
from adit_scale.errors import DataError
from adit_scale.evaluation.config import OPERATIONAL, EvaluationConfig
from adit_scale.evaluation.score import package_versions
from adit_scale.evaluation.verdicts import Verdicts

if TYPE_CHECKING:
    from adit_scale.evaluation.decode import Invalid

FORMAT = 1


class Kept:
    """The folder of kept stages; None keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def verdicts(self, name: str, identity: Mapping[str, Any], make: Callable[[], Verdicts]) -> Verdicts:
        """Of stage ``name``: read where they are kept under this identity, else made and kept."""
        if self.folder is None:
            return make()
        self.folder.mkdir(parents=True, exist_ok=True)
        table, note = self.folder / f"{name}.csv", self.folder / f"{name}.json"
        key = identity_of(identity)
        found = _read(table, note, key)
        if found is None:
            found = make()
            found.write_csv(table)
            protocols = {check: of.protocol for check, of in found.checks.items()}
            record = {"key": key, "sha256": _digest(table), "protocols": protocols}
            replace_text(note, json.dumps(record, indent=1))
        return found


def _read(table: Path, note: Path, key: str) -> Verdicts | None:
    """None where nothing whole is kept under this key."""
    try:
        record = json.loads(note.read_text(encoding="utf-8"))
        if record["key"] != key or record["sha256"] != _digest(table):
            return None
        return Verdicts.read_csv(table, record["protocols"])
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return None


def identity_of(record: Mapping[str, Any]) -> str:
    """sha256 of a record of plain values."""
    return hashlib.sha256(json.dumps([FORMAT, record], sort_keys=True).encode()).hexdigest()


def deciding(config: EvaluationConfig) -> dict[str, Any]:
    """The settings that decide verdicts, with the versions of the packages that give them."""
    settings = {key: value for key, value in asdict(config).items() if key not in OPERATIONAL}
    return {"settings": settings, "packages": package_versions()}


def samples_identity(samples: Sequence[AtomSet | Invalid]) -> str:
    """sha256 over every atom, cell, reason and id, in order."""
    found = hashlib.sha256()
    for sample in samples:
        found.update(f"{len(sample)} {sample.id}\n".encode())
        found.update(np.ascontiguousarray(sample.numbers, dtype=np.int64).data)
        if isinstance(sample, AtomSet):
            for array in (sample.positions, sample.cell):
                found.update(np.ascontiguousarray(array, dtype=np.float64).data)
        else:
            found.update(sample.reason.encode())
    return found.hexdigest()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Held by one process at a time, on machines that share the folder; dropped when the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def replace_text(path: Path, text: str) -> None:
    """Write and rename: no reader ever sees half a file."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

"""Relaxed crystals kept on disk, so that hours of relaxation survive a kill.

One JSON line a crystal in a file a model and its settings; a line that was cut short is made again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from adit_scale.atoms import AtomSet
from adit_scale.evaluation.config import EnergyConfig
from adit_scale.evaluation.energies.potentials import Potential
from adit_scale.evaluation.energies.relaxation import Relaxation, relax_crystals
from adit_scale.evaluation.kept import identity_of, samples_identity
from adit_scale.evaluation.verdicts import OVER_TIME

# What a kill costs at most, a process. Each batch loads the model anew, which takes seconds.
BATCH_A_PROCESS = 32
# Fields that change no relaxation.
_LASTING = ("stable_ev", "metastable_ev", "implausible_ev", "relax_samples", "device")
_NUMBERS = ("energy", "relaxed_energy", "rmsd", "volume_ratio")


@dataclass(frozen=True)
class KeptRelaxations:
    """``relax_crystals`` with a memory in ``folder``."""

    folder: Path

    def __call__(
        self,
        crystals: Sequence[AtomSet],
        potential: Potential,
        config: EnergyConfig,
        processes: int,
        progress: Callable[[int], object] | None = None,
    ) -> list[Relaxation]:
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = {key: value for key, value in asdict(config).items() if key not in _LASTING}
        by = identity_of({"model": potential.describe(), "settings": settings})
        path = self.folder / f"relaxations-{by[:16]}.jsonl"
        known = _read(path)
        keys = [samples_identity([crystal]) for crystal in crystals]
        left = [i for i, key in enumerate(keys) if key not in known]
        if progress is not None:
            progress(len(crystals) - len(left))
        step = BATCH_A_PROCESS * max(1, processes)
        for begin in range(0, len(left), step):
            batch = left[begin : begin + step]
            found = relax_crystals([crystals[i] for i in batch], potential, config, processes, progress)
            with path.open("a", encoding="utf-8") as stream:
                for i, relaxation in zip(batch, found, strict=True):
                    known[keys[i]] = _record(relaxation)
                    # A time limit says something of the machine: another call may do better.
                    if relaxation.fault != OVER_TIME:
                        stream.write(json.dumps({"key": keys[i]} | known[keys[i]]) + "\n")
        return [_relaxation(known[key], crystal) for key, crystal in zip(keys, crystals, strict=True)]


def _read(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    found: dict[str, dict[str, Any]] = {}
    for line in text.splitlines():
        try:
            record = json.loads(line)
            _relaxation(record, None)
            found[record.pop("key")] = record
        except (ValueError, KeyError, TypeError):
            continue  # the line a kill cut short
    if text and not text.endswith("\n"):
        with path.open("a", encoding="utf-8") as stream:
            stream.write("\n")  # so that the next line begins its own
    return found


def _record(relaxation: Relaxation) -> dict[str, Any]:
    record: dict[str, Any] = {"fault": relaxation.fault, "steps": relaxation.steps}
    for name in _NUMBERS:
        value = getattr(relaxation, name)
        record[name] = float(value) if np.isfinite(value) else None
    if relaxation.relaxed is not None:
        record["positions"] = relaxation.relaxed.positions.tolist()
        record["cell"] = relaxation.relaxed.cell.tolist()
    return record


def _relaxation(record: dict[str, Any], crystal: AtomSet | None) -> Relaxation:
    relaxed = None
    if "positions" in record:
        positions, cell = np.array(record["positions"], float), np.array(record["cell"], float)
        relaxed = None if crystal is None else replace(crystal, positions=positions, cell=cell)
    numbers = {name: np.nan if record[name] is None else float(record[name]) for name in _NUMBERS}
    return Relaxation(record["fault"], steps=int(record["steps"]), relaxed=relaxed, **numbers)

"""VASP inputs of chosen samples: one folder each, and a manifest that says which sample is where.

Settings are pymatgen's MPRelaxSet, those of the Materials Project's GGA/GGA+U relaxations, so that results
compare with its entries once MP2020 corrections are applied. POTCARs are licensed: POTCAR.spec names those
to put in place.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from adit_scale.atoms import AtomSet
from adit_scale.errors import ConfigError, DataError
from adit_scale.evaluation.crystals.structure import structural_fault
from adit_scale.evaluation.decode import Invalid, to_pymatgen
from adit_scale.evaluation.verdicts import Verdicts

MANIFEST = "dft.json"
FORMAT = 1
CHOICES = ("all", "valid", "best", "stable", "metastable")
_E_ABOVE = "e_above_hull_ev_per_atom"


@dataclass(frozen=True)
class Calculation:
    """One sample's folder, as the manifest has it. reason: why no inputs were written, "" otherwise."""

    folder: str
    id: str
    formula: str
    n_atoms: int
    reason: str = ""


@dataclass(frozen=True)
class Manifest:
    """calculations: in the order chosen. n_samples: of which they were chosen. choice: how."""

    calculations: list[Calculation]
    n_samples: int
    choice: str
    source: Mapping[str, Any]


def choose_samples(
    samples: Sequence[AtomSet | Invalid],
    choice: str = "valid",
    limit: int = 0,
    ids: Sequence[str] = (),
    verdicts: Verdicts | None = None,
) -> list[int]:
    """Places of the samples to compute.

    choice: all (structurally valid ones), valid, stable, metastable (by that check of ``verdicts``), best
    (lowest energy above hull first). ids: these instead, in this order. limit: at most so many; 0 for all.
    verdicts: hold the samples, by id; of them the samples may be a part, such as the relaxed ones.
    Raises ConfigError for an unknown choice or id, or verdicts that do not hold what is asked.
    """
    if ids:
        return _places_of(samples, ids)
    if choice not in CHOICES:
        raise ConfigError(f"choose is {choice!r}; expected one of {', '.join(CHOICES)}, or ids=ID,ID")
    sound = [i for i, sample in enumerate(samples) if structural_fault(sample) is None]
    if choice == "best":
        rows = _rows(choice, samples, verdicts)
        above = rows.verdicts.values.get(_E_ABOVE)
        if above is None:
            raise ConfigError("choose=best needs energies above hull; score the samples with relax=, hull=")
        placed = [i for i in sound if np.isfinite(above[rows.of[i]])]
        sound = sorted(placed, key=lambda i: float(above[rows.of[i]]))
    elif choice != "all" and not (choice == "valid" and verdicts is None):
        rows = _rows(choice, samples, verdicts)
        if choice not in rows.verdicts.checks:
            raise ConfigError(f"choose={choice} needs the check {choice!r}; score the samples with it first")
        passed = rows.verdicts.checks[choice].passed
        sound = [i for i in sound if passed[rows.of[i]]]
    return sound[: limit or None]


@dataclass(frozen=True)
class _Rows:
    """of: the row in ``verdicts`` of each sample."""

    verdicts: Verdicts
    of: list[int]


def _rows(choice: str, samples: Sequence[AtomSet | Invalid], verdicts: Verdicts | None) -> _Rows:
    if verdicts is None:
        raise ConfigError(f"choose={choice} needs verdicts of these samples; run adit evaluate score first")
    row = {identity: i for i, identity in enumerate(verdicts.ids)}
    missing = next((sample.id for sample in samples if sample.id not in row), None)
    if missing is not None or len(row) < len(verdicts):
        why = "ids repeat there" if missing is None else f"{missing!r} is not among them"
        raise ConfigError(
            f"choose={choice}: the verdicts are of other samples ({why}); expected those of these"
        )
    return _Rows(verdicts, [row[sample.id] for sample in samples])


def _places_of(samples: Sequence[AtomSet | Invalid], ids: Sequence[str]) -> list[int]:
    place = {sample.id: i for i, sample in enumerate(samples)}
    for wanted in ids:
        if wanted not in place:
            raise ConfigError(f"ids has {wanted!r}; expected ids of the {len(samples)} samples given")
        if isinstance(samples[place[wanted]], Invalid):
            raise ConfigError(f"ids has {wanted!r}, which is no structure; expected ids of valid samples")
    return [place[wanted] for wanted in dict.fromkeys(ids)]


def write_dft_inputs(
    samples: Sequence[AtomSet | Invalid],
    places: Sequence[int],
    out: Path,
    choice: str,
    source: Mapping[str, Any] | None = None,
    n_samples: int = 0,
) -> Manifest:
    """POSCAR, INCAR, KPOINTS and POTCAR.spec of each chosen sample in a folder of its own under ``out``.

    source: what is known of the samples (run, digests), kept in the manifest. n_samples: of how many the
    samples themselves are a part; 0 where they are all. A sample that MPRelaxSet has no
    settings for is left out with its reason. The manifest comes last: a folder with one is complete.
    Raises ConfigError where ``out`` has a manifest, or nothing was chosen.
    """
    if (out / MANIFEST).exists():
        raise ConfigError(f"{out} already has inputs ({MANIFEST}); expected another folder")
    if not places:
        raise ConfigError("no sample was chosen for DFT; expected at least one (choose=, ids=)")
    out.mkdir(parents=True, exist_ok=True)
    calculations = []
    for number, place in enumerate(places):
        crystal = samples[place]
        assert isinstance(crystal, AtomSet), f"sample {place} is no structure"
        calculations.append(_write_one(crystal, out, f"{number:05d}-{safe_name(crystal.id)}"))
    manifest = Manifest(calculations, n_samples or len(samples), choice, dict(source or {}))
    _write_manifest(manifest, out)
    return manifest


def safe_name(identity: str) -> str:
    """The id as part of a folder's name: at most 40 of letters, digits, dash and underline."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", identity)[:40].strip("_") or "sample"


def _write_one(crystal: AtomSet, out: Path, folder: str) -> Calculation:
    from pymatgen.io.vasp.sets import MPRelaxSet

    structure = to_pymatgen(crystal)
    reason = ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its opinion on smearing: the set is the reference's as it is
            MPRelaxSet(structure).write_input(str(out / folder), potcar_spec=True)
    except (ValueError, LookupError, ArithmeticError) as error:
        reason = f"MPRelaxSet fails ({type(error).__name__}: {error})".splitlines()[0][:200]
    return Calculation(folder, crystal.id, structure.composition.formula, len(crystal), reason)


def _write_manifest(manifest: Manifest, out: Path) -> None:
    tree = {
        "format": FORMAT,
        "inputs": f"MPRelaxSet of pymatgen {version('pymatgen')}",
        "n_samples": manifest.n_samples,
        "choice": manifest.choice,
        "source": dict(manifest.source),
        "calculations": [vars(calculation) for calculation in manifest.calculations],
    }
    part = out / f".{MANIFEST}.part"
    part.write_text(json.dumps(tree, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(out / MANIFEST)


def read_manifest(out: Path) -> Manifest:
    """Raises DataError for a folder without a manifest, or one that climbs out of the folder."""
    path = out / MANIFEST
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        calculations = [
            Calculation(
                str(c["folder"]), str(c["id"]), str(c["formula"]), int(c["n_atoms"]), str(c["reason"])
            )
            for c in tree["calculations"]
        ]
        found = Manifest(calculations, int(tree["n_samples"]), str(tree["choice"]), dict(tree["source"]))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; expected a folder of adit evaluate dft-inputs") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a manifest of adit evaluate dft-inputs ({error!r})") from error
    for calculation in calculations:
        if calculation.folder in ("", ".", "..") or Path(calculation.folder).name != calculation.folder:
            raise DataError(f"{path}: {calculation.folder!r} is no name of a folder beside it")
    return found

"""Whole files there and back: built, verified, exported, and compared structure by structure with the source.

    python -m tests.data.round_trip FILE...

The source is read by ASE (xyz) and pymatgen (the CSV's CIF), not by our readers. Molecules must agree with
their source less its centre to 1e-5 angstrom; crystals by pymatgen's StructureMatcher. Prints a line a file.
"""

from __future__ import annotations

import csv
import gzip
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor

from adit_scale.cli import main as adit
from adit_scale.data.sources import Source


def round_trip(path: Path, folder: Path) -> str:
    """One line on what came back of ``path``. Raises AssertionError where something did not."""
    name = Source.from_word(str(path)).dataset
    shards, exported = folder / name, folder / f"{name}.extxyz"
    assert adit(["data", "build", str(path), "--out", str(shards)]) == 0
    assert adit(["data", "verify", str(shards)]) == 0
    n_rejected = len((shards / "rejected.jsonl").read_text().splitlines())
    found: dict[str, Any] = {}
    for split in ("train", "val", "test"):
        assert adit(["data", "export", str(shards), "--split", split, "--to", str(exported)]) == 0
        found |= {str(atoms.info["id"]): atoms for atoms in ase.io.iread(exported, ":")}
        exported.unlink()
    crystals = path.name.endswith(".csv.gz")
    source: dict[str, Any] = _crystals(path) if crystals else _molecules(path)
    assert len(found) + n_rejected == len(source)
    if crystals:
        matcher = StructureMatcher()
        differ = [
            key
            for key, atoms in found.items()
            if not matcher.fit(AseAtomsAdaptor.get_structure(atoms), Structure.from_str(source[key], "cif"))
        ]
        assert not differ, differ[:5]
        return f"{path.name}: {len(found):,} crystals, {n_rejected} rejected; StructureMatcher: all the same"
    worst = 0.0
    for key, atoms in found.items():
        numbers, positions = source[key]
        np.testing.assert_array_equal(atoms.numbers, numbers)
        worst = max(worst, float(np.abs(atoms.positions - (positions - positions.mean(axis=0))).max()))
    assert worst < 1e-5, worst
    return f"{path.name}: {len(found):,} molecules, {n_rejected} rejected; at most {worst:.1e} angstrom off"


def _crystals(path: Path) -> dict[str, str]:
    with gzip.open(path, "rt", newline="") as file:
        return {row["material_id"]: row["cif"] for row in csv.DictReader(file)}


def _molecules(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    with gzip.open(path, "rt") as file:
        frames = ase.io.read(file, ":", format="extxyz")
    return {str(a.info.get("id", i)): (a.numbers, a.positions) for i, a in enumerate(frames)}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as place:
        for word in sys.argv[1:]:
            print(round_trip(Path(word), Path(place)), flush=True)

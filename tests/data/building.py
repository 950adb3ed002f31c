"""What the tests of building share."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from adit_scale.data.config import DataConfig
from adit_scale.data.manifest import SPLITS, Manifest
from adit_scale.data.shards import ShardReader

ALL_TRAIN = DataConfig(validation_fraction=0, test_fraction=0)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def members(manifest: Manifest) -> dict[tuple[str, str], str]:
    """Split of each (data set, id)."""
    found = {}
    for split in SPLITS:
        reader = ShardReader(manifest, split)
        for atom_set in reader.read_sets(np.arange(len(manifest.split(split)))):
            found[atom_set.dataset, atom_set.id] = split
    return found


def rejected(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]


def write_xyz(path: Path, n: int, seed: int = 0, n_atoms: int = 4) -> Path:
    """Molecules as plain xyz without ids; every 50th is of no element."""
    rng = np.random.default_rng(seed)
    with path.open("w") as file:
        for k in range(n):
            symbols = ["Qq" if k % 50 == 7 else "C", *["H"] * (n_atoms - 1)]
            positions = rng.normal(size=(n_atoms, 3)) * 2
            rows = [f"{s} {x:.6f} {y:.6f} {z:.6f}" for s, (x, y, z) in zip(symbols, positions, strict=True)]
            file.write(f"{n_atoms}\n\n" + "\n".join(rows) + "\n")
    return path

"""Sampled structures of a trained pair of networks: drawn, decoded, written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from adit_scale.atoms import CRYSTAL, DOMAIN_NAMES, MOLECULE, AtomSet
from adit_scale.data.config import DataConfig
from adit_scale.data.loader import size_histogram
from adit_scale.data.manifest import open_manifest
from adit_scale.data.sources.structures import ELEMENT_SYMBOLS
from adit_scale.diffusion.config import SamplingConfig
from adit_scale.diffusion.generate import draw_sizes
from adit_scale.evaluation.draw import Samples, draw_samples

__all__ = ["Samples", "draw_samples", "sample_sizes", "write_samples"]


def sample_sizes(data: DataConfig, sampling: SamplingConfig) -> dict[int, np.ndarray]:
    """Atom counts of the samples of each domain, drawn from the training data. Raises DataError."""
    manifest = open_manifest(data)
    counts = {CRYSTAL: sampling.crystals, MOLECULE: sampling.molecules}
    return {
        domain: draw_sizes(size_histogram(manifest, domain), n, domain, sampling.seed)
        for domain, n in counts.items()
        if n
    }


def write_samples(samples: Samples, folder: Path) -> list[Path]:
    """One extended xyz file a domain. Samples that are no system of atoms are left out, their ids missing."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for domain, sets in samples.items():
        path = folder / f"{DOMAIN_NAMES[domain]}s.extxyz"
        write_extxyz((s for s in sets if isinstance(s, AtomSet)), path)
        paths.append(path)
    return paths


def write_extxyz(sets: Iterable[AtomSet], path: Path) -> None:
    """Extended xyz, angstrom, with ``id`` and, for crystals, ``Lattice`` (rows are lattice vectors)."""
    with path.open("w") as stream:
        for atom_set in sets:
            stream.write(f"{len(atom_set)}\n{_comment(atom_set)}\n")
            for number, position in zip(atom_set.numbers, atom_set.positions, strict=True):
                stream.write(ELEMENT_SYMBOLS[int(number)] + "".join(f" {x:.6f}" for x in position) + "\n")


def _comment(atom_set: AtomSet) -> str:
    parts = ["Properties=species:S:1:pos:R:3", f"id={atom_set.id}"]
    if atom_set.periodic:
        parts.insert(0, 'Lattice="' + " ".join(f"{x:.6f}" for x in atom_set.cell.ravel()) + '"')
        return " ".join([*parts, 'pbc="T T T"'])
    return " ".join([*parts, 'pbc="F F F"'])

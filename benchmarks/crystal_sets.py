"""Crystals made from real ones for the benchmarks of scoring: disguises, noise, other species."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from adit_scale.atoms import AtomSet, wrap
from adit_scale.data.sources import read_source
from adit_scale.evaluation.crystals.composition import Composition, reduced_composition

FILES = ("mp20_biternary_val.csv.gz", "mp20_biternary_test.csv.gz", "mpts52_val.csv.gz")


def read_crystals(folder: Path, files: tuple[str, ...] = FILES) -> list[AtomSet]:
    """Every crystal of the files, in their order."""
    return [c for name in files for c in read_source(folder / name) if isinstance(c, AtomSet)]


def shaken(crystal: AtomSet, sigma_angstrom: float, rng: np.random.Generator) -> AtomSet:
    """Gaussian noise on positions, and a hundredth as much a length on the cell."""
    strain = np.eye(3) + rng.normal(0, sigma_angstrom / 10, (3, 3))
    noise = rng.normal(0, sigma_angstrom, crystal.positions.shape)
    return replace(crystal, positions=(crystal.positions + noise) @ strain, cell=crystal.cell @ strain)


def displaced(crystal: AtomSet, sigma_angstrom: float, rng: np.random.Generator) -> AtomSet:
    """Gaussian noise on positions alone."""
    noise = rng.normal(0, sigma_angstrom, crystal.positions.shape)
    return replace(crystal, positions=crystal.positions + noise)


def disguised(crystal: AtomSet, rng: np.random.Generator) -> AtomSet:
    """The same crystal rotated, shifted, sheared into another cell, its atoms in another order; half of them
    (up to ten atoms) in a cell of twice the volume."""
    numbers, fractional, cell = crystal.numbers, crystal.fractional, crystal.cell
    if len(numbers) <= 10 and rng.random() < 0.5:
        shift = np.eye(3)[rng.integers(3)]
        fractional = np.concatenate([fractional, fractional + shift]) / (1 + shift)
        numbers, cell = np.tile(numbers, 2), cell * (1 + shift)[:, None]
    shear = np.array([[1, *rng.integers(-1, 2, 2)], [0, 1, rng.integers(-1, 2)], [0, 0, 1]])
    order = rng.permutation(len(numbers))
    moved = wrap((fractional[order] + rng.random(3)) @ np.linalg.inv(shear))
    cell = shear @ cell @ Rotation.random(random_state=int(rng.integers(2**31))).as_matrix()
    return replace(crystal, numbers=numbers[order], positions=moved @ cell, cell=cell)


def other_species(crystal: AtomSet, elements: np.ndarray, rng: np.random.Generator) -> AtomSet:
    """Each element replaced by one drawn from ``elements``."""
    old = np.unique(crystal.numbers)
    drawn = rng.choice(elements, len(old), replace=False)
    return replace(crystal, numbers=drawn[np.searchsorted(old, crystal.numbers)])


def shuffled_species(crystal: AtomSet, elements: np.ndarray, rng: np.random.Generator) -> AtomSet:
    """Each atom's element drawn anew from ``elements``."""
    return replace(crystal, numbers=rng.choice(elements, len(crystal)))


def by_composition(crystals: list[AtomSet]) -> list[list[AtomSet]]:
    """Lists of crystals of one composition, the longest first."""
    found: dict[Composition, list[AtomSet]] = defaultdict(list)
    for crystal in crystals:
        found[reduced_composition(crystal.numbers)].append(crystal)
    return sorted(found.values(), key=len, reverse=True)


def numbered(crystals: list[AtomSet]) -> list[AtomSet]:
    """With their places as ids."""
    return [replace(crystal, id=str(i)) for i, crystal in enumerate(crystals)]

"""Small made-up structures and data sets for the tests of the data path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from adit_scale.atoms import AtomSet
from adit_scale.data.build import build_from_sets
from adit_scale.data.config import DataConfig


def molecule(rng: np.random.Generator, n_atoms: int, name: str, dataset: str = "mols") -> AtomSet:
    return AtomSet(
        numbers=rng.integers(1, 10, n_atoms),
        positions=rng.normal(size=(n_atoms, 3)) * 3,
        cell=np.zeros((3, 3)),
        periodic=False,
        dataset=dataset,
        id=name,
    )


def crystal(rng: np.random.Generator, n_atoms: int, name: str, dataset: str = "xtals") -> AtomSet:
    cell = np.eye(3) * rng.uniform(3, 9, 3) + rng.normal(size=(3, 3)) * 0.8
    return AtomSet(
        numbers=rng.integers(1, 99, n_atoms),
        positions=rng.uniform(size=(n_atoms, 3)) @ cell,
        cell=cell,
        periodic=True,
        dataset=dataset,
        spacegroup=int(rng.integers(1, 231)),
        id=name,
    )


@pytest.fixture(scope="session")
def some_sets() -> list[AtomSet]:
    """150 molecules of 3 to 30 atoms and 90 crystals of 1 to 20."""
    rng = np.random.default_rng(0)
    molecules = [molecule(rng, int(rng.integers(3, 31)), f"m{i}") for i in range(150)]
    return molecules + [crystal(rng, int(rng.integers(1, 21)), f"x{i}") for i in range(90)]


@pytest.fixture(scope="session")
def small_config() -> DataConfig:
    return DataConfig(block_sets=20, blocks_per_shard=3, validation_fraction=0.15, test_fraction=0.1)


@pytest.fixture(scope="session")
def small_data(
    some_sets: list[AtomSet], small_config: DataConfig, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A data set folder of several shards and blocks; tests must not write to it."""
    folder = tmp_path_factory.mktemp("data") / "small"
    build_from_sets(some_sets, folder, small_config)
    return folder

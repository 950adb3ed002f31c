"""Shared small data and one trained autoencoder for the diffusion runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training import runs


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.small_data(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="session")
def autoencoder(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    """Weights of a small autoencoder."""
    folder = tmp_path_factory.mktemp("autoencoder")
    runs.run([runs.prepare(folder, runs.small_study(shards, steps=8), "autoencoder")], world_size=1)
    return folder / "weights"

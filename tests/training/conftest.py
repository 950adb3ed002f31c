"""Shared small data and one trained autoencoder for the diffusion runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

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


@pytest.fixture
def single_process(tmp_path: Path) -> Iterator[None]:
    """A process group of one, for code that speaks to its peers."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()

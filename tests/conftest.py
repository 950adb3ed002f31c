"""Shared fixtures. Tests on real data use the folder ADIT_SHARED, else `shared` beside the checkout."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with ``data/`` and ``golden/``; the test is skipped where there is none."""
    folder = Path(os.environ.get("ADIT_SHARED", REPO.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no real data: {folder} has no data/")
    return folder


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """Nothing compiled before or after; a test may let recompilation raise."""
    import torch  # heavy, and most tests do without

    torch.compiler.reset()
    yield
    torch._dynamo.config.error_on_recompile = False
    torch.compiler.reset()


@pytest.fixture
def single_process(tmp_path: Path) -> Iterator[None]:
    """A process group of one, for code that speaks to its peers."""
    import torch.distributed as dist  # heavy, and most tests do without

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


# Whole runs and studies: begun first, so that two workers end at about the same time.
LONG = ("tests/training", "tests/faults", "tests/jobs")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))

"""Shared fixtures. Tests on real data use the folder ADIT_SHARED, else `shared` beside the checkout."""

from __future__ import annotations

import os
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

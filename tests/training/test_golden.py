"""Drift of the numbers, whatever its cause, is seen within 50 steps."""

from __future__ import annotations

import json

import pytest

from adit_scale.data.manifest import Manifest
from tests.training import golden


def test_losses_are_those_of_the_golden_file(tmp_path):
    expected = json.loads(golden.GOLDEN.read_text())
    assert Manifest.load(golden.DEMO).fingerprint == expected["fingerprint"], (
        "the demo corpus is another one: check that it should be, then run python -m tests.training.golden"
    )
    found = golden.curves(tmp_path)
    assert found.keys() == expected["curves"].keys()
    for name, values in expected["curves"].items():
        assert len(values) == (golden.STEPS if " " not in name else 2)
        assert found[name] == pytest.approx(values, rel=1e-4), name
    assert expected["curves"]["diffusion"][-1] < expected["curves"]["diffusion"][0]

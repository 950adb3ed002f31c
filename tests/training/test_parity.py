"""The same loss curve at every ZeRO stage, world size and packing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from adit_scale.tracking.journal import read_journal, series
from tests.training import runs

STEPS = 20
# fp32 runs differ in the order of sums only. bf16 keeps 8 bits a product, so its bound is loose.
FP32_TOLERANCE, BF16_TOLERANCE = 1e-4, 3e-2


def losses(folder: Path, key: str = "train/loss") -> np.ndarray:
    steps, values = series(read_journal(folder), key)
    assert steps == sorted(set(steps))
    return np.array(values)


def relative_difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.max(np.abs(a - b) / np.abs(b)))


@pytest.fixture(scope="module")
def curves(tmp_path_factory, shards, autoencoder) -> dict[str, Path]:
    """Diffusion runs at every stage and two world sizes, and one with other micro-batches."""
    root = tmp_path_factory.mktemp("parity")
    folders: dict[str, Path] = {}
    for world_size in (1, 2):
        cells = [(stage, "fp32") for stage in range(4)] + [(stage, "bf16") for stage in (1, 2, 3)]
        here = {}
        for zero_stage, precision in cells:
            name = f"{precision}-zero{zero_stage}-world{world_size}"
            config = runs.small_study(
                shards, STEPS, zero_stage=zero_stage, precision=precision, world_size=world_size
            )
            here[name] = runs.prepare(root / name, config, "diffusion")
        if world_size == 1:
            config = runs.small_study(shards, STEPS, zero_stage=1, micro_batch_atoms=24)
            here["fp32-packing"] = runs.prepare(root / "fp32-packing", config, "diffusion")
        runs.run(list(here.values()), world_size, autoencoder)
        folders |= here
    return folders


def test_fp32_losses_agree_over_stages_world_sizes_and_packings(curves):
    reference = losses(curves["fp32-zero0-world1"])
    assert len(reference) == STEPS
    for name, folder in curves.items():
        if name.startswith("fp32"):
            assert relative_difference(losses(folder), reference) <= FP32_TOLERANCE, name


def test_bf16_losses_stay_close_to_fp32(curves):
    reference = losses(curves["fp32-zero0-world1"])
    for name, folder in curves.items():
        if name.startswith("bf16"):
            assert relative_difference(losses(folder), reference) <= BF16_TOLERANCE, name


def test_validation_agrees_and_improves(curves):
    reference = losses(curves["fp32-zero0-world1"], "validation/loss")
    assert len(reference) == STEPS // 5
    assert reference[-1] < reference[0]
    for name, folder in curves.items():
        if name.startswith("fp32"):
            assert relative_difference(losses(folder, "validation/loss"), reference) <= FP32_TOLERANCE, name


def test_counters_do_not_depend_on_how_a_run_is_spread(curves):
    for key in ("train/atoms_seen", "train/sets_seen", "train/flops_cum", "train/lr"):
        rows = {tuple(losses(folder, key)) for folder in curves.values()}
        assert len(rows) == 1, key

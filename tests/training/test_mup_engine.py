"""muP's learning rates by group at every ZeRO stage: the same numbers, also behind a stop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from adit_scale.tracking.journal import read_journal, series
from adit_scale.training import weights
from adit_scale.training.config import OptimConfig
from adit_scale.training.export import export
from adit_scale.training.pretrained import load_pretrained
from tests.training import runs

pytestmark = pytest.mark.slow  # many runs on two ranks

CELLS = [(0, "fp32"), (1, "fp32"), (2, "fp32"), (3, "fp32"), (1, "bf16"), (3, "bf16")]
STOPPED = [(0, "fp32"), (1, "bf16"), (3, "bf16")]  # DeepSpeed has an optimizer class for each
WHOLE, PART = 8, 4


@pytest.fixture(scope="module")
def trained(tmp_path_factory, shards, autoencoder) -> Path:
    """Runs of width 32 over a base of 8 on two ranks: whole ones, and others that stop halfway and go on."""
    root = tmp_path_factory.mktemp("mup")
    optim = OptimConfig(
        lr=1e-2, parametrization="mup", base_width=8, base_head_width=4, weight_decay=0.01, gradient_clip=1.0
    )

    def prepare(name: str, steps: int, zero_stage: int, precision: str, optim: OptimConfig = optim) -> Path:
        config = runs.small_study(
            shards, steps, zero_stage=zero_stage, precision=precision, world_size=2, micro_batch_atoms=60
        )
        config.diffusion = replace(config.diffusion, optim=optim, validate_every_steps=WHOLE)
        return runs.prepare(root / name, config, "diffusion")

    first = [prepare(f"whole-{z}-{p}", WHOLE, z, p) for z, p in CELLS]
    first += [prepare(f"part-{z}-{p}", PART, z, p) for z, p in STOPPED]
    first.append(prepare("moved", PART, 1, "fp32"))
    first.append(prepare("standard", WHOLE, 0, "fp32", replace(optim, parametrization="standard")))
    runs.run(first, 2, autoencoder)
    again = [prepare(f"part-{z}-{p}", WHOLE, z, p) for z, p in STOPPED]
    again.append(prepare("moved", WHOLE, 3, "fp32"))
    runs.run(again, 2, autoencoder)
    return root


def losses(folder: Path) -> np.ndarray:
    steps, values = series(read_journal(folder), "train/loss")
    assert steps == list(range(1, WHOLE + 1))
    return np.array(values)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "weights" / "weights.safetensors")


def test_the_same_losses_and_weights_at_every_zero_stage(trained):
    reference = trained / "whole-0-fp32"
    for zero_stage, precision in CELLS:
        folder = trained / f"whole-{zero_stage}-{precision}"
        bound = 1e-4 if precision == "fp32" else 3e-2
        assert losses(folder) == pytest.approx(losses(reference), rel=bound), folder.name
        if precision == "fp32":
            for name, value in tensors(folder).items():
                torch.testing.assert_close(value, tensors(reference)[name], rtol=1e-3, atol=1e-4)
    assert np.abs(losses(trained / "standard") / losses(reference) - 1).max() > 1e-2


def test_a_stopped_run_goes_on_bit_for_bit(trained):
    for zero_stage, precision in STOPPED:
        whole, part = (trained / f"{kind}-{zero_stage}-{precision}" for kind in ("whole", "part"))
        assert list(losses(part)) == list(losses(whole)), part.name
        for name, value in tensors(part).items():
            assert torch.equal(value, tensors(whole)[name]), (part.name, name)
    moved, stayed = losses(trained / "moved"), losses(trained / "whole-1-fp32")
    assert list(moved[: PART + 1]) == list(stayed[: PART + 1])  # ZeRO 1's fragments, in ZeRO 3's hands
    assert moved == pytest.approx(stayed, rel=1e-5)


def test_what_is_given_away_attends_as_it_was_trained(trained, autoencoder, tmp_path):
    folder = trained / "whole-1-fp32"
    assert weights.load_denoiser(folder / "weights").config.base_head_width == 4
    model = load_pretrained(export(folder, tmp_path / "given", autoencoder=autoencoder))
    assert model.denoiser.config.base_head_width == 4
    assert model.denoiser.blocks[0].attention.scale == pytest.approx(2 / 16)

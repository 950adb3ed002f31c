"""Coordinate check: how large activations become after a few steps of Adam, against the denoiser's width.

Yang et al., arXiv 2203.03466, appendix D.1. Trained are denoisers of one depth and head width on the demo
corpus, as the trainer trains them but without an engine; probed is always the first batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adit_scale.data.config import DataConfig
from adit_scale.data.loader import BatchLoader, StepBatches
from adit_scale.models.autoencoder import Autoencoder
from adit_scale.models.config import AutoencoderConfig, DenoiserConfig
from adit_scale.training.config import DiffusionStageConfig, OptimConfig
from adit_scale.training.optimizer import parameter_groups
from adit_scale.training.stages import DiffusionStage, StepTotals
from tests.training import runs

DEMO = runs.REPO / "shards" / "demo"
HEAD_WIDTH = 64
DEPTH = 2
ATOMS = 256
Data = tuple[list[str], list[StepBatches]]  # names of the data sets, and steps of one micro-batch each


@dataclass(frozen=True)
class Coordinates:
    """Root mean squares of each layer's output (and of its change since step 0) on the probed batch.

    size, change: layer -> (widths, steps + 1), geometric means over seeds. loss: (widths, steps + 1).
    """

    widths: Sequence[int]
    size: dict[str, NDArray[np.float64]]
    change: dict[str, NDArray[np.float64]]
    loss: NDArray[np.float64]

    def slopes(self, of: str, step: int) -> dict[str, float]:
        """d log rms / d log width by layer, ``of`` size or change; least squares."""
        rows = self.size if of == "size" else self.change
        x = np.log(self.widths)
        return {layer: float(np.polyfit(x, np.log(values[:, step]), 1)[0]) for layer, values in rows.items()}


def layers(depth: int = DEPTH) -> list[str]:
    """Modules whose outputs are measured; zero at first are modulations and head, so these change alone."""
    parts = ("attention.qkv", "attention", "mlp", "modulation")
    blocks = [
        name for i in range(depth) for name in (*(f"blocks.{i}.{part}" for part in parts), f"blocks.{i}")
    ]
    return ["input", "time_embedding", *blocks, "final.modulation", "final.head"]


def steps_of(n: int, shards: Path = DEMO) -> Data:
    """The first n steps of the data."""
    data = DataConfig(shards=str(shards))
    with BatchLoader(data, seed=0, atom_budget=ATOMS, micro_batch_atoms=ATOMS) as loader:
        return loader.datasets, [loader.step(i) for i in range(n)]


def make_stage(width: int, optim: OptimConfig, seed: int, datasets: list[str]) -> DiffusionStage:
    """Latents are of an autoencoder never trained, the same for all."""
    torch.manual_seed(0)
    autoencoder = Autoencoder(
        AutoencoderConfig(width=32, encoder_depth=2, decoder_depth=1, heads=2, feedforward=64)
    )
    torch.manual_seed(seed)
    shape = DenoiserConfig(name="checked", width=width, depth=DEPTH, heads=max(1, width // HEAD_WIDTH))
    return DiffusionStage(shape, DiffusionStageConfig(optim=optim), 0, datasets, autoencoder)


def make_optimizer(stage: DiffusionStage) -> torch.optim.AdamW:
    groups = parameter_groups(stage.module.named_parameters(), stage.config.optim, stage.lr_multipliers())
    return torch.optim.AdamW(groups, fused=True)


def step_loss(stage: DiffusionStage, batches: StepBatches, step: int) -> Tensor:
    (batch,) = batches.batches
    totals = StepTotals(step, batches.n_sets, batches.n_atoms)
    return stage.loss(stage.module, stage.prepare(batch, totals), totals)[0]


def activations(stage: DiffusionStage, batches: StepBatches) -> tuple[dict[str, Tensor], float]:
    """Outputs of the layers in one forward over the first batch, and its loss."""
    found: dict[str, Tensor] = {}

    def keep(layer: str):
        def hook(_: nn.Module, __: tuple, output: Tensor) -> None:
            found[layer] = output.detach().clone()

        return hook

    network = stage.module.network
    handles = [network.get_submodule(layer).register_forward_hook(keep(layer)) for layer in layers()]
    with torch.no_grad():
        loss = float(step_loss(stage, batches, 0))
    for handle in handles:
        handle.remove()
    return found, loss


def coordinates(
    parametrization: str, widths: Sequence[int], lr: float, n_steps: int, seeds: int = 1
) -> Coordinates:
    """The check. The base width is that of the first, narrowest network."""
    datasets, data = steps_of(n_steps)
    optim = OptimConfig(lr=lr, parametrization=parametrization, base_width=widths[0])
    size = {layer: np.zeros((len(widths), n_steps + 1)) for layer in layers()}
    change = {layer: np.zeros((len(widths), n_steps + 1)) for layer in layers()}
    loss = np.zeros((len(widths), n_steps + 1))
    for w, width in enumerate(widths):
        for seed in range(seeds):
            stage = make_stage(width, optim, seed, datasets)
            adamw = make_optimizer(stage)
            first, _ = activations(stage, data[0])
            for step in range(n_steps + 1):
                now, at = activations(stage, data[0])
                loss[w, step] += at / seeds
                for layer, value in now.items():
                    size[layer][w, step] += _log_rms(value) / seeds
                    change[layer][w, step] += _log_rms(value - first[layer]) / seeds
                if step < n_steps:
                    step_loss(stage, data[step], step).backward()
                    adamw.step()
                    adamw.zero_grad()
    return Coordinates(
        widths,
        {layer: np.exp(values) for layer, values in size.items()},
        {layer: np.exp(values) for layer, values in change.items()},
        loss,
    )


def _log_rms(x: Tensor) -> float:
    return 0.5 * math.log(max(float(x.double().square().mean()), 1e-60))

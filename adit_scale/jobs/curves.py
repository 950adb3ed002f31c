"""Validity during training: a few samples of the EMA weights, drawn and scored like the final ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from adit_scale.atoms import CRYSTAL, MOLECULE
from adit_scale.config import StudyConfig
from adit_scale.evaluation.score import score_sets
from adit_scale.jobs.sampling import draw_samples, sample_sizes
from adit_scale.training.stages import DenoiserModule, DiffusionStage, Stage


def make_scorer(
    config: StudyConfig, stage: Stage, device: torch.device
) -> Callable[[nn.Module, int], dict[str, float]] | None:
    """A function of (evaluation module, step) that gives rates; None where none are asked for."""
    every = config.diffusion.samples_every_steps
    if not every or not isinstance(stage, DiffusionStage):
        return None
    n = config.diffusion.samples_per_domain
    sampling = replace(
        config.sampling,
        crystals=min(n, config.sampling.crystals),
        molecules=min(n, config.sampling.molecules),
        steps=config.diffusion.sample_steps,
    )
    sizes = sample_sizes(config.data, sampling)

    def score(module: nn.Module, step: int) -> dict[str, float]:
        assert isinstance(module, DenoiserModule)
        samples = draw_samples(module.network, stage.autoencoder, sizes, sampling)
        scores = score_sets(samples.get(MOLECULE, []), samples.get(CRYSTAL, []), config.evaluation)
        return {name: rate.value for name, rate in scores.rates.items() if rate.trials}

    return score

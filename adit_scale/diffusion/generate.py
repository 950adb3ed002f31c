"""Structures from noise: starting noise, latents and their decoding, in batches of bounded size.

Sample i of a domain is a pure function of (seed, domain, i) and of what is asked of it: batches change
neither its size nor its noise, and at equal capacities not a bit of it (docs/method.md, "Sampling").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from adit_scale.diffusion.batches import BatchPlan, plan_batches
from adit_scale.diffusion.conditions import (
    draw_domains,
    draw_sizes,
    draw_spacegroups,
    sizes_asked,
    spacegroups_asked,
)
from adit_scale.diffusion.config import SamplingConfig
from adit_scale.diffusion.inference import for_device, in_precision
from adit_scale.diffusion.sampler import GeneratedBatch, Sampler
from adit_scale.diffusion.solvers import evaluation_times, n_evaluations_of
from adit_scale.diffusion.time_grids import time_grid
from adit_scale.models.autoencoder import Autoencoder
from adit_scale.models.dit import Denoiser

__all__ = [
    "BatchPlan",
    "GeneratedBatch",
    "Sampler",
    "draw_domains",
    "draw_sizes",
    "draw_spacegroups",
    "for_device",
    "generate",
    "in_precision",
    "n_evaluations",
    "network_passes",
    "plan_batches",
    "sizes_asked",
    "spacegroups_asked",
]


def generate(
    denoiser: Denoiser,
    autoencoder: Autoencoder,
    sizes: Mapping[int, np.ndarray],
    config: SamplingConfig,
    on_evaluation: Callable[[], object] | None = None,
    spacegroups: Mapping[int, np.ndarray | None] | None = None,
) -> Iterator[GeneratedBatch]:
    """Samples of each domain, ``sizes[domain]`` from ``sizes_asked``; batch after batch, like sizes together.

    Runs on the device of the networks' weights; the batches come back on the CPU.
    on_evaluation: called after each evaluation of the denoiser, ``n_evaluations`` times in all.
    spacegroups: by domain, from ``spacegroups_asked``. Raises ConfigError.
    """
    config = for_device(config, next(denoiser.parameters()).device)
    plans = plan_batches(sizes, config, spacegroups)
    tell = None if on_evaluation is None else lambda _: on_evaluation()
    with Sampler(denoiser, config, plans) as sampler:
        for _, batch in sampler.batches(autoencoder, plans, tell):
            yield batch


def n_evaluations(sizes: Mapping[int, np.ndarray], config: SamplingConfig) -> int:
    """Evaluations that ``generate`` will report; a guided one passes the denoiser twice.

    config: definite, from ``for_device``.
    """
    return n_evaluations_of(config.solver, config.steps) * len(plan_batches(sizes, config))


def network_passes(config: SamplingConfig) -> int:
    """Passes of the denoiser a sample takes, guidance included: what a sampler costs."""
    times = time_grid(config.steps, config.time_grid, config.time_grid_parameter)
    evaluations = evaluation_times(config.solver, times)
    if config.guidance_scale == 1.0:
        return len(evaluations)
    guided = sum(config.guidance_t_low <= t <= config.guidance_t_high for t in evaluations)
    return len(evaluations) + guided

"""Structures from noise: starting noise, latents and their decoding, in batches of bounded size.

Sample i of a domain is a pure function of (seed, domain, i) and of what is asked of it: batches change
neither its size nor its noise, and at equal capacities not a bit of it (docs/method.md, "Sampling").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from adit_scale.atoms import PackedLayout
from adit_scale.diffusion.batches import BatchPlan, plan_batches
from adit_scale.diffusion.conditions import (
    check_spacegroups,
    draw_domains,
    draw_sizes,
    draw_spacegroups,
    sample_numbers,
    sizes_asked,
    spacegroups_asked,
)
from adit_scale.diffusion.config import SamplingConfig
from adit_scale.diffusion.inference import in_precision, resolve_precision
from adit_scale.diffusion.sampling import Conditions, sampling_noise, solve_latents
from adit_scale.diffusion.solvers import evaluation_times, n_evaluations_of
from adit_scale.diffusion.time_grids import time_grid
from adit_scale.models.autoencoder import Autoencoder, Decoded
from adit_scale.models.dit import Denoiser

__all__ = [
    "BatchPlan",
    "GeneratedBatch",
    "draw_domains",
    "draw_sizes",
    "draw_spacegroups",
    "generate",
    "generate_batch",
    "in_precision",
    "n_evaluations",
    "network_passes",
    "plan_batches",
    "resolve_precision",
    "sizes_asked",
    "spacegroups_asked",
]


@dataclass(frozen=True)
class GeneratedBatch:
    """Decoded samples, on the CPU. index_s: the number of each sample within its domain, ``(S,)`` int64."""

    decoded: Decoded
    layout: PackedLayout
    domain_s: Tensor
    index_s: Tensor


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
    plans = plan_batches(sizes, config, spacegroups)
    denoiser = in_precision(denoiser, config)
    for plan in plans:
        yield generate_batch(denoiser, autoencoder, plan, config, on_evaluation)


@torch.no_grad()
def generate_batch(
    denoiser: Denoiser,
    autoencoder: Autoencoder,
    plan: BatchPlan,
    config: SamplingConfig,
    on_evaluation: Callable[[], object] | None = None,
) -> GeneratedBatch:
    """The samples of one batch of ``plan_batches``.

    Networks that give NaN give NaN samples. Raises ConfigError where spacegroups are asked of a denoiser
    without such labels.
    """
    latents_td, layout = batch_latents(denoiser, plan, config, on_evaluation)
    decoded = autoencoder.decode(latents_td, layout)
    return GeneratedBatch(
        _real(decoded, plan),
        plan.layout(),
        torch.full((len(plan.places),), plan.domain, dtype=torch.int64),
        torch.from_numpy(plan.places),
    )


@torch.no_grad()
def batch_latents(
    denoiser: Denoiser,
    plan: BatchPlan,
    config: SamplingConfig,
    on_evaluation: Callable[[], object] | None = None,
) -> tuple[Tensor, PackedLayout]:
    """Latents ``(T, latent)`` of one batch, float32, and their layout with its tail, on the device."""
    check_spacegroups(plan.spacegroups is not None, denoiser.config)
    denoiser = in_precision(denoiser, config)
    device = next(denoiser.parameters()).device
    layout = plan.padded_layout()
    # Drawn on the CPU: the same start on every device, and sums in one order.
    number_s = _filled(sample_numbers(plan.domain, plan.places), layout)
    x_0_td = sampling_noise(config.seed, number_s, layout, denoiser.config.latent).to(device)
    layout = layout.to(device)
    latents_td = solve_latents(
        denoiser,
        layout,
        _conditions(plan, layout),
        x_0_td,
        time_grid(config.steps, config.time_grid, config.time_grid_parameter),
        solver=config.solver,
        guidance_scale=config.guidance_scale,
        guidance_interval=(config.guidance_t_low, config.guidance_t_high),
        on_evaluation=on_evaluation,
    )
    return latents_td, layout


def n_evaluations(sizes: Mapping[int, np.ndarray], config: SamplingConfig) -> int:
    """Evaluations that ``generate`` will report; a guided one passes the denoiser twice."""
    return n_evaluations_of(config.solver, config.steps) * len(plan_batches(sizes, config))


def network_passes(config: SamplingConfig) -> int:
    """Passes of the denoiser a sample takes, guidance included: what a sampler costs."""
    times = time_grid(config.steps, config.time_grid, config.time_grid_parameter)
    evaluations = evaluation_times(config.solver, times)
    if config.guidance_scale == 1.0:
        return len(evaluations)
    guided = sum(config.guidance_t_low <= t <= config.guidance_t_high for t in evaluations)
    return len(evaluations) + guided


def _conditions(plan: BatchPlan, layout: PackedLayout) -> Conditions:
    device = layout.offsets.device
    if plan.spacegroups is None:
        return Conditions.of_domain(plan.domain, device)
    spacegroup_s = _filled(torch.from_numpy(plan.spacegroups).to(device), layout)
    return Conditions.of_spacegroups(plan.domain, spacegroup_s, layout)


def _filled(values: Tensor, layout: PackedLayout) -> Tensor:
    """``values`` of the real sets, zeros for the tail."""
    return torch.cat([values, values.new_zeros(layout.n_sets - len(values))])


def _real(decoded: Decoded, plan: BatchPlan) -> Decoded:
    """What belongs to samples, on the CPU, without the tail."""
    n_sets, n_atoms = len(plan.places), plan.n_atoms
    return Decoded(
        atom_type_logits_t100=decoded.atom_type_logits_t100[:n_atoms].cpu(),
        positions_t3=decoded.positions_t3[:n_atoms].cpu(),
        fractional_t3=decoded.fractional_t3[:n_atoms].cpu(),
        lengths_s3=decoded.lengths_s3[:n_sets].cpu(),
        angles_s3=decoded.angles_s3[:n_sets].cpu(),
    )

"""What the jobs of a study will take: FLOPs, memory of a rank, disk. Arithmetic alone, free of torch.

FLOPs are C_total of docs/method.md: the denoiser's and, in every step that makes its latents, the frozen
encoder's forward. Numbers of bytes are of the fullest moment.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from adit_scale.config import StudyConfig
from adit_scale.models.ladder import (
    autoencoder_flops,
    autoencoder_parameters,
    denoiser_parameters,
    encoder_flops,
    forward_flops,
    training_flops,
)
from adit_scale.performance.constants import Network, find_network
from adit_scale.performance.measured import measured_mfu
from adit_scale.performance.step import Machine, StepTime, Work, gpu_machine, step_time
from adit_scale.scaling.config import ASSUMED_MFU, BudgetConfig
from adit_scale.scaling.points import EpochContents
from adit_scale.training.config import AutoencoderStageConfig, DiffusionStageConfig, ParallelConfig
from adit_scale.training.memory import FP32, plan_memory

GIB = 2**30
# FLOPs an atom of DiT-S and larger differ by less than 6% between sets of 7 and of 200 atoms: where the sizes
# are not known yet, this one stands for all.
ASSUMED_ATOMS = 16
ASSUMED = EpochContents(np.eye(ASSUMED_ATOMS + 1)[ASSUMED_ATOMS])
CHECKPOINT_ARRAYS = 4  # master weights, two moments, average; fp32
# An evaluation's folder: gallery and figures, then samples (parts, extended xyz) and verdicts (twice).
PICTURES_BYTES, SAMPLE_BYTES, SAMPLE_ATOM_BYTES = 4 << 20, 300, 120


def diffusion_flops(config: StudyConfig, epoch: EpochContents) -> tuple[float, float]:
    """(C, C_total) of a diffusion run, the making of a latent cache left out."""
    stage, model = config.diffusion, config.model
    epochs = epoch.epochs(stage.steps, stage.atom_budget)
    own = epochs * _sum(epoch.visits, lambda n: training_flops(model.denoiser, [n], stage.self_conditioning))
    if stage.latent_cache:
        return own, own
    return own, own + epochs * _sum(epoch.visits, lambda n: encoder_flops(model.autoencoder, [n]))


def step_work(config: StudyConfig, epoch: EpochContents) -> Work:
    """What one step of a diffusion run holds, on average."""
    stage = config.diffusion
    flops, total = diffusion_flops(config, epoch)
    epochs = epoch.epochs(stage.steps, stage.atom_budget)
    return Work(flops, total - flops, epochs * epoch.atoms, epochs * epoch.sets).times(1 / stage.steps)


def step_machine(budget: BudgetConfig, config: StudyConfig) -> Machine:
    """``budget.gpu`` at ``budget.mfu``, or where that is left at its default at what was measured on it."""
    found = measured_mfu(config.model.denoiser.name, budget.gpu) if budget.mfu == ASSUMED_MFU else None
    mfu, source = found or (budget.mfu, "budget.mfu, assumed")
    machine = gpu_machine(budget.gpu, mfu, config.diffusion.encoder_precision, source)
    return replace(machine, loaders=max(1, config.data.workers))


def diffusion_step(
    config: StudyConfig, budget: BudgetConfig, epoch: EpochContents, gpus_per_node: int = 0
) -> StepTime:
    """A step of a diffusion run on GPUs over ``budget.network``, by the model of adit_scale/performance.

    gpus_per_node: where a launcher says it; else the network's own. Raises ConfigError.
    """
    network: Network = find_network(budget.network, budget.gpu)
    if gpus_per_node:
        network = replace(network, gpus_per_node=gpus_per_node)
    parallel, machine = definite(config.parallel, on_gpu=True), step_machine(budget, config)
    return step_time(config.model, config.diffusion, parallel, step_work(config, epoch), machine, network)


def latent_cache_flops(config: StudyConfig, epoch: EpochContents) -> float:
    """FLOPs of encoding every training set ``latent_cache`` times."""
    one = _sum(epoch.stored, lambda n: encoder_flops(config.model.autoencoder, [n]))
    return config.diffusion.latent_cache * one


def latent_cache_bytes(config: StudyConfig, epoch: EpochContents) -> int:
    """Bytes of the cached posteriors: mean and logvar of every atom, fp32."""
    atoms = int(epoch.stored @ np.arange(len(epoch.stored)))
    return config.diffusion.latent_cache * 2 * FP32 * config.model.autoencoder.latent * atoms


def autoencoder_run_flops(config: StudyConfig, epoch: EpochContents) -> float:
    """FLOPs of the autoencoder's training."""
    stage = config.autoencoder
    epochs = epoch.epochs(stage.steps, stage.atom_budget)
    return epochs * _sum(epoch.visits, lambda n: 3 * autoencoder_flops(config.model.autoencoder, [n]))


def sampling_flops(config: StudyConfig, epoch: EpochContents) -> float:
    """FLOPs of drawing an evaluation's samples, sizes as the training data have them."""
    sampling, model = config.sampling, config.model
    evaluations: float = sampling.steps if sampling.solver == "euler" else 2 * sampling.steps - 2
    if sampling.guidance_scale != 1:
        evaluations *= 1 + sampling.guidance_t_high - sampling.guidance_t_low
    chosen = sampling.chosen_atoms
    sizes = np.eye(chosen + 1)[chosen] if chosen else epoch.visits / epoch.sets

    def one(n: int) -> float:
        decoding = autoencoder_flops(model.autoencoder, [n]) - encoder_flops(model.autoencoder, [n])
        return evaluations * forward_flops(model.denoiser, [n]) + decoding

    return (sampling.crystals + sampling.molecules) * _sum(sizes, one)


def sampling_bytes(config: StudyConfig, epoch: EpochContents) -> int:
    """Bytes of an evaluation's folder, above what was measured (adit_scale/jobs/evaluation.py)."""
    n = config.sampling.crystals + config.sampling.molecules
    atoms = config.sampling.chosen_atoms or epoch.atoms / epoch.sets
    return int(PICTURES_BYTES + n * (SAMPLE_BYTES + SAMPLE_ATOM_BYTES * atoms))


def training_bytes(
    stage: AutoencoderStageConfig | DiffusionStageConfig, parameters: int, hours: float
) -> int:
    """Bytes of a training run's folder: checkpoints that stay and one being written, weights, snapshots.

    hours: that the run will take, for checkpoints kept by the hour.
    """
    whole = FP32 * parameters
    kept = stage.keep_checkpoints + 1 + len(stage.branch_steps)
    kept += bool(stage.keep_best) + (stage.optim.schedule == "wsd")
    if stage.keep_every_hours:
        kept += 1 + int(hours / stage.keep_every_hours)
    made = math.ceil(stage.steps / stage.checkpoint_every_steps) + len(stage.branch_steps)
    made += stage.optim.schedule == "wsd"
    n_bytes = min(kept, made) * CHECKPOINT_ARRAYS * whole + whole
    if isinstance(stage, DiffusionStageConfig) and stage.samples_every_steps:
        due = math.ceil(stage.steps / stage.samples_every_steps)
        n_bytes += min(due, max(1, int(stage.scoring.queue_gib * GIB / whole))) * whole
    return n_bytes


def run_parameters(config: StudyConfig, stage: str) -> int:
    """Trainable parameters of a stage, ``autoencoder`` or ``diffusion``."""
    if stage == "autoencoder":
        return autoencoder_parameters(config.model.autoencoder)
    return denoiser_parameters(config.model.denoiser)


def rank_memory(config: StudyConfig, stage: str, on_gpu: bool) -> tuple[int, str]:
    """Bytes that a rank of a stage holds at most, and its precision; ``auto`` is bf16 on a GPU.

    On a CPU the checkpoint writer's copy counts as well.
    """
    parallel = definite(config.parallel, on_gpu)
    plan = plan_memory(config.model, parallel, stage, on_gpu)
    return plan.peak_bytes + (0 if on_gpu else plan.host_bytes), parallel.precision


def definite(parallel: ParallelConfig, on_gpu: bool) -> ParallelConfig:
    """With the precision that ``auto`` will mean."""
    if parallel.precision != "auto":
        return parallel
    return replace(parallel, precision="bf16" if on_gpu and parallel.zero_stage else "fp32")


def _sum(weights: np.ndarray, flops: Callable[[int], float]) -> float:
    """Over sets of n atoms, ``weights[n]`` of each: sets of one size cost the same."""
    return float(sum(weights[n] * flops(int(n)) for n in np.flatnonzero(weights)))

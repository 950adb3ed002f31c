"""Seconds of a training step of stage 2 by part, from FLOPs and bytes; the equations: docs/benchmarks.md.

Parts follow one another: DeepSpeed is told not to overlap exchange with computing, and the loop prepares data
and writes checkpoints behind it; of these a part is what they take longer than what they stand behind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from adit_scale.models.config import ModelConfig
from adit_scale.models.ladder import denoiser_parameters
from adit_scale.performance.constants import Network, constants, find_device
from adit_scale.performance.exchange import exchange_s
from adit_scale.performance.modules import denoiser_modules
from adit_scale.performance.traffic import ALL_REDUCE, Collective, step_collectives
from adit_scale.training.config import DiffusionStageConfig, ParallelConfig
from adit_scale.training.memory import FP32, working_bytes
from adit_scale.training.peaks import find_peak

VALIDATION_PASSES = 8  # a forward for each time of its grid
OF_MANY = ("uneven loads", "gradients", "weights", "control", "data")  # parts that one rank does not have
# Arrays of N/W fp32 that AdamW, norm and clipping, and the average read or write.
UPDATE_ARRAYS, NORM_ARRAYS, AVERAGE_ARRAYS = 7, 3, 3


@dataclass(frozen=True)
class Machine:
    """What one rank computes with.

    flops_per_s: reached by the denoiser's training, all its kernels included; encoder_flops_per_s: by the
    frozen encoder; fp32_flops_per_s: by validation. feature_s: on top, an atom, feature and block of a
    forward (0 where the rate holds it). launch_s: of a kernel, by the host, which a device computes behind
    (``asynchronous``) or waits for. launches: of a block, forward and backward. host_s: a step's of Python.
    snapshot_bytes_per_s: of a rank into host memory. storage_bytes_per_s: of all ranks together. hook_s: of
    DeepSpeed around a module at stage 3. loaders: processes of a rank that prepare steps ahead. Where ranks
    share one machine of so many ``cores`` (0: they do not), ``pair`` is how much longer each computes while
    the others do.
    """

    flops_per_s: float
    encoder_flops_per_s: float
    fp32_flops_per_s: float
    memory_bytes_per_s: float
    launch_s: float
    launches: float
    host_s: float
    snapshot_bytes_per_s: float
    storage_bytes_per_s: float
    feature_s: float = 0.0
    asynchronous: bool = True
    hook_s: float = 0.0
    loaders: int = 1
    cores: int = 0
    pair: float = 1.0
    source: str = ""

    def sharing(self, world: int) -> float:
        """Ranks a core, at least 1."""
        return max(1.0, world / self.cores) if self.cores else 1.0


def gpu_machine(gpu: str, mfu: float, encoder_precision: str, source: str = "budget.mfu") -> Machine:
    """A GPU by name at ``mfu`` of its bf16 peak; the encoder at the same share of its own precision's."""
    peak, encoder, fp32 = (find_peak(gpu, kind) for kind in ("bf16", encoder_precision, "fp32"))
    assert peak is not None, gpu
    assert encoder is not None, gpu
    assert fp32 is not None, gpu
    known = constants()
    assumed = known["assumed"]
    return Machine(
        flops_per_s=mfu * peak.flops_per_s,
        encoder_flops_per_s=mfu * encoder.flops_per_s,
        fp32_flops_per_s=mfu * fp32.flops_per_s,
        memory_bytes_per_s=assumed["memory_share_reached"] * find_device(gpu).memory_bytes_per_s,
        launch_s=assumed["launch_s"],
        launches=known["measured"]["launches_a_block"],
        host_s=assumed["host_step_s"],
        hook_s=known["measured"]["hook_s"],
        snapshot_bytes_per_s=assumed["snapshot_bytes_per_s"],
        storage_bytes_per_s=assumed["storage_bytes_per_s"],
        source=f"{100 * mfu:.3g}% of {peak.source} ({source})",
    )


@dataclass(frozen=True)
class Work:
    """Of one step, all ranks together. flops: the denoiser's, self-conditioning included. encoder_flops: of
    latents made in the step."""

    flops: float
    encoder_flops: float
    atoms: float
    sets: float

    def times(self, factor: float) -> Work:
        return Work(*(factor * value for value in (self.flops, self.encoder_flops, self.atoms, self.sets)))


@dataclass(frozen=True)
class StepTime:
    """parts: seconds of a step by what they are for. rounds: micro-batches of a rank. sent_bytes: by a rank,
    in collectives; calls: of them."""

    parts: dict[str, float]
    rounds: int
    sent_bytes: float
    calls: float

    @property
    def step_s(self) -> float:
        return sum(self.parts.values())

    @property
    def efficiency(self) -> float:
        """The share of the step that one GPU with the same atoms would take as well."""
        return 1 - sum(self.parts[name] for name in OF_MANY) / self.step_s


def step_time(
    model: ModelConfig,
    stage: DiffusionStageConfig,
    parallel: ParallelConfig,
    work: Work,
    machine: Machine,
    network: Network,
) -> StepTime:
    """Of a diffusion run; ``parallel.precision`` must be definite. Raises ConfigError."""
    world, config = parallel.world_size, model.denoiser
    rounds = max(1, math.ceil(work.atoms / (world * parallel.capacity_atoms) - 1e-9))
    collectives = step_collectives(
        config, parallel.zero_stage, parallel.precision, world, rounds, stage.self_conditioning
    )
    computing = machine.pair if world > 1 else 1.0
    again = (4 + stage.self_conditioning) / (3 + stage.self_conditioning)  # the forward, recomputed
    passes = 3 + stage.self_conditioning
    device_s = work.flops / world / machine.flops_per_s * (again if parallel.activation_checkpointing else 1)
    device_s += work.atoms / world * config.width * config.depth * passes * machine.feature_s
    launches_s = rounds * (config.depth + 2) * machine.launches * machine.launch_s
    if parallel.zero_stage == 3:
        launches_s += rounds * 2 * len(denoiser_modules(config)) * machine.hook_s
    waits_s = max(0.0, launches_s - device_s) if machine.asynchronous else launches_s
    encoder_s = work.encoder_flops / world / machine.encoder_flops_per_s
    parts = {
        "compute": computing * device_s,
        "encoder": computing * encoder_s,
        "launches": computing * waits_s,
        "uneven loads": uneven(world, work.atoms / world / rounds) * (device_s + encoder_s),
        "gradients": exchange_s([c for c in collectives if c.what == "gradients"], network, world),
        "weights": exchange_s([c for c in collectives if c.what == "weights"], network, world),
        "control": exchange_s([c for c in collectives if c.what == "control"], network, world),
        "update": update_s(denoiser_parameters(config), parallel, rounds, machine),
        "host": machine.host_s,
    }
    parts = {name: machine.sharing(world) * seconds for name, seconds in parts.items()}
    busy_s = sum(parts.values())
    parts["data"] = max(0.0, data_s(work, world) / machine.loaders - busy_s)
    parts["checkpoint"] = checkpoint_s(model, stage, parallel, machine, busy_s)
    parts["validation"] = validation_s(model, stage, parallel, work, machine, network)
    sent = sum(c.count * c.sent_bytes(world) for c in collectives)
    return StepTime(parts, rounds, sent, sum(c.count for c in collectives))


def update_s(n: int, parallel: ParallelConfig, rounds: int, machine: Machine) -> float:
    """AdamW, norm, clipping and the average over a rank's part, and gradients summed over micro-batches.

    Gradients of all N are summed on each rank but at stage 3, where a rank sums its part; in bf16 they are
    also read from, and the new weights written as, working weights.
    """
    b, zero_stage = working_bytes(parallel.precision), parallel.zero_stage
    own = n / parallel.world_size if zero_stage else n
    arrays = UPDATE_ARRAYS + NORM_ARRAYS
    average = AVERAGE_ARRAYS * FP32 * n / parallel.world_size
    summed = own if zero_stage >= 2 else n
    sums = rounds * (b + 2 * FP32) * summed + (rounds * 2 * b * n if zero_stage >= 2 else 0)
    handed_out = 2 * b * own if zero_stage else 0
    return (arrays * FP32 * own + average + sums + handed_out) / machine.memory_bytes_per_s


def data_s(work: Work, world: int) -> float:
    """Of one loader: it orders and deals the sets of all ranks, and reads and augments its own."""
    measured = constants()["measured"]
    dealt_s = measured["dealing_s_a_set"] + 1 / measured["ordered_sets_per_s"]
    return work.sets * (dealt_s + 1 / world / measured["loader_sets_per_s"])


def checkpoint_s(
    model: ModelConfig, stage: DiffusionStageConfig, parallel: ParallelConfig, machine: Machine, busy_s: float
) -> float:
    """The snapshot into host memory, and what writing takes longer than the steps until the next one."""
    n, every = denoiser_parameters(model.denoiser), stage.checkpoint_every_steps
    n_bytes = 4 * FP32 * n
    snapshot_s = n_bytes / parallel.world_size / machine.snapshot_bytes_per_s
    writing_s = n_bytes / machine.storage_bytes_per_s
    late_s = max(0.0, writing_s - every * busy_s) if stage.checkpoint_async else writing_s
    return (snapshot_s + late_s) / every


def validation_s(
    model: ModelConfig,
    stage: DiffusionStageConfig,
    parallel: ParallelConfig,
    work: Work,
    machine: Machine,
    network: Network,
) -> float:
    """The average gathered by one all-reduce a parameter, then forwards of whole batches shared out."""
    world = parallel.world_size
    numels = [n for module in denoiser_modules(model.denoiser) for n in module.numels]
    average = [Collective(ALL_REDUCE, FP32 * n, "validation", "weights") for n in numels]
    atoms = stage.validation_sets * work.atoms / work.sets
    batches = math.ceil(atoms / parallel.capacity_atoms)
    share = math.ceil(batches / world) * world / batches * atoms / world  # atoms of the rank with most
    forward = work.flops / work.atoms / (3 + stage.self_conditioning)
    flops = share * VALIDATION_PASSES * forward
    return (flops / machine.fp32_flops_per_s + exchange_s(average, network, world)) / (
        stage.validate_every_steps
    )


def uneven(world: int, atoms: float) -> float:
    """How far the slowest micro-batch lies above the mean one, a share of it; 0 on one rank.

    Measured in FLOPs of sets as dealt. Atoms are level to one or two; what is left is that pairs of atoms
    cost too, which evens out as the square root of the sets in a micro-batch.
    """
    known = constants()["measured"]
    if world == 1:
        return 0.0
    ranks = sorted(int(w) for w in known["uneven"])
    at = float(np.interp(math.log(world), np.log(ranks), [known["uneven"][str(w)] for w in ranks]))
    return at * math.sqrt(known["uneven_atoms"] / max(1.0, atoms))

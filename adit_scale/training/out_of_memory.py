"""A micro-batch that does not fit, said in one line: what it needs, what there is, and settings that fit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from adit_scale.config import StudyConfig
from adit_scale.errors import ConfigError, size_text
from adit_scale.training.config import ParallelConfig
from adit_scale.training.memory import MemoryPlan, plan_memory
from adit_scale.training.memory_limits import usable_bytes
from adit_scale.training.mfu import device_name
from adit_scale.training.stage import Stage

RESERVE = 0.08  # of the memory, left to fragments of the allocator, libraries and NCCL's buffers
BY_FAR = 1.5  # a plan this many times over a CPU's memory is refused before the first step
# Torch's CPU allocator raises no type of its own.
_CPU_REFUSALS = ("DefaultCPUAllocator", "can't allocate memory", "not enough memory")
# Of a plan's parts, those that grow with the micro-batch.
_OF_ATOMS = ("activations", "backward of a block")


@dataclass(frozen=True)
class Sizes:
    """visits_n: visits of training sets in an epoch by number of atoms, ``(largest + 1,)``."""

    visits_n: np.ndarray

    @property
    def mean(self) -> float:
        return float(self.visits_n @ np.arange(len(self.visits_n)) / self.visits_n.sum())

    @property
    def largest(self) -> int:
        return int(np.flatnonzero(self.visits_n)[-1])

    def example(self, atoms: int) -> np.ndarray:
        """Sizes of sets of about ``atoms`` together, ascending.

        Half of the atoms are in sets of the largest size, half in sets in the data's proportions.
        """
        n_largest = max(1, atoms // 2 // self.largest)
        left = atoms - n_largest * self.largest
        n_mixed = int(left / self.mean)
        reached_n = np.cumsum(self.visits_n) / self.visits_n.sum()
        mixed = np.searchsorted(reached_n, (np.arange(n_mixed) + 0.5) / max(1, n_mixed))
        mixed = mixed[np.cumsum(mixed) <= left]
        return np.concatenate([mixed, np.full(n_largest, self.largest)]).astype(np.int64)


def plan_of(config: StudyConfig, stage: Stage, device: torch.device, atoms: int) -> MemoryPlan:
    """The plan of a rank with micro-batches of ``atoms``; on a CPU host memory is the same memory."""
    parallel = replace(config.parallel, micro_batch_atoms=atoms)
    plan = plan_memory(config.model, parallel, stage.name, device.type == "cuda")
    return plan if device.type == "cuda" else replace(plan, standing=plan.standing | plan.host, host={})


def atoms_bytes(plan: MemoryPlan) -> int:
    """What grows with the micro-batch, in proportion to it."""
    return sum(plan.backward[name] for name in _OF_ATOMS)


def fixed_bytes(plan: MemoryPlan) -> int:
    """What else there is at the fullest moment of a training step."""
    return sum(plan.standing.values()) + sum(plan.backward.values()) - atoms_bytes(plan)


@contextmanager
def fits_or_says(config: StudyConfig, stage: Stage, sizes: Sizes, device: torch.device) -> Iterator[None]:
    """Memory that runs out inside becomes one line, a ConfigError."""
    usable = usable_bytes(device)
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_refusal(error):
            raise
        plan = plan_of(config, stage, device, config.parallel.capacity_atoms)
        raise too_large(config.parallel, sizes, device, plan, usable, seen=True) from error


def refuse_hopeless(config: StudyConfig, stage: Stage, sizes: Sizes, device: torch.device) -> MemoryPlan:
    """The plan. Raises ConfigError where it is far over a CPU's memory: a process that takes it is killed."""
    plan = plan_of(config, stage, device, config.parallel.capacity_atoms)
    if device.type == "cpu" and plan.peak_bytes > BY_FAR * (usable := usable_bytes(device)):
        raise too_large(config.parallel, sizes, device, plan, usable, seen=False)
    return plan


def too_large(
    parallel: ParallelConfig, sizes: Sizes, device: torch.device, plan: MemoryPlan, usable: int, seen: bool
) -> ConfigError:
    """seen: memory did run out, whatever the plan says."""
    atoms = parallel.capacity_atoms
    fitting = int(((1 - RESERVE) * usable - fixed_bytes(plan)) * atoms / atoms_bytes(plan))
    if seen:
        fitting = min(fitting, atoms // 2)
    cures = less_memory(parallel)
    if fitting >= sizes.largest:
        cures.insert(0, f"parallel.micro_batch_atoms={fitting} (fits by the plan)")
        if parallel.micro_batch == "fixed":
            cures.append("parallel.micro_batch=auto")
    need = size_text(plan.peak_bytes)
    if plan.peak_bytes <= usable:
        need = f"more than the {need} of the plan"
    return ConfigError(
        f"parallel.micro_batch_atoms={atoms} needs about {need} of {size_text(usable)} on "
        f"{device_name(device)}; set {', '.join(cures[:-1])}{' or ' if cures[1:] else ''}{cures[-1]}"
    )


def less_memory(parallel: ParallelConfig) -> list[str]:
    """Settings that need less, beside a smaller micro-batch."""
    cures = []
    if not parallel.activation_checkpointing:
        cures.append("parallel.activation_checkpointing=true")
    if parallel.world_size > 1 and parallel.zero_stage < 3:
        cures.append("parallel.zero_stage=3")
    return cures or ["more ranks (parallel.world_size)"]


def _is_refusal(error: RuntimeError | MemoryError) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error) for words in _CPU_REFUSALS)

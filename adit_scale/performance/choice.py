"""ZeRO stage and micro-batch of a run on given ranks: the fastest that fits its memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from adit_scale.models.config import ModelConfig
from adit_scale.performance.step import StepTime
from adit_scale.training.config import ParallelConfig
from adit_scale.training.memory import plan_memory

SMALLEST_ATOMS, LARGEST_ATOMS = 1024, 65_536
# Stages whose steps are so near to the fastest are as fast: of them the lowest stage is taken.
AS_FAST = 0.01


@dataclass(frozen=True)
class Choice:
    """time: of a step. memory_bytes: a rank's, of which ``usable_bytes`` would fit."""

    parallel: ParallelConfig
    time: StepTime
    memory_bytes: int
    usable_bytes: float

    @property
    def fits(self) -> bool:
        return self.memory_bytes <= self.usable_bytes


def choices(
    model: ModelConfig,
    parallel: ParallelConfig,
    atoms_a_rank: float,
    usable_bytes: float,
    time_of: Callable[[ParallelConfig], StepTime],
) -> list[Choice]:
    """Every stage that the precision allows with micro-batches of powers of two, up to a rank's share."""
    found = []
    for zero_stage in (0, 1, 2, 3) if parallel.precision == "fp32" else (1, 2, 3):
        for atoms in micro_batches(atoms_a_rank):
            own = replace(parallel, zero_stage=zero_stage, micro_batch_atoms=atoms)
            memory = plan_memory(model, own, "diffusion", cuda=True).peak_bytes
            found.append(Choice(own, time_of(own), memory, usable_bytes))
    return found


def micro_batches(atoms_a_rank: float) -> list[int]:
    """Powers of two from 1,024 atoms to the first that holds a rank's share, at most 65,536."""
    found = [SMALLEST_ATOMS]
    while found[-1] < min(atoms_a_rank, LARGEST_ATOMS):
        found.append(2 * found[-1])
    return found


def best(found: Sequence[Choice]) -> Choice | None:
    """The fastest that fits; of those that are as fast the fastest of the lowest stage."""
    fitting = [choice for choice in found if choice.fits]
    if not fitting:
        return None
    fastest_s = min(choice.time.step_s for choice in fitting)
    near = [choice for choice in fitting if choice.time.step_s <= (1 + AS_FAST) * fastest_s]
    return min(near, key=lambda c: (c.parallel.zero_stage, c.time.step_s - c.time.parts["data"]))

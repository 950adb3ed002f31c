"""How many atoms a micro-batch holds: as the settings say, or the most that fit, found before the first step.

``parallel.micro_batch=auto``: bytes that stand throughout come from the plan (memory.py). Those of a
micro-batch are measured on CUDA: forward and backward of a copy of the network on made-up sets of the data's
sizes, before DeepSpeed exists, so that nothing of the run has to be undone. On a CPU the plan has to do. The
answer is kept in ``RUN/micro_batch.json`` for resumed runs on the same kind of device.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from adit_scale.atoms import PackedBatch
from adit_scale.config import StudyConfig
from adit_scale.data.columns import SetColumns
from adit_scale.data.dealing import micro_batches
from adit_scale.data.packing import pack
from adit_scale.errors import ConfigError, size_text
from adit_scale.models.precision import DTYPES
from adit_scale.models.transformer import prepare_blocks
from adit_scale.training.memory_limits import usable_bytes
from adit_scale.training.mfu import device_name
from adit_scale.training.out_of_memory import (
    RESERVE,
    Sizes,
    atoms_bytes,
    fixed_bytes,
    less_memory,
    plan_of,
    refuse_hopeless,
)
from adit_scale.training.stage import Stage, StepTotals

FILE = "micro_batch.json"
TRIALS = 8
CLOSE_ENOUGH = 0.03  # a capacity this much larger need not be tried


@dataclass(frozen=True)
class MicroBatch:
    """atoms: capacity. rounds: micro-batches of a rank's share of a step, where they come out level.

    n_bytes: of the device at the fullest moment; measured, or by the plan.
    """

    atoms: int
    rounds: int
    n_bytes: int
    measured: bool = False


def choose(folder: Path, config: StudyConfig, stage: Stage, sizes: Sizes, device: torch.device) -> MicroBatch:
    """The micro-batch of a run in ``folder``. A collective call.

    config: with precision, attention and kernels made definite. Raises ConfigError where nothing fits, or
    where a fixed one is hopeless.
    """
    parallel = config.parallel
    budget = stage.config.atom_budget
    if parallel.micro_batch == "fixed":
        rounds, _ = micro_batches(
            budget, parallel.world_size, parallel.capacity_atoms, sizes.mean, sizes.largest
        )
        plan = refuse_hopeless(config, stage, sizes, device)
        return MicroBatch(parallel.capacity_atoms, rounds, plan.peak_bytes)
    key = _key(config, stage, sizes, device)
    if (kept := _kept(folder, key)) is not None:
        return kept
    _, share = micro_batches(
        budget, parallel.world_size, parallel.micro_batch_atoms or 2**62, sizes.mean, sizes.largest
    )
    found, n_bytes = _search(config, stage, sizes, device, share)
    agreed = _least(found, device)
    rounds, atoms = micro_batches(budget, parallel.world_size, agreed, sizes.mean, sizes.largest)
    chosen = MicroBatch(atoms, rounds, n_bytes, measured=device.type == "cuda")
    _keep(folder, chosen, key)
    return chosen


# -- the search --------------------------------------------------------------------------------------------


def _search(
    config: StudyConfig, stage: Stage, sizes: Sizes, device: torch.device, share: int
) -> tuple[int, int]:
    """The most atoms that fit on this rank, at most ``share``, and the bytes of the rank with them."""
    plan = plan_of(config, stage, device, share)
    limit, fixed = int((1 - RESERVE) * usable_bytes(device)), fixed_bytes(plan)
    of_one = atoms_bytes(plan) / share

    def planned(atoms: int) -> int:
        return int(of_one * atoms)

    measure = planned if device.type == "cpu" else Trial(config, stage, sizes, device).n_bytes
    validating = sum(plan.standing.values()) + sum(plan.validation.values())
    found = None
    if validating <= limit:
        guess = int((limit - fixed) / of_one)
        found = largest_fitting(measure, limit - fixed, sizes.largest, share, guess)
    if found is None:
        needed = max(validating, fixed + int(of_one * sizes.largest))
        raise ConfigError(
            f"parallel.micro_batch=auto: no micro-batch fits {device_name(device)}: one of "
            f"{sizes.largest} atoms (the largest set) needs about {size_text(needed)} of "
            f"{size_text(limit)}; set {' or '.join(less_memory(config.parallel))}"
        )
    return found[0], max(fixed + found[1], validating)


def largest_fitting(
    measure: Callable[[int], int | None], room: int, low: int, high: int, guess: int
) -> tuple[int, int] | None:
    """About the largest number from ``low`` to ``high`` that fits, and its bytes; None where none does.

    measure: bytes that grow with the number, about in proportion; None where it failed. room: what they may
    be. guess: where to begin. At most TRIALS measurements, unless almost nothing fits.
    """
    good: tuple[int, int] | None = None
    bad, trials = high + 1, 0
    at: int | None = min(max(guess, low), high)
    while at is not None and (trials < TRIALS or good is None):
        trials += 1
        n_bytes = measure(at)
        if n_bytes is not None and n_bytes <= room:
            good = (at, n_bytes)
        else:
            bad = at
        at = _next_trial(good, bad, room, low, high)
    return good


def _next_trial(good: tuple[int, int] | None, bad: int, room: int, low: int, high: int) -> int | None:
    """good: the largest that fits and its bytes. bad: the least that does not, or high + 1."""
    if good is None:
        return max(low, bad // 2) if bad > low else None
    at, n_bytes = good
    aim = int(at * room / max(1, n_bytes) * (1 - CLOSE_ENOUGH / 3))
    if bad <= at * (1 + CLOSE_ENOUGH) or aim <= at:
        return None
    if aim < bad:
        return aim
    return high if bad > high else (at + bad) // 2


class Trial:
    """Measures what a micro-batch takes on a CUDA device beyond weights and gradients.

    A copy of the network computes, so that the run's own weights, generators and counters stay as they are.
    Blocks are not compiled for it: compiled ones keep less.
    """

    def __init__(self, config: StudyConfig, stage: Stage, sizes: Sizes, device: torch.device) -> None:
        self._stage, self._sizes, self._device = stage, sizes, device
        self._module = copy.deepcopy(stage.module).to(device, DTYPES[config.parallel.precision])
        prepare_blocks(self._module, config.parallel.activation_checkpointing, compiled=False)
        for p in self._module.parameters():
            p.grad = torch.zeros_like(p)  # stands in the plan

    def n_bytes(self, atoms: int) -> int | None:
        """Of preparing one micro-batch while another is computed; None where memory runs out."""
        try:
            return self._measured(atoms)
        except torch.OutOfMemoryError:
            return None
        finally:
            torch.cuda.empty_cache()

    def _measured(self, atoms: int) -> int:
        totals = StepTotals(self._stage.heaviest_step(), 1, 1)
        batch = example_batch(self._sizes.example(atoms)).to(self._device)
        before = self._mark()
        prepared = self._stage.prepare(batch, totals)
        preparing = torch.cuda.max_memory_allocated(self._device) - before
        self._mark()
        loss, _ = self._stage.loss(self._module, prepared, totals)
        loss.backward()
        return preparing + torch.cuda.max_memory_allocated(self._device) - before

    def _mark(self) -> int:
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        return torch.cuda.memory_allocated(self._device)


def example_batch(sizes: np.ndarray) -> PackedBatch:
    """Molecules of the given sizes, of made-up carbon atoms."""
    n_atoms, n_sets = int(sizes.sum()), len(sizes)
    generator = np.random.default_rng(0)
    columns = SetColumns(
        sizes_s=sizes,
        numbers_t=np.full(n_atoms, 6, dtype=np.uint8),
        positions_t3=generator.normal(0, 2, (n_atoms, 3)).astype(np.float32),
        fractional_t3=np.zeros((n_atoms, 3), dtype=np.float32),
        cells_s33=np.zeros((n_sets, 3, 3), dtype=np.float32),
        domain_s=np.full(n_sets, 2, dtype=np.uint8),
        dataset_s=np.zeros(n_sets, dtype=np.uint16),
        spacegroup_s=np.zeros(n_sets, dtype=np.int16),
    )
    zeros = np.zeros(n_sets, dtype=np.int64)
    return pack(columns, np.arange(n_sets), zeros, zeros)


def _least(atoms: int, device: torch.device) -> int:
    """Of all ranks. A collective call."""
    least = torch.tensor([atoms], device=device)
    dist.all_reduce(least, op=dist.ReduceOp.MIN)
    return int(least.item())


# -- kept for resumed runs ---------------------------------------------------------------------------------


def _key(config: StudyConfig, stage: Stage, sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """What the choice follows from."""
    parallel = config.parallel
    names = ("precision", "zero_stage", "world_size", "micro_batch_atoms", "activation_checkpointing",
             "compile", "attention", "kernels")  # fmt: skip
    return {
        "device": device_name(device),
        "stage": stage.name,
        "model": asdict(stage.model_config),
        "atom_budget": stage.config.atom_budget,
        "largest_set": sizes.largest,
        **{name: getattr(parallel, name) for name in names},
    }


def _kept(folder: Path, key: dict[str, Any]) -> MicroBatch | None:
    """The choice of an earlier start under the same key, as rank 0 finds it. A collective call."""
    found: list[MicroBatch | None] = [None]
    path = folder / FILE
    if dist.get_rank() == 0 and path.is_file():
        try:
            record = json.loads(path.read_text())
            found = [MicroBatch(**record["choice"]) if record["key"] == key else None]
        except (ValueError, KeyError, TypeError):
            found = [None]  # torn or of another version: the search is made again
    dist.broadcast_object_list(found, src=0)
    return found[0]


def _keep(folder: Path, chosen: MicroBatch, key: dict[str, Any]) -> None:
    if dist.get_rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        pending = folder / f".{FILE}.{os.getpid()}"
        pending.write_text(json.dumps({"choice": asdict(chosen), "key": key}, indent=1) + "\n")
        pending.replace(folder / FILE)

"""What a run notices by itself: non-finite steps, spikes of the loss, a rank that lags behind.

A dump is what a run that gave up leaves for a look at its last step: ``RUN/dump-step-00000012/`` with
``step.json`` (settings, seed, losses), ``rank-00000.safetensors`` (the micro-batches of each rank, which sets
they hold, each set's part of the loss) and ``weights.safetensors`` (fp32, as they were before the step).
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from adit_scale.atoms import PackedBatch, PackedLayout
from adit_scale.errors import DataError, TrainingError

if TYPE_CHECKING:
    from adit_scale.data.loader import StepBatches
    from adit_scale.training.checkpoint import TrainState
    from adit_scale.training.stages import Stage, StepTotals

SPIKE_WINDOW = 50  # intervals
SPIKE_MINIMUM = 10  # intervals before the first alarm
MAD_TO_SIGMA = 1.4826  # of a normal distribution
# A curve that has gone flat has next to no scatter; under this part of its median nothing is a spike.
SIGMA_FLOOR = 0.01

SLOW_FACTOR = 2.0
SLOW_INTERVALS = 3


def spike(recent: Sequence[float], loss: float, factor: float) -> dict[str, float] | None:
    """Loss, median and sigma (from the median absolute deviation) where ``loss`` stands out; else None.

    recent: losses of the intervals before, at least SPIKE_MINIMUM for an alarm. factor: in sigmas; 0 is off.
    """
    if not factor or len(recent) < SPIKE_MINIMUM:
        return None
    median = statistics.median(recent)
    mad = statistics.median(abs(x - median) for x in recent)
    sigma = max(MAD_TO_SIGMA * mad, SIGMA_FLOOR * abs(median))
    if loss <= median + factor * sigma:
        return None
    return {"loss": loss, "median": median, "sigma": sigma}


class SlowRank:
    """Says when one rank needs twice the others' time, SLOW_INTERVALS log lines in a row."""

    def __init__(self) -> None:
        self._rank, self._intervals = -1, 0

    def check(self, clock: Mapping[str, float]) -> str | None:
        """``clock``: of ``meters.Speed.interval``. A line to show, once for a slow stretch, or None."""
        rank = int(clock["slowest_rank"])
        slow = clock["step_s_max"] > SLOW_FACTOR * clock["step_s_median"]
        self._intervals = self._intervals + 1 if slow and rank == self._rank else int(slow)
        self._rank = rank
        if self._intervals != SLOW_INTERVALS:
            return None
        return (
            f"rank {rank} is slow: {clock['step_s_max']:.3g} s a step of its own work, the median rank "
            f"{clock['step_s_median']:.3g} s, for {SLOW_INTERVALS} log lines; look at its GPU and disk"
        )


# -- dumps -------------------------------------------------------------------------------------------------


def give_up(
    run_folder: Path,
    stage: Stage,
    module: nn.Module,
    state: TrainState,
    batches: StepBatches,
    totals: StepTotals,
    found: Mapping[str, float],
) -> TrainingError:
    """Dump the step that ``totals`` names; returns the error to raise. A collective call.

    module: of the stage's kind, fp32, with the run's weights. found: loss and gradient norm of the step.
    """
    device = next(module.parameters()).device

    def loss(batch: PackedBatch) -> Tensor:
        return stage.loss(module, stage.prepare(batch.to(device), totals), totals)[0]

    losses = [set_losses(loss, batch) for batch in batches.batches]
    record = {
        **asdict(totals),
        "step": state.step,
        "stage": stage.name,
        "seed": state.config["seed"],
        **found,
        "world_size": dist.get_world_size(),
        "fingerprint": state.fingerprint,
        "config": state.config,
    }
    folder = run_folder / f"dump-step-{state.step:08d}"
    bad, problem = write_dump(folder, batches.batches, losses, module.state_dict(), record)
    where = f"the step is in {folder}" if problem is None else f"the step could not be dumped ({problem})"
    return TrainingError(
        f"{run_folder}: {state.skipped_in_a_row} steps in a row up to step {state.step} had a non-finite "
        f"loss or gradient (more than {stage.name}.max_skipped_in_a_row="
        f"{stage.config.max_skipped_in_a_row}); loss {found['loss']:g}, "
        f"sets with a non-finite loss of their own: {bad[:8] or 'none'}; {where}; "
        f"look at these sets, or lower {stage.name}.optim.lr"
    )


def set_losses(loss: Callable[[PackedBatch], Tensor], batch: PackedBatch) -> Tensor:
    """Each set's part of the step's loss, ``(S,)``, one forward a set; zeros at the tail.

    loss: a batch's part of the loss. A set gets the same draws alone as among others; its loss differs by
    rounding.
    """
    loss_s = torch.zeros(batch.layout.n_sets)
    with torch.no_grad():
        for s in torch.nonzero(batch.layout.real_s).flatten().tolist():
            loss_s[s] = float(loss(_one_set(batch, s)))
    return loss_s


def write_dump(
    folder: Path,
    batches: Sequence[PackedBatch],
    losses: Sequence[Tensor],
    weights: Mapping[str, Tensor],
    record: Mapping[str, Any],
) -> tuple[list[int], str | None]:
    """Write this rank's micro-batches and the ``(S,)`` losses of their sets; rank 0 also weights and record.

    Returns, of all ranks, the indices (in the shards' training split) of the sets whose own loss is not
    finite, and what kept a rank from writing, if anything did. A collective call.
    """
    rank = dist.get_rank()
    tensors: dict[str, Tensor] = {}
    bad: list[int] = []
    for i, (batch, loss_s) in enumerate(zip(batches, losses, strict=True)):
        tensors |= {f"micro-{i}/{name}": value for name, value in _tensors(batch).items()}
        tensors[f"micro-{i}/loss_s"] = loss_s
        bad += batch.set_index_s.cpu()[~torch.isfinite(loss_s)].tolist()
    problem = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(_on_cpu(tensors), folder / f"rank-{rank:05d}.safetensors")
        if rank == 0:
            save_file(_on_cpu(weights), folder / "weights.safetensors")
            words = {k: v if _finite(v) else str(v) for k, v in record.items()}  # JSON has no NaN
            (folder / "step.json").write_text(json.dumps(words, indent=1, default=str) + "\n")
    except (OSError, SafetensorError) as error:  # safetensors has a type of its own for a full disk
        problem = f"rank {rank}: {error}"
    parts: list[Any] = [(bad, problem)]
    if dist.get_world_size() > 1:
        parts = [None] * dist.get_world_size()
        dist.all_gather_object(parts, (bad, problem))
    problems = [text for _, text in parts if text is not None]
    return sorted(index for indices, _ in parts for index in indices), next(iter(problems), None)


def load_dump(folder: Path, rank: int = 0) -> list[tuple[PackedBatch, Tensor]]:
    """A rank's micro-batches of a dump, each with the losses ``(S,)`` of its sets. Raises DataError."""
    path = folder / f"rank-{rank:05d}.safetensors"
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected the dump of a run that gave up")
    tensors = load_file(path)
    parts: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        micro, _, field = name.partition("/")
        parts.setdefault(int(micro.removeprefix("micro-")), {})[field] = value
    return [_batch(part) for _, part in sorted(parts.items())]


def _finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().cpu().contiguous() for name, t in tensors.items()}


def _tensors(batch: PackedBatch) -> dict[str, Tensor]:
    named = {f.name: getattr(batch, f.name) for f in fields(batch) if f.name != "layout"}
    layout = {"offsets": batch.layout.offsets, "real_s": batch.layout.real_s}
    return {**named, **layout, "max_atoms": torch.tensor(batch.layout.max_atoms)}


def _batch(part: dict[str, Tensor]) -> tuple[PackedBatch, Tensor]:
    sizes = part["offsets"].diff()
    layout = PackedLayout.from_sizes(
        sizes[part["real_s"]].tolist(),
        capacity_atoms=int(sizes.sum()),
        capacity_sets=len(sizes),
        max_atoms=int(part["max_atoms"]),
    )
    named = {f.name: part[f.name] for f in fields(PackedBatch) if f.name != "layout"}
    return PackedBatch(layout=layout, **named), part["loss_s"]


def _one_set(batch: PackedBatch, s: int) -> PackedBatch:
    """A batch of nothing but set ``s``."""
    begin, end = (int(x) for x in batch.layout.offsets[s : s + 2])
    changes: dict[str, Any] = {}
    for f in fields(batch):
        per_atom = f.name.rsplit("_", 1)[-1] in ("t", "t3")
        if f.name != "layout":
            value = getattr(batch, f.name)
            changes[f.name] = value[begin:end] if per_atom else value[s : s + 1]
    layout = PackedLayout.from_sizes([end - begin]).to(batch.numbers_t.device)
    return batch.replace(layout=layout, **changes)

"""Claim: around a backward and an update DeepSpeed adds next to no operations of its own, at any ZeRO stage.

    python benchmarks/engine_overhead.py --rung dit_192

One rank, steps of two tiny micro-batches, so that what is not computing shows. Ours is ``Engine`` at ZeRO 0
to 3; the baseline a plain loop of torch.nn: in fp32 backward, clipping and fused AdamW; in bf16 the same with
fp32 master weights and fp32 sums of gradients. Operations are counted as torch dispatches them (views left
out; a fused or foreach one is one): exact, whatever else the machine does. Milliseconds are medians of steps
taken by turns; ``--counts-only`` leaves them out. Prints JSON and writes it to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import RESULTS, record, row, write
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from adit_scale.models.autoencoder import Autoencoder
from adit_scale.models.config import AutoencoderConfig
from adit_scale.models.ladder import LADDER
from adit_scale.training.config import DiffusionStageConfig, OptimConfig, ParallelConfig
from adit_scale.training.micro_batch import example_batch
from adit_scale.training.run import choose_device, init_process_group
from adit_scale.training.stage import StepTotals
from adit_scale.training.stages import DiffusionStage

MICRO_BATCHES, WARM_UP, ROUNDS = 2, 2, 12
CELLS = (("fp32", (0, 1, 2, 3)), ("bf16", (1, 2, 3)))
PHASES = ("forward", "backward", "update")
OPTIM = OptimConfig(lr=1e-3, gradient_clip=1.0)
VIEWS = ("view", "narrow", "detach", "slice", "select", "alias", "t.", "transpose", "reshape", "_unsafe_view",
         "unsqueeze", "expand", "split", "as_strided", "permute")  # fmt: skip


class Dispatched(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.")
        if not name.startswith(VIEWS):
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


class Plain:
    """A loop of torch.nn: what a person writes without an engine."""

    def __init__(self, stage: DiffusionStage, precision: str) -> None:
        self.forward = stage.module
        self._mixed = precision == "bf16"
        self._weights = list(stage.module.parameters())
        self._masters: list[Tensor] = list(self._weights)
        if self._mixed:
            self._masters = [p.detach().clone().requires_grad_() for p in self._weights]
            stage.module.to(torch.bfloat16)
        self._adamw = torch.optim.AdamW(self._masters, lr=OPTIM.lr, fused=True)
        self._sums: list[Tensor] = []

    def backward(self, loss: Tensor, last: bool) -> None:
        loss.backward()
        if not self._mixed:
            return
        found = [p.grad.float() for p in self._weights if p.grad is not None]
        for p in self._weights:
            p.grad = None
        if self._sums:
            torch._foreach_add_(self._sums, found)
        else:
            self._sums = found

    def step(self, lr: float) -> None:
        if self._mixed:
            for master, total in zip(self._masters, self._sums, strict=True):
                master.grad = total
        torch.nn.utils.clip_grad_norm_(self._masters, OPTIM.gradient_clip)
        self._adamw.step()
        self._adamw.zero_grad()
        if self._mixed:
            torch._foreach_copy_([p.data for p in self._weights], [m.data for m in self._masters])
            self._sums = []


class Side:
    """One way to take a step; ``take`` gives milliseconds and, where counted, operations by phase."""

    def __init__(self, rung: str, atoms: int, precision: str, zero_stage: int | None) -> None:
        from adit_scale.training.engine import Engine

        torch.manual_seed(0)
        autoencoder = Autoencoder(
            AutoencoderConfig(width=32, encoder_depth=1, decoder_depth=1, heads=2, feedforward=64)
        )
        config = DiffusionStageConfig(optim=OPTIM, self_conditioning=0.0)
        self._stage = DiffusionStage(LADDER[rung], config, 0, ["made up"], autoencoder)
        self._totals = StepTotals(0, atoms // 16, atoms)
        self._prepared = self._stage.prepare(example_batch(np.full(atoms // 16, 16)), self._totals)
        self._engine: Any = Plain(self._stage, precision)
        if zero_stage is not None:
            parallel = ParallelConfig(zero_stage=zero_stage, precision=precision)
            self._engine = Engine(self._stage.module, OPTIM, parallel, torch.device("cpu"))

    def take(self, counted: bool = False) -> tuple[list[float], list[int]]:
        took_ms, found = [0.0] * len(PHASES), [0] * len(PHASES)

        def run(phase: int, work: Callable[[], Any]) -> Any:
            mode = Dispatched()
            begin = time.perf_counter()
            with mode if counted else nullcontext():
                result = work()
            took_ms[phase] += 1000 * (time.perf_counter() - begin)
            found[phase] += sum(mode.found.values())
            return result

        engine = self._engine
        for i in range(MICRO_BATCHES):
            loss = run(0, lambda: self._stage.loss(engine.forward, self._prepared, self._totals)[0])
            run(1, partial(engine.backward, loss, i == MICRO_BATCHES - 1))
        run(2, lambda: engine.step(OPTIM.lr))
        return took_ms, found


def compare(rung: str, atoms: int, counts_only: bool) -> list[dict[str, Any]]:
    """Rows of every stage beside the plain loop of its precision."""
    sides = {
        (precision, zero_stage): Side(rung, atoms, precision, zero_stage)
        for precision, stages in CELLS
        for zero_stage in (None, *stages)
    }
    for side in sides.values():
        for _ in range(WARM_UP):
            side.take()
    counts = {key: side.take(counted=True)[1] for key, side in sides.items()}
    rounds = 0 if counts_only else ROUNDS
    times = [{key: side.take()[0] for key, side in sides.items()} for _ in range(rounds)]
    rows = []
    for precision, zero_stage in sides:
        if zero_stage is None:
            continue
        for p, phase in enumerate(PHASES):
            ours, plain = (precision, zero_stage), (precision, None)
            what = f"{rung} {precision} ZeRO {zero_stage}, {phase}"
            rows.append(row(what, counts[ours][p], "plain torch loop", counts[plain][p], "operations a step"))
            if times:
                a, b = (statistics.median(t[key][p] for t in times) for key in (ours, plain))
                rows.append(row(what, a, "plain torch loop", b, "ms a step"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rung", default="dit_192", choices=LADDER)
    parser.add_argument("--atoms", type=int, default=64, help="a micro-batch")
    parser.add_argument("--counts-only", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    args = parser.parse_args()
    torch.set_num_threads(1)
    init_process_group(choose_device(ParallelConfig(device="cpu")))
    rows = compare(args.rung, args.atoms, args.counts_only)
    result = record("engine_overhead", ["torch", "deepspeed"], rows)
    write(f"engine_overhead-{args.rung}", result, args.out)


if __name__ == "__main__":
    main()

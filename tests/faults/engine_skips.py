"""Steps that must leave no trace, at every ZeRO stage: what a rank of tests/faults/test_nonfinite.py runs."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from adit_scale.training.config import OptimConfig, ParallelConfig
from adit_scale.training.engine import Engine
from adit_scale.training.run import init_process_group

CELLS = [(stage, "fp32") for stage in range(4)] + [(stage, "bf16") for stage in (1, 2, 3)]
BAD = ("nan loss", "inf loss, finite gradient", "finite loss, inf gradient")
N_MICRO = 2


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(7, 33), nn.Linear(33, 5)

    def forward(self, x_bd: Tensor) -> Tensor:
        x_bd = x_bd.to(self.first.weight.dtype)
        return self.second(torch.tanh(self.first(x_bd))).float().square().mean()


def batch(step: int, micro: int) -> Tensor:
    generator = torch.Generator().manual_seed(100 * step + 10 * micro + dist.get_rank())
    return torch.randn(4, 7, generator=generator)


def spoiled(loss: Tensor, bad: str) -> Tensor:
    if bad == "nan loss":
        return loss * math.nan
    if bad == "inf loss, finite gradient":
        return loss + math.inf
    return loss + (loss - loss.detach()).sqrt()  # adds 0, with an infinite slope


def one_step(
    engine: Engine, step: int, bad: str = "", bad_rank: int = 0, bad_micro: int = 0
) -> tuple[Tensor, bool]:
    for micro in range(N_MICRO):
        loss = engine.forward(batch(step, micro))
        if bad and dist.get_rank() == bad_rank and micro == bad_micro:
            loss = spoiled(loss, bad)
        engine.backward(loss, last=micro == N_MICRO - 1)
    return engine.step(1e-2)


def state(engine: Engine) -> list[Tensor]:
    tensors = [t.clone() for f in engine.fragments() for t in (f.master, f.exp_avg, f.exp_avg_sq)]
    counters = [s["step"].clone() for s in engine._inner.state.values() if "step" in s]
    return tensors + counters


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def build(zero_stage: int, precision: str) -> Engine:
    torch.manual_seed(0)
    parallel = ParallelConfig(zero_stage=zero_stage, precision=precision, world_size=dist.get_world_size())
    return Engine(Net(), OptimConfig(gradient_clip=1.0), parallel, torch.device("cpu"))


def check(output: str) -> None:
    """Per cell and kind: a bad step between two good ones changes no bit, then or later."""
    init_process_group(torch.device("cpu"))
    rows = []
    for zero_stage, precision in CELLS:
        plain = build(zero_stage, precision)
        one_step(plain, 0)
        after_first = state(plain)
        one_step(plain, 1)
        after_second = state(plain)
        engine = build(zero_stage, precision)
        _, applied = one_step(engine, 0)
        row = {
            "zero_stage": zero_stage,
            "precision": precision,
            "first": applied and same(state(engine), after_first),
        }
        # The bad part comes on either rank, in either micro-batch.
        places = itertools.cycle([(0, 1), (1, 0), (1, 1), (0, 0)])
        for bad, (bad_rank, bad_micro) in zip(BAD, places, strict=False):
            norm, applied = one_step(engine, 9, bad, bad_rank, bad_micro)
            row[bad] = not applied and not math.isfinite(norm) and same(state(engine), after_first)
        _, applied = one_step(engine, 1)
        row["second"] = applied and same(state(engine), after_second)
        rows.append(row)
    rank = dist.get_rank()
    Path(f"{output}.{rank}").write_text(json.dumps(rows))

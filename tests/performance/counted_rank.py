"""A rank that trains a few steps and says which collectives torch was asked for; under torchrun.

    python -m torch.distributed.run ... tests/performance/counted_rank.py '[["dit_64", 1, "fp32", 2, [0, 1]]]'

A case: rung, ZeRO stage, precision, micro-batches a step, and for each step whether it is self-conditioned.
Rank 0 prints a line of JSON: for each case, for each step, [kind, bytes of the whole, how often].
"""

from __future__ import annotations

import functools
import json
import sys
from collections import Counter

import torch
import torch.distributed as dist

calls: Counter[tuple[str, int]] = Counter()


def count_calls() -> None:
    """Before deepspeed is imported, which takes some functions by value."""
    # The larger tensor of the two is the whole: the output of a gather, the input of a scatter.
    for kind in ("all_reduce", "all_gather_into_tensor", "reduce_scatter_tensor", "all_gather", "reduce"):
        inner = getattr(dist, kind)

        @functools.wraps(inner)
        def counted(*args, _kind=kind, _inner=inner, **kwargs):
            tensors = [v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor)]
            n_bytes = max(t.numel() * t.element_size() for t in tensors)
            calls[_kind.removesuffix("_into_tensor").removesuffix("_tensor"), n_bytes] += 1
            return _inner(*args, **kwargs)

        setattr(dist, kind, counted)


def run_case(rung: str, zero_stage: int, precision: str, rounds: int, conditioned: list[int]) -> list[list]:
    from adit_scale.atoms import PackedLayout
    from adit_scale.models.ladder import LADDER
    from adit_scale.training.config import OptimConfig, ParallelConfig
    from adit_scale.training.engine import Engine
    from adit_scale.training.stages import DenoiserModule

    torch.manual_seed(0)
    parallel = ParallelConfig(dist.get_world_size(), zero_stage, precision)
    engine = Engine(DenoiserModule(LADDER[rung]), OptimConfig(), parallel, torch.device("cpu"))
    layout = PackedLayout.from_sizes([3, 5])
    x_td, t_s, label_s = torch.randn(8, 8), torch.full((2,), 0.5), torch.zeros(2, dtype=torch.int64)
    steps = []
    for now in conditioned:
        calls.clear()
        for i in range(rounds):
            prediction_td = engine.forward(x_td, t_s, label_s, label_s, layout, bool(now))
            engine.backward(prediction_td.float().square().sum(), i == rounds - 1)
        engine.step(1e-4)
        steps.append([[kind, n_bytes, count] for (kind, n_bytes), count in sorted(calls.items())])
    return steps


def main() -> None:
    count_calls()
    from adit_scale.training.engine import init_distributed

    torch.set_num_threads(1)
    init_distributed(torch.device("cpu"))
    found = [run_case(*case) for case in json.loads(sys.argv[1])]
    if dist.get_rank() == 0:
        print("COUNTED " + json.dumps(found), flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

"""Claim: on one GPU the engine makes at least 0.95 times the steps/s of a plain loop at ZeRO 1 and 2 (bf16).

    python benchmarks/gpu_zero.py [--rung dit_b] [--atoms 16384]

The engine is training/engine.py, DeepSpeed inside, as a run uses it, its gradient norm brought to the host
each step; ZeRO 0, which has no bf16 with float32 masters, runs in float32. The baseline is the packed side
of training_step.py in the same precision: fused AdamW, clipping, float32 master weights beside bf16. Same
weights, same batches, same loss; they take turns. Prints JSON and writes it to
benchmarks/results/gpu-zero-{rung}.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dense_denoiser import away_from_zero
from limits import measured_limits
from record import RESULTS, record, row, write
from step_sides import Batch, Side, Variant, draw_batches, packed_inputs, wait

from adit_scale.diffusion.flow_matching import flow_matching_loss
from adit_scale.models.attention import set_attention
from adit_scale.models.dit import Denoiser
from adit_scale.models.kernels import set_kernels
from adit_scale.models.ladder import LADDER
from adit_scale.models.transformer import prepare_blocks
from adit_scale.training.config import OptimConfig, ParallelConfig
from adit_scale.training.run import choose_device, init_process_group

STEPS_A_TURN = 5
LR = 1e-4


class EngineSide:
    """The network under the engine at one ZeRO stage."""

    def __init__(self, stage: int, variant: Variant, weights: Denoiser, device: torch.device) -> None:
        # DeepSpeed picks its accelerator when it is imported, so the import has to wait for choose_device.
        from adit_scale.training.engine import Engine

        self.variant = variant
        model = Denoiser(weights.config)
        model.load_state_dict(weights.state_dict())
        set_attention(model, variant.attention)
        set_kernels(model, variant.kernels)
        prepare_blocks(model, recompute=False, compiled=variant.compiled)
        precision = "fp32" if variant.dtype == torch.float32 else "bf16"
        parallel = ParallelConfig(zero_stage=stage, precision=precision, device=device.type)
        self.engine = Engine(model, OptimConfig(lr=LR), parallel, device)
        self.losses: list[torch.Tensor] = []
        self.seconds: list[float] = []

    def turn(self, batches: list[Batch], timed: bool = True) -> None:
        """One step on each batch."""
        device = batches[0].t_s.device
        wait(device)
        start = time.perf_counter()
        for batch in batches:
            inputs, x_1_td = packed_inputs(batch, self.variant.capacity)
            t_s, layout = inputs[2], inputs[5]
            x_1_hat_td = self.engine.forward(*inputs)
            loss = flow_matching_loss(x_1_hat_td, x_1_td, t_s, layout).sum() / len(batch.sizes)
            self.engine.backward(loss, last=True)
            self.engine.step(LR)
            self.losses.append(loss.detach())
        wait(device)
        if timed:
            self.seconds.append(time.perf_counter() - start)


def measure(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Rows for the table, and how far the losses of engine and loop are apart."""
    config = LADDER[args.rung]
    torch.manual_seed(0)
    weights = away_from_zero(Denoiser(config)).to(device)
    n_turns = 1 + args.turns
    rng = np.random.default_rng(0)
    batches = draw_batches(rng, "qm9_mp20", n_turns * STEPS_A_TURN, args.atoms, config.latent, device)
    turns = [batches[i : i + STEPS_A_TURN] for i in range(0, len(batches), STEPS_A_TURN)]
    flash = "flash" if device.type == "cuda" else "grouped"
    fast = Variant("bf16", dtype=torch.bfloat16, attention=flash, compiled=args.compile, capacity=True)
    exact = replace(fast, name="fp32", dtype=torch.float32, attention="grouped", compiled=False)
    rows, apart = [], {}
    for variant, stages in ((fast, (1, 2)), (exact, (0, 1, 2))):
        sides: dict[str, Side | EngineSide] = {"plain": Side(variant, weights)}
        sides |= {f"ZeRO {stage}": EngineSide(stage, variant, weights, device) for stage in stages}
        for i, turn in enumerate(turns):
            names = list(sides)
            for k in range(len(names)):
                sides[names[(i + k) % len(names)]].turn(turn, timed=i > 0)
        plain = sides.pop("plain")
        for name, side in sides.items():
            what = f"{args.rung} step, {name}, {variant.name}, {args.atoms:,} atoms"
            each = [b / a for a, b in zip(side.seconds, plain.seconds, strict=True)]
            rates = [STEPS_A_TURN / statistics.median(s.seconds) for s in (side, plain)]
            rows.append(
                row(what, rates[0], f"plain loop, {variant.name}", rates[1], "steps/s",
                    ratio_range=[min(each), max(each)])
            )  # fmt: skip
            curves = zip(side.losses, plain.losses, strict=True)
            apart[f"{name}, {variant.name}"] = max(abs(float(a) / float(b) - 1) for a, b in curves)
    return {"rows": rows, "largest_relative_loss_difference": apart}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--rung", default="dit_b", choices=LADDER)
    parser.add_argument("--atoms", type=int, default=16_384, help="a step, one micro-batch")
    parser.add_argument("--turns", type=int, default=5, help=f"timed, of {STEPS_A_TURN} steps")
    parser.add_argument("--compile", action="store_true", help="the bf16 sides compiled")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    args = parser.parse_args()
    device = choose_device(ParallelConfig(device=args.device))
    init_process_group(device)
    measured = measure(args, device)
    limits = measured_limits(args.device, torch.get_num_threads())
    result = record("gpu_zero", ["torch", "deepspeed"], measured.pop("rows"), limits)
    write(f"gpu-zero-{args.rung}", result | measured, args.out)


if __name__ == "__main__":
    main()

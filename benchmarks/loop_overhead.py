"""Claim: the training loop makes at least 0.95 times the steps/s of a plain PyTorch loop.

    python benchmarks/loop_overhead.py --rung dit_192 --steps 12

One rank, 16,384 atoms a step in micro-batches of 4,096, the demo corpus, float32. Ours is ``Trainer.fit``
with DeepSpeed ZeRO 1, EMA, meters, heartbeat, journal (a line every fourth step) and agreement on stopping;
the baseline is the same stage, batches and augmentation with ``loss.backward``, gradient clipping and
``torch.optim.AdamW(fused=True)``, and nothing else. They take turns step by step on the same batches and
begin from the same weights, so their losses are compared too. Batches are prepared ahead for both.
Saving and validation are left out: they have claims of their own. Two clocks: wall time (of a quiet machine),
and CPU time of the training thread, which other programs hardly change (with --threads 1 all of the
computing). Prints JSON and writes it to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from pathlib import Path
from typing import ClassVar

import torch
from limits import measured_limits
from record import RESULTS, record, row, write
from torch import nn

from adit_scale.config import StudyConfig
from adit_scale.data.config import DataConfig
from adit_scale.data.loader import BatchLoader, StepBatches
from adit_scale.models.autoencoder import Autoencoder
from adit_scale.models.config import AutoencoderConfig, ModelConfig
from adit_scale.models.ladder import LADDER
from adit_scale.training.config import DiffusionStageConfig, OptimConfig, ParallelConfig
from adit_scale.training.run import choose_device, init_process_group
from adit_scale.training.stages import DiffusionStage, Stage, StepTotals

WARM_UP = 2
LOG_EVERY = 4
CLOCKS = {"wall": time.perf_counter, "cpu": time.thread_time}


class PlainLoop:
    """What a person would write in an afternoon."""

    def __init__(self, stage: Stage, optim: OptimConfig) -> None:
        self.stage, self.clip = stage, optim.gradient_clip
        self.module: nn.Module = copy.deepcopy(stage.module)
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(),
            lr=optim.lr,
            betas=(optim.beta1, optim.beta2),
            eps=optim.eps,
            weight_decay=optim.weight_decay,
            fused=True,
        )
        self.losses: list[float] = []
        self.n_steps = 0

    def step(self, batches: StepBatches) -> None:
        totals = StepTotals(self.n_steps, batches.n_sets, batches.n_atoms)
        total = torch.zeros(())
        for batch in batches.batches:
            loss, _ = self.stage.loss(self.module, self.stage.prepare(batch, totals), totals)
            loss.backward()
            total += loss.detach()
        nn.utils.clip_grad_norm_(self.module.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.append(float(total))
        self.n_steps += 1


def measure(config: StudyConfig, folder: Path) -> dict:
    """Seconds a step of both, by clock; and how far their losses are apart."""
    from adit_scale.training.trainer import Trainer

    torch.manual_seed(config.seed)
    autoencoder = Autoencoder(config.model.autoencoder)
    stage = DiffusionStage(config.model.denoiser, config.diffusion, config.seed, ["demo"], autoencoder)
    plain = PlainLoop(stage, config.diffusion.optim)
    times: dict[str, dict[str, list[float]]] = {c: {"plain": [], "ours": []} for c in CLOCKS}
    loader = BatchLoader(
        config.data,
        seed=config.seed,
        atom_budget=config.diffusion.atom_budget,
        micro_batch_atoms=config.parallel.capacity_atoms,
    )
    stage.datasets = loader.datasets

    class TakingTurns(Trainer):
        """Runs a plain step before each of its own; all other time of the loop is its own."""

        mark: ClassVar[dict[str, float]] = {}

        def train_step(self, batches: StepBatches) -> None:
            begin = {name: clock() for name, clock in CLOCKS.items()}
            plain.step(batches)
            end = {name: clock() for name, clock in CLOCKS.items()}
            for name in CLOCKS:
                times[name]["plain"].append(end[name] - begin[name])
                if self.mark:
                    times[name]["ours"].append(begin[name] - self.mark[name])
            self.mark.update(end)
            super().train_step(batches)

        def validate(self) -> None:
            """Left out, as is saving: at the run's end only, and not of the loop."""
            for name, clock in CLOCKS.items():
                times[name]["ours"].append(clock() - self.mark[name])

    with loader:
        TakingTurns(folder, config, stage, loader, torch.device("cpu")).fit()
    from adit_scale.tracking.journal import read_journal, series

    steps, means = series(read_journal(folder), "train/loss")
    theirs = [statistics.fmean(plain.losses[step - LOG_EVERY : step]) for step in steps]
    apart = max(abs(a - b) / abs(b) for a, b in zip(means, theirs, strict=True))
    return {"times": times, "largest_loss_difference": apart}


def settings(rung: str, steps: int, atoms: int, threads: int, shards: Path) -> StudyConfig:
    return StudyConfig(
        data=DataConfig(shards=str(shards)),
        model=ModelConfig(
            AutoencoderConfig(width=128, encoder_depth=4, decoder_depth=4, heads=4, feedforward=512),
            LADDER[rung],
        ),
        diffusion=DiffusionStageConfig(
            steps=steps,
            atom_budget=atoms,
            optim=OptimConfig(lr=1e-3),
            log_every_steps=LOG_EVERY,
            validate_every_steps=steps,
            checkpoint_every_steps=steps,
            validation_sets=8,
        ),
        parallel=ParallelConfig(threads=threads, device="cpu", hang_timeout_s=0),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rung", default="dit_192", choices=LADDER)
    parser.add_argument("--steps", type=int, default=12, help=f"a multiple of {LOG_EVERY}; 2 are warm-up")
    parser.add_argument("--atoms", type=int, default=16384, help="a step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shards", type=Path, default=Path(__file__).parents[1] / "shards" / "demo")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    args = parser.parse_args()
    if args.steps % LOG_EVERY or args.steps <= WARM_UP:
        parser.error(f"--steps is {args.steps}; expected a multiple of {LOG_EVERY}")
    config = settings(args.rung, args.steps, args.atoms, args.threads, args.shards)
    torch.set_num_threads(args.threads)
    device = choose_device(config.parallel)
    init_process_group(device)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(config, Path(folder))
    rows = []
    for clock, sides in found["times"].items():
        ours, plain = (sides[side][WARM_UP:] for side in ("ours", "plain"))
        each = [b / a for a, b in zip(ours, plain, strict=True)]
        medians = statistics.median(ours), statistics.median(plain)
        what = f"{args.rung} loop, {args.atoms} atoms a step, {clock} time"
        rows.append(
            row(what, 1 / medians[0], "plain PyTorch loop", 1 / medians[1], "steps/s",
                ratio_of_steps=statistics.median(each), ratio_range=[min(each), max(each)])
        )  # fmt: skip
    limits = measured_limits("cpu", args.threads)
    result = record("loop_overhead", ["torch", "deepspeed"], rows, limits)
    result["largest_loss_difference"] = found["largest_loss_difference"]
    write(f"loop_overhead-{args.rung}", result, args.out)


if __name__ == "__main__":
    main()

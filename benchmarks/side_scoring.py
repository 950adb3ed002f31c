"""Claim: scoring samples beside the training adds at most 1% to the time of its steps.

    python benchmarks/side_scoring.py --rung dit_128 --blocks 42

A diffusion run on the demo corpus whose products use every core, so that the process that draws and scores
has only what is left of them: the worst case. Every --every steps the run hands a snapshot over, so that
the process always has work. In every second block of steps (by turns the first or the second of a pair) it is
stopped (SIGSTOP): the baseline is the same run's steps meanwhile. Its cost to 1,000 steps is at most 1,000
times the difference of a step, as if it never had nothing to do, plus one hand-over (gather, copy, start of
the write). Beside it stands what the same samples cost drawn and scored between two steps, taken from the
last snapshot, which is scored when the training is over. Prints JSON and writes it to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import torch
from record import RESULTS, record, row, write

from adit_scale.config import StudyConfig
from adit_scale.data.config import DataConfig
from adit_scale.data.loader import BatchLoader, StepBatches
from adit_scale.diffusion.config import SamplingConfig
from adit_scale.jobs.curves import make_scorer
from adit_scale.models.autoencoder import Autoencoder
from adit_scale.models.config import AutoencoderConfig, ModelConfig
from adit_scale.models.ladder import LADDER
from adit_scale.tracking.journal import SIDE_FOLDER, read_journal
from adit_scale.training import snapshots, weights
from adit_scale.training.config import DiffusionStageConfig, OptimConfig, ParallelConfig, ScoringConfig
from adit_scale.training.run import choose_device, init_process_group
from adit_scale.training.side_scoring import SideScoring
from adit_scale.training.stages import DiffusionStage

STOPPED = (1, 2)  # of four blocks
CADENCE = 1000  # steps between two samples of a run, as in configs/diffusion/demo.yaml
WARM_UP = 2  # blocks; then the training waits until the process has scored its first snapshot


def measure(config: StudyConfig, folder: Path, block: int) -> dict:
    """Seconds a step by block, stopped and running in turns, and seconds of each hand-over."""
    from adit_scale.training.trainer import Trainer

    torch.manual_seed(config.seed)
    autoencoder = Autoencoder(config.model.autoencoder)
    weights.save(folder / "autoencoder", config.model.autoencoder, autoencoder.state_dict())
    loader = BatchLoader(
        config.data,
        seed=config.seed,
        atom_budget=config.diffusion.atom_budget,
        micro_batch_atoms=config.parallel.capacity_atoms,
    )
    stage = DiffusionStage(config.model.denoiser, config.diffusion, config.seed, loader.datasets, autoencoder)
    blocks: list[float] = []
    busy_s: list[float] = []  # processor time of the scorer at the start of each block
    hand_overs: list[float] = []

    class Alternating(Trainer):
        """Stops the scorer at the start of every second block, lets it go on at that of the others."""

        mark: ClassVar[list[float]] = []
        taken_out_s: ClassVar[list[float]] = [0.0]

        def train_step(self, batches: StepBatches) -> None:
            number, place = divmod(self.state.step, block)
            if place == 0:
                self.end_block()
                if number == WARM_UP:
                    self.tell(signal.SIGCONT)
                    wait_for_first(self)
                self.tell(signal.SIGSTOP if number % 4 in STOPPED else signal.SIGCONT)
                busy_s.append(processor_s(self.scorer.pid))
                self.mark.append(time.perf_counter())
            super().train_step(batches)

        @property
        def scorer(self) -> SideScoring:
            assert self.samples is not None
            return self.samples

        def end_block(self) -> None:
            if self.mark:
                took_s = time.perf_counter() - self.mark.pop() - self.taken_out_s[0]
                blocks.append(took_s / block)
                self.taken_out_s[0] = 0.0

        def hand_samples_over(self) -> None:
            """Counted by itself, not to the block it falls into."""
            begin = time.perf_counter()
            super().hand_samples_over()
            hand_overs.append(time.perf_counter() - begin)
            self.taken_out_s[0] += hand_overs[-1]

        def validate(self) -> None:
            """Left out, as is saving: at the run's end only."""
            self.end_block()
            self.tell(signal.SIGCONT)
            busy_s.append(processor_s(self.scorer.pid))

        def tell(self, number: signal.Signals) -> None:
            if (pid := self.scorer.pid) is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    samples = make_scorer(folder, config, folder / "autoencoder")
    with loader:
        Alternating(folder, config, stage, loader, torch.device("cpu"), samples).fit()
    scored = [r for r in read_journal(folder / SIDE_FOLDER) if r["kind"] == "metrics"]
    clock = scored[-1]["clock"]
    running = [i for i in range(WARM_UP, len(blocks)) if i % 4 not in STOPPED]
    stopped = [i for i in range(WARM_UP, len(blocks)) if i % 4 in STOPPED]
    return {
        "running_s": [blocks[i] for i in running],
        "stopped_s": [blocks[i] for i in stopped],
        "scorer_processor_s": [busy_s[i + 1] - busy_s[i] for i in running],
        "hand_overs_s": hand_overs,
        "between_s": clock["samples_draw_s"] + clock["samples_score_s"],
        "scored": len(scored),
    }


def wait_for_first(trainer) -> None:
    while snapshots.read_result(trainer.samples.root, trainer.settings.samples_every_steps) is None:
        time.sleep(0.1)
        trainer.samples.collect()
    trainer.hand_samples_over()  # it has work at once


def processor_s(pid: int | None) -> float:
    """Processor time of a process so far; 0 where there is none, or no /proc."""
    path = Path(f"/proc/{pid}/stat")
    if not path.is_file():
        return 0.0
    ticks = path.read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def interval(running_s: list[float], stopped_s: list[float]) -> tuple[float, float]:
    """95% of the median ratio over resampled pairs of neighbouring blocks."""
    rng, each = random.Random(0), [a / b for a, b in zip(running_s, stopped_s, strict=True)]
    medians = sorted(statistics.median(rng.choices(each, k=len(each))) for _ in range(2000))
    return medians[50], medians[-51]


def settings(args: argparse.Namespace) -> StudyConfig:
    steps = args.blocks * args.block_steps
    return StudyConfig(
        data=DataConfig(shards=str(args.shards)),
        model=ModelConfig(
            AutoencoderConfig(width=128, encoder_depth=4, decoder_depth=4, heads=4, feedforward=512),
            LADDER[args.rung],
        ),
        diffusion=DiffusionStageConfig(
            steps=steps,
            atom_budget=args.atoms,
            optim=OptimConfig(lr=1e-3),
            log_every_steps=args.block_steps,
            validate_every_steps=steps,
            checkpoint_every_steps=steps,
            validation_sets=8,
            samples_every_steps=args.every,
            samples_per_domain=args.samples,
            sample_steps=20,
            scoring=ScoringConfig(queue_gib=0.0, wait_s=600.0),
        ),
        parallel=ParallelConfig(threads=args.threads, device="cpu", hang_timeout_s=0),
        sampling=SamplingConfig(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rung", default="dit_128", choices=LADDER)
    parser.add_argument("--blocks", type=int, default=42, help="stopped and running in turns; 2 are warm-up")
    parser.add_argument("--block-steps", type=int, default=20)
    parser.add_argument("--every", type=int, default=7, help="steps between two snapshots")
    parser.add_argument("--samples", type=int, default=64, help="a domain")
    parser.add_argument("--atoms", type=int, default=1024, help="a step")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--shards", type=Path, default=Path(__file__).parents[1] / "shards" / "demo")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    args = parser.parse_args()
    if args.blocks % 4 != WARM_UP or args.blocks <= WARM_UP:
        parser.error(f"--blocks is {args.blocks}; expected {WARM_UP} and a multiple of 4")
    if args.every > args.block_steps * WARM_UP:
        parser.error(f"--every is {args.every}; expected at most {WARM_UP} blocks")
    config = settings(args)
    torch.set_num_threads(args.threads)
    init_process_group(choose_device(config.parallel))
    with tempfile.TemporaryDirectory() as folder:
        found = measure(config, Path(folder), args.block_steps)
    running, stopped = found["running_s"], found["stopped_s"]
    stopped_s = statistics.median(stopped)
    # Neighbouring blocks are compared, so that a machine that slows down meanwhile moves neither.
    running_s = stopped_s * statistics.median(a / b for a, b in zip(running, stopped, strict=True))
    taken = sum(found["scorer_processor_s"]) / (args.block_steps * sum(running) * (os.cpu_count() or 1))
    hand_over_s = statistics.median(found["hand_overs_s"])
    thousand_s = CADENCE * stopped_s
    beside_s = CADENCE * max(0.0, running_s - stopped_s) + hand_over_s
    of_run = (f"{CADENCE:,} steps of {args.rung}, {args.threads} threads", thousand_s, "s")
    rows = [
        row("training step while samples are scored beside it", running_s, "while the scorer is stopped",
            stopped_s, "s", ratio_range=interval(running, stopped), bound=1.01,
            ratio_of_means=sum(running) / sum(stopped), share_of_processor_time=taken),
        row(f"cost of scoring beside {CADENCE:,} steps", beside_s, *of_run, hand_over_s=hand_over_s,
            bound=0.01),
        row(f"cost of scoring between {CADENCE:,} steps", found["between_s"], *of_run),
    ]  # fmt: skip
    result = record("side_scoring", ["torch", "deepspeed"], rows)
    result["machine"]["threads"] = args.threads
    result["measured"] = found
    write(f"side_scoring-{args.rung}", result, args.out)


if __name__ == "__main__":
    main()

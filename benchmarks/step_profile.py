"""Where the time of a training step goes, by phase: forward, backward, and all that is around them.

    python benchmarks/step_profile.py --rung dit_s|dit_l [--device cpu|cuda] [--atoms 1024] [--threads 2]
    python benchmarks/step_profile.py --draw       the picture alone, from the results there are

Steps of stage 2 as the trainer makes them (DeepSpeed ZeRO 1, EMA, sums of the loss, a journal line) on the
demo corpus, the encoder of the paper. Two sides, in processes of their own: before, float32 with grouped
attention and plain kernels; and now, in bf16 with what ``auto`` chooses on the device, the encoder too. Half
of the steps of training predict twice, so the first prediction counts half. Shares are of torch's profiler;
the step's seconds are of the same steps without it. Products are held against the measured limit of the
device in the same precision. Prints JSON, writes benchmarks/results/step_profile-{cpu|gpu}-{rung}.json and
draws docs/img/step_profile_{cpu|gpu}.png.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from limits import measured_limits
from record import REPO, RESULTS, record, row, write
from step_phases import (
    ATTENTION,
    BACKWARD,
    DATA,
    EMA,
    ENCODE,
    GRADIENTS,
    LOGGING,
    LOSS,
    MLP,
    MODULATION,
    NOISE,
    OPTIMIZER,
    PHASES,
    PRODUCTS,
    SELF,
    STEP,
    phase,
    phases_of_network,
    profiled,
)
from step_profile_figure import draw

from adit_scale.models.config import AutoencoderConfig, DenoiserConfig
from adit_scale.models.ladder import LADDER, encoder_flops, forward_flops

WARM_UP, EMA_DECAY = 2, 0.9999


@dataclass(frozen=True)
class Side:
    """How a step is run."""

    rung: str
    device: str
    atoms: int
    threads: int
    steps: int
    precision: str = "fp32"
    attention: str = "grouped"
    kernels: str = "torch"


def sides(options: Side) -> dict[str, Side]:
    """Before and now."""
    from adit_scale.models.attention import resolve_attention
    from adit_scale.models.kernels import resolve_kernels
    from adit_scale.models.precision import multiplies_bf16

    device = torch.device(options.device)
    precision = "bf16" if multiplies_bf16(device) else "fp32"
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    config = LADDER[options.rung]
    attention = resolve_attention("auto", device, dtype, config.width // config.heads)
    now = replace(options, precision=precision, attention=attention, kernels=resolve_kernels("auto", device))
    found = {name(options): options, name(now): now}
    if len(found) == 1:
        raise SystemExit("step_profile.py: this device has no faster way than fp32, grouped, torch")
    return found


def name(side: Side) -> str:
    return f"{side.precision}, {side.attention} attention, {side.kernels} kernels"


def run_side(side: Side) -> dict[str, Any]:
    """Seconds of a step and of its phases. Once a process."""
    torch.set_num_threads(side.threads)
    with tempfile.TemporaryDirectory() as folder:
        step = _Steps(side, Path(folder))
        for _ in range(WARM_UP):
            step.run(1)
        seconds = [step.seconds() for _ in range(side.steps)]
        with phases_of_network(step.stage.module.network):
            phases = profiled(lambda: step.run(side.steps), step.device)
    found = {key: value / side.steps for key, value in phases.items()}
    found[SELF] = found.get(SELF, 0.0) / 2
    return {"step_s": statistics.median(seconds), "phases_s": found, "sizes": step.sizes}


class _Steps:
    """Training steps one by one, as Trainer.train_step and log do them."""

    def __init__(self, side: Side, folder: Path) -> None:
        from adit_scale.data.config import DataConfig
        from adit_scale.data.loader import BatchLoader
        from adit_scale.models.attention import set_attention
        from adit_scale.models.autoencoder import Autoencoder
        from adit_scale.models.kernels import set_kernels
        from adit_scale.tracking.journal import Journal
        from adit_scale.training.config import DiffusionStageConfig, ParallelConfig
        from adit_scale.training.run import choose_device, init_process_group

        parallel = ParallelConfig(
            precision=side.precision, device=side.device, threads=side.threads, micro_batch_atoms=side.atoms
        )
        self.device = choose_device(parallel)
        from adit_scale.training.ema import ExponentialMovingAverage  # behind choose_device: DeepSpeed
        from adit_scale.training.engine import Engine
        from adit_scale.training.meters import Meters
        from adit_scale.training.stages import DiffusionStage

        init_process_group(self.device)
        torch.manual_seed(0)
        config = DiffusionStageConfig(
            atom_budget=side.atoms, self_conditioning=1.0, encoder_precision=side.precision
        )
        data = DataConfig(name="demo", shards=str(REPO / "shards/demo"))
        self.loader = BatchLoader(data, seed=0, atom_budget=side.atoms, micro_batch_atoms=side.atoms)
        autoencoder = Autoencoder(AutoencoderConfig()).to(self.device)
        self.stage = DiffusionStage(LADDER[side.rung], config, 0, self.loader.datasets, autoencoder)
        set_attention(self.stage.module, side.attention)
        set_kernels(self.stage.module, side.kernels)
        vars(self.stage)["posterior"] = _in_phase(ENCODE, self.stage.posterior)
        self.engine = Engine(self.stage.module, config.optim, parallel, self.device)
        self.fragments = self.engine.fragments()
        self.ema = ExponentialMovingAverage(self.fragments, EMA_DECAY)
        self.meters, self.journal = Meters(self.device), Journal(folder)
        self.place, self.sizes = 0, np.zeros(0, dtype=np.int64)

    def seconds(self) -> float:
        """Of one step with the first prediction counted half, as it is left out of every second one."""
        took = []
        for probability in (0.0, 1.0):
            self.stage.config = replace(self.stage.config, self_conditioning=probability)
            self._wait()
            begin_s = time.perf_counter()
            self.run(1)
            self._wait()
            took.append(time.perf_counter() - begin_s)
        return statistics.fmean(took)

    def run(self, n: int) -> None:
        for _ in range(n):
            with phase(STEP):
                self._step()

    def _step(self) -> None:
        from adit_scale.training.stage import StepTotals

        with phase(DATA):
            batches = self.loader.step(self.place)
        self.sizes = batches.sizes
        totals = StepTotals(self.place, batches.n_sets, batches.n_atoms)
        for i, batch in enumerate(batches.batches):
            with phase(NOISE):
                prepared = self.stage.prepare(batch.to(self.device), totals)
            with phase(LOSS):
                loss, sums = self.stage.loss(self.engine.forward, prepared, totals)
            with phase(GRADIENTS):
                self.engine.backward(loss, i == len(batches.batches) - 1)
            self.meters.add(sums)
        with phase(OPTIMIZER):
            gradient_norm, _ = self.engine.step(1e-4)
        with phase(EMA):
            self.ema.update(self.fragments)
        with phase(LOGGING):
            self.meters.add_step(loss.detach(), gradient_norm)
            self.journal.log_metrics(self.place, self.meters.means())
            self.journal.flush()
        self.place += 1

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _in_phase(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def inner(*args: Any) -> Any:
        with phase(name):
            return function(*args)

    return inner


def phase_flops(config: DenoiserConfig, sizes: np.ndarray) -> dict[str, float]:
    """FLOPs of the matrix products of each phase of a step over sets of these sizes (docs/method.md)."""
    n_sets, n_atoms, n_pairs = len(sizes), int(sizes.sum()), int((sizes.astype(np.int64) ** 2).sum())
    d, depth = config.width, config.depth
    forward = {
        PRODUCTS: 8.0 * d * d * depth * n_atoms,
        MLP: 4.0 * config.mlp_ratio * d * d * depth * n_atoms,
        ATTENTION: 4.0 * d * depth * n_pairs,
        MODULATION: 12.0 * d * d * depth * n_sets,
    }
    backward = {f"{key}, {BACKWARD}": 2 * value for key, value in forward.items()}
    whole = {
        SELF: forward_flops(config, sizes.tolist()) / 2,
        ENCODE: encoder_flops(AutoencoderConfig(), sizes.tolist()),
    }
    return forward | backward | whole


def rows(found: dict[str, dict[str, Any]], options: dict[str, Side], limits: dict[str, Any]) -> list[dict]:
    """The whole step, then its phases: now beside before."""
    (before, b), (now, n) = found.items()
    rung = next(iter(options.values())).rung
    flops = phase_flops(LADDER[rung], n["sizes"])
    made = [row(f"{rung} step, {now}", 1e3 * n["step_s"], before, 1e3 * b["step_s"], "ms")]
    for key in PHASES:
        value, known = (_scaled(side, key) for side in (n, b))
        if not value and not known:
            continue
        share = value / n["step_s"]
        more: dict[str, Any] = {"phase": key, "share": share, "baseline_share": known / b["step_s"]}
        notes = [f"{100 * share:.0f}% of the step"]
        if key in flops and value:
            products = "fp32" if options[now].precision == "fp32" else "bf16"
            more["flops_per_s"] = flops[key] / value
            more["of_limit"] = more["flops_per_s"] / limits[f"matmul_{products}_flops_per_s"]
            notes.append(f"{100 * more['of_limit']:.0f}% of the measured {products} product rate")
        made.append(
            row(f"{rung} step: {key}", 1e3 * value, before, 1e3 * known, "ms", note=", ".join(notes), **more)
        )
    return made


def _scaled(side: dict[str, Any], key: str) -> float:
    """Seconds of a phase, the profiler's own cost taken out of all in proportion."""
    phases = side["phases_s"]
    return phases.get(key, 0.0) * side["step_s"] / sum(phases.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rung", default="dit_s", choices=LADDER)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--atoms", type=int, default=1024, help="a step")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3, help="timed, and again profiled")
    parser.add_argument("--draw", action="store_true", help="only draw the picture again")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    parser.add_argument("--picture", type=Path, default=REPO / "docs" / "img", help="folder for the picture")
    args = parser.parse_args()
    place = "gpu" if args.device == "cuda" else "cpu"
    if not args.draw:
        torch.set_num_threads(args.threads)
        options = sides(Side(args.rung, args.device, args.atoms, args.threads, args.steps))
        limits = measured_limits(args.device, args.threads)
        found = {}
        for key, side in options.items():  # a process each, so that the memory of the first is given back
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                found[key] = pool.submit(run_side, side).result()
        made = rows(found, options, limits)
        result = record("step_profile", ["torch", "deepspeed"], made, limits)
        result |= {"atoms": args.atoms, "sides": {key: asdict(side) for key, side in options.items()}}
        write(f"step_profile-{place}-{args.rung}", result, args.out)
    draw(args.out, place, args.picture / f"step_profile_{place}.png")


if __name__ == "__main__":
    main()

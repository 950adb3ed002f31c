"""Claim: the model of a training step foretells the seconds of real runs of other sizes, stages and ranks.

    python benchmarks/step_time_model.py [--out DIR]    # fit, check, uneven loads; about 4 minutes
    python benchmarks/step_time_model.py --plot         # docs/img/weak_scaling.png, no measurement

On CPU over gloo, one thread a rank, fp32, denoiser and engine on random latents without self-conditioning,
two micro-batches a step. Constants are fitted on dit_64 and dit_160 on ONE rank (rates, overhead of a block
and of a hook) and on bare work and collectives of two ranks (how much two cores slow each other, a call,
bytes a second); checked are dit_96, dit_128 and dit_192, ZeRO 1, 2 and 3, on 1, 2 and 4 ranks, none of which
the fit has seen. Four ranks on two cores take turns. The value of a row is the predicted step, the baseline
the measured one: the median over a few steps of its ratio to a fixed piece of work that rank 0 does alone
just before, times the quickest such piece of the whole benchmark, so that a machine slow for a while is
slow for both. ``unscaled_s`` is the plain median.
Besides: launches of a block, counted; how uneven loads are as data/dealing.py deals them at 2 to 1,024 ranks,
and what dealing takes. Prints JSON and writes it to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from adit_scale.models.config import AutoencoderConfig, ModelConfig
from adit_scale.models.ladder import LADDER, forward_flops, training_flops
from adit_scale.performance.constants import Network
from adit_scale.performance.modules import denoiser_modules
from adit_scale.performance.step import Machine, Work, step_time
from adit_scale.training.config import DiffusionStageConfig, ParallelConfig

SET_ATOMS, ROUNDS, WARM_UP, STEPS = 16, 2, 2, 7
MESSAGES = (1 << 14, 1 << 18, 1 << 21, 1 << 23)  # bytes
STAGE = DiffusionStageConfig(
    self_conditioning=0.0, checkpoint_every_steps=10**9, validate_every_steps=10**9, atom_budget=1
)


@dataclass(frozen=True)
class Cell:
    """atoms: of a micro-batch."""

    rung: str
    zero_stage: int
    atoms: int


FIT = [
    *(Cell(rung, 1, atoms) for rung in ("dit_64", "dit_160") for atoms in (128, 512)),
    Cell("dit_64", 3, 128),
    Cell("dit_160", 3, 128),
]
CHECK = [Cell(rung, stage, 256) for rung in ("dit_96", "dit_128", "dit_192") for stage in (1, 2, 3)]
RANKS = (1, 2, 4)


# -- one rank ---------------------------------------------------------------------------------------------


def rank_main(cells: list[Cell]) -> None:
    """Under torchrun; rank 0 prints what it measured."""
    import torch
    import torch.distributed as dist

    from adit_scale.training.engine import init_distributed

    torch.set_num_threads(1)
    init_distributed(torch.device("cpu"))
    found: dict[str, Any] = {"messages": [], "pair": _crowding(dist, torch)}
    if dist.get_world_size() == 2:
        found["messages"] = [_message(dist, torch, n) for n in MESSAGES]
    found["steps"] = [_steps(cell) for cell in cells]  # (seconds, pieces of reference work, quickest piece)
    if dist.get_rank() == 0:
        print("MEASURED " + json.dumps(found), flush=True)
    dist.barrier()
    dist.destroy_process_group()


def _crowding(dist, torch) -> float:
    """How much longer the slowest rank takes for the reference work when all do it than rank 0 alone."""
    ratios = []
    for _ in range(15):
        dist.barrier()
        alone_s = _reference_s(torch) if dist.get_rank() == 0 else 0.0
        dist.barrier()
        together_s = torch.tensor(_reference_s(torch))
        dist.all_reduce(together_s, op=dist.ReduceOp.MAX)
        ratios.append(float(together_s) / alone_s if alone_s else 1.0)
    return statistics.median(ratios)


def _message(dist, torch, n_bytes: int) -> dict[str, float]:
    """Seconds of an all-reduce and an all-gather of so many bytes."""
    whole, part = torch.zeros(n_bytes // 4), torch.zeros(n_bytes // 4 // dist.get_world_size())
    calls = {
        "all_reduce": lambda: dist.all_reduce(whole),
        "all_gather": lambda: dist.all_gather_into_tensor(whole, part),
    }
    found: dict[str, float] = {"n_bytes": n_bytes}
    for name, call in calls.items():
        times = []
        for _ in range(17):
            dist.barrier()
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
        found[name] = statistics.median(times[2:])
    return found


def _reference_s(torch) -> float:
    """Of a fixed piece of work that resembles a step."""
    x, w = torch.ones(512, 192), torch.full((192, 768), 0.01, requires_grad=True)
    begin = time.perf_counter()
    for _ in range(12):
        torch.nn.functional.gelu(x @ w).square().mean().backward()
    return time.perf_counter() - begin


def _steps(cell: Cell) -> tuple[float, float, float]:
    """Medians of a step's seconds and of its ratio to the reference work, and the quickest such work."""
    import torch
    import torch.distributed as dist

    from adit_scale.atoms import PackedLayout
    from adit_scale.training.config import OptimConfig
    from adit_scale.training.ema import ExponentialMovingAverage
    from adit_scale.training.engine import Engine
    from adit_scale.training.stages import DenoiserModule

    torch.manual_seed(0)
    parallel = ParallelConfig(dist.get_world_size(), cell.zero_stage, "fp32")
    engine = Engine(DenoiserModule(LADDER[cell.rung]), OptimConfig(), parallel, torch.device("cpu"))
    fragments = engine.fragments()
    average = ExponentialMovingAverage(fragments, 0.999)
    sets = cell.atoms // SET_ATOMS
    layout = PackedLayout.from_sizes([SET_ATOMS] * sets)
    x_td, t_s = torch.randn(cell.atoms, 8), torch.full((sets,), 0.5)
    label_s = torch.ones(sets, dtype=torch.int64)
    times, works = [], []
    for _ in range(WARM_UP + STEPS):
        works.append(_reference_s(torch) if dist.get_rank() == 0 else np.nan)
        dist.barrier()
        begin = time.perf_counter()
        for i in range(ROUNDS):
            prediction_td = engine.forward(x_td, t_s, label_s, label_s, layout, False)
            engine.backward(prediction_td.square().mean(), i == ROUNDS - 1)
        engine.step(1e-4)
        average.update(fragments)
        dist.barrier()
        times.append(time.perf_counter() - begin)
    ratios = [t / w for t, w in zip(times, works, strict=True)][WARM_UP:]
    return statistics.median(times[WARM_UP:]), statistics.median(ratios), min(works[WARM_UP:])


def measured(cells: list[Cell], ranks: int) -> dict[str, Any]:
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    words += [__file__, "--cells", json.dumps([asdict(cell) for cell in cells])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=900)
    line = next((line for line in done.stdout.splitlines() if line.startswith("MEASURED ")), None)
    if line is None:
        raise SystemExit(f"{ranks} ranks failed:\n{done.stderr[-3000:]}")
    return json.loads(line.removeprefix("MEASURED "))


# -- fit and prediction -----------------------------------------------------------------------------------


def fitted_machine(cells: list[Cell], seconds: list[float], pair: float, copy_bytes_per_s: float) -> Machine:
    """Rates and overheads that are all at least 0, by least squares of relative errors over one-rank runs."""
    from scipy.optimize import nnls

    base = Machine(
        flops_per_s=np.inf, encoder_flops_per_s=np.inf, fp32_flops_per_s=np.inf,
        memory_bytes_per_s=copy_bytes_per_s, launch_s=0.0, launches=1, host_s=0.0,
        snapshot_bytes_per_s=np.inf, storage_bytes_per_s=np.inf, asynchronous=False, pair=pair,
        cores=len(os.sched_getaffinity(0)),
    )  # fmt: skip
    columns, left = [], []
    for cell, s in zip(cells, seconds, strict=True):
        known = _predicted(cell, 1, base, NO_NETWORK)
        shape, work = LADDER[cell.rung], _work(cell, 1)
        hooks = ROUNDS * 2 * len(denoiser_modules(shape)) * (cell.zero_stage == 3)
        atoms = work.atoms * shape.width * shape.depth * 3
        columns.append(np.array([work.flops, atoms, ROUNDS * (shape.depth + 2), hooks, 1.0]) / s)
        left.append((s - known) / s)
    matrix = np.array(columns)
    scale = np.abs(matrix).max(axis=0)
    found = nnls(matrix / scale, np.array(left))[0] / scale
    return replace(
        base,
        flops_per_s=1 / found[0] if found[0] else np.inf,
        feature_s=found[1],
        launch_s=found[2],
        hook_s=found[3],
        host_s=found[4],
        source="fitted",
    )


def fitted_network(messages: list[dict[str, float]]) -> Network:
    """Of two ranks on one machine: a line through seconds against bytes that a rank sends."""
    sent, seconds = [], []
    for m in messages:
        sent += [m["n_bytes"], m["n_bytes"] / 2]
        seconds += [m["all_reduce"], m["all_gather"]]
    rows = np.array([[1.0, s] for s in sent]) / np.array(seconds)[:, None]
    scale = rows.max(axis=0)
    from scipy.optimize import nnls

    call_s, a_byte = nnls(rows / scale, np.ones(len(rows)))[0] / scale
    return replace(NO_NETWORK, words="gloo on one machine", inside_bytes_per_s=1 / a_byte, call_s=call_s)


NO_NETWORK = Network("none", 0, np.inf, np.inf, 0.0, 0.0, 1.0, 0.0)


def _work(cell: Cell, ranks: int) -> Work:
    sets = ROUNDS * ranks * cell.atoms // SET_ATOMS
    sizes = [SET_ATOMS] * sets
    return Work(training_flops(LADDER[cell.rung], sizes, 0.0), 0.0, SET_ATOMS * sets, sets)


def _predicted(cell: Cell, ranks: int, machine: Machine, network: Network) -> float:
    parallel = ParallelConfig(ranks, cell.zero_stage, "fp32", micro_batch_atoms=cell.atoms)
    model = ModelConfig(AutoencoderConfig(), LADDER[cell.rung])
    parts = step_time(model, STAGE, parallel, _work(cell, ranks), machine, network).parts
    return sum(
        parts[name] for name in parts if name not in ("data", "checkpoint", "validation", "uneven loads")
    )


# -- counted, not timed -----------------------------------------------------------------------------------


def launches_a_block() -> float:
    """Operators of a block's forward and backward (views left out), from profiles of two depths."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from adit_scale.atoms import PackedLayout
    from adit_scale.models.config import DenoiserConfig
    from adit_scale.models.dit import Denoiser

    def n_operators(depth: int) -> int:
        model = Denoiser(DenoiserConfig(width=64, depth=depth, heads=1))
        layout = PackedLayout.from_sizes([8] * 4)
        ones_s = torch.ones(4, dtype=torch.int64)

        def run() -> None:
            x_td = torch.randn(32, 8)
            model(x_td, None, torch.full((4,), 0.5), ones_s, ones_s, layout).square().mean().backward()

        run()
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            run()
        leaves = [e for e in profiler.events() if e.name.startswith("aten::") and not e.cpu_children]
        return sum(e.name not in VIEWS for e in leaves)

    return (n_operators(6) - n_operators(2)) / 4


VIEWS = tuple(
    f"aten::{name}"
    for name in (
        "view", "as_strided", "detach", "empty", "empty_like", "empty_strided", "resolve_conj", "resolve_neg",
        "slice", "expand", "t", "transpose", "unsqueeze", "select", "reshape", "_unsafe_view", "alias",
        "permute",
    )
)  # fmt: skip


def uneven_loads(mix: str, micro_atoms: int, n_steps: int = 3) -> tuple[dict[str, float], float]:
    """FLOPs of the fullest micro-batch above the mean one, by ranks; seconds a set of dealing to 1,024."""
    from dense_denoiser import draw_sets

    from adit_scale.data.dealing import deal

    rng, shape = np.random.default_rng(0), LADDER["dit_b"]
    per_set = np.array([forward_flops(shape, [n]) if n else 0.0 for n in range(400)])
    found: dict[str, float] = {}
    for ranks in (2, 8, 32, 128, 512, 1024):
        excess, took_s = [], []
        for _ in range(n_steps):
            sizes, _ = draw_sets(rng, mix, int(1.3 * ranks * micro_atoms / 9))
            sizes = sizes[: int(np.searchsorted(np.cumsum(sizes), 0.999 * ranks * micro_atoms, side="right"))]
            begin = time.thread_time()
            dealt = deal(sizes, ranks, micro_atoms + 8, home=rng.permutation(len(sizes)))
            took_s.append((time.thread_time() - begin) / len(sizes))
            loads = np.add.reduceat(per_set[sizes[dealt.order]], dealt.bounds[:-1])
            excess.append(loads.max() / loads.mean() - 1)
        found[str(ranks)] = float(np.mean(excess))
    return found, min(took_s)


def main() -> None:
    from record import RESULTS

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cells", help=argparse.SUPPRESS)
    parser.add_argument("--plot", action="store_true", help="draw weak scaling as the model has it")
    parser.add_argument("--counts", action="store_true", help="only launches and uneven loads")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    args = parser.parse_args()
    if args.cells:
        rank_main([Cell(**cell) for cell in json.loads(args.cells)])
    elif args.plot:
        from step_time_plot import draw

        draw(Path(__file__).resolve().parents[1] / "docs/img/weak_scaling.png")
    else:
        measure(args.out, only_counts=args.counts)


def measure(folder: Path, only_counts: bool) -> None:
    from limits import measured_limits
    from record import record, row, write

    uneven = {f"{mix} {atoms}": uneven_loads(mix, atoms)
              for mix, atoms in (("qm9_mp20", 4096), ("qm9_mp20", 16384), ("geom_drugs", 4096))}  # fmt: skip
    counts = {
        "launches_a_block": launches_a_block(),
        "uneven": {name: values for name, (values, _) in uneven.items()},
        "dealing_s_a_set": {name: seconds for name, (_, seconds) in uneven.items()},
    }
    print(json.dumps(counts, indent=1), file=sys.stderr, flush=True)
    if only_counts:
        return
    limits = measured_limits("cpu", 1)
    runs = {ranks: measured((FIT if ranks == 1 else []) + CHECK, ranks) for ranks in RANKS}
    quickest_s = min(work_s for run in runs.values() for _, _, work_s in run["steps"])
    seconds = {ranks: [quickest_s * ratio for _, ratio, _ in run["steps"]] for ranks, run in runs.items()}
    pair = max(1.0, runs[2]["pair"])
    machine = fitted_machine(FIT, seconds[1][: len(FIT)], pair, limits["copy_bytes_per_s"])
    network = fitted_network(runs[2]["messages"])
    rows: list[dict[str, Any]] = []
    errors: dict[int, list[float]] = {}
    for ranks in RANKS:
        own = zip(CHECK, seconds[ranks][-len(CHECK) :], runs[ranks]["steps"][-len(CHECK) :], strict=True)
        for cell, step_s, (unscaled_s, _, _) in own:
            predicted = _predicted(cell, ranks, machine, network)
            what = f"{cell.rung}, ZeRO {cell.zero_stage}, {ranks} rank{'s' * (ranks > 1)}: predicted step"
            rows.append(row(what, predicted, "measured step", step_s, "s", unscaled_s=unscaled_s))
            errors.setdefault(ranks, []).append(abs(predicted / step_s - 1))
    for ranks, off in errors.items():
        what = f"median error, {ranks} rank{'s' * (ranks > 1)}"
        rows.append(row(what, statistics.median(off), "largest", max(off), "share"))
    result = record("step_time_model", ["torch", "deepspeed", "numpy", "scipy"], rows, limits)
    more = {
        "machine_fitted": asdict(machine),
        "network_fitted": asdict(network),
        "fit": [asdict(c) for c in FIT],
    }
    write("step_time_model", result | counts | more | {"messages": runs[2]["messages"]}, folder)


if __name__ == "__main__":
    main()

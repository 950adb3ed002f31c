"""Claim: `adit plan memory` predicts a rank's peak within 10%, and ZeRO's states within 0.2% (padding).

    python benchmarks/memory_planner.py [--rung dit_s] [--ranks 2]

On CPU, every cell in processes of its own: a training run of three steps with a validation and a save, on
random sets of 8 to 24 atoms. Measured are (1) bytes of weights, gradients, master weights and moments of rank
0 between the last backward and the update, tensor by tensor, and (2) how far the resident memory of rank 0
grows from a process that has joined its peers to the run's peak, against the plan's peak with the host's
snapshot.
Cells: ZeRO 0 to 3 on two ranks, and on one rank micro-batches of two sizes with and without activation
checkpointing. Memory that is freed goes back to the system at once here (MALLOC_* settings), so that the
growth is that of living tensors. Prints JSON and writes it to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "2"}
GIB = 2**30


@dataclass(frozen=True)
class Cell:
    rung: str
    precision: str
    zero_stage: int
    ranks: int
    atoms: int
    recompute: bool = False


def cells(rung: str, ranks: int) -> list[Cell]:
    kinds = [("fp32", stage) for stage in range(4)] + [("bf16", stage) for stage in (1, 2, 3)]
    return [Cell(rung, precision, stage, ranks, 512) for precision, stage in kinds] + [
        Cell(rung, "fp32", 1, 1, atoms, recompute) for atoms in (1024, 2048) for recompute in (False, True)
    ]


# -- one rank of a cell ----------------------------------------------------------------------------------


def rank_main(cell: Cell, folder: Path) -> None:
    """Runs in a process of its own under torchrun; rank 0 prints what it measured."""
    import torch
    import torch.distributed as dist

    from adit_scale.config import StudyConfig
    from adit_scale.data.loader import BatchLoader
    from adit_scale.models.autoencoder import Autoencoder
    from adit_scale.models.ladder import LADDER
    from adit_scale.training.config import DiffusionStageConfig
    from adit_scale.training.run import choose_device, init_process_group
    from adit_scale.training.stages import DiffusionStage

    config = StudyConfig(
        data=_data(folder / "shards"),
        model=_model(cell),
        diffusion=DiffusionStageConfig(
            steps=3,
            atom_budget=2 * cell.ranks * cell.atoms,
            validation_sets=16,
            validate_every_steps=2,
            checkpoint_every_steps=2,
        ),
        parallel=_parallel(cell),
    )
    torch.set_num_threads(1)
    device = choose_device(config.parallel)
    init_process_group(device)
    from adit_scale.training.trainer import Trainer

    _warm_up(torch)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    autoencoder = Autoencoder(config.model.autoencoder)
    loader = BatchLoader(
        config.data,
        seed=0,
        atom_budget=config.diffusion.atom_budget,
        micro_batch_atoms=cell.atoms,
        rank=dist.get_rank(),
        world_size=cell.ranks,
    )
    stage = DiffusionStage(LADDER[cell.rung], config.diffusion, 0, loader.datasets, autoencoder)
    states: dict[str, int] = {}

    class Measured(Trainer):
        def train_step(self, batches) -> None:
            step = self.engine.step

            def looked_at(lr: float):
                states.update(state_bytes(self.engine))
                return step(lr)

            self.engine.step = looked_at  # type: ignore[method-assign]
            super().train_step(batches)
            self.engine.step = step  # type: ignore[method-assign]

    with loader:
        Measured(folder / "run", config, stage, loader, device).fit()
    if dist.get_rank() == 0:
        print("MEASURED " + json.dumps({"growth": resident("VmHWM") - before, "states": states}), flush=True)


def _warm_up(torch) -> None:
    """Libraries allocate at their first product; that is not the run's."""
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(64, 64, dtype=dtype, requires_grad=True)
        torch.nn.functional.scaled_dot_product_attention(x[None], x[None], x[None]).sum().backward()
        torch.nn.functional.linear(x, x).sum().backward()
    torch.optim.AdamW([x], fused=True).step()


def state_bytes(engine) -> dict[str, int]:
    """Bytes of this rank's tensors, each storage once. Before the update: gradients are complete."""
    import gc

    import torch

    def storage(tensors) -> dict[int, int]:
        found = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        return {address: n for address, n in found.items() if n}

    parameters = list(engine._engine.module.parameters())
    if engine.zero_stage == 3:
        weights = storage(p.ds_tensor for p in parameters)
    else:
        weights = storage(p.data for p in parameters)
    moments = storage(v for s in engine._inner.state.values() for v in s.values() if v.dim())
    groups = [p for g in engine._inner.param_groups for p in g["params"]]
    if engine.zero_stage == 3:
        groups = list(engine._engine.optimizer.fp32_partitioned_groups_flat)
    master = {a: n for a, n in storage(groups).items() if a not in weights}
    gradients = storage(gradient_tensors(engine, gc, torch))
    known = weights | moments | master
    return {
        "weights": sum(weights.values()),
        "gradients": sum(n for a, n in gradients.items() if a not in known),
        "master weights": sum(master.values()),
        "moments": sum(moments.values()),
    }


def gradient_tensors(engine, gc, torch) -> list:
    """Where each stage keeps the gradients it has accumulated."""
    optimizer = engine._engine.optimizer
    found = [p.grad for p in engine._engine.module.parameters() if p.grad is not None]
    for name in ("averaged_gradients", "fp32_groups_gradients_flat", "grad_partitions_flat_buffer"):
        held = getattr(optimizer, name, None)
        parts = held.values() if isinstance(held, dict) else held if isinstance(held, list) else [held]
        for part in parts:
            found += [t for t in (part if isinstance(part, list) else [part]) if isinstance(t, torch.Tensor)]
    return found


def resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(field)


# -- settings shared by the run and the plan -------------------------------------------------------------


def _data(shards: Path):
    from adit_scale.data.config import DataConfig

    return DataConfig(shards=str(shards), block_sets=256)


def _model(cell: Cell):
    from adit_scale.models.config import AutoencoderConfig, ModelConfig
    from adit_scale.models.ladder import LADDER

    small = AutoencoderConfig(width=128, encoder_depth=4, decoder_depth=4, heads=4, feedforward=512)
    return ModelConfig(small, LADDER[cell.rung])


def _parallel(cell: Cell):
    from adit_scale.training.config import ParallelConfig

    return ParallelConfig(
        world_size=cell.ranks,
        zero_stage=cell.zero_stage,
        precision=cell.precision,
        micro_batch_atoms=cell.atoms,
        activation_checkpointing=cell.recompute,
        threads=1,
        device="cpu",
    )


def make_shards(folder: Path) -> None:
    import numpy as np

    from adit_scale.atoms import AtomSet
    from adit_scale.data.build import build_from_sets

    rng = np.random.default_rng(0)
    sets = []
    for i in range(1200):
        n = int(rng.integers(8, 25))
        sets.append(
            AtomSet(
                rng.integers(1, 20, n), rng.normal(0, 2, (n, 3)), np.zeros((3, 3)), False, "m", 0, f"m{i}"
            )
        )
    build_from_sets(sets, folder, _data(folder), {})


def measure(cell: Cell, shards: Path) -> dict:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "shards").symlink_to(shards)
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(cell.ranks), __file__, "--cell", json.dumps(asdict(cell)), name),
        ]
        environment = {**os.environ, **MALLOC, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    line = next((line for line in done.stdout.splitlines() if line.startswith("MEASURED ")), None)
    if line is None:
        raise SystemExit(f"{cell} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return json.loads(line.removeprefix("MEASURED "))


def main() -> None:
    from record import RESULTS, record, row, write

    from adit_scale.models.ladder import denoiser_parameters
    from adit_scale.training.memory import plan_memory, state_bytes

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rung", default="dit_s")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--only", type=int, help="the cell of this number alone")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    args = parser.parse_args()
    rows, states = [], []
    with tempfile.TemporaryDirectory() as name:
        make_shards(Path(name))
        for i, cell in enumerate(cells(args.rung, args.ranks)):
            if args.only not in (None, i):
                continue
            plan = plan_memory(_model(cell), _parallel(cell), "diffusion", cuda=False)
            found = measure(cell, Path(name))
            n = denoiser_parameters(_model(cell).denoiser)
            theory = state_bytes(n, cell.zero_stage, cell.precision, cell.ranks)
            what = ", ".join(f"{key} {value}" for key, value in asdict(cell).items())
            planned = plan.peak_bytes + plan.host_bytes
            rows.append(row(what, planned / GIB, "measured growth", found["growth"] / GIB, "GiB"))
            states.append({"cell": asdict(cell), "theory": theory, "measured": found["states"]})
            print(json.dumps(rows[-1]), json.dumps(states[-1]), file=sys.stderr, flush=True)
    result = record("memory_planner", ["torch", "deepspeed"], rows)
    write(f"memory_planner-{args.rung}", result | {"states": states}, args.out)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--cell"]:
        rank_main(Cell(**json.loads(sys.argv[2])), Path(sys.argv[3]))
    else:
        main()

"""Claim: an asynchronous save stops training for at most a tenth of the time that a synchronous one does.

    python benchmarks/checkpoint_stall.py --model dit_b

Two ranks (gloo, ZeRO 1, fp32) train a denoiser on the demo corpus on this machine's CPU. A round is: some
steps without a save; a synchronous save, then as many steps; an asynchronous save, as many steps again, and
whatever is left to wait for. The stall is the time in which rank 0 could not step: within ``save``, and
within the wait that the next save would begin with. The baseline is the same process's synchronous save:
snapshot, write, fsync, read back, digest, commit. Beside it stands the whole cost, slower steps included: on
a CPU the writing threads take cores from the steps. Medians over rounds. Prints JSON and writes it to
benchmarks/results/.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import RESULTS, record, row, write

FOLDER = "CHECKPOINT_STALL_FOLDER"  # how the ranks learn where to write
REPO = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description="The training stall of a checkpoint.")
    parser.add_argument("--model", default="dit_b", help="rung of the ladder")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="training steps between saves")
    parser.add_argument("--atoms", type=int, default=512, help="a step, all ranks together")
    parser.add_argument("--folder", type=Path, default=None, help="where checkpoints go; a temporary folder")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if "RANK" in os.environ:
        _measure(options)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        launcher += ["--nproc-per-node", str(options.ranks), *sys.argv]
        variables = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(REPO), FOLDER: folder}
        subprocess.run(launcher, env={**os.environ, **variables}, check=True)


def _measure(options: argparse.Namespace) -> None:
    import torch.distributed as dist

    trainer = _trainer(options)
    writer = trainer.writer
    _steps(trainer, 2)
    for background in (False, True):  # files, buffers and pages exist afterwards
        _save(trainer, background)
        writer.wait()
    rounds = [_round(trainer, options.steps) for _ in range(options.rounds)]
    if dist.get_rank() == 0:
        files = trainer.checkpoints.rglob("rank-*.safetensors")
        n_bytes = sum(path.stat().st_size for path in files) // len(list(trainer.checkpoints.glob("step-*")))
        median = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
        more = {"checkpoint_bytes": n_bytes, "rounds": rounds, "bound": 0.1}
        baseline = ("stall of a synchronous save", median["sync_stall_s"], "s")
        whole_s = median["async_stall_s"] + median["slower_s"]
        rows = [
            row("stall of an asynchronous save", median["async_stall_s"], *baseline, **more),
            row("stall and slower steps of an asynchronous save", whole_s, *baseline),
        ]
        result = record("checkpoint_stall", ["torch", "deepspeed"], rows)
        write(f"checkpoint_stall-{options.model}", result, options.out)
    dist.barrier()
    dist.destroy_process_group()


def _round(trainer, n_steps: int) -> dict[str, float]:
    plain_s = _steps(trainer, n_steps)
    sync_stall_s = _save(trainer, background=False)
    _steps(trainer, n_steps)
    stall_s = _save(trainer, background=True)
    beside_s = _steps(trainer, n_steps)
    begin = time.monotonic()
    trainer.writer.wait()
    return {
        "sync_stall_s": sync_stall_s,
        "async_stall_s": stall_s + time.monotonic() - begin,
        "slower_s": max(0.0, beside_s - plain_s),
        "step_s": plain_s / n_steps,
    }


def _save(trainer, background: bool) -> float:
    trainer.writer.background = background
    begin = time.monotonic()
    trainer.save()
    return time.monotonic() - begin


def _steps(trainer, n: int) -> float:
    begin = time.monotonic()
    for _ in range(n):
        trainer.train_step(trainer.loader.step(trainer.state.step))
    return time.monotonic() - begin


def _trainer(options: argparse.Namespace):
    import torch

    from adit_scale.config import StudyConfig
    from adit_scale.data.config import DataConfig
    from adit_scale.data.loader import BatchLoader
    from adit_scale.models.autoencoder import Autoencoder
    from adit_scale.models.config import AutoencoderConfig, ModelConfig
    from adit_scale.models.ladder import LADDER
    from adit_scale.training.config import DiffusionStageConfig, ParallelConfig
    from adit_scale.training.run import choose_device, init_process_group
    from adit_scale.training.stages import DiffusionStage

    atoms = options.atoms
    parallel = ParallelConfig(world_size=options.ranks, zero_stage=1, micro_batch_atoms=atoms, device="cpu")
    device = choose_device(parallel)
    from adit_scale.training.trainer import Trainer

    torch.set_num_threads(1)
    init_process_group(device)
    small = AutoencoderConfig(width=32, encoder_depth=1, decoder_depth=1, heads=2, feedforward=64)
    config = StudyConfig(
        data=DataConfig(name="demo", shards=str(REPO / "shards/demo")),
        model=ModelConfig(small, LADDER[options.model]),
        diffusion=DiffusionStageConfig(steps=10**6, atom_budget=atoms, validation_sets=2),
        parallel=parallel,
    )
    loader = BatchLoader(
        config.data,
        seed=0,
        atom_budget=atoms,
        micro_batch_atoms=atoms,
        rank=torch.distributed.get_rank(),
        world_size=options.ranks,
    )
    torch.manual_seed(0)
    autoencoder = Autoencoder(small)
    stage = DiffusionStage(config.model.denoiser, config.diffusion, 0, loader.datasets, autoencoder)
    return Trainer(Path(os.environ[FOLDER]) / "run", config, stage, loader, device)


if __name__ == "__main__":
    main()

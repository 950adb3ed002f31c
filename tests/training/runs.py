"""Small training runs in processes of their own, as torchrun starts them.

``python -m tests.training.runs FOLDER...`` (under torchrun) trains the runs prepared in the given folders,
one after the other: each holds a config.yaml and a kind.txt, a decay branch also a start_from.txt. A
program.py in it (side_programs.py) scores the samples instead of the real scorer.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from adit_scale import config as settings
from adit_scale.atoms import AtomSet
from adit_scale.config import StudyConfig
from adit_scale.data.build import build_from_sets
from adit_scale.data.config import DataConfig
from adit_scale.models.config import AutoencoderConfig, DenoiserConfig, ModelConfig
from adit_scale.training.config import (
    AutoencoderStageConfig,
    DiffusionStageConfig,
    OptimConfig,
    ParallelConfig,
)

REPO = Path(__file__).resolve().parents[2]


def small_data(folder: Path, n_sets: int = 120) -> Path:
    """Shards of random molecules and crystals of 1 to 12 atoms."""
    rng = np.random.default_rng(0)
    sets = []
    for i in range(n_sets):
        n = int(rng.integers(1, 13))
        numbers = rng.integers(1, 20, n)
        if i % 2:
            cell = np.diag(rng.uniform(3, 6, 3)) + rng.uniform(-0.3, 0.3, (3, 3))
            positions = rng.random((n, 3)) @ cell
            sets.append(AtomSet(numbers, positions, cell, True, "crystals", 1, f"c{i}"))
        else:
            positions = rng.normal(0, 1.5, (n, 3))
            sets.append(AtomSet(numbers, positions, np.zeros((3, 3)), False, "molecules", 0, f"m{i}"))
    build_from_sets(sets, folder, DataConfig(block_sets=16, blocks_per_shard=2), {})
    return folder


def small_study(shards: Path, steps: int = 20, **parallel) -> StudyConfig:
    """Settings of a run of a few seconds. Keyword arguments go to ParallelConfig."""
    stage = {
        "steps": steps,
        "atom_budget": 120,
        "optim": OptimConfig(lr=1e-3, warmup_steps=3, schedule="cosine", gradient_clip=1.0),
        "log_every_steps": 1,
        "validate_every_steps": 5,
        "validation_sets": 8,
        "checkpoint_every_steps": 4,
    }
    return StudyConfig(
        data=DataConfig(name="small", shards=str(shards)),
        model=ModelConfig(
            AutoencoderConfig(width=32, encoder_depth=2, decoder_depth=1, heads=2, feedforward=64),
            DenoiserConfig(name="tiny", width=32, depth=2, heads=2),
        ),
        autoencoder=AutoencoderStageConfig(**stage),
        diffusion=DiffusionStageConfig(**stage),
        parallel=ParallelConfig(**{"micro_batch_atoms": 60, "threads": 1, **parallel}),
    )


def prepare(folder: Path, config: StudyConfig, kind: str, start_from: Path | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    settings.save(config, folder / "config.yaml")
    (folder / "kind.txt").write_text(kind)
    if start_from is not None:
        (folder / "start_from.txt").write_text(str(start_from))
    return folder


def torchrun_command(folders: list[Path], world_size: int, autoencoder: Path | None = None) -> list[str]:
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(world_size),
    ]
    weights = ["--autoencoder", str(autoencoder)] if autoencoder else []
    return [*launcher, "-m", "tests.training.runs", *weights, *map(str, folders)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(REPO)}


def run(folders: list[Path], world_size: int, autoencoder: Path | None = None, timeout_s: float = 300) -> str:
    """Train prepared runs to their end; returns what was printed."""
    command = torchrun_command(folders, world_size, autoencoder)
    done = subprocess.run(
        command, env=environment(), cwd=REPO, capture_output=True, text=True, timeout=timeout_s
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout + done.stderr


def main(arguments: list[str]) -> None:
    import torch
    import torch.distributed as dist

    from adit_scale.jobs.curves import make_scorer
    from adit_scale.training.run import init_process_group, train
    from adit_scale.training.side_scoring import SideScoring

    def scorer(folder, config, autoencoder):
        program = folder / "program.py"
        if program.is_file():
            return SideScoring(folder, config, [sys.executable, str(program)])
        return make_scorer(folder, config, autoencoder)

    autoencoder = None
    if arguments[0] == "--autoencoder":
        autoencoder, arguments = Path(arguments[1]), arguments[2:]
    init_process_group(torch.device("cpu"))
    for name in arguments:
        folder = Path(name)
        torch.compiler.reset()  # what was compiled for the run before has other shapes
        kind = (folder / "kind.txt").read_text()
        start = folder / "start_from.txt"
        start_from = Path(start.read_text()) if start.is_file() else None
        train(folder, settings.load(folder / "config.yaml"), kind, autoencoder, scorer, start_from)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1:])

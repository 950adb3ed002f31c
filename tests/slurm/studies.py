"""Small studies for tests on a cluster: a two-node run is through in a quarter of a minute."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.slurm.cluster import Cluster, Study

NAME = "faults"
STEPS = 200
WORDS = [
    "sweep=scaling_demo",
    f"sweep.name={NAME}",
    "sweep.bootstrap=100",
    "tracking=none",
    "model/denoiser=dit_32",
    "model/autoencoder=tiny",
    "autoencoder.steps=4",
    "autoencoder.atom_budget=256",
    "autoencoder.validation_sets=8",
    f"diffusion.steps={STEPS}",
    "diffusion.atom_budget=2048",
    "diffusion.validation_sets=8",
    "diffusion.validate_every_steps=100",
    "diffusion.log_every_steps=1",
    "diffusion.checkpoint_every_steps=20",
    "diffusion.samples_every_steps=0",
    "sampling.crystals=4",
    "sampling.molecules=4",
    "sampling.steps=3",
    "evaluation.reference_sets=8",
    "launcher=slurm",
    "launcher.partition=dev",
    "launcher.gpus_per_node=0",
    "launcher.cpus_per_task=1",
    "launcher.time_min=10",
    "launcher.backoff_s=1",
    "launcher.parallel=0",
    "launcher.runs_are_shared=true",
    "+launcher.by_size={dit_32:{nodes:2,tasks_per_node:1}}",
]
# What the points of all these studies share, and whose work need not be repeated.
SHARED = ("shards-*", "autoencoder-*", "reference-*")


def words(runs: Path, *more: str) -> list[str]:
    """launch.py's words; of two for the same setting the later counts."""
    keys = [word.partition("=")[0] for word in more]
    return [*(w for w in WORDS if w.partition("=")[0] not in keys), *more, f"runs={runs}"]


def beside(undisturbed: Study, runs: Path) -> Path:
    """A new ``runs`` in which everything before the points is done already. Returns it."""
    for pattern in SHARED:
        for folder in undisturbed.folder.glob(pattern):
            shutil.copytree(folder, runs / NAME / folder.name)
    return runs


def submit(cluster: Cluster, runs: Path, *more: str, cwd: Path | None = None) -> Study:
    """Submit a study, and be sure that it was."""
    done = cluster.launch(words(runs, *more), **({} if cwd is None else {"cwd": cwd}))
    assert done.returncode == 0, done.stdout + done.stderr
    return Study(runs / NAME)

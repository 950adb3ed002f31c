"""Every benchmark: its command, the section of docs/benchmarks.md it belongs to, and about how long it takes.

`make bench` runs those of a CPU that are usual, `make bench LONG=1` the others too; table.py makes the page's
tables from the results named here. A result without a file is a row that says "not measured" and the command.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from gpu import TASKS as GPU_TASKS
from gpu import Task
from record import REPO

# Sections of the page, in its order.
GROUPS = {
    "training": "Training step",
    "profile": "Where the time of a step goes",
    "sampling": "Sampling",
    "data": "Data path",
    "checkpoint": "Checkpoint, resume and memory",
    "evaluation": "Evaluation",
    "start-up": "Start-up",
    "tracking": "SLURM and tracking",
    "fits": "Fits and recipes",
    "paper": "Scale on paper",
    "limits": "Limits of the machine",
    "gpu": "GPU",
}


@dataclass(frozen=True)
class Result:
    """A file ``benchmarks/results/{name}.json`` and how the table shows it.

    title: what was measured. titled: rows need it to be understood. least: the least row stands for all.
    shown: a regular expression; only rows whose ``what`` has it stand in the table.
    """

    name: str
    title: str
    titled: bool = False
    least: bool = False
    shown: str = ""


@dataclass(frozen=True)
class Benchmark:
    """A command of benchmarks/ and what it writes.

    command: behind ``python benchmarks/``; DATA is the folder of real structures, needed where named.
    about_s: on the two cores of the machine of docs/benchmarks.md. usual: part of a plain `make bench`.
    where: what it needs: cpu, cuda, slurm, or words for something else; the suite runs those of cpu.
    """

    name: str
    group: str
    command: str
    about_s: int
    results: tuple[Result, ...]
    usual: bool = False
    where: str = "cpu"

    @property
    def said(self) -> str:
        """The command as a person types it in the root of the repository."""
        return f"python benchmarks/{self.command}".replace("DATA", os.path.relpath(data_folder(), REPO))


def data_folder() -> Path:
    """Real structures: ADIT_SHARED/data, else shared/data beside the checkout."""
    return Path(os.environ.get("ADIT_SHARED", REPO.parent / "shared")) / "data"


def _training_step(rung: str, mix: str, about_s: int, options: str = "") -> Benchmark:
    title = f"training step on a CPU, {rung}, {'GEOM-DRUGS' if mix == 'geom_drugs' else 'QM9 and MP20'}"
    return Benchmark(
        f"training-{rung}-{mix}",
        "training",
        f"training_step.py --device cpu --rung {rung} --mix {mix} --threads 2{options}",
        about_s,
        (Result(f"training_step-cpu-{rung}-{mix}", title),),
        usual=True,
    )


def _on_gpu(task: Task) -> Benchmark:
    kind, _, rest = task.result.removeprefix("gpu-").replace("-gpu", "").partition("-")
    title = ", ".join(filter(None, ["one GPU", GPU_TITLES[kind], *rest.split("-")]))
    command = f"gpu.py --parts {task.part}"
    result = (Result(task.result, title),)
    return Benchmark(task.result, "gpu", command, int(task.about_s), result, where="cuda")


# By how the names of gpu.py's results begin.
GPU_TITLES = {
    "limits": "limits",
    "check": "numerics of each fast path",
    "training_step": "training step",
    "zero": "ZeRO 1 and 2 against plain data parallel",
    "sampling_gpu": "sampling",
    "modulation": "fused modulation",
    "memory": "memory and the largest micro-batch",
    "step_profile": "phases of a step",
    "study": "a small study",
}
# Of long ones with one result: name, section, command, seconds, then the result's own.
LONG = (
    ("loop", "training", "loop_overhead.py --rung dit_192 --steps 8", 300,
     "loop_overhead-dit_192", "the training loop against a plain PyTorch loop"),
    ("side-scoring", "training", "side_scoring.py", 240,
     "side_scoring-dit_128", "scoring samples beside the training, 2 cores"),
    ("engine", "training", "engine_overhead.py --rung dit_192", 60,
     "engine_overhead-dit_192", "DeepSpeed around a step, operations and time", False, False,
     "bf16 ZeRO [12], (backward|update)"),
    ("uniqueness", "evaluation", "crystal_uniqueness.py --data DATA", 150,
     "crystal_uniqueness", "uniqueness of 1,000 crystals, many of one composition"),
    ("relaxation", "evaluation", "relaxation.py DATA/mp20_biternary_val.csv.gz DATA/qm9_sample.extxyz.gz",
     300, "relaxation", "relaxing crystals and molecules, 2 cores"),
    ("parsing", "data", "data_parsing.py", 60,
     "data_parsing", "reading molecules, one core"),
    ("parsing-mp20", "data", "data_parsing_crystals.py DATA/mp20_biternary_val.csv.gz --rows 2000", 60,
     "data_parsing_crystals-mp20_biternary_val", "reading crystals, one core"),
    ("parsing-mpts52", "data", "data_parsing_crystals.py DATA/mpts52_val.csv.gz --rows 2000", 90,
     "data_parsing_crystals-mpts52_val", "reading crystals of up to 52 atoms, one core"),
    ("mup", "fits", "mup_coordinates.py", 300,
     "mup_coordinates", "muP against the standard parametrization, CPU"),
    ("load", "tracking", "tracking_load.py load", 120,
     "tracking_load-sqlite", "50 jobs mirrored at once, SQLite behind the server"),
    ("fault-sqlite", "tracking", "tracking_load.py load --fault-s 60 --rate 2 --steps 500", 320,
     "tracking_load-sqlite-fault", "the same, the server killed for a minute"),
    ("fault-postgresql", "tracking",
     "tracking_load.py load --backend postgresql --fault-s 60 --rate 2 --steps 500",
     340, "tracking_load-postgresql-fault", "50 jobs mirrored at once, the database stopped for a minute"),
    ("delay", "tracking", "tracking_load.py delay --blocks 10", 120,
     "tracking_delay", "a training step with a follower beside it"),
)  # fmt: skip

BENCHMARKS = (
    Benchmark(
        "limits",
        "limits",
        "limits.py --threads 2",
        15,
        (Result("limits-cpu", "limits of this machine, CPU"),),
        usual=True,
    ),
    _training_step("dit_64", "qm9_mp20", 20),
    _training_step("dit_192", "qm9_mp20", 35),
    _training_step("dit_s", "qm9_mp20", 65, " --batches 4"),
    _training_step("dit_s", "geom_drugs", 125, " --batches 2"),
    _training_step("dit_b", "qm9_mp20", 40, " --atoms 512 --batches 3"),
    Benchmark(
        "profile-dit_s",
        "profile",
        "step_profile.py --rung dit_s --atoms 1024 --threads 2",
        60,
        (Result("step_profile-cpu-dit_s", "phases of a step of DiT-S, CPU"),),
        usual=True,
    ),
    Benchmark(
        "profile-dit_l",
        "profile",
        "step_profile.py --rung dit_l --atoms 256 --threads 2",
        90,
        (Result("step_profile-cpu-dit_l", "phases of a step of DiT-L, CPU"),),
        usual=True,
    ),
    Benchmark(
        "sampling-dit_s",
        "sampling",
        "sampling_cpu.py --threads 2 --samples 512 --rounds 2",
        95,
        (Result("sampling_cpu-dit_s", "sampling on a CPU, DiT-S"),),
        usual=True,
    ),
    Benchmark(
        "sampling-dit_192",
        "sampling",
        "sampling_cpu.py --threads 2 --rung dit_192 --rounds 2",
        40,
        (Result("sampling_cpu-dit_192", "sampling on a CPU, dit_192"),),
        usual=True,
    ),
    Benchmark(
        "sampling-steps",
        "sampling",
        "sampling_steps.py --denoiser RUN/weights --autoencoder AUTOENCODER/weights --steps 10 25 50 100",
        400,
        (
            Result(
                "sampling_steps",
                "time and validity against sampling steps",
                shown="euler, (10|25|100) steps|(heun|midpoint), 25 steps",
            ),
        ),
        where="a trained run",
    ),
    Benchmark(
        "data",
        "data",
        "data_throughput.py --rounds 3",
        75,
        (Result("data_throughput", "ready batches from shards, one core, QM9-like sets"),),
        usual=True,
    ),
    Benchmark(
        "order", "data", "data_order.py", 60, (Result("data_order", "100 million sets, one core", True),)
    ),
    Benchmark(
        "amplification",
        "data",
        "data_amplification.py",
        300,
        (
            Result(
                "data_amplification",
                "bytes a rank reads over bytes it uses, 1,000 blocks",
                titled=True,
                shown=" (64|1024) ranks, 1024 atoms",
            ),
        ),
    ),
    Benchmark(
        "packing",
        "data",
        "data_packing.py",
        60,
        (Result("data_packing", "real atoms over capacity", least=True),),
    ),
    Benchmark(
        "build",
        "data",
        "data_build.py --molecules 200000 --workers 2",
        150,
        (Result("data_build", "building shards", titled=True),),
    ),
    Benchmark(
        "checkpoint",
        "checkpoint",
        "checkpoint_stall.py --model dit_b --rounds 2 --steps 3 --atoms 256",
        75,
        (Result("checkpoint_stall-dit_b", "stall of an asynchronous save, DiT-B, 2 ranks"),),
        usual=True,
    ),
    Benchmark(
        "memory",
        "checkpoint",
        "memory_planner.py --rung dit_s",
        300,
        (
            Result(
                "memory_planner-dit_s",
                "predicted against measured memory of a training process",
                shown="zero_stage [13], ranks 2|atoms 2048",
            ),
        ),
    ),
    Benchmark(
        "molecules",
        "evaluation",
        "scoring_molecules.py",
        45,
        (Result("scoring_molecules", "scoring 10,000 molecules (edm, rdkit, PoseBusters), 2 cores"),),
        usual=True,
    ),
    Benchmark(
        "crystals",
        "evaluation",
        "scoring_crystals.py --data DATA",
        110,
        (Result("scoring_crystals", "scoring 10,000 crystals, novelty against 27,000, 2 cores"),),
    ),
    Benchmark(
        "start-up",
        "start-up",
        "start_up.py --rounds 2",
        120,
        (Result("start_up", "start of commands, of training and of sampling"),),
        usual=True,
    ),
    Benchmark(
        "status",
        "tracking",
        "status_speed.py",
        60,
        (Result("status_speed", "`launch.py status` of 200 points"),),
    ),
    Benchmark(
        "submit",
        "tracking",
        "slurm_sweep.py submit --rounds 3",
        120,
        (Result("slurm_sweep-submit", "submitting a study of 200 points to SLURM, 2 cores"),),
        where="slurm",
    ),
    Benchmark(
        "requeue",
        "tracking",
        "slurm_sweep.py requeue --rounds 3",
        180,
        (Result("slurm_sweep-requeue", "a requeued run of DiT-S on SLURM, 2 cores"),),
        where="slurm",
    ),
    Benchmark(
        "coverage",
        "fits",
        "fit_coverage.py --studies 500 --jobs 2",
        1800,
        (Result("fit_coverage", "coverage of the fit's 95% intervals", least=True),),
    ),
    Benchmark(
        "fits",
        "fits",
        "fit_comparison.py --jobs 2",
        300,
        (
            Result(
                "fit_comparison",
                "least squares and L-BFGS against the fit, 200 simulated studies",
                shown="^(share|median error of (alpha|E)|coverage|full)",
            ),
        ),
    ),
    Benchmark(
        "advice",
        "fits",
        "advice_coverage.py",
        300,
        (Result("advice_coverage", "coverage of an advice's 95% intervals", shown="^(optimal|loss)"),),
    ),
    Benchmark(
        "branches",
        "fits",
        "wsd_branches.py --sources DATA/qm9_sample.extxyz.gz DATA/mp20_biternary_val.csv.gz --work wsd "
        "--precision bf16 --threads 1 --autoencoder-steps 1500 --autoencoder-atoms 1024",
        3600,
        (Result("wsd_branches", "decay branches against their trunk"),),
    ),
    Benchmark(
        "paper",
        "paper",
        "step_time_model.py",
        240,
        (
            Result(
                "step_time_model",
                "predicted against measured steps of 1, 2 and 4 ranks, CPU",
                shown="^(median|dit_192)",
            ),
        ),
    ),
    *(Benchmark(*words[:4], (Result(*words[4:]),)) for words in LONG),
    *(_on_gpu(task) for task in GPU_TASKS),
)

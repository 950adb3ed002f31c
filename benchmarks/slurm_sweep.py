"""Claims: a study of 200 points is submitted in under 30 s with at most two scheduler calls a resource class;
from `scontrol requeue` to the first new step of a DiT-S it takes under 60 s, of which under 15 s are ours.

    . launchers/dev_cluster/env.sh
    python benchmarks/slurm_sweep.py submit      # 4 sizes x 50 seeds in 4 resource classes; then cancelled
    python benchmarks/slurm_sweep.py requeue     # a run of one rank, requeued while it trains

On the cluster that SLURM_CONF names (the dev cluster: launchers/dev_cluster/up.sh). Baselines: the same jobs
queued one by one, each with a call of sbatch; a job that only writes down when it starts, requeued likewise.
Calls of the scheduler's programs are counted by scripts of their names, first on PATH, that note the call and
become the real program. "Ours" is the time from the start of the new attempt to its first step; what is
before it is saving, and the scheduler's own cleaning up and waiting. Prints JSON and writes it to
benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from record import record, row, write

from adit_scale.jobs.attempts import attempts

REPO = Path(__file__).resolve().parents[1]
PROGRAMS = ("sbatch", "squeue", "sacct", "scontrol", "sinfo", "sacctmgr", "scancel")
COMMON = ("launcher=slurm", "launcher.gpus_per_node=0", "launcher.cpus_per_task=1", "tracking=none")
CLASSES = "+launcher.by_size={dit_32:{mem_gib:1},dit_64:{mem_gib:2},dit_96:{nodes:2},dit_128:{time_min:200}}"
TOO_LONG_S = 600.0


def launch(*words: str, path: str = "") -> str:
    """launch.py's output. Raises CalledProcessError."""
    environment = {**os.environ, **({"PATH": path} if path else {})}
    command = [sys.executable, str(REPO / "launch.py"), *words]
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def counting(folder: Path) -> str:
    """A PATH on which every call of SLURM's programs leaves a line in folder/calls.txt."""
    for name in PROGRAMS:
        script = folder / name
        real = shutil.which(name)
        script.write_text(f'#!/bin/sh\necho {name} >>"{folder}/calls.txt"\nexec {real} "$@"\n')
        script.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def submit(work: Path, rounds: int) -> list[dict]:
    """Seconds of one launch of 200 points, against one sbatch a job."""
    took, one_by_one, calls, jobs = [], [], Counter[str](), 0
    for i in range(rounds):
        (work / str(i)).mkdir()
        words = [
            "sweep=scaling_demo",
            f"runs={work}/{i}/runs",
            *COMMON,
            CLASSES,
            f"seed={','.join(map(str, range(50)))}",
        ]
        path = counting(work / str(i))
        begin = time.monotonic()
        launch(*words, path=path)
        took.append(time.monotonic() - begin)
        calls = Counter((work / str(i) / "calls.txt").read_text().split())
        study = work / str(i) / "runs" / "scaling_demo"
        jobs = len(json.loads((study / "study.json").read_text())["nodes"])
        launch("cancel", *words[:2])
        begin = time.monotonic()
        ids = [_sbatch("--hold", "true") for _ in range(jobs)]
        one_by_one.append(time.monotonic() - begin)
        subprocess.run(["scancel", *ids], check=True)
    return [
        row(
            "submitting 200 points",
            statistics.median(took),
            "the same jobs, an sbatch each",
            statistics.median(one_by_one),
            "s",
            jobs=jobs,
            calls=dict(calls),
            calls_one_by_one=jobs,
            rounds=rounds,
        )
    ]


def _sbatch(*words: str) -> str:
    *options, line = words
    command = ["sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap={line}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def requeue(work: Path, rounds: int) -> list[dict]:
    """Seconds from `scontrol requeue` of a training DiT-S to its first new step."""
    words = [
        "sweep=scaling_demo", f"runs={work}/runs", *COMMON, "model/denoiser=dit_s", "autoencoder.steps=20",
        "diffusion.steps=100000", "diffusion.atom_budget=256", "diffusion.log_every_steps=1",
        "diffusion.samples_every_steps=0", "diffusion.checkpoint_every_steps=100000",
        "diffusion.validate_every_steps=100000", "evaluation.reference_sets=8",
    ]  # fmt: skip
    launch(*words)
    study = json.loads((work / "runs/scaling_demo/study.json").read_text())
    node = next(node["folder"] for node in study["nodes"] if node["kind"] == "diffusion")
    run = work / "runs" / "scaling_demo" / node
    total, ours, saving = [], [], []
    for i in range(rounds):
        _wait(lambda n=i + 1: _first_step_s(run, n))
        job = attempts(run)[-1].job
        begin_s = time.time()
        subprocess.run(["scontrol", "requeue", job], check=True)
        first_s = _wait(lambda n=i + 2: _first_step_s(run, n))
        total.append(first_s - begin_s)
        ours.append(first_s - attempts(run)[-1].start_s)
        saving.append((attempts(run)[-2].end_s or begin_s) - begin_s)
    launch("cancel", *words[:2])
    _wait(lambda: not subprocess.run(["squeue", "-h", "-j", job], capture_output=True).stdout or None)
    bare = [_bare(work) for _ in range(rounds)]
    return [
        row(
            "requeue of DiT-S to its first new step",
            statistics.median(total),
            "a job that writes down when it starts",
            statistics.median(bare),
            "s",
            from_start_of_attempt_s=statistics.median(ours),
            saving_s=statistics.median(saving),
            all_s=[round(s, 2) for s in total],
            rounds=rounds,
        )
    ]


def _metrics(run: Path) -> list[dict]:
    lines = (run / "journal.jsonl").read_text().splitlines()[1:]
    records = [json.loads(line) for line in lines if line.endswith("}")]
    return [r for r in records if r.get("kind") == "metrics" and "train/loss" in r["values"]]


def _first_step_s(run: Path, nth: int) -> float | None:
    """When the nth attempt journaled its first step, seconds since the epoch; None before that."""
    if len(attempts(run)) < nth or not (run / "journal.jsonl").is_file():
        return None
    start_s = attempts(run)[nth - 1].start_s
    return min((r["clock"]["time_s"] for r in _metrics(run) if r["clock"]["time_s"] > start_s), default=None)


def _bare(work: Path) -> float:
    """From requeue to start, of a job that does nothing."""
    times = work / "bare.txt"
    times.unlink(missing_ok=True)
    job = _sbatch("--requeue", "--signal=B:USR2@10", f"date +%s.%N >>{times}; exec sleep 600")
    _wait(lambda: times.is_file() or None)
    time.sleep(2)
    begin_s = time.time()
    subprocess.run(["scontrol", "requeue", job], check=True)
    _wait(lambda: len(times.read_text().split()) > 1 or None)
    subprocess.run(["scancel", job], check=True)
    return float(times.read_text().split()[-1]) - begin_s


def _wait(ready):
    deadline_s = time.monotonic() + TOO_LONG_S
    while (found := ready()) is None:
        assert time.monotonic() < deadline_s, "nothing happened"
        time.sleep(0.1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("submit", "requeue"))
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = {"submit": submit, "requeue": requeue}[args.what](Path(folder), args.rounds)
    slurm = subprocess.run(["sinfo", "--version"], capture_output=True, text=True, check=True).stdout.split()[
        -1
    ]
    result = record("slurm_sweep", ["submitit", "torch"], rows)
    write(f"slurm_sweep-{args.what}", {**result, "slurm": slurm})


if __name__ == "__main__":
    main()

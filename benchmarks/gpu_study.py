"""A real study on a GPU in the time that is left: launch.py with the local launcher, autoencoder, then sizes.

    python benchmarks/gpu_study.py --data SHARDS --limit-s 500 [--work DIR]

SHARDS is a folder of shards (`adit data build`). The study is told to stop at the limit and goes on where it
was when it is started again with the same --work. The launcher needs mlflow; where that is missing the same
runs are made one after another by `adit train`, without samples and scores. The result says which packages
are missing. Writes benchmarks/results/gpu-study.json and, beside it, gpu-study/ with journals, settings and
samples (no checkpoints).
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from record import REPO, RESULTS, record, row, write

# By import name.
NEEDS = {
    "training": ("torch", "deepspeed", "omegaconf", "hydra", "yaml", "safetensors", "msgpack", "rich"),
    "launcher": ("mlflow",),
    "scoring": ("rdkit", "pymatgen", "smact", "spglib", "posebusters", "plotly"),
}
GRACE_S = 40  # to save and leave
LEFT_OUT = ("checkpoints", "weights", "shards", "latents", "heartbeat", ".", "run.lock", "launch.lock")
LARGEST_BYTES = 2 * 2**20
SETTINGS = (
    "sweep=scaling_demo",
    "tracking=none",
    "parallel.precision=bf16",
    "autoencoder.atom_budget=16384",
    "diffusion.atom_budget=16384",
    "parallel.micro_batch_atoms=16384",
    "diffusion.samples_every_steps=0",
)


def missing(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if find_spec(name) is None]


def commands(launcher: bool, words: list[str], sizes: list[str], work: Path) -> list[list[str]]:
    """What to run in turn, behind the interpreter: the study, or its trainings alone."""
    if launcher:
        study = [f"runs={work}", "launcher.parallel=1", f"model/denoiser={','.join(sizes)}"]
        return [["launch.py", *words, *study]]
    train = ["-c", "import sys; from adit_scale.cli import main; sys.exit(main())", "train", *words]
    autoencoder = work / "autoencoder"
    return [
        [*train, "stage=autoencoder", f"out={autoencoder}"],
        *(
            [
                *train,
                "stage=diffusion",
                f"autoencoder={autoencoder}",
                f"out={work / size}",
                f"model/denoiser={size}",
            ]
            for size in sizes
        ),
    ]


def run_all(todo: list[list[str]], limit_s: float, log: Path) -> str:
    """ "done", "failed", or "stopped at the limit", after which the same commands go on."""
    end_s = time.monotonic() + limit_s - GRACE_S
    for words in todo:
        with log.open("a") as file:
            child = subprocess.Popen(
                [sys.executable, *words],
                cwd=REPO,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                if child.wait(timeout=max(1.0, end_s - time.monotonic())):
                    return "failed"
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGTERM)  # runs save and leave
                try:
                    child.wait(timeout=GRACE_S)
                except subprocess.TimeoutExpired:
                    os.killpg(child.pid, signal.SIGKILL)
                return "stopped at the limit"
    return "done"


def losses(work: Path) -> list[dict[str, Any]]:
    """A row for every run with a validation: its last loss, beside that of a constant prediction."""
    from adit_scale.tracking.journal import FILE_NAME, read_journal, series

    rows = []
    for path in sorted(work.rglob(FILE_NAME)):
        records = read_journal(path)
        steps, values = series(records, "validation/loss")
        _, constant = series(records, "validation/constant_predictor_loss")
        if values:
            what = f"validation loss, {path.parent.name}, step {steps[-1]:,}"
            baseline = ("constant prediction", constant[-1]) if constant else ("first validation", values[0])
            rows.append(row(what, values[-1], *baseline, ""))
    return rows


def keep(work: Path, out: Path) -> int:
    """Copy what is small and no checkpoint; returns the number of files."""
    kept = 0
    for path in sorted(work.rglob("*")):
        inside = path.relative_to(work)
        wanted = path.is_file() and not path.is_symlink() and path.stat().st_size <= LARGEST_BYTES
        if wanted and not any(part.startswith(LEFT_OUT) for part in inside.parts):
            (out / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, out / inside)
            kept += 1
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--data", type=Path, required=True, help="a folder of shards, with manifest.json")
    parser.add_argument("--limit-s", type=float, default=500)
    parser.add_argument("--work", type=Path, default=REPO / "runs" / "gpu-study", help="the study's runs")
    parser.add_argument("--sizes", default="dit_64,dit_128,dit_256,dit_s")
    parser.add_argument("--set", nargs="*", default=[], dest="more", metavar="KEY=VALUE", help="settings")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    args = parser.parse_args()
    if not (args.data / "manifest.json").is_file():
        parser.error(f"--data is {args.data}; expected a folder of shards with a manifest.json")
    work: Path = args.work.resolve()
    lacks = {name: missing(names) for name, names in NEEDS.items()}
    state, start_s = f"not started, missing: {', '.join(lacks['training'])}", time.monotonic()
    args.out.mkdir(parents=True, exist_ok=True)
    if not lacks["training"]:
        words = [
            *SETTINGS,
            f"data.shards={args.data.resolve()}",
            f"parallel.device={args.device}",
            *args.more,
        ]
        todo = commands(not lacks["launcher"], words, args.sizes.split(","), work)
        state = run_all(todo, args.limit_s, args.out / "gpu-study.log")
    facts = {"state": state, "missing": lacks, "seconds": time.monotonic() - start_s}
    facts["files_kept"] = keep(work, args.out / "gpu-study") if work.is_dir() else 0
    rows = losses(work) if work.is_dir() else []
    write("gpu-study", record("gpu_study", [], rows) | facts, args.out)
    print(f"study: {state}", file=sys.stderr)
    for what, names in lacks.items():
        if names:
            print(f"study: {what} needs the wheels of {', '.join(names)}", file=sys.stderr)
    return 0 if state == "done" else 1


if __name__ == "__main__":
    sys.exit(main())

"""How long a person waits before anything happens: commands, heavy modules, the first step, the first batch.

    python benchmarks/start_up.py [--rounds 5] [--only WORD]

Every number is the wall time of a fresh process, from starting Python to its end, the median of several; all
take turns, so that a busy machine slows all of them. Files are in the page cache, as they are from the second
start on. Training runs the smallest denoiser on the demo corpus until the journal has its first step, and is
then killed; sampling draws 16 molecules in one batch of two steps. Baselines: Python that imports torch, and
torch, DeepSpeed and MLflow, which a training process cannot do without. Prints JSON and writes it to
benchmarks/results/start_up.json.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from record import REPO, RESULTS, record, row, write

from adit_scale.tracking.journal import FILE_NAME, scan

POLL_S, PATIENCE_S = 0.005, 300.0
TORCH, ENGINE = "python that imports torch", "python that imports torch, deepspeed and mlflow"
# Of the tiny runs: the demo corpus, nothing written to a tracking store, nothing scored.
TINY = ("data=demo", "tracking=none", "model/denoiser=dit_32", "parallel.threads=1", "parallel.device=cpu")


@dataclass(frozen=True)
class Start:
    """A process to time and its baseline. first_step: it is over when its journal has a step."""

    what: str
    words: tuple[str, ...]
    baseline: str
    first_step: bool = False


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def adit(*words: str) -> tuple[str, ...]:
    return (*python("import sys; from adit_scale.cli import main; sys.exit(main())"), *words)


def train_words(stage: str, out: Path | str, steps: int, *more: str) -> tuple[str, ...]:
    asked = (f"{stage}.steps={steps}", f"{stage}.atom_budget=512", f"{stage}.log_every_steps=1")
    rare = (f"{stage}.validate_every_steps={steps}", f"{stage}.checkpoint_every_steps={steps}")
    return adit("train", f"stage={stage}", f"out={out}", *TINY, *asked, *rare, *more)


def starts(autoencoder: Path, run: Path) -> list[Start]:
    """All that is timed. {out} in a word is a fresh folder."""
    launch = (sys.executable, "launch.py")
    return [
        Start(TORCH, python("import torch"), TORCH),
        Start(ENGINE, python("import torch, deepspeed, mlflow"), ENGINE),
        Start("launch.py --help", (*launch, "--help"), TORCH),
        Start("launch.py plan, the demo study", (*launch, "plan", "sweep=scaling_demo", "runs={out}"), TORCH),
        Start("adit --help", adit("--help"), TORCH),
        Start("import of adit_scale.models.dit", python("import adit_scale.models.dit"), TORCH),
        Start("import of adit_scale.data.loader", python("import adit_scale.data.loader"), TORCH),
        Start("import of adit_scale.evaluation.score", python("import adit_scale.evaluation.score"), TORCH),
        Start("import of adit_scale.training.run", python("import adit_scale.training.run"), ENGINE),
        Start(
            "training process to its first step, dit_32",
            train_words(
                "diffusion", "{out}", 10**6, f"autoencoder={autoencoder}", "diffusion.samples_every_steps=0"
            ),
            ENGINE,
            first_step=True,
        ),
        Start(
            "sampling process, one batch of 16 molecules in 2 steps, dit_32",
            adit("sample", f"run={run}", "out={out}", "n=16", "steps=2", "domain=molecule", "device=cpu"),
            TORCH,
        ),
    ]


def seconds(start: Start, out: Path) -> float:
    """Of one fresh process. Raises RuntimeError with what a process that failed had printed."""
    command = [word.replace("{out}", str(out)) for word in start.words]
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    begin_s = time.perf_counter()
    with _log_of(out).open("w") as log:
        process = subprocess.Popen(
            command, cwd=REPO, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            if start.first_step:
                _wait_for_step(process, out)
            else:
                process.wait()
            took_s = time.perf_counter() - begin_s
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if not start.first_step and process.returncode:
        raise _failure(process, out)
    return took_s


def _log_of(out: Path) -> Path:
    return out.parent / f"{out.name}.log"


def _failure(process: subprocess.Popen, out: Path) -> RuntimeError:
    tail = _log_of(out).read_text()[-2000:]
    return RuntimeError(f"{process.args!r}: status {process.returncode}: {tail}")


def _wait_for_step(process: subprocess.Popen, run: Path) -> None:
    journal, end_s = run / FILE_NAME, time.perf_counter() + PATIENCE_S
    while not (journal.is_file() and any(line.record["kind"] == "metrics" for line in scan(journal))):
        if process.poll() is not None:
            raise _failure(process, run)
        if time.perf_counter() > end_s:
            raise RuntimeError(f"{run}: no step within {PATIENCE_S:.0f} s")
        time.sleep(POLL_S)


def make_runs(folder: Path) -> tuple[Path, Path]:
    """An autoencoder and a denoiser, trained for a step each: folders of runs."""
    autoencoder, run = folder / "autoencoder", folder / "run"
    more = ("autoencoder.validation_sets=2",), ("diffusion.validation_sets=2", f"autoencoder={autoencoder}")
    seconds(Start("", train_words("autoencoder", autoencoder, 1, *more[0]), ""), autoencoder)
    seconds(Start("", train_words("diffusion", run, 1, *more[1]), ""), run)
    return autoencoder, run


def measure(folder: Path, rounds: int, only: str) -> list[dict]:
    chosen = starts(*make_runs(folder))
    baselines = {start.baseline for start in chosen if only in start.what}
    chosen = [start for start in chosen if only in start.what or start.what in baselines]
    times: dict[str, list[float]] = {start.what: [] for start in chosen}
    for i in range(rounds + 1):  # the first fills the page cache
        for k, start in enumerate(chosen):
            took_s = seconds(start, folder / f"out-{i}-{k}")
            if i:
                times[start.what].append(took_s)
    medians = {what: statistics.median(of) for what, of in times.items()}
    return [
        row(start.what, medians[start.what], start.baseline, medians[start.baseline], "s",
            range=[min(times[start.what]), max(times[start.what])])
        for start in chosen if start.what not in baselines or start.what == only
    ]  # fmt: skip


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", metavar="WORD", help="those with this in their name")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    args = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), args.rounds, args.only)
    write("start_up", record("start_up", ["torch", "deepspeed", "mlflow"], rows), args.out)


if __name__ == "__main__":
    main()

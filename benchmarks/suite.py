"""Run the benchmarks of this machine, each in a process of its own, and remake the tables of the page.

    python benchmarks/suite.py [--list] [--only NAME ...] [--long] [--group GROUP ...] [--no-table]
    python benchmarks/suite.py --gpu [WORDS OF gpu.py ...]

make bench [ONLY=NAME] [LONG=1] is short for it: the usual benchmarks of a CPU, in about a quarter of an hour
on two cores, or with --long the rest. One that fails does not stop the others; the status is then 1. What
each printed is in runs/bench/NAME.log. Nothing else should run meanwhile; a busy machine is told of.
make bench-gpu is --gpu: the parts of gpu.py one after another, then the tables; status 2 without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from catalogue import BENCHMARKS, GROUPS, REPO, Benchmark, data_folder
from record import RESULTS

LOGS = REPO / "runs" / "bench"
BUSY = 0.5  # of the load average a core, from which on times are not worth much
GPU_LIMIT_S = 7200
FAILED, MISUSED = 1, 2


def main(words: Sequence[str] | None = None) -> int:
    args, rest = _parser().parse_known_args(words)
    if args.gpu:
        return run_gpu(rest)
    if rest:
        _parser().error(f"unknown words: {' '.join(rest)}")
    if args.list:
        print("\n".join(listing()))
        return 0
    unknown = sorted({*args.only} - {b.name for b in BENCHMARKS})
    if unknown:
        names = ", ".join(b.name for b in BENCHMARKS if b.where == "cpu")
        print(f"suite.py: --only is {unknown[0]!r}; expected one of {names}", file=sys.stderr)
        return MISUSED
    chosen = choose(args.only, args.group, args.long)
    about_min = sum(b.about_s for b in chosen) / 60
    print(f"{len(chosen)} benchmarks, about {about_min:.0f} minutes on two cores", flush=True)
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    if load > BUSY:
        print(f"this machine is busy: load {load:.1f} a core; times will be worse than they are", flush=True)
    failed = run_all(chosen)
    if not args.no_table:
        remake_tables()
    if failed:
        print(f"failed: {', '.join(failed)}; see {LOGS.relative_to(REPO)}/", file=sys.stderr)
    return FAILED if failed else 0


def run_gpu(words: Sequence[str]) -> int:
    """All parts of gpu.py, however long they take together. Its status; 2 where there is no CUDA device."""
    import torch  # a moment, and only here

    if not torch.cuda.is_available():
        print("suite.py: no CUDA device is visible; on a machine with one: make bench-gpu", file=sys.stderr)
        return MISUSED
    command = [sys.executable, "benchmarks/gpu.py", "--limit-s", str(GPU_LIMIT_S), *words]
    status = subprocess.run(command, cwd=REPO, check=False).returncode
    remake_tables()
    return status


def remake_tables() -> None:
    subprocess.run([sys.executable, "benchmarks/table.py"], cwd=REPO, check=True)
    print("docs/benchmarks.md: tables remade", flush=True)


def choose(only: Sequence[str], groups: Sequence[str], long: bool) -> list[Benchmark]:
    """Those named; else those of a CPU that are usual, or with ``long`` the others."""
    if only:
        return [b for b in BENCHMARKS if b.name in only]
    mine = [b for b in BENCHMARKS if b.where == "cpu" and b.usual is not long]
    return [b for b in mine if not groups or b.group in groups]


def run_all(chosen: Sequence[Benchmark]) -> list[str]:
    """Run them in turn; the names of those that failed."""
    LOGS.mkdir(parents=True, exist_ok=True)
    begin_s, failed = time.monotonic(), []
    for i, benchmark in enumerate(chosen, 1):
        place = f"[{i}/{len(chosen)}] {benchmark.name}"
        if lacks := missing(benchmark):
            print(f"{place}: skipped, it needs {lacks}", flush=True)
            continue
        print(f"{place}: {benchmark.said} (about {benchmark.about_s} s)", flush=True)
        start_s = time.monotonic()
        status = run_one(benchmark, LOGS / f"{benchmark.name}.log")
        end_s = time.monotonic()
        word = "done" if status == 0 else f"FAILED with status {status}"
        print(f"    {word} in {end_s - start_s:.0f} s; {(end_s - begin_s) / 60:.1f} min in all", flush=True)
        if status:
            failed.append(benchmark.name)
    return failed


def missing(benchmark: Benchmark) -> str:
    """What this machine lacks for a benchmark; "" where it can run."""
    if benchmark.where != "cpu":
        return {"slurm": "SLURM (make dev-cluster)", "cuda": "a GPU (make bench-gpu)"}.get(
            benchmark.where, benchmark.where
        )
    if "DATA" in benchmark.command and not data_folder().is_dir():
        return f"{data_folder()} (ADIT_SHARED names its parent)"
    return ""


def run_one(benchmark: Benchmark, log: Path) -> int:
    command = [sys.executable, *benchmark.said.split()[1:]]
    with log.open("w") as file:
        return subprocess.run(
            command, cwd=REPO, stdout=file, stderr=subprocess.STDOUT, check=False
        ).returncode


def listing() -> list[str]:
    """A line a benchmark: name, where it is run, how long, when its numbers are from, command."""
    lines = []
    for group, heading in GROUPS.items():
        mine = [b for b in BENCHMARKS if b.group == group]
        lines += [f"{heading} ({group})", *(_line(b) for b in mine)] if mine else []
    return lines


def _line(benchmark: Benchmark) -> str:
    when = "make bench" if benchmark.usual else "LONG=1" if benchmark.where == "cpu" else benchmark.where
    dates = [_date(RESULTS / f"{result.name}.json") for result in benchmark.results]
    return (
        f"  {benchmark.name:24} {when:14} {benchmark.about_s / 60:5.1f} min  {min(dates):14} {benchmark.said}"
    )


def _date(path: Path) -> str:
    return json.loads(path.read_text())["date"][:10] if path.is_file() else "not measured"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--list", action="store_true", help="say what there is and do nothing")
    parser.add_argument("--gpu", action="store_true", help="gpu.py, with the words that follow")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these, whatever they take")
    parser.add_argument("--group", nargs="+", default=[], choices=GROUPS, help="those of these sections")
    parser.add_argument("--long", action="store_true", help="those that a plain run leaves out")
    parser.add_argument("--no-table", action="store_true", help="leave docs/benchmarks.md as it is")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""Every number that needs a GPU, by one command, in parts of at most ten minutes that can run one by one.

    python benchmarks/gpu.py --out DIR [--parts check,step,...] [--limit-s 540] [--bundle FILE.tar.gz]

Needs a CUDA device, torch >= 2.11, this repository and the wheels of gpu_requirements.txt; no network. Each
task is a process of its own that writes its result as soon as it has it. A task whose result is in DIR is not
run again (--again runs it), one for which the time is too short waits for the next call, and one that is cut
short keeps what it wrote. Prints a line a number and, at the end, the targets of targets.py. With --bundle
all that was written is kept in one archive, anew after every task. --device cpu --tiny tries it in minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from record import REPO, RESULTS, number
from targets import judge, table

PARTS = ("check", "step", "zero", "sampling", "modulation", "memory", "profile", "study")
LARGE = ("dit_l", "dit_xl")  # several copies of them leave little room on a GPU
FAST_LARGE = "flash_compile,flash_triton_compile"
SMALLEST_SHARE = 0.4  # of the time a task usually takes, from which on it is begun


@dataclass(frozen=True)
class Task:
    """command: behind ``python benchmarks/``. result: what it writes. about_s: on an H200, a guess.

    tiny: words added by --tiny.
    """

    part: str
    result: str
    command: Callable[[Call], list[str]]
    about_s: float
    tiny: tuple[str, ...] = ()


@dataclass(frozen=True)
class Call:
    """The words of this call."""

    out: Path
    device: str
    tiny: bool
    data: Path | None
    left_s: float = 0.0

    @property
    def place(self) -> str:
        return "gpu" if self.device == "cuda" else "cpu"


def _fixed(*words: str) -> Callable[[Call], list[str]]:
    return lambda call: list(words)


def _step(rung: str, mix: str, sides: str = "") -> Task:
    """At the capacity that the sweep of the same size found best, if there is one."""

    def command(call: Call) -> list[str]:
        swept = call.out / f"training_step-{call.place}-{rung}-sweep.json"
        best = json.loads(swept.read_text())["best"] if swept.is_file() else {}
        atoms = ["--atoms", str(best["atoms"])] if "atoms" in best and not call.tiny else []
        chosen = ["--sides", sides] if sides else []
        return [
            "training_step.py",
            "--rung",
            rung,
            "--mix",
            mix,
            "--batches",
            "15",
            "--compile",
            *atoms,
            *chosen,
        ]

    tiny = ("--rung", "dit_64", "--atoms", "256", "--batches", "2", "--sides", "dense,fp32", "--threads", "1")
    return Task("step", f"training_step-gpu-{rung}-{mix}", command, 75, tiny)


def _sweep(rung: str) -> Task:
    words = ["gpu_sweep.py", "--rung", rung]
    if rung in LARGE:
        words += ["--atoms", "8192", "16384", "32768", "--sides", *FAST_LARGE.split(",")]
    tiny = ("--rung", "dit_64", "--atoms", "128", "256", "--batches", "1", "--sides", "fp32")
    return Task("step", f"training_step-gpu-{rung}-sweep", _fixed(*words), 75, tiny)


def _sampling(rung: str, kind: str, about_s: float) -> Task:
    words = ["sampling_gpu.py", "--rung", rung, "--kind", kind]
    return Task(
        "sampling", f"sampling_gpu-{rung}-{kind}", _fixed(*words), about_s, ("--tiny", "--rung", "dit_64")
    )


def _profile(rung: str) -> Task:
    def command(call: Call) -> list[str]:
        return ["step_profile.py", "--rung", rung, "--atoms", "16384", "--picture", str(call.out)]

    tiny = ("--rung", "dit_64", "--atoms", "256", "--threads", "1", "--steps", "1")
    return Task("profile", f"step_profile-gpu-{rung}", command, 60, tiny)


def _study(call: Call) -> list[str]:
    assert call.data is not None
    return ["gpu_study.py", "--data", str(call.data), "--limit-s", f"{call.left_s - 15:.0f}"]


# Packed float32 would not fit beside the others.
SIDES_LARGE = f"dense,flash,{FAST_LARGE}"
TASKS: tuple[Task, ...] = (
    Task("check", "limits-gpu", _fixed("limits.py"), 20),
    Task(
        "check",
        "gpu-check",
        _fixed("gpu_check.py"),
        240,
        ("--rung", "dit_64", "--atoms", "256", "--tests", "tests/models/test_attention.py"),
    ),
    *(_sweep(rung) for rung in ("dit_s", "dit_b")),
    *(_step(rung, "qm9_mp20") for rung in ("dit_s", "dit_b")),
    _sweep("dit_l"),
    _step("dit_l", "qm9_mp20", SIDES_LARGE),
    _sweep("dit_xl"),
    _step("dit_xl", "qm9_mp20", SIDES_LARGE),
    _step("dit_s", "geom_drugs"),
    _step("dit_b", "geom_drugs"),
    _step("dit_l", "geom_drugs", SIDES_LARGE),
    Task(
        "zero",
        "gpu-zero-dit_b",
        _fixed("gpu_zero.py"),
        60,
        ("--rung", "dit_64", "--atoms", "256", "--turns", "1"),
    ),
    _sampling("dit_b", "qm9", 150),
    _sampling("dit_s", "mp20", 90),
    Task("modulation", "modulation-gpu", _fixed("modulation.py"), 90, ("--tiny",)),
    Task("memory", "gpu-memory", _fixed("gpu_memory.py"), 240, ("--tiny", "--most-atoms", "1024")),
    _profile("dit_s"),
    _profile("dit_l"),
    Task("study", "gpu-study", _study, 120),
)


def chosen_tasks(parts: Sequence[str], data: Path | None) -> list[Task]:
    """In the order of PARTS' tasks; without data, no study."""
    return [task for task in TASKS if task.part in parts and (task.part != "study" or data)]


def is_done(task: Task, call: Call) -> bool:
    path = call.out / f"{_result(task, call)}.json"
    return path.is_file() and not json.loads(path.read_text()).get("partial", False)


def run_task(task: Task, call: Call) -> str:
    """ "done", "failed" or "cut short"; what it printed is in DIR/logs."""
    words = [*task.command(call), "--device", call.device, "--out", str(call.out)]
    if call.tiny:
        words += task.tiny
    log = call.out / "logs" / f"{task.result}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    script = str(REPO / "benchmarks" / words[0])
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": _path()}
    if task.part == "step":  # sides of many shapes beside each other
        environment["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    with log.open("w") as file:
        file.write(f"$ {' '.join(words)}\n")
        file.flush()
        child = subprocess.Popen(
            [sys.executable, script, *words[1:]],
            cwd=REPO, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
        )  # fmt: skip
        try:
            status = child.wait(timeout=max(1.0, call.left_s))
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)  # its own children too: they hold the GPU
            child.wait()
            return "cut short"
    return "done" if status == 0 else "failed"


def _path() -> str:
    """So that the package is found where it is not installed."""
    return os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH", "")]))


def _result(task: Task, call: Call) -> str:
    """A tiny or CPU run writes under the names of what it ran on."""
    name = task.result
    if call.tiny and task.tiny and "--rung" in task.tiny:
        rung = task.tiny[task.tiny.index("--rung") + 1]
        name = "-".join(rung if part.startswith("dit_") else part for part in name.split("-"))
    return (
        name.replace("training_step-gpu", f"training_step-{call.place}")
        .replace("limits-gpu", f"limits-{call.place}")
        .replace("step_profile-gpu", f"step_profile-{call.place}")
    )


def say_numbers(task: Task, call: Call) -> None:
    """A line a row of what the task wrote."""
    path = call.out / f"{_result(task, call)}.json"
    if not path.is_file():
        return
    for row in json.loads(path.read_text())["rows"]:
        unit = f" {row['unit']}" if row["unit"] else ""
        ratio = "" if row["ratio"] is None else f"; {row['ratio']:.3g} x {row['baseline']}"
        print(f"    {row['what']}: {number(row['value'])}{unit}{ratio}", flush=True)


def bundle(call: Call, path: Path) -> None:
    """All that is in DIR, in one archive that takes its place at once."""
    fresh = path.with_suffix(".part")
    with tarfile.open(fresh, "w:gz") as archive:
        for file in sorted(call.out.rglob("*")):
            if file.is_file() and file.resolve() not in (fresh.resolve(), path.resolve()):
                archive.add(file, file.relative_to(call.out))
    fresh.replace(path)


def main(words: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(words)
    parts = [part for part in PARTS if part in args.parts.split(",")]
    if unknown := set(args.parts.split(",")) - set(PARTS):
        print(
            f"gpu.py: --parts has {sorted(unknown)[0]!r}; expected some of {','.join(PARTS)}", file=sys.stderr
        )
        return 2
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    end_s = time.monotonic() + args.limit_s
    states: dict[str, list[str]] = {"done": [], "failed": [], "cut short": [], "left for another call": []}
    for task in chosen_tasks(parts, args.data):
        call = Call(out, args.device, args.tiny, args.data, end_s - time.monotonic())
        name = _result(task, call)
        if is_done(task, call) and not args.again:
            print(f"{task.part}: {name}: kept from before", flush=True)
            continue
        if call.left_s < SMALLEST_SHARE * task.about_s and not call.tiny:
            states["left for another call"].append(name)
            continue
        start_s = time.monotonic()
        state = run_task(task, call)
        states[state].append(name)
        print(f"{task.part}: {name}: {state}, {time.monotonic() - start_s:.0f} s", flush=True)
        say_numbers(task, call)
        if state != "done":
            print(_end_of(out / "logs" / f"{task.result}.log"), flush=True)
        if args.bundle:
            bundle(call, args.bundle)
    print(table(judge(out, "gpu")))
    print("; ".join(f"{state}: {', '.join(names) or 'none'}" for state, names in states.items()))
    return int(bool(states["failed"]))


def _end_of(log: Path, lines: int = 12) -> str:
    return "\n".join(f"    | {line}" for line in log.read_text(errors="replace").splitlines()[-lines:])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--limit-s", type=float, default=540, help="of this call")
    parser.add_argument("--data", type=Path, help="a folder of shards, for the study")
    parser.add_argument("--bundle", type=Path, help="an archive of all that was written")
    parser.add_argument("--again", action="store_true", help="also what is there already")
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--tiny", action="store_true", help="everything small, to try the script")
    return parser


if __name__ == "__main__":
    sys.exit(main())

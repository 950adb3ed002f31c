"""Claim: `launch.py status` of 200 points, some with journals of 100,000 lines, takes less than 2 s.

    python benchmarks/status_speed.py

Makes a submitted study of 200 points (403 jobs) in a temporary folder (about 1.2 GB): a quarter done with 24
outputs each, a quarter running, a quarter retrying, a quarter waiting; 20 journals of 100,000 lines, the
others of 5,000; jobs of one array of SLURM, which is asked where the machine has it. The whole process is
timed, from starting Python to the last line printed. The baseline looks for the last step in the same
journals by reading them whole, with the library's reader. Prints JSON and writes it to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from record import RESULTS, record, row, write

from adit_scale.jobs.attempts import append_end, append_start
from adit_scale.jobs.node import NodeFolder, Result
from adit_scale.tracking.journal import FILE_NAME, SIDE_FOLDER, Journal, scan
from launchers.record import NodeRecord, StudyRecord

REPO = Path(__file__).resolve().parents[1]
STEPS = 1_000_000
OUTPUTS = 24  # files of an evaluation: samples, verdicts, pictures
VALIDATE_EVERY = 50  # lines
STUDY = "status_speed"


def make_study(folder: Path, points: int, long_ones: int) -> None:
    """``points`` points after shards and an autoencoder, every node with what its state leaves behind."""
    folder.mkdir(parents=True)
    journals = {n: _journal(folder.parent / f"journal-{n}", n) for n in (100_000, 5_000)}
    submission = folder / "slurm" / "0123456789abcdef"
    submission.mkdir(parents=True)
    nodes = [_node(folder, "shards", "", {}), _node(folder, "autoencoder", "", {"shards": "shards"})]
    ready = {"shards": "shards", "autoencoder": "autoencoder"}
    for node in nodes:
        _finish(node, {name: folder / name for name in node.inputs}, 2)
    for i in range(points):
        label = f"dit_64-seed{i}"
        diffusion = _node(folder, "diffusion", label, ready, STEPS)
        evaluation = _node(folder, "evaluation", label, {**ready, "diffusion": diffusion.id})
        nodes += [diffusion, evaluation]
        ledger = {
            "job": f"99999999_{i}",
            "submission": submission.name,
            "submitted": "2026-11-22T12:00:00+0000",
        }
        (diffusion.folder / "slurm_job.json").write_text(json.dumps({**ledger, "user": getpass.getuser()}))
        shutil.copyfile(journals[100_000 if i < long_ones else 5_000], diffusion.folder / FILE_NAME)
        (diffusion.folder / SIDE_FOLDER).mkdir()
        with Journal(diffusion.folder / SIDE_FOLDER) as side:
            for step in range(1000, 50_000, 1000):
                side.log_metrics(
                    step, {"samples/crystal/validity": 0.5, "samples/molecule/edm_validity": 0.25}
                )
        _attempts(diffusion, state=i % 4)
        if i % 4 == 0:
            _finish(diffusion, {name: folder / name for name in ready}, 2)
            sources = {**{name: folder / name for name in ready}, "diffusion": diffusion.folder}
            _finish(evaluation, sources, OUTPUTS)
    inputs = {f"{node.kind}/{node.label}": node.id for node in nodes[2:]}
    nodes.append(_node(folder, "report", "", inputs, optional=True))
    (submission / "nodes.json").write_text(json.dumps({"nodes": {}}))
    StudyRecord(folder, STUDY, "", (), "slurm", {"uri": "", "experiment": ""}, tuple(nodes)).save()


def _node(
    folder: Path,
    kind: str,
    label: str,
    inputs: dict[str, str],
    steps: int | None = None,
    optional: bool = False,
) -> NodeRecord:
    id_ = f"{kind}-{label}" if label else kind
    (folder / id_).mkdir()
    return NodeRecord(id_, kind, label, folder / id_, inputs, optional, steps, resources={"gpus_per_node": 4})


def _finish(node: NodeRecord, inputs: dict[str, Path], n_outputs: int) -> None:
    outputs = tuple(node.folder / f"output-{i}" for i in range(n_outputs))
    for path in outputs:
        path.write_text(path.name)
    rate = {"successes": 5, "trials": 10, "effective_trials": None, "value": 0.5, "lower": 0.2, "upper": 0.8}
    names = ("crystal/validity", "molecule/edm_validity", *(f"molecule/posebusters/{i}" for i in range(60)))
    scores = {"scores": dict.fromkeys(names, rate)} if node.kind == "evaluation" else {}
    made = NodeFolder(node.folder, node.kind, node.id, node.label, STUDY, inputs)
    made.succeed(Result(outputs, scores), 100.0)


def _attempts(node: NodeRecord, state: int) -> None:
    """0 done, 1 running, 2 retrying, 3 never begun."""
    for _ in range(3 if state < 3 else 0):
        append_start(node.folder, "99999999_0", "gpu[1-4]", 16)
        append_end(node.folder, 75, "requeued", "time limit")
    if state in (1, 2):
        append_start(node.folder, "99999999_0", "gpu[1-4]", 16)
        if state == 2:
            append_end(node.folder, 1, "retrying", "CUDA error: an illegal access; try 2 of 4")


def _journal(folder: Path, lines: int) -> Path:
    with Journal(folder) as journal:
        journal.log_params({"diffusion": {"steps": STEPS}})
        for i in range(lines - 1):
            step = 10 * (i + 1)
            clock = {"time_s": 1.79e9 + i, "step_s": 0.1, "atoms_per_s": 5e5, "memory_gib": 40.0, "mfu": 0.4}
            if i % VALIDATE_EVERY:
                values = {
                    "train/loss": 1.5,
                    "train/lr": 1e-4,
                    "train/gradient_norm": 0.3,
                    "train/atoms_seen": step,
                }
                journal.log_metrics(step, values, clock)
            else:
                journal.log_metrics(step, {"validation/loss": 1.25, "validation/loss/crystal": 1.0}, clock)
    return folder / FILE_NAME


def seconds_of_status(runs: Path, words: Sequence[str]) -> tuple[float, float, str]:
    """Wall and CPU seconds of the process and those it starts (squeue, sacct); what it printed."""
    command = [
        sys.executable,
        str(REPO / "launch.py"),
        "status",
        f"runs={runs}",
        f"sweep.name={STUDY}",
        *words,
    ]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    wall_s = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall_s, cpu_s, done.stdout


def seconds_of_reading(folder: Path) -> float:
    begin = time.perf_counter()
    for path in folder.glob(f"*/{FILE_NAME}"):
        assert [line.record["step"] for line in scan(path)][-1] > 0
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--long", type=int, default=20, help="points whose journal has 100,000 lines")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        runs = Path(temporary) / "runs"
        make_study(runs / STUDY, args.points, args.long)
        found = {
            what: [seconds_of_status(runs, words) for _ in range(args.times)]
            for what, words in (("table", []), ("--json", ["--json"]))
        }
        reading = seconds_of_reading(runs / STUDY)
    points = json.loads(found["--json"][-1][2])["points"]
    baseline = "reading the journals whole"
    rows = []
    for what, times in found.items():
        walls, cpus = [wall_s for wall_s, _, _ in times], [cpu_s for _, cpu_s, _ in times]
        rows.append(
            row(f"status of {args.points} points, {what}", statistics.median(walls), baseline, reading, "s",
                range=[min(walls), max(walls)], cpu_s=statistics.median(cpus), points=points)
        )  # fmt: skip
    result = record("status_speed", ["rich"], rows)
    result["machine"]["load_average"] = os.getloadavg()[0]
    result["slurm"] = shutil.which("squeue") is not None and "SLURM_CONF" in os.environ
    write("status_speed", result, args.out)


if __name__ == "__main__":
    main()

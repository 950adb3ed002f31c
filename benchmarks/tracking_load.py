"""Fifty jobs and their followers on one tracking server: is every value there once, and what does it cost?

    python benchmarks/tracking_load.py load  [--backend postgresql] [--jobs 50] [--steps 200] [--rate 20]
                                             [--fault-s 60]     the server, or the database, is gone so long
    python benchmarks/tracking_load.py delay [--blocks 20]      a step of training with and without a follower

``load`` starts real processes: a journal's writer and a follower a job, a server, with ``--backend`` a
database. It fails where a value is lost or doubled. ``delay`` keeps every core busy with steps of a fixed
length and stops and continues the follower block by block; the server's work on this machine counts as well.
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
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psutil
import record

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from mlflow import MlflowClient

from adit_scale.tracking.follower import Follower
from adit_scale.tracking.increments import Mark
from adit_scale.tracking.journal import Journal
from adit_scale.tracking.mlflow_sink import MARK_TAG
from adit_scale.tracking.sync import sync
from tests.tracking.servers import Postgres, Server, wait_until
from tests.tracking.studies import log_steps, lost_and_doubled, make_study, runs_of

EXPERIMENT = "load"
N_VALUES = 9  # a step, as log_steps writes
STEP_S = 0.02
BLOCK_S = 10.0
T_975 = {7: 2.365, 9: 2.262, 19: 2.093, 29: 2.045}


def write(folder: Path, steps: int, rate: float) -> None:
    """A job: so many lines a second."""
    begin = time.monotonic()
    with Journal(folder) as journal:
        for step in range(steps):
            log_steps(journal, range(step, step + 1))
            time.sleep(max(0.0, begin + (step + 1) / rate - time.monotonic()))


def load(args: argparse.Namespace) -> dict:
    """Raises AssertionError where a value is lost or doubled."""
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        database = stack.enter_context(Postgres()) if args.backend == "postgresql" else None
        server = Server(root / "server", database.uri if database else "", workers=0)
        stack.enter_context(server)
        nodes = make_study(root / "study", [f"p{i}" for i in range(args.jobs)])
        followers = [Follower(node, server.uri, EXPERIMENT) for node in nodes]
        command = [sys.executable, __file__, "write", "--steps", str(args.steps), "--rate", str(args.rate)]
        begin = time.monotonic()
        writers = [subprocess.Popen([*command, "--folder", str(node)]) for node in nodes]
        if args.fault_s:
            _fault(server, database, args.jobs, args.fault_s)
            assert all(writer.poll() is None for writer in writers), "raise --steps: a job ended before"
        assert all(writer.wait() == 0 for writer in writers)
        written_s = time.monotonic() - begin
        client = MlflowClient(server.uri)
        _wait_for_marks(client, args.jobs, args.steps - 1)
        caught_up_s = time.monotonic() - begin
        processes = [psutil.Process(f._process.pid) for f in followers if f._process is not None]
        memory = [process.memory_full_info() for process in processes]
        cpu_s = [sum(process.cpu_times()[:2]) for process in processes]
        for follower in followers:
            follower.close(wait_s=60.0)
        lost, doubled, n_runs = _compare(client, nodes)
        assert (lost, doubled, n_runs) == (0, 0, args.jobs + 1), (lost, doubled, n_runs)
        assert sync(root / "study", server.uri, EXPERIMENT).values == 0
    fault = f", {'database' if database else 'server'} gone for {args.fault_s:g} s" if args.fault_s else ""
    return {
        "what": f"{args.jobs} jobs, {args.rate:g} lines/s each, {args.backend}{fault}",
        "value": caught_up_s,
        "baseline": "the jobs themselves",
        "baseline_value": written_s,
        "unit": "s until the store holds everything",
        "ratio": caught_up_s / written_s,
        "values": args.jobs * args.steps * N_VALUES,
        "lost": lost,
        "doubled": doubled,
        "runs": n_runs,
        "follower_mib_own": round(statistics.mean(m.uss for m in memory) / 2**20, 1),
        "follower_mib_resident": round(statistics.mean(m.rss for m in memory) / 2**20, 1),
        "follower_cpu_s": round(statistics.mean(cpu_s), 2),
    }


def _fault(server: Server, database: Postgres | None, jobs: int, seconds: float) -> None:
    """Take server or database away once every job is in the store and logs on."""
    client = MlflowClient(server.uri)
    wait_until(lambda: _runs_there(client) == jobs + 1, 300, "runs of all jobs")
    if database is None:
        server.stop(signal.SIGKILL)
    else:
        database.stop()
    time.sleep(seconds)
    (server if database is None else database).start()


def _runs_there(client: MlflowClient) -> int:
    found = client.get_experiment_by_name(EXPERIMENT)
    return sum(len(runs) for runs in runs_of(client, EXPERIMENT).values()) if found else 0


def _wait_for_marks(client: MlflowClient, jobs: int, last_step: int, limit_s: float = 400.0) -> None:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        experiment = client.get_experiment_by_name(EXPERIMENT)
        runs = client.search_runs([experiment.experiment_id], max_results=1000) if experiment else []
        steps = [Mark.from_json(run.data.tags.get(MARK_TAG)).step for run in runs]
        if steps.count(last_step) == jobs:
            return
        time.sleep(2.0)
    raise AssertionError(f"only {steps.count(last_step)} of {jobs} runs are whole after {limit_s} s")


def _compare(client: MlflowClient, nodes: Sequence[Path]) -> tuple[int, int, int]:
    runs = runs_of(client, EXPERIMENT)
    lost = doubled = 0
    for node in nodes:
        missing, more = lost_and_doubled(client, runs[node.name.rpartition("-")[0]][0], node)
        lost, doubled = lost + missing, doubled + more
    return lost, doubled, sum(len(found) for found in runs.values())


def delay(args: argparse.Namespace) -> dict:
    """Mean time of a step, block by block, the follower running in every second one."""
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(Server(root / "server"))
        os.setpriority(os.PRIO_PGRP, server.process.pid, 19)  # in truth on another machine
        (node,) = make_study(root / "study", ["a"])
        follower = stack.enter_context(Follower(node, server.uri, EXPERIMENT))
        others = [
            subprocess.Popen([sys.executable, __file__, "burn"]) for _ in range((os.cpu_count() or 1) - 1)
        ]
        for other in others:
            stack.callback(other.kill)
        assert follower._process is not None
        process = psutil.Process(follower._process.pid)
        journal = stack.enter_context(Journal(node))
        work = _calibrated()
        step, cpu_s = 0, 0.0
        ratios: list[float] = []
        blocks: dict[bool, list[float]] = {True: [], False: []}
        while process.nice() != 19:
            step, _ = _block(work, journal, step, 1.0)
        for i in range(args.blocks):
            pair = {}
            for on in (True, False) if i % 2 else (False, True):
                process.resume() if on else process.suspend()
                before_s = sum(process.cpu_times()[:2])
                step, pair[on] = _block(work, journal, step, BLOCK_S)
                cpu_s += sum(process.cpu_times()[:2]) - before_s
                blocks[on].append(pair[on])
            ratios.append(pair[True] / pair[False])
        process.resume()
    half = T_975[args.blocks - 1] * statistics.stdev(ratios) / len(ratios) ** 0.5
    on_s, off_s = statistics.mean(blocks[True]), statistics.mean(blocks[False])
    more = {"ratio_mean_of_pairs": statistics.mean(ratios), "ratio_95": half, "pairs": len(ratios)}
    more["follower_cpu_percent_of_a_core"] = 100 * cpu_s / (args.blocks * BLOCK_S)
    what = f"a step, a journal line every 10, {os.cpu_count()} cores busy, follower beside it"
    return record.row(what, 1000 * on_s, "follower stopped", 1000 * off_s, "ms", **more)


def _calibrated() -> np.ndarray:
    """A matrix whose product takes about STEP_S."""
    for n in range(200, 4000, 100):
        matrix = np.ones((n, n))
        begin = time.perf_counter()
        matrix @ matrix
        if time.perf_counter() - begin > STEP_S:
            break
    return matrix


def _block(work: np.ndarray, journal: Journal, step: int, seconds: float) -> tuple[int, float]:
    """Steps for so long; returns the next step's number and the mean time of one."""
    begin, first = time.perf_counter(), step
    while time.perf_counter() - begin < seconds:
        work @ work
        if step % 10 == 0:
            log_steps(journal, range(step, step + 1))
        step += 1
    return step, (time.perf_counter() - begin) / (step - first)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("load", "delay", "write", "burn"))
    parser.add_argument("--backend", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--jobs", type=int, default=50)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rate", type=float, default=20.0, help="lines a second and job")
    parser.add_argument("--fault-s", type=float, default=0.0)
    parser.add_argument("--blocks", type=int, default=20, choices=sorted(n + 1 for n in T_975))
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    if args.part == "write":
        write(args.folder, args.steps, args.rate)
    elif args.part == "burn":
        work = _calibrated()
        while True:
            work @ work
    else:
        name = f"tracking_{args.part}"
        if args.part == "load":
            name += f"-{args.backend}" + ("-fault" if args.fault_s else "")
        rows = [load(args) if args.part == "load" else delay(args)]
        record.write(name, record.record(name, ("mlflow", "sqlalchemy"), rows))


if __name__ == "__main__":
    main()

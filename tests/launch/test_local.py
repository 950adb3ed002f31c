"""The local launcher on real processes: order, parallelism, failures, relaunching, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from adit_scale.jobs.node import ATTEMPT, failure_reason, read_done
from launchers.graph import Graph, states
from launchers.local import job_environment
from launchers.lock import StudyBusy, study_lock
from tests.launch.nodes import diamond, make_node, n_runs, run

REPO = Path(__file__).resolve().parents[2]


def test_every_node_runs_once_after_its_inputs(tmp_path):
    graph = diamond(tmp_path)
    assert set(run(graph).values()) == {"done"}
    assert set(n_runs(graph).values()) == {1}
    for node in graph.nodes:
        begin = float((node.folder / "runs.txt").read_text())
        for source in node.inputs.values():
            assert float((source.folder / "end.txt").read_text()) <= begin


def test_relaunch_runs_nothing_and_a_removed_result_alone(tmp_path):
    graph = diamond(tmp_path)
    run(graph)
    run(graph)
    assert set(n_runs(graph).values()) == {1}
    (graph.nodes[1].folder / "DONE.json").unlink()
    assert set(run(graph).values()) == {"done"}
    # The same result again: nothing that was made from it has to be made again.
    assert n_runs(graph) == {"top": 1, "left": 2, "right": 1, "after_left": 1, "report": 1}


def test_a_result_that_differs_makes_its_consumers_run_again(tmp_path):
    graph = diamond(tmp_path)
    run(graph)
    left = graph.nodes[1]
    (left.folder / "DONE.json").unlink()
    record = json.loads((left.folder / "node.json").read_text())
    (left.folder / "node.json").write_text(json.dumps({**record, "label": "other"}))
    run(graph)
    assert n_runs(graph) == {"top": 1, "left": 2, "right": 1, "after_left": 2, "report": 2}


def test_a_failed_node_blocks_only_its_dependants(tmp_path):
    graph = diamond(tmp_path, left="fail")
    found = run(graph)
    assert found == {
        "top": "done",
        "left": "failed",
        "right": "done",
        "after_left": "blocked by test left",
        "report": "done",
    }
    assert failure_reason(graph.nodes[1].folder) == "the disk of the moon is full"
    assert read_done(graph.nodes[4].folder)["seen"] == ["right"]
    assert list(states(graph).values()) == list(found.values())


def test_relaunch_retries_what_failed_and_reports_anew(tmp_path):
    graph = diamond(tmp_path, left="fail")
    run(graph)
    (graph.nodes[1].folder / "todo.txt").write_text("")
    assert set(run(graph).values()) == {"done"}
    assert n_runs(graph) == {"top": 1, "left": 2, "right": 1, "after_left": 1, "report": 2}
    assert not (graph.nodes[1].folder / "FAILED.json").exists()
    assert read_done(graph.nodes[4].folder)["seen"] == ["after_left", "left", "right"]


def test_report_is_blocked_when_nothing_can_come(tmp_path):
    graph = diamond(tmp_path, left="fail", right="fail")
    assert run(graph)["report"] == "blocked by test left"


def test_a_killed_job_says_so(tmp_path):
    graph = diamond(tmp_path, right="kill")
    assert run(graph)["right"] == "failed"
    reason = failure_reason(graph.nodes[2].folder)
    assert reason is not None
    assert reason.startswith("killed by SIGKILL (out of memory?")


def test_at_most_parallel_jobs_at_once_and_the_longest_first(tmp_path):
    nodes = tuple(make_node(tmp_path, f"n{i}", cost=float(i)) for i in range(3))
    run(Graph("study", tmp_path, nodes), parallel=1)
    spans = [
        (float((n.folder / "runs.txt").read_text()), float((n.folder / "end.txt").read_text())) for n in nodes
    ]
    assert spans == sorted(spans, reverse=True)
    ordered = sorted(spans)
    assert all(end <= begin for (_, end), (begin, _) in pairwise(ordered))


def test_a_changed_input_file_is_named(tmp_path):
    graph = diamond(tmp_path)
    run(graph)
    top, left = graph.nodes[:2]
    (left.folder / "DONE.json").unlink()
    (top.folder / "out.txt").write_text("tampered")
    assert run(graph)["left"] == "failed"
    reason = failure_reason(left.folder)
    assert reason is not None
    assert str(top.folder / "out.txt") in reason
    assert "has digest" in reason


def test_threads_share_the_cores(tmp_path):
    node = make_node(tmp_path, "one", processes=2)
    cores = len(os.sched_getaffinity(0))
    assert job_environment(node, 1)["OMP_NUM_THREADS"] == str(max(1, cores // 2))
    node.config.parallel.threads = 3
    assert job_environment(node, 1)["OMP_NUM_THREADS"] == "3"


def test_the_second_launcher_gets_one_line(tmp_path):
    expected = f"is being run by process {os.getpid()}"
    with study_lock(tmp_path), pytest.raises(StudyBusy, match=expected), study_lock(tmp_path):
        pass
    with study_lock(tmp_path):  # free again
        pass


LAUNCHER = """
import sys
from pathlib import Path
from launchers.lock import study_lock
from tests.launch.nodes import diamond, run
root = Path(sys.argv[1])
with study_lock(root) as lock:
    print(run(diamond(root, left="wait"), lock=lock))
"""


def start_launcher(root: Path) -> subprocess.Popen:
    """A launcher with a job that waits; returns once that job runs."""
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(root)], cwd=REPO, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 20
    while not (root / "test-left" / "pid.txt").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_jobs_cleanly_and_nothing_counts_as_failed(tmp_path, number):
    process = start_launcher(tmp_path)
    process.send_signal(number)
    output, _ = process.communicate(timeout=20)
    assert "'left': 'stopped'" in output
    started, last = (tmp_path / "test-left" / "log.txt").read_text().splitlines()
    assert started.startswith(ATTEMPT)
    assert last == "saved"
    assert not (tmp_path / "test-left" / "FAILED.json").exists()
    graph = diamond(tmp_path)
    assert set(run(graph).values()) == {"done"}
    assert n_runs(graph)["left"] == 2


def test_a_killed_launcher_leaves_the_lock_to_its_job(tmp_path):
    process = start_launcher(tmp_path)
    process.kill()
    process.communicate(timeout=20)
    with pytest.raises(StudyBusy, match="or by jobs it left"), study_lock(tmp_path):
        pass
    os.kill(int((tmp_path / "test-left" / "pid.txt").read_text()), signal.SIGTERM)
    deadline = time.monotonic() + 20
    while True:
        try:
            with study_lock(tmp_path):
                return
        except StudyBusy:
            assert time.monotonic() < deadline
            time.sleep(0.05)

"""Studies on a real SLURM that meet what studies meet: each ends as it would have without, bit for bit."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from adit_scale.jobs.node import failure_reason, read_done
from tests.slurm.cluster import REPO, Cluster, Study
from tests.slurm.studies import NAME, STEPS, beside, submit, words

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
POINT = "dit_32"
LIMIT_S = 300  # of anything waited for, on a machine that has more to do
SEEDS = "seed=0,1"
DIVERGES_AT_10 = (
    "+sweep.overrides_by_size={dit_64:['diffusion.optim.lr=1e30','diffusion.optim.gradient_clip=1e30',"
    "'diffusion.max_skipped_in_a_row=9']}"
)


@dataclass
class Submitted:
    """A study that two people submitted at the same moment, and what launch.py said to each."""

    study: Study
    codes: list[int]
    texts: list[str]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def submitted_twice(cluster: Cluster, runs: Path) -> Iterator[Submitted]:
    place = runs / "undisturbed"
    study = Study(place / NAME)
    both = [cluster.start_launch(words(place, SEEDS)) for _ in range(2)]
    texts = ["".join(process.communicate(timeout=120)) for process in both]
    yield Submitted(study, [process.returncode for process in both], texts)
    cluster.end_all(runs)


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, submitted_twice: Submitted) -> Study:
    """Two points, seeds 0 and 1, that nothing happened to."""
    study = submitted_twice.study
    assert 0 in submitted_twice.codes, submitted_twice.texts
    cluster.wait_for_end(study, LIMIT_S)
    assert study.outcomes(seed(0)) == study.outcomes(seed(1)) == ["done"], study.describe()
    return study


def seed(number: int) -> str:
    return f"{POINT}-seed{number}"


def assert_same(study: Study, label: str, undisturbed: Study, of: str) -> None:
    """The point ended as the undisturbed one: weights and every journaled loss, none missing, none twice."""
    assert study.weights(label) == undisturbed.weights(of)
    assert study.losses(label) == undisturbed.losses(of)
    assert [step for step, _ in study.losses(label)] == list(range(1, STEPS + 1))


def points_of_report(study: Study) -> tuple[float, float]:
    metrics = read_done(study.node("report"))["metrics"]
    return metrics["points_done"], metrics["points_total"]


def test_two_submits_at_once_queue_every_job_once(cluster, submitted_twice, undisturbed):
    assert sorted(submitted_twice.codes) in ([0, 2], [0, 0]), submitted_twice.texts
    for code, text in zip(submitted_twice.codes, submitted_twice.texts, strict=True):
        if code:
            assert "this study is being run by" in text
    names = [
        name
        for path in submitted_twice.study.folder.glob("slurm/*/nodes.json")
        for name in json.loads(path.read_text())["nodes"].values()
    ]
    assert len(names) == len(set(names)) == 8
    assert cluster.sacct(undisturbed.job("diffusion", seed(0))) == ["COMPLETED"]
    assert points_of_report(undisturbed) == (2, 2)


def test_submitting_again_submits_nothing(cluster, undisturbed):
    done = cluster.launch(words(undisturbed.folder.parent, SEEDS))
    assert done.returncode == 0, done.stderr
    assert "nothing to submit: 8 of 8 done" in done.stdout


def test_a_launch_killed_before_its_ledger_is_known_by_the_jobs_comment(cluster, undisturbed, runs):
    place = beside(undisturbed, runs / "unledgered")
    study = submit(cluster, place, SEEDS)
    for ledger in study.folder.glob("*/slurm_job.json"):
        ledger.unlink()
    again = cluster.launch(words(place, SEEDS))
    assert again.returncode == 0, again.stderr
    assert "nothing to submit: 3 of 8 done, 5 in the queue already" in again.stdout
    named = [f"sweep.name={NAME}", f"runs={place}"]
    stopped = cluster.launch(["cancel", "sweep=scaling_demo", *named])
    assert "5 jobs cancelled" in stopped.stdout, stopped.stderr
    cluster.wait_for_end(study, LIMIT_S)
    assert not study.is_done("report")


def test_a_preempted_run_on_two_nodes_goes_on(cluster, undisturbed, runs):
    study = submit(cluster, beside(undisturbed, runs / "preempted"))
    cluster.wait_for(lambda: study.checkpoints(POINT), LIMIT_S, "a checkpoint", study)
    cluster.preempt()
    cluster.wait_for(lambda: study.has_ended(POINT), LIMIT_S, "the point is done", study)
    assert study.outcomes(POINT) == ["requeued", "done"], study.describe()
    assert cluster.sacct(study.job("diffusion", POINT))[0] == "PREEMPTED"
    assert_same(study, POINT, undisturbed, seed(0))


def test_a_killed_rank_costs_one_try(cluster, undisturbed, runs):
    study = submit(cluster, beside(undisturbed, runs / "killed"))
    cluster.wait_for(lambda: study.checkpoints(POINT), LIMIT_S, "a checkpoint", study)
    os.kill(cluster.rank(study.node("diffusion", POINT), 1), signal.SIGKILL)
    cluster.wait_for(lambda: study.has_ended(POINT), LIMIT_S, "the point is done", study)
    assert study.outcomes(POINT) == ["retrying", "done"], study.describe()
    assert "Killed" in study.attempts(POINT)[0].reason
    assert_same(study, POINT, undisturbed, seed(0))


@pytest.mark.parametrize("node", ["dev1", "dev2"])
def test_a_node_that_dies_and_comes_back(dev_cluster, undisturbed, runs, node):
    """dev1 takes the supervisor with it, dev2 a rank alone."""
    cluster = dev_cluster
    study = submit(cluster, beside(undisturbed, runs / node))
    cluster.wait_for(lambda: study.checkpoints(POINT), LIMIT_S, "a checkpoint", study)
    cluster.take_node(node)
    job = study.job("diffusion", POINT)
    cluster.wait_for(lambda: len(cluster.sacct(job)) > 1, LIMIT_S, "the job is queued again", study)
    cluster.up()
    cluster.wait_for(lambda: study.has_ended(POINT), LIMIT_S, "the point is done", study)
    assert study.outcomes(POINT)[-1] == "done"
    assert_same(study, POINT, undisturbed, seed(0))
    cluster.wait_for_end(study, LIMIT_S)
    assert points_of_report(study) == (1, 1)


def test_a_cancelled_point_is_missing_until_it_is_submitted_again(cluster, undisturbed, runs):
    place = beside(undisturbed, runs / "cancelled")
    study = submit(cluster, place, SEEDS)
    cluster.wait_for(lambda: study.checkpoints(seed(1)), LIMIT_S, "a checkpoint", study)
    cluster.call("scancel", study.job("diffusion", seed(1)))
    cluster.wait_for_end(study, LIMIT_S)
    assert study.is_done("evaluation", seed(0))
    assert study.outcomes(seed(1)) == ["stopped"], study.describe()
    assert points_of_report(study) == (1, 2)
    # A job that never began may reach the accounting after it has left the queue.
    behind = study.job("evaluation", seed(1))
    cluster.wait_for(lambda: cluster.sacct(behind), LIMIT_S, "its evaluation in the accounting", study)
    assert cluster.sacct(behind) == ["CANCELLED"]

    again = submit(cluster, place, SEEDS)
    cluster.wait_for_end(again, LIMIT_S)
    assert points_of_report(again) == (2, 2)
    assert again.outcomes(seed(0)) == ["done"]
    assert_same(again, seed(1), undisturbed, seed(1))


def test_a_point_that_fails_at_step_10_leaves_a_report_of_the_others(cluster, undisturbed, runs):
    place = beside(undisturbed, runs / "failing")
    study = submit(cluster, place, "model/denoiser=dit_32,dit_64", DIVERGES_AT_10)
    cluster.wait_for_end(study, LIMIT_S)
    reason = failure_reason(study.node("diffusion", "dit_64"))
    assert reason is not None
    assert re.search(r"10 steps in a row up to step 1\d had a non-finite loss", reason)
    assert study.outcomes("dit_64") == ["failed"]  # no try would end otherwise
    assert points_of_report(study) == (1, 2)
    assert_same(study, "dit_32", undisturbed, seed(0))


def test_what_is_edited_after_submitting_changes_nothing(cluster, undisturbed, runs, tmp_path):
    checkout = tmp_path / "checkout"
    for name in ("adit_scale", "launchers", "configs", "shards/demo"):
        shutil.copytree(REPO / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("launch.py", "pyproject.toml"):
        shutil.copy(REPO / name, checkout)
    study = submit(cluster, beside(undisturbed, runs / "edited"), cwd=checkout)
    (checkout / "configs/diffusion/demo.yaml").write_text("steps: 7\n")
    (checkout / "adit_scale/jobs/worker.py").write_text("raise SystemExit('edited')\n")
    cluster.wait_for_end(study, LIMIT_S)
    assert points_of_report(study) == (1, 1)
    assert_same(study, POINT, undisturbed, seed(0))


def test_a_run_longer_than_the_time_limit_is_a_chain_of_jobs(cluster, undisturbed, runs):
    longer = [f"diffusion.steps={5 * STEPS // 2}", "seed=1"]
    whole = submit(cluster, beside(undisturbed, runs / "whole"), *longer)
    limits = ["launcher.partition=short", "launcher.time_min=1", "launcher.signal_before_s=30"]
    study = submit(cluster, beside(undisturbed, runs / "limited"), *longer, *limits)
    for each in (whole, study):
        cluster.wait_for(lambda each=each: each.has_ended(POINT), LIMIT_S, "the point is done", each)
    assert whole.outcomes(POINT) == ["done"]
    *before, last = study.attempts(POINT)
    assert last.outcome == "done"
    assert before
    assert {(attempt.outcome, attempt.reason) for attempt in before} == {("requeued", "time limit")}
    assert "TIMEOUT" not in cluster.sacct(study.job("diffusion", POINT))
    assert study.weights(POINT) == whole.weights(POINT)
    assert study.losses(POINT) == whole.losses(POINT)

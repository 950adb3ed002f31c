"""Requests to stop, a wall-time budget, a second signal, a rank that hangs: exit codes and what is left."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from adit_scale.config import StudyConfig
from adit_scale.jobs import training
from adit_scale.jobs.node import NodeFolder
from adit_scale.tracking.journal import read_journal, series
from adit_scale.training import checkpoint
from adit_scale.training.exit_codes import EXIT_FORCED, EXIT_REQUEUE
from tests.faults.zygote import Ranks, Zygote
from tests.training import runs

TRAIN = "tests.faults.injected:train"
ENDLESS = 10**6


def start(zygote: Zygote, folder: Path, shards: Path, faults: dict | None = None, **parallel) -> Ranks:
    config = runs.small_study(shards, ENDLESS, **{"world_size": 2, **parallel})
    config.autoencoder.validate_every_steps = config.autoencoder.checkpoint_every_steps = ENDLESS
    runs.prepare(folder, config, "autoencoder")
    (folder / "faults.json").write_text(json.dumps(faults or {}))
    return zygote.start(TRAIN, str(folder), world_size=config.parallel.world_size, log=folder / "log.txt")


def wait_for_step(folder: Path, step: int, ranks: Ranks, timeout_s: float = 120) -> None:
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        assert not ranks.poll(), (folder / "log.txt").read_text()[-3000:]
        if (folder / "journal.jsonl").is_file() and any(r["step"] >= step for r in read_journal(folder)):
            return
        time.sleep(0.02)
    raise AssertionError(f"no step {step} after {timeout_s} s: {(folder / 'log.txt').read_text()[-3000:]}")


def saved_step(folder: Path) -> int:
    return checkpoint.Checkpoint(checkpoint.committed(folder / "checkpoints")[0]).state.step


def test_a_signal_to_one_rank_stops_all_and_says_requeue(tmp_path, shards, zygote):
    ranks = start(zygote, tmp_path, shards)
    wait_for_step(tmp_path, 2, ranks)
    ranks.kill(1, signal.SIGUSR2)
    assert ranks.wait() == [EXIT_REQUEUE, EXIT_REQUEUE]
    steps, _ = series(read_journal(tmp_path), "train/loss")
    assert saved_step(tmp_path) == steps[-1]
    assert f"SIGUSR2: saved step {steps[-1]}" in (tmp_path / "log.txt").read_text()


def test_the_wall_time_budget_saves_and_says_requeue(tmp_path, shards, zygote):
    begin = time.monotonic()
    ranks = start(zygote, tmp_path, shards, world_size=1, wall_time_s=4.0)
    assert ranks.wait() == [EXIT_REQUEUE]
    assert time.monotonic() - begin >= 4.0
    assert (
        f"parallel.wall_time_s=4 is used up: saved step {saved_step(tmp_path)}"
        in (tmp_path / "log.txt").read_text()
    )


def test_a_second_signal_ends_a_stuck_process_at_once(tmp_path, shards, zygote):
    ranks = start(zygote, tmp_path, shards, {"stall_step": 4}, world_size=1)
    wait_for_step(tmp_path, 3, ranks)
    for number in (signal.SIGUSR2, signal.SIGUSR2, signal.SIGTERM, signal.SIGTERM):
        ranks.kill(0, number)
        time.sleep(0.1)
    time.sleep(1.0)  # a warning and two copies of one request have not ended it
    assert not ranks.poll()
    ranks.kill(0, signal.SIGINT)
    assert ranks.wait(timeout_s=10) == [EXIT_FORCED + signal.SIGINT]
    assert "second SIGINT: left at once" in (tmp_path / "log.txt").read_text()


def test_a_stopped_rank_is_found_and_every_stack_that_can_be_had_is_written(tmp_path, shards, zygote):
    ranks = start(zygote, tmp_path, shards, hang_timeout_s=4.0)
    wait_for_step(tmp_path, 3, ranks)
    ranks.kill(1, signal.SIGSTOP)
    try:
        deadline_s = time.monotonic() + 60
        while 0 not in ranks.poll() and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert ranks.poll() == {0: EXIT_REQUEUE}
    finally:
        ranks.kill(1, signal.SIGKILL)
    log = (tmp_path / "log.txt").read_text()
    (line,) = [text for text in log.splitlines() if text.startswith("hang: ")]
    assert line.startswith("hang: rank 0 has been in ")
    assert "the slowest is rank 1 (" in line
    assert "it no longer answers, so it left no stack" in line
    (folder,) = (tmp_path / "stacks").iterdir()
    assert str(folder) in line
    assert [path.name for path in folder.iterdir()] == ["rank-00000.txt"]
    stack = (folder / "rank-00000.txt").read_text()
    assert "trainer.py" in stack
    beat = json.loads((tmp_path / "heartbeat" / "rank-00001.json").read_text())
    assert beat["rank"] == 1
    assert f"last seen in {beat['phase']} of step {beat['step']}" in line


def test_a_rank_stuck_in_its_data_is_named_with_both_stacks(tmp_path, shards, zygote):
    """Both ranks live: the one that waits for data holds the other up in the exchange of gradients."""
    ranks = start(zygote, tmp_path, shards, {"stall_step": 4, "stall_rank": 1}, hang_timeout_s=4.0)
    assert ranks.wait() == [EXIT_REQUEUE, EXIT_REQUEUE]
    (line,) = [text for text in (tmp_path / "log.txt").read_text().splitlines() if text.startswith("hang: ")]
    assert "the slowest is rank 1 (" in line
    assert "last seen in data of step 4" in line
    (folder,) = (tmp_path / "stacks").iterdir()
    stacks = {path.name: path.read_text() for path in folder.iterdir()}
    assert sorted(stacks) == ["rank-00000.txt", "rank-00001.txt"]
    assert "injected.py" in stacks["rank-00001.txt"]

    assert (tmp_path / "heartbeat" / "ABORT").is_file()
    ranks = start(zygote, tmp_path, shards, hang_timeout_s=60.0)  # the old flag stops no new attempt
    wait_for_step(tmp_path, 6, ranks)
    ranks.kill_all()


def test_a_call_that_keeps_the_interpreter_to_itself_leaves_a_stack(tmp_path, shards, zygote):
    """No Python thread can look then; the run goes on once the call returns."""
    ranks = start(zygote, tmp_path, shards, {"seize_step": 3}, world_size=1, hang_timeout_s=1.5)
    wait_for_step(tmp_path, 2, ranks)
    deadline_s = time.monotonic() + 60
    stack = tmp_path / "heartbeat" / "rank-00000.stack.txt"
    while not stack.read_text() and time.monotonic() < deadline_s:
        time.sleep(0.1)
    ranks.kill_all()
    assert "injected.py" in stack.read_text()


@pytest.mark.parametrize("codes", [[EXIT_REQUEUE, EXIT_REQUEUE], [EXIT_REQUEUE, 1]])
def test_a_job_says_requeue_when_a_rank_does(tmp_path, monkeypatch, codes):
    """A rank that loses the peer that left may fail on its own in the same moment."""
    failures = {
        rank: ProcessFailure(local_rank=rank, pid=1, exitcode=code, error_file="none")
        for rank, code in enumerate(codes)
    }

    def torchrun(_arguments):
        raise ChildFailedError("worker", failures)

    monkeypatch.setattr("torch.distributed.run.main", torchrun)
    node = NodeFolder(tmp_path, "autoencoder", "id", "", "study", {})
    with pytest.raises(SystemExit) as ended:
        training.run(node, StudyConfig())
    assert ended.value.code == EXIT_REQUEUE

"""What follows from the end of an attempt."""

from __future__ import annotations

from pathlib import Path

import pytest

from adit_scale.jobs.attempts import (
    TIME_LIMIT,
    Verdict,
    append_end,
    append_start,
    attempts,
    forget_crashes,
    progress,
    verdict,
)

REQUEUE = 75


def save(folder: Path, step: int) -> None:
    checkpoint = folder / "checkpoints" / f"step-{step:08d}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "COMMITTED").touch()


def end(folder: Path, code: int, asked: str = "", final: bool = False) -> Verdict:
    """An attempt that ended so, judged and noted."""
    append_start(folder)
    found = verdict(folder, code, asked, "boom", final=final, retries=2, backoff_s=10)
    append_end(folder, code, found.outcome, found.reason)
    return found


def test_crashes_are_tried_again_ever_later_and_then_given_up(tmp_path):
    waits = []
    for _ in range(2):
        found = end(tmp_path, -9)
        assert found.again
        waits.append(found.wait_s)
    assert waits == [10, 20]
    last = end(tmp_path, -9)
    assert (last.outcome, last.again) == ("failed", False)
    assert last.reason == "boom (tried 3 times; launcher.retries=2)"
    assert [a.outcome for a in attempts(tmp_path)] == ["retrying", "retrying", "failed"]


def test_a_person_who_asks_again_gets_all_tries(tmp_path):
    for _ in range(3):
        end(tmp_path, 1)
    forget_crashes(tmp_path)
    assert end(tmp_path, 1).wait_s == 10


def test_progress_between_crashes_gives_all_tries_again(tmp_path):
    end(tmp_path, 1)
    end(tmp_path, 1)
    save(tmp_path, 20)
    found = end(tmp_path, 1)
    assert found.again
    assert found.wait_s == 10
    assert end(tmp_path, 1).wait_s == 20


def test_what_meets_itself_again_is_not_tried_again(tmp_path):
    found = end(tmp_path, 1, final=True)
    assert (found.outcome, found.reason) == ("failed", "boom")


@pytest.mark.parametrize("asked", ["SIGTERM", TIME_LIMIT])
def test_what_was_asked_to_leave_goes_on_and_no_crash_is_counted(tmp_path, asked):
    for step in range(10):
        save(tmp_path, step + 1)
        found = end(tmp_path, REQUEUE, asked)
        assert (found.outcome, found.again, found.wait_s) == ("requeued", True, 0)
    assert end(tmp_path, 1).wait_s == 10


def test_a_time_limit_too_short_for_a_step_is_said(tmp_path):
    save(tmp_path, 7)
    assert end(tmp_path, REQUEUE, TIME_LIMIT).again
    assert end(tmp_path, REQUEUE, TIME_LIMIT).again
    found = end(tmp_path, REQUEUE, TIME_LIMIT)
    assert found.outcome == "failed"
    assert "3 attempts in a row met the time limit" in found.reason
    assert "launcher.time_min" in found.reason


def test_preemptions_without_progress_are_no_fault_of_the_settings(tmp_path):
    for _ in range(6):
        assert end(tmp_path, REQUEUE, "SIGTERM").again


def test_a_hang_counts_as_a_crash_and_a_saved_stop_does_not(tmp_path):
    assert end(tmp_path, REQUEUE).outcome == "retrying"
    save(tmp_path, 3)
    assert end(tmp_path, REQUEUE).outcome == "requeued"


def test_a_torn_line_and_an_attempt_that_was_killed(tmp_path):
    append_start(tmp_path, "12_3", "n[1-2]", 16)
    with (tmp_path / "attempts.jsonl").open("a") as stream:
        stream.write('{"event": "sta\n')
    append_start(tmp_path, "12_3", "n[3-4]", 16)
    save(tmp_path, 5)
    append_end(tmp_path, 75, "requeued", "SIGTERM")
    killed, last = attempts(tmp_path)
    assert (killed.outcome, killed.end_s, killed.nodes) == ("", None, "n[1-2]")
    assert (last.job, last.tasks, last.outcome, last.saved) == ("12_3", 16, "requeued", 5)


def test_a_checkpoint_without_its_marker_is_no_progress(tmp_path):
    save(tmp_path, 5)
    (tmp_path / "checkpoints" / "step-00000009").mkdir()
    assert progress(tmp_path) == 5

"""What is new in a journal, without a store."""

from __future__ import annotations

import json

import pytest

from adit_scale.errors import DataError
from adit_scale.tracking.increments import Mark, Point, clean_key, first_time_ms, read_increment
from adit_scale.tracking.journal import Journal


def log(journal: Journal, steps: range, time_s: float) -> None:
    for step in steps:
        journal.log_metrics(step, {"loss": step / 8}, {"time_s": time_s + step, "atoms_per_s": 5.0})
    journal.flush()


def latest(points: list[Point]) -> dict[str, int]:
    return {point.key: point.step for point in points}


def test_only_what_is_new_is_read(tmp_path):
    with Journal(tmp_path) as journal:
        assert read_increment(journal.path, Mark(), {}).end_ms is None
        assert first_time_ms(journal.path) is None
        log(journal, range(2), 100.0)
        first = read_increment(journal.path, Mark(), {})
        assert first.points == [
            Point("loss", 0.0, 100_000, 0),
            Point("clock/atoms_per_s", 5.0, 100_000, 0),
            Point("loss", 0.125, 101_000, 1),
            Point("clock/atoms_per_s", 5.0, 101_000, 1),
        ]
        assert (first.mark.offset, first.mark.step, first.end_ms) == (journal.offset, 1, 101_000)
        assert Mark.from_json(first.mark.to_json()) == first.mark
        assert first_time_ms(journal.path) == 100_000
        again = read_increment(journal.path, first.mark, latest(first.points))
        assert (again.points, again.mark, again.end_ms) == ([], first.mark, 101_000)
        log(journal, range(2, 3), 100.0)
        more = read_increment(journal.path, first.mark, latest(first.points))
        assert [p.step for p in more.points] == [2, 2]


@pytest.mark.parametrize("rewritten", [3, 5, 9])
def test_a_rewritten_journal_is_read_again_above_the_latest_steps_only(tmp_path, rewritten):
    with Journal(tmp_path) as journal:
        log(journal, range(2), 100.0)
        offset = journal.offset
        log(journal, range(2, 5), 100.0)
        before = read_increment(journal.path, Mark(), {})
        journal.truncate(offset)
        log(journal, range(2, rewritten), 200.0)  # equal values and line lengths, other times
        after = read_increment(journal.path, before.mark, latest(before.points))
    assert [p.step for p in after.points if p.key == "loss"] == list(range(5, rewritten))
    assert after.mark.offset == journal.offset


def test_without_its_mark_nothing_is_written_twice(tmp_path):
    """The mirror died behind its values; meanwhile the run was resumed from an older checkpoint."""
    with Journal(tmp_path) as journal:
        offset = journal.offset
        log(journal, range(4), 100.0)
        before = read_increment(journal.path, Mark(), {})
        journal.truncate(offset)
        log(journal, range(5), 200.0)
        after = read_increment(journal.path, Mark(), latest(before.points))
    assert [(p.key, p.step) for p in after.points] == [("loss", 4), ("clock/atoms_per_s", 4)]


def test_a_metric_that_starts_late_is_not_held_back_by_others(tmp_path):
    with Journal(tmp_path) as journal:
        log(journal, range(2), 100.0)
        before = read_increment(journal.path, Mark(), {})
        journal.log_metrics(1, {"validation/loss": 3.0, "loss": 99.0}, {"time_s": 110.0})
        journal.flush()
        after = read_increment(journal.path, before.mark, latest(before.points))
    assert after.points == [Point("validation/loss", 3.0, 110_000, 1)]


def test_settings_labels_and_events(tmp_path):
    with Journal(tmp_path) as journal:
        journal.log_params({"model": {"width": 64, "layers": [1, 2]}, "lr": 1e-4, "text": "x" * 7000})
        journal.log_params({"lr": 5.0})
        journal.log_tags({"stage": "autoencoder"})
        journal.log_tags({"stage": "diffusion"})
        journal.log_event("skipped_step", 3, {"gradient_norm": 1.5})
    increment = read_increment(journal.path, Mark(), {})
    assert increment.params.pop("text") == "x" * 6000
    assert increment.params == {"model.width": "64", "model.layers": "[1, 2]", "lr": "0.0001"}
    assert increment.tags["stage"] == "diffusion"
    step, _, details = increment.tags["event/skipped_step"].removeprefix("step ").partition(" ")
    assert (step, json.loads(details)) == ("3", {"gradient_norm": 1.5})


def test_keys_and_marks_that_cannot_be_used():
    assert clean_key("loss/t=0.5 [qm9]@é") == "loss/t_0.5 _qm9___"
    assert Mark.from_json(None) == Mark.from_json("{bad") == Mark.from_json('{"a": 1}') == Mark()


def test_damage_is_named(tmp_path):
    with Journal(tmp_path) as journal:
        log(journal, range(3), 100.0)
    content = journal.path.read_bytes()
    journal.path.write_bytes(content.replace(b'"step":1', b'"step":x'))
    with pytest.raises(DataError, match="line 3: damaged"):
        read_increment(journal.path, Mark(), {})


def test_cumulative_flops_come_with_their_logarithm(tmp_path):
    """MLflow draws no logarithmic axis over a metric."""
    with Journal(tmp_path) as journal:
        journal.log_metrics(0, {"train/flops_cum": 0.0})
        journal.log_metrics(1, {"train/flops_cum": 1000.0, "train/flops_total_cum": 1e4, "train/loss": 2.0})
    increment = read_increment(journal.path, Mark(), {})
    found = {(point.key, point.step): point.value for point in increment.points}
    assert found == {
        ("train/flops_cum", 0): 0.0,
        ("train/flops_cum", 1): 1000.0,
        ("train/flops_total_cum", 1): 1e4,
        ("train/loss", 1): 2.0,
        ("train/log10_flops_cum", 1): pytest.approx(3.0),
        ("train/log10_flops_total_cum", 1): pytest.approx(4.0),
    }

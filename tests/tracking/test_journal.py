"""The journal: exact round trips, cuts, torn and damaged lines."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adit_scale.errors import DataError
from adit_scale.tracking.journal import Journal, events, journal_id, read_journal, scan, series


def log_steps(journal: Journal, steps: range) -> None:
    for step in steps:
        journal.log_metrics(step, {"train/loss": 1 / (step + 3), "flops_cum": 10 * step})


def deterministic(path: Path) -> list[tuple]:
    return [(r["kind"], r["step"], json.dumps(r["values"])) for r in read_journal(path)]


def test_records_round_trip(tmp_path):
    with Journal(tmp_path / "new" / "run") as journal:
        journal.log_params({"model": {"width": 64, "name": "nan"}, "lr": np.float32(0.5), "path": tmp_path})
        journal.log_metrics(
            7,
            {"loss": 0.1 + 0.2, "n": np.int64(5), "bad": math.inf},
            {"atoms_per_s": math.nan, "time_s": 12.5},
        )
        journal.log_tags({"stage": "diffusion"})
        journal.log_event("finished", 8, {"loss": -math.inf})
    params, metrics, tags, event = read_journal(tmp_path / "new" / "run")
    assert params["values"] == {"model": {"width": 64, "name": "nan"}, "lr": 0.5, "path": str(tmp_path)}
    assert metrics["values"] == {"loss": 0.30000000000000004, "n": 5, "bad": math.inf}
    assert isinstance(metrics["values"]["n"], int)
    assert metrics["step"] == 7
    assert metrics["clock"]["time_s"] == 12.5
    assert math.isnan(metrics["clock"]["atoms_per_s"])
    assert tags["values"] == {"stage": "diffusion"}
    assert event["values"] == {"event": "finished", "loss": -math.inf}
    assert events([params, event], "finished") == [event]
    assert series([metrics], "loss") == ([7], [0.30000000000000004])
    assert series([metrics], "time_s") == ([7], [12.5])


@given(st.floats())
def test_every_float_survives(tmp_path_factory, value):
    folder = tmp_path_factory.mktemp("j")
    with Journal(folder) as journal:
        journal.log_metrics(0, {"x": value})
    (read,) = series(read_journal(folder), "x")[1]
    assert np.float64(read).tobytes() == np.float64(value).tobytes() or (
        math.isnan(read) and math.isnan(value)
    )


def test_a_resumed_journal_equals_an_uninterrupted_one(tmp_path):
    with Journal(tmp_path / "whole") as journal:
        log_steps(journal, range(20))

    with Journal(tmp_path / "cut") as journal:
        log_steps(journal, range(8))
        journal.sync()
        offset = journal.offset
        assert offset == journal.path.stat().st_size
        log_steps(journal, range(8, 13))  # written behind the checkpoint, then the run died
    identity = journal_id(journal.path)
    with Journal(tmp_path / "cut") as journal:
        journal.truncate(offset)
        assert journal.offset == offset
        log_steps(journal, range(8, 20))
        assert journal.offset > offset
    assert deterministic(tmp_path / "cut") == deterministic(tmp_path / "whole")
    assert journal_id(journal.path) == identity


def test_truncate_to_zero_keeps_the_identity(tmp_path):
    with Journal(tmp_path) as journal:
        identity = journal_id(journal.path)
        log_steps(journal, range(3))
        journal.truncate(0)
        log_steps(journal, range(1))
    assert [r["step"] for r in read_journal(tmp_path)] == [0]
    assert journal_id(journal.path) == identity


def test_truncate_refuses_another_journals_offset(tmp_path):
    with Journal(tmp_path) as journal:
        log_steps(journal, range(3))
        with pytest.raises(DataError, match=r"bytes, but the checkpoint was written at byte 100000"):
            journal.truncate(100_000)
        with pytest.raises(DataError, match="not the end of a line"):
            journal.truncate(journal.offset - 1)
        log_steps(journal, range(3, 4))
    assert [r["step"] for r in read_journal(tmp_path)] == [0, 1, 2, 3]


def test_torn_last_line_is_left_out_and_cut_on_opening(tmp_path):
    with Journal(tmp_path) as journal:
        log_steps(journal, range(3))
    whole = journal.path.read_bytes()
    for torn in range(1, len(whole.splitlines(keepends=True)[-1])):
        journal.path.write_bytes(whole[:-torn])
        assert [r["step"] for r in read_journal(tmp_path)] == [0, 1]
    with Journal(tmp_path) as journal:
        log_steps(journal, range(2, 4))
    assert [r["step"] for r in read_journal(tmp_path)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "damage",
    [b"\x00" * 9 + b"\n", b'{"kind":"metrics"}\n', b'{"kind":"metrics","step":1,"val\n', b"[1]\n", b"\n"],
)
def test_damaged_middle_line_is_named_and_can_be_cut_away(tmp_path, damage):
    with Journal(tmp_path) as journal:
        log_steps(journal, range(2))
        offset = journal.offset
        log_steps(journal, range(2, 4))
    lines = journal.path.read_bytes().splitlines(keepends=True)
    lines[3] = damage
    journal.path.write_bytes(b"".join(lines))
    with pytest.raises(DataError, match=r"journal\.jsonl, line 4: damaged"):
        read_journal(tmp_path)
    with pytest.raises(DataError, match="line 4"):
        list(scan(journal.path, start=offset))
    with Journal(tmp_path) as journal:
        journal.truncate(offset)
    assert [r["step"] for r in read_journal(tmp_path)] == [0, 1]


def test_what_is_no_journal_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such journal"):
        read_journal(tmp_path)
    path = tmp_path / "journal.jsonl"
    for content, message in [
        (b"hello\n", "line 1: not a journal"),
        (b'{"kind":"metrics"}\n', "line 1: not a journal"),
        (b'{"kind":"journal","version":9,"id":"x"}\n', "journal version 9, expected 1"),
    ]:
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_journal(tmp_path)
        with pytest.raises(DataError, match=message):
            Journal(tmp_path)
        assert path.read_bytes() == content


def test_a_torn_first_line_is_an_empty_journal(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"kind":"jou')
    assert journal_id(path) == ""
    assert read_journal(path) == []
    with Journal(tmp_path) as journal:
        log_steps(journal, range(1))
    assert len(read_journal(path)) == 1


def test_scan_goes_on_where_it_stopped(tmp_path):
    with Journal(tmp_path) as journal:
        log_steps(journal, range(2))
        journal.flush()
        lines = list(scan(journal.path))
        log_steps(journal, range(2, 5))
        journal.flush()
        more = list(scan(journal.path, lines[-1].end))
    assert [line.record["step"] for line in more] == [2, 3, 4]
    assert more[-1].end == journal.offset
    assert lines[1].start == lines[0].end


def test_a_killed_writer_loses_nothing_flushed(tmp_path):
    script = f"""
        import os, signal
        from adit_scale.tracking.journal import Journal
        journal = Journal({str(tmp_path)!r})
        for step in range(5):
            journal.log_metrics(step, {{"loss": step / 7}})
        journal.flush()
        journal.log_metrics(5, {{"loss": 1.0}})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert series(read_journal(tmp_path), "loss") == ([0, 1, 2, 3, 4], [s / 7 for s in range(5)])


def test_importing_the_journal_stays_light():
    check = "import sys, adit_scale.tracking.journal; print({'torch', 'mlflow', 'rich'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", check], text=True).strip() == "set()"

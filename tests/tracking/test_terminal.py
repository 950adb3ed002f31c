"""Progress: plain lines in a log, a bar on a terminal, silence on other ranks."""

from __future__ import annotations

import io
import os
import pty
import re

import pytest

from adit_scale.tracking import terminal
from adit_scale.tracking.terminal import Progress, format_line, format_summary, format_value


class Clock:
    now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(terminal, "time", clock)
    return clock


def test_line_shows_losses_rate_speed_and_leaves_the_rest_out():
    values = {
        "gradient_norm": 0.51234,
        "loss": 1.25,
        "loss/qm9": 1.5,
        "loss/t_0.00_0.25": 9.0,
        "flops_cum": 10**15,
        "lr": 1e-4,
        "skipped_steps": 0,
        "atoms_per_s": 21300.0,
    }
    line = format_line("diffusion", 40, 2000, values)
    assert line == "diffusion    40/2000  loss 1.25  qm9 1.5  lr 1.0e-04  grad 0.5123  atoms/s 21.3k"
    assert "skipped 2" in format_line("diffusion", 40, 2000, {**values, "skipped_steps": 2})
    speed = {
        "atoms_per_s": 9e5,
        "mfu": "41.2% of H200 bf16 989T",
        "memory_gib": 61.25,
        "data_wait_percent": 0.3,
    }
    assert format_line("diffusion", 1, 9, speed) == (
        "diffusion  1/9  atoms/s 900k  mfu 41.2% of H200 bf16 989T  mem 61.25 GiB  data wait 0.3%"
    )


def test_the_summary_says_what_there_is_to_say():
    values = {"skipped_steps": 0, "atoms_seen": 1387, "wall_s": 61.0, "mfu": "unknown device", "other": 3.0}
    assert format_summary("diffusion", 12, values) == (
        "diffusion finished  steps 12  skipped 0  atoms 1.39k  took 1m01s  mfu unknown device"
    )


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("x_s", 41.6, "42s"),
        ("x_s", 59.7, "1m00s"),
        ("x_s", 3725, "1h02m"),
        ("x_s", 273600, "3d04h"),
        ("x_per_s", 999.0, "999"),
        ("x_per_s", 2.5e6, "2.5M"),
        ("lr", 3e-5, "3.0e-05"),
        ("loss", float("nan"), "nan"),
        ("time_left_s", float("inf"), "inf"),
        ("n", 123456, "123456"),
    ],
)
def test_values_are_short(key, value, text):
    assert format_value(key, value) == text


def test_log_lines_carry_the_time_left_of_a_resumed_run(clock):
    stream = io.StringIO()
    with Progress(200, "diffusion", stream=stream) as progress:
        progress.advance(101)  # resumed behind step 100
        clock.now_s = 10.0
        progress.line(111, {"loss": 2.0})
        progress.note("saved")
    assert stream.getvalue() == "diffusion  111/200  loss 2  left 1m29s\nsaved\n"


def test_a_silent_job_prints_at_intervals(clock):
    stream = io.StringIO()
    with Progress(100, "shards", stream=stream, interval_s=30.0) as progress:
        for step in range(1, 101):
            clock.now_s += 1.0
            progress.advance(step)
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["30/100", "60/100", "90/100"]
    assert lines[0].endswith("left 1m10s")


def test_other_ranks_print_nothing():
    stream = io.StringIO()
    with Progress(10, "diffusion", enabled=False, stream=stream) as progress:
        progress.line(1, {"loss": 1.0})
        progress.advance(2)
        progress.note("x")
    assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar_and_lines_above_it(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as stream, Progress(20, "diffusion", stream=stream) as progress:
        progress.line(10, {"loss": 2.0})
        progress.advance(20)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", _read_all(master).decode())
    os.close(master)
    assert "diffusion  10/20  loss 2" in shown
    assert "20/20" in shown


def _read_all(master: int) -> bytes:
    """Everything written to a pseudo-terminal whose other end is closed (which Linux reports as EIO)."""
    content = b""
    while True:
        try:
            content += os.read(master, 4096)
        except OSError:
            return content

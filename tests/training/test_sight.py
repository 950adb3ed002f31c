"""Spikes, slow ranks, phases, MFU, hangs in words, profiled steps, and what a log line and a summary say."""

from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adit_scale.errors import ConfigError
from adit_scale.training import guards, meters, mfu, watchdog
from adit_scale.training.config import AutoencoderStageConfig, profiled_steps
from adit_scale.training.interrupts import process_age_s
from adit_scale.training.meters import GIB, Phases, Speed
from adit_scale.training.watchdog import Heartbeat

CPU = torch.device("cpu")


# -- guards ------------------------------------------------------------------------------------------------


def test_a_spike_is_measured_in_robust_sigmas():
    recent = [1.0, 1.1, 0.9, 1.0, 1.2, 0.8, 1.0, 1.1, 0.9, 1.0]
    found = guards.spike(recent, 3.0, factor=10)
    assert found == {"loss": 3.0, "median": 1.0, "sigma": pytest.approx(1.4826 * 0.1)}
    assert guards.spike(recent, 2.4, factor=10) is None
    assert guards.spike(recent, 3.0, factor=0) is None
    assert guards.spike(recent[:9], 3.0, factor=10) is None  # too few to say


def test_one_spike_does_not_hide_the_next():
    recent = [1.0, 1.1, 0.9, 1.0, 1.2, 0.8, 1.0, 1.1, 0.9, 1e6]
    assert guards.spike(recent, 3.0, factor=10) is not None


@given(st.floats(1e-3, 1e3), st.integers(10, 50))
def test_a_flat_curve_raises_no_alarm_for_its_last_digits(loss, n):
    assert guards.spike([loss] * n, loss * 1.05, factor=10) is None
    assert guards.spike([loss] * n, loss * 1.2, factor=10) is not None


def test_a_slow_rank_is_named_once_after_three_lines():
    slow = {"slowest_rank": 3, "step_s_max": 0.5, "step_s_median": 0.2}
    fine = {"slowest_rank": 3, "step_s_max": 0.3, "step_s_median": 0.2}
    guard = guards.SlowRank()
    assert [guard.check(c) is not None for c in (slow, slow, fine, slow, slow, slow, slow)] == [
        False, False, False, False, False, True, False,
    ]  # fmt: skip
    other = {**slow, "slowest_rank": 1}
    assert [guard.check(c) is not None for c in (other, slow, other)] == [False] * 3
    guard = guards.SlowRank()
    line = [guard.check(slow) for _ in range(3)][-1]
    assert line is not None
    assert line.startswith("rank 3 is slow: 0.5 s a step of its own work, the median rank 0.2 s")


def test_a_dump_that_cannot_be_written_is_said_not_raised(single_process, tmp_path):
    (tmp_path / "file").write_text("")
    bad, problem = guards.write_dump(tmp_path / "file" / "dump", [], [], {}, {})
    assert bad == []
    assert problem is not None
    assert problem.startswith("rank 0: [Errno 20]")


# -- where the time goes -----------------------------------------------------------------------------------


class Clock:
    now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s

    def time(self) -> float:
        raise AssertionError("durations must not come from the wall clock")


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(meters, "time", clock)
    return clock


def spend(phases: Phases, clock: Clock, **seconds: float) -> None:
    for name, duration in seconds.items():
        phases.enter(name, 1)
        clock.now_s += duration


def test_phases_add_up_and_start_anew(clock):
    phases = Phases(CPU)
    spend(phases, clock, data=1, compute=2, exchange=3)
    spend(phases, clock, data=4, log=5)
    assert phases.take() == {"start": 0, "data": 5, "compute": 2, "exchange": 3, "log": 5}
    assert phases.current.name == "log"
    clock.now_s += 1
    assert phases.take() == {"log": 1}


def test_speed_leaves_validation_samples_and_saves_out(clock, single_process):
    phases = Phases(CPU)
    speed = Speed(CPU, mfu.Peak(1000.0, "test"), (100, 5000, 0.0))  # resumed behind step 100
    spend(phases, clock, start=50, data=1, compute=3, exchange=4, validate=100, samples=200, save=300, log=2)
    found = speed.interval(phases.take(), step=110, atoms=6000, flops=2500.0)
    assert found.pop("memory_gib") > 0.01
    assert found == {
        "step_s": 1.0,
        "atoms_per_s": 100.0,
        "data_wait_percent": 10.0,
        "step_s_median": 0.4,
        "step_s_max": 0.4,
        "slowest_rank": 0,
        "mfu": 0.25,
    }
    spend(phases, clock, compute=10)
    speed.interval(phases.take(), step=120, atoms=8000, flops=7500.0)
    total = speed.total()
    assert (total["training_s"], total["atoms_per_s"], total["wall_s"]) == (20.0, 150.0, 670.0)
    assert total["mfu"] == 0.375


def test_two_ranks_can_differ(clock, single_process, monkeypatch):
    speed = Speed(CPU, None, (0, 0, 0.0))
    monkeypatch.setattr(
        speed, "_gather", lambda row: torch.tensor([[0.1, 1.0, 2.0], [0.4, 3.0, 1.0]], dtype=torch.float64)
    )
    found = speed.interval({"data": 1.0, "compute": 9.0}, step=10, atoms=10, flops=1.0)
    assert (found["step_s_median"], found["step_s_max"], found["slowest_rank"]) == (0.1, 0.4, 1)
    assert (found["data_wait_percent"], found["memory_gib"]) == (30.0, 2.0)
    assert "mfu" not in found


def test_peak_memory_is_that_of_the_process():
    assert 0.05 < meters.peak_memory_gib(CPU) * GIB / 2**30 < 64


def test_the_age_of_a_process_grows_with_the_clock():
    before = process_age_s()
    time.sleep(0.05)
    assert 0.04 < process_age_s() - before < 5
    assert before > 0


# -- MFU ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "products", "source", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", "H100 SXM bf16 989T", 989.4),
        ("NVIDIA H100 PCIe", "bf16", "H100 PCIe bf16 756T", 756),
        ("NVIDIA H200", "tf32", "H200 tf32 495T", 494.7),
        ("NVIDIA A100-SXM4-40GB", "bf16", "A100 bf16 312T", 312),
        ("NVIDIA A100 80GB PCIe", "fp32", "A100 fp32 20T", 19.5),
    ],
)
def test_peaks_of_known_devices(name, products, source, tera):
    peak = mfu.find_peak(name, products)
    assert peak == mfu.Peak(tera * 1e12, source)
    assert mfu.utilisation(tera * 1e12, 2.0, 1, peak) == pytest.approx(0.5)
    assert mfu.describe(0.4123, peak) == f"41.2% of {source}"


def test_an_unknown_device_gets_no_number():
    assert mfu.find_peak("NVIDIA GeForce GTX 1080", "fp32") is None
    assert mfu.device_peak(CPU, "fp32") is None
    assert mfu.utilisation(1e12, 1.0, 1, None) is None
    assert mfu.describe(None, None) == "unknown device"


# -- hangs -------------------------------------------------------------------------------------------------


def beat(rank: int, step: int, phase: str, phase_s: float = 5.0) -> Heartbeat:
    return Heartbeat(rank, step, phase, phase_s, time.time() - 7, 0.0, 1, f"node{rank}", "x")


def test_patience_ends_with_the_timeout_but_not_for_a_suspended_job():
    patience = watchdog.Patience(timeout_s=60, poll_s=5)
    assert [patience.ends(0, now) for now in (5, 30, 55, 60)] == [False] * 4
    assert patience.ends(0, 61)
    assert not patience.ends(61, 90)  # a new phase
    assert not patience.ends(61, 10_000)  # nobody asked for hours: the process was stopped
    assert not any(patience.ends(61, now) for now in range(10_005, 10_061, 5))
    assert patience.ends(61, 10_065)
    assert not any(watchdog.Patience(0, 5).ends(0, now) for now in range(0, 10**6, 10**4))


def test_the_slowest_rank_cannot_answer_or_is_furthest_behind():
    beats = [beat(0, 9, "exchange"), beat(1, 9, "data"), beat(2, 9, "compute"), beat(3, 10, "data")]
    assert watchdog.slowest(beats, missing=[]).rank == 1
    assert watchdog.slowest(beats, missing=[3]).rank == 3
    assert watchdog.slowest([beat(0, 9, "save", 3), beat(1, 9, "save", 8)], missing=[]).rank == 1
    assert watchdog.slowest([], missing=[]) is None


def test_a_hang_is_told_in_one_line(tmp_path):
    flag = {"attempt": "x", "rank": 0, "step": 9, "phase": "exchange", "phase_s": 1800.4}
    line = watchdog.describe_hang(flag, [beat(0, 9, "exchange"), beat(1, 9, "data")], [1], tmp_path)
    assert line == (
        "hang: rank 0 has been in exchange of step 9 for 1800 s; the slowest is rank 1 (node1), last seen in "
        "data of step 9 7 s ago; it no longer answers, so it left no stack; "
        f"stacks in {tmp_path}; leaving to be started again (parallel.hang_timeout_s)"
    )


# -- settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("10-12", (10, 12)),
        ("steps:10-12", (10, 12)),
        ("7", (7, 7)),
        ("12-10", None),
        ("0-3", None),
        ("x", None),
    ],
)
def test_profiled_steps(text, steps):
    assert profiled_steps(text) == steps


def test_a_wrong_profile_is_one_line():
    with pytest.raises(ConfigError, match=r"autoencoder\.profile is '12-10'; expected steps such as 10-12"):
        AutoencoderStageConfig(profile="12-10").validate()

"""The short version of the kill drill."""

from __future__ import annotations

from tests.faults import kill_drill


def test_five_random_kills_leave_no_trace(tmp_path, shards, zygote):
    kills, different = kill_drill.drill(zygote, tmp_path, shards, kills=5, seed=1)
    assert different == []
    assert len(kills) == 5
    assert {kill.moment for kill in kills} == set(kill_drill.MOMENTS)

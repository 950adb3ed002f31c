"""Nothing got slower: the quick ratios of benchmarks/ratios.py against the recorded ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import ratios

FALL = 0.15
# A measurement beside other work may be low; four in a row are not, unless something got slower.
ATTEMPTS = 4
MEASURES = ("training, QM9 and MP20", "training, GEOM-DRUGS", "sampling", "data path")


@pytest.fixture
def one_thread() -> Iterator[None]:
    with ratios.one_thread():
        yield


def fallen(got: dict[str, float], known: dict[str, float]) -> dict[str, str]:
    """What fell too far, and the words for it."""
    return {
        what: f"{what}: {got[what]:.2f} times, recorded {ratio:.2f}; a ratio may fall by {FALL:.0%}. Faster "
        "or slower for a reason: python benchmarks/ratios.py --record, on a quiet machine"
        for what, ratio in known.items()
        if got[what] < (1 - FALL) * ratio
    }


@pytest.mark.parametrize("measure", MEASURES)
def test_no_ratio_falls_more_than_15_percent_below_the_record(one_thread, measure):
    if reason := ratios.unlike():
        pytest.skip(reason)
    known = ratios.recorded()["ratios"][measure]
    best: dict[str, float] = {}
    for _ in range(ATTEMPTS):
        got = ratios.MEASURES[measure]()
        best = {what: max(got[what], best.get(what, 0.0)) for what in got}
        if not fallen(best, known):
            return
    pytest.fail("; ".join(fallen(best, known).values()))


def test_a_record_of_another_machine_or_torch_is_not_compared(tmp_path):
    path = tmp_path / "ratios.json"
    assert ratios.unlike(path) == f"no record at {path}"
    own = {"machine": ratios.machine(), "versions": {"torch": ratios.torch.__version__}, "rows": []}
    path.write_text(json.dumps(own))
    assert ratios.unlike(path) == ""
    path.write_text(json.dumps(own | {"machine": {"kind": "a toaster"}, "versions": {"torch": "1.0"}}))
    assert "recorded with machine a toaster, this is" in ratios.unlike(path)
    assert "recorded with torch 1.0, this is" in ratios.unlike(path)


def test_the_message_names_what_fell_and_how_to_record():
    assert fallen({"step": 1.71}, {"step": 2.0}) == {}
    assert fallen({"step": 1.69}, {"step": 2.0})["step"] == (
        "step: 1.69 times, recorded 2.00; a ratio may fall by 15%. Faster or slower for a reason: "
        "python benchmarks/ratios.py --record, on a quiet machine"
    )


def test_every_measure_is_held_against_its_record():
    assert set(MEASURES) == set(ratios.MEASURES)
    if ratios.RECORD.is_file():
        assert set(ratios.recorded()["ratios"]) == set(MEASURES)

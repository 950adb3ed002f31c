"""The collectives of the model against those that DeepSpeed asks torch for, call by call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adit_scale.models.config import DenoiserConfig
from adit_scale.models.dit import Denoiser
from adit_scale.models.ladder import LADDER, denoiser_parameters
from adit_scale.performance.modules import denoiser_modules
from adit_scale.performance.traffic import (
    Collective,
    gathers,
    gradients,
    likely_passes,
    passes_of,
    step_collectives,
    step_end,
)
from adit_scale.training.memory import working_bytes

RANK = Path(__file__).with_name("counted_rank.py")
# dit_64 has small weights alone, dit_192 both kinds. The first step of stage 3 records the order of modules.
CASES = [
    ("dit_64", 0, "fp32", 2, [0, 1]),
    ("dit_64", 1, "fp32", 2, [0, 1]),
    ("dit_64", 1, "bf16", 2, [0, 1]),
    ("dit_64", 2, "fp32", 2, [0, 1]),
    ("dit_64", 2, "bf16", 3, [0, 1]),
    ("dit_64", 3, "fp32", 2, [0, 0, 1, 1, 0]),
    ("dit_192", 3, "bf16", 3, [1, 1, 0, 0, 1, 0]),
    ("dit_192", 3, "fp32", 1, [0, 0, 0, 1, 1, 1, 0, 1, 0]),
]


def counted(cases: list, ranks: int) -> list:
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        [*words, str(RANK), json.dumps(cases)], env=environment, capture_output=True, text=True, timeout=300
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("COUNTED ")), None)
    assert line, done.stderr[-3000:]
    return json.loads(line.removeprefix("COUNTED "))


def tally(collectives: list[Collective]) -> Counter:
    total: Counter = Counter()
    for c in collectives:
        total[c.kind, int(c.n_bytes)] += int(c.count)
    return total


def predicted(case: tuple, ranks: int) -> list[Counter]:
    """Each step's, the first of stage 3 left out."""
    rung, zero_stage, precision, rounds, conditioned = case
    modules = denoiser_modules(LADDER[rung])
    bools = [bool(c) for c in conditioned]
    own = gradients(modules, zero_stage, precision, ranks) * (rounds if zero_stage > 1 else 1)
    own += step_end(modules, zero_stage, precision, ranks)
    if zero_stage < 3:
        return [tally(own)] * len(conditioned)
    b = working_bytes(precision)
    return [tally(own + gathers(modules, passes, b, ranks)) for passes in passes_of(bools, rounds)][1:]


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_every_collective_of_real_runs_is_foretold(ranks):
    for case, steps in zip(CASES, counted(CASES, ranks), strict=True):
        found = [Counter({(kind, n): count for kind, n, count in step}) for step in steps]
        expected = predicted(case, ranks)
        assert expected
        assert found[-len(expected) :] == expected, case


def test_modules_are_those_of_the_network():
    for rung in ("dit_32", "dit_192"):
        config = LADDER[rung]
        own = {name: p.numel() for name, p in Denoiser(config).named_parameters()}
        listed = [n for module in denoiser_modules(config) for n in module.numels]
        assert sorted(own.values()) == sorted(listed)
        assert {name.rpartition(".")[0] for name in own} == {m.name for m in denoiser_modules(config)}
    for config in LADDER.values():
        assert sum(n for m in denoiser_modules(config) for n in m.numels) == denoiser_parameters(config)


@settings(deadline=None, max_examples=40)
@given(p=st.floats(0, 1), rounds=st.integers(1, 5))
def test_shares_of_steps_are_those_of_a_long_run(p, rounds):
    shares = likely_passes(rounds, p)
    assert sum(share for share, _ in shares) == pytest.approx(1)
    assert all(share >= -1e-12 and len(passes) == rounds for share, passes in shares)


def test_shares_by_drawing():
    rng = np.random.default_rng(0)
    for rounds in (1, 2):
        drawn = Counter(a for step in passes_of(list(rng.random(100_000) < 0.3), rounds) for a in step)
        expected: defaultdict[tuple[str, str], float] = defaultdict(float)
        for share, passes in likely_passes(rounds, 0.3):
            for a in passes:
                expected[a.mode, a.resident] += share
        for key, share in expected.items():
            found = sum(n for a, n in drawn.items() if (a.mode, a.resident) == key) / 100_000
            assert found == pytest.approx(share, abs=0.01), key


def test_bytes_of_a_step_by_hand():
    """DiT-L in bf16 on 16 ranks, 3 micro-batches: 2N a step, or a micro-batch, of each kind."""
    config, n = LADDER["dit_l"], denoiser_parameters(LADDER["dit_l"])

    def sent(zero_stage: int) -> dict[str, float]:
        found = {"gradients": 0.0, "weights": 0.0, "control": 0.0}
        for c in step_collectives(config, zero_stage, "bf16", 16, 3, p_conditioned=0.0):
            found[c.what] += c.count * c.sent_bytes(16)
        return found

    ring = 15 / 16 * 2 * n
    assert sent(1) == pytest.approx({"gradients": 2 * ring, "weights": ring, "control": 7.5}, rel=1e-6)
    assert sent(2)["gradients"] == pytest.approx(3 * 2 * ring, rel=1e-6)
    assert sent(3)["gradients"] == pytest.approx(3 * ring, rel=1e-5)
    assert sent(3)["weights"] == pytest.approx(3 * ring, rel=0.01)  # the small ones once a step


def test_nothing_is_sent_on_one_rank():
    for zero_stage in range(4):
        assert step_collectives(DenoiserConfig(), zero_stage, "fp32", 1, 4, 0.5) == []


def test_self_conditioning_costs_stage_3_its_order():
    def gathered(p: float) -> float:
        found = step_collectives(LADDER["dit_s"], 3, "bf16", 8, 2, p)
        return sum(c.count * c.n_bytes for c in found if c.kind == "all_gather")

    assert gathered(0) == gathered(1) < gathered(0.1) < gathered(0.5)

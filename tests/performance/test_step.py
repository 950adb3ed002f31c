"""Seconds of a step: limits, directions, by hand; what is chosen; and what the commands print of it."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adit_scale.errors import ConfigError
from adit_scale.models.config import ModelConfig
from adit_scale.models.ladder import LADDER, denoiser_parameters, training_flops
from adit_scale.performance.choice import best, choices, micro_batches
from adit_scale.performance.constants import NETWORKS, constants, find_device, find_network, free_network
from adit_scale.performance.exchange import collective_s, exchange_s
from adit_scale.performance.measured import measured_mfu
from adit_scale.performance.step import Machine, StepTime, Work, gpu_machine, step_time, uneven
from adit_scale.performance.traffic import ALL_GATHER, ALL_REDUCE, Collective
from adit_scale.training.config import DiffusionStageConfig, ParallelConfig
from adit_scale.training.memory import plan_memory
from adit_scale.training.peaks import GPUS
from launchers import plan

STAGE = DiffusionStageConfig()
IB = find_network("nvlink_ib", "h100")
H100 = gpu_machine("h100", 0.4, "fp32")
SPREAD = {"gradients", "weights", "control"}


def work(rung: str, atoms: int) -> Work:
    sizes = [16] * (atoms // 16)
    return Work(training_flops(LADDER[rung], sizes, 0.5), 1e9, atoms, len(sizes))


def step(rung="dit_b", ranks=64, stage=1, atoms=8192, network=IB, micro=8192, precision="bf16", machine=H100):
    parallel = ParallelConfig(ranks, stage, precision, micro_batch_atoms=micro)
    model = ModelConfig(denoiser=LADDER[rung])
    return step_time(model, STAGE, parallel, work(rung, atoms * ranks), machine, network)


# -- limits and directions -------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_one_gpu_exchanges_nothing(stage):
    time = step(ranks=1, stage=stage, precision="fp32")
    assert time.sent_bytes == time.calls == 0
    assert all(time.parts[name] == 0 for name in SPREAD | {"uneven loads"})
    assert time.efficiency == 1


def test_without_bounds_on_the_network_only_uneven_loads_are_lost():
    time = step(ranks=1024, network=free_network())
    lost = time.parts["uneven loads"] + time.parts["data"]
    assert time.efficiency == pytest.approx(1 - lost / time.step_s)
    assert time.parts["uneven loads"] / time.parts["compute"] == pytest.approx(uneven(1024, 8192), rel=0.05)
    assert 0 < uneven(1024, 8192) < 0.01


def test_compute_is_flops_over_the_rate():
    time, load = step(ranks=8), work("dit_b", 8 * 8192)
    assert time.parts["compute"] == pytest.approx(load.flops / 8 / (0.4 * 989.4e12))
    assert time.parts["encoder"] == pytest.approx(load.encoder_flops / 8 / (0.4 * 67e12))
    assert time.step_s == pytest.approx(sum(time.parts.values()))


def test_all_reduce_inside_a_node_by_hand():
    """1 GB over 8 GPUs: 2 * 7/8 GB at 80% of 450 GB/s, 3 levels of a tree there and back, one call."""
    assert collective_s(Collective(ALL_REDUCE, 1e9, "step", "gradients"), IB, 8) == pytest.approx(
        2 * 7 / 8 * 1e9 / (0.8 * 450e9) + 2 * 3 * 1.5e-6 + 20e-6
    )


def test_all_gather_between_nodes_by_hand():
    """1 GB over 128 nodes of 8: the node's 50 GB/s an adapter bound it, and a ring of 1,023 hops."""
    found = collective_s(Collective(ALL_GATHER, 1e9, "step", "weights"), IB, 1024)
    flow_s = max(127 / 128 * 1e9 / (0.8 * 400e9), 7 / 8 * 1e9 / (0.8 * 450e9))
    assert found == pytest.approx(flow_s + (1024 - 128) * 1.5e-6 + 128 * 5e-6 + 20e-6)


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(NETWORKS),
    stage=st.sampled_from([1, 2, 3]),
    nodes=st.integers(0, 6),
    rounds=st.integers(1, 4),
)
def test_directions(name, stage, nodes, rounds):
    """More micro-batches never exchange less; a slower network, or more nodes, never exchange faster."""
    network, ranks = find_network(name, "h100"), 8 * 2**nodes

    def exchanged(**changed) -> float:
        own = {"ranks": ranks, "stage": stage, "network": network, "micro": 8192 // rounds, "rung": "dit_s"}
        time = step(**(own | changed))
        assert all(seconds >= 0 and math.isfinite(seconds) for seconds in time.parts.values())
        assert 0 < time.efficiency <= 1
        return sum(time.parts[part] for part in SPREAD)

    slower = replace(network, inside_bytes_per_s=network.inside_bytes_per_s / 2, call_s=2 * network.call_s)
    now = exchanged()
    assert exchanged(micro=8192 // (rounds + 1)) >= now
    assert exchanged(network=slower) >= now
    assert exchanged(ranks=2 * ranks) >= now - 1e-12
    assert exchanged(network=free_network()) == 0


def test_exchange_is_linear_in_calls():
    one = Collective(ALL_REDUCE, 1e6, "step", "gradients")
    assert exchange_s([replace(one, count=3)], IB, 64) == pytest.approx(3 * collective_s(one, IB, 64))


def test_ranks_that_share_cores_take_turns():
    crowded = Machine(1e10, 1e10, 1e10, 1e10, 0, 0, 0, 1e10, 1e10, cores=2, pair=1.25)
    one, two, four = (step("dit_64", n, atoms=512, machine=crowded).parts["compute"] for n in (1, 2, 4))
    assert (two, four) == (pytest.approx(1.25 * one), pytest.approx(2.5 * one))


# -- constants and choice --------------------------------------------------------------------------------


def test_every_gpu_has_constants_and_every_constant_an_origin():
    known = constants()
    assert set(known["devices"]) == set(GPUS)
    assert all({f"{group}_origin"} <= set(known) for group in ("devices", "networks", "assumed", "measured"))
    assert set(known["measured"]) == set(known["measured_origin"])


def test_the_best_fits_and_nothing_that_fits_is_faster():
    parallel, model = ParallelConfig(64, 1, "bf16"), ModelConfig(denoiser=LADDER["dit_xl"])

    def time_of(own: ParallelConfig) -> StepTime:
        return step_time(model, STAGE, own, work("dit_xl", 64 * 65_536), H100, IB)

    found = choices(model, parallel, 65_536, find_device("h100").usable_bytes, time_of)
    chosen = best(found)
    assert chosen is not None
    assert chosen.fits
    assert not all(c.fits for c in found)  # 65,536 atoms of XL do not
    fastest_s = min(c.time.step_s for c in found if c.fits)
    assert chosen.time.step_s <= 1.01 * fastest_s
    assert chosen.memory_bytes == plan_memory(model, chosen.parallel, "diffusion", cuda=True).peak_bytes
    assert best([c for c in found if not c.fits]) is None


def test_micro_batches_end_where_they_hold_a_share():
    assert micro_batches(256) == [1024]
    assert micro_batches(5000) == [1024, 2048, 4096, 8192]
    assert micro_batches(1e9)[-1] == 65_536


def test_measured_mfu_of_that_gpu_and_rung(tmp_path):
    rows = [
        {"what": "dit_b step, qm9_mp20, packed, bf16, flash, MFU", "value": 494_700.0},
        {"what": "dit_b step, qm9_mp20, packed, bf16, flash", "value": 9e9},
        {"what": "dit_b step, qm9_mp20, dense padded, bf16, MFU", "value": 800_000.0},
    ]
    text = json.dumps({"machine": {"gpu": "NVIDIA H200"}, "rows": rows})
    (tmp_path / "training_step-gpu-dit_b-qm9_mp20.json").write_text(text)
    mfu, source = measured_mfu("dit_b", "h200", tmp_path) or (0, "")
    assert mfu == pytest.approx(0.5)
    assert "training_step-gpu-dit_b" in source
    assert measured_mfu("dit_b", "a100", tmp_path) is measured_mfu("dit_s", "h200", tmp_path) is None


# -- the command -----------------------------------------------------------------------------------------


def test_plan_step_prints_what_the_model_says(capsys):
    words = [
        "model=dit_l",
        "parallel.world_size=64",
        "diffusion.atom_budget=524288",
        "budget.network=nvlink_200g",
    ]
    assert plan.main(["step", *words]) == 0
    text = capsys.readouterr().out
    n = denoiser_parameters(LADDER["dit_l"])
    flow_s = 2 * 7 / 8 * 2 * n / (0.8 * 25e9)
    line = next(line for line in text.splitlines() if line.strip().startswith("gradients"))
    assert float(line.split()[1]) == pytest.approx(1e3 * flow_s, rel=0.02)
    assert "model, not measured" in text
    assert text.count("*") == 2  # in the table and below it
    parts = [line.split() for line in text.splitlines() if " ms" in line and "atoms" not in line]
    *own, whole = [float(words[words.index("ms") - 1]) for words in parts]
    assert sum(own) == pytest.approx(whole, rel=1e-3)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["budget.network=token_ring"], "budget.network is 'token_ring'; expected one of nvlink_ib"),
        (["parallel.world_size=12"], "parallel.world_size is 12, a node of budget.network has 8 GPUs"),
        (["budget.gpu='h100 pcie'", "budget.network=nvlink_ib"], "expected budget.network=pcie"),
        (["model=dit_q"], "dit_q"),
    ],
)
def test_mistakes_are_one_line(words, line):
    with pytest.raises(ConfigError, match=re.escape(line)) as caught:
        plan.main(["step", *words])
    assert "\n" not in str(caught.value).strip()

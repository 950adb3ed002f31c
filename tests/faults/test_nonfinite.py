"""A non-finite loss or gradient: skipped without a trace, counted, logged; too many in a row end the run."""

from __future__ import annotations

import json
import math
import re
import statistics
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adit_scale import config as settings
from adit_scale.tracking.journal import events, read_journal, series
from adit_scale.training.guards import load_dump
from adit_scale.training.stages import AutoencoderStage, StepTotals
from tests.faults import engine_skips
from tests.faults.zygote import Zygote
from tests.training import runs

STEPS = 12
BAD_STEP = 5
FAULTS = {
    "clean": {},
    "nan": {"nan_steps": [BAD_STEP], "nan_rank": 1},
    "inf": {"inf_loss_steps": [BAD_STEP]},
    "clock": {"clock_jumps": {"3": 1e8, "6": -2e8}},
    "far": {"far_steps": [STEPS]},
    "slow": {"slow_rank": 1, "slow_s": 0.25},
    "ten": {"nan_steps": list(range(2, 40)), "nan_rank": 1},
}


def deterministic_fields(folder: Path) -> list[tuple]:
    return [(r["kind"], r["step"], r["values"]) for r in read_journal(folder) if r["kind"] != "params"]


def weights_bytes(folder: Path) -> bytes:
    return (folder / "weights" / "weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def faulty(tmp_path_factory, shards, zygote: Zygote) -> dict[str, Path]:
    """Runs of 2 ranks by the fault put in, one after the other in the same processes."""
    root = tmp_path_factory.mktemp("faulty")
    folders = {}
    for name, faults in FAULTS.items():
        config = runs.small_study(shards, STEPS, world_size=2, zero_stage=2)
        stage = config.autoencoder
        stage.max_skipped_in_a_row, stage.validate_every_steps, stage.checkpoint_every_steps = 9, STEPS, STEPS
        stage.optim.schedule, stage.spike_factor = "constant", 5.0
        stage.profile = "3-4" if name == "clean" else ""
        folders[name] = runs.prepare(root / name, config, "autoencoder")
        (root / name / "faults.json").write_text(json.dumps(faults))
    log = root / "log.txt"
    target = "tests.faults.injected:train"
    codes = zygote.start(target, *map(str, folders.values()), world_size=2, log=log).wait()
    assert codes == [1, 1], log.read_text()[-5000:]  # the last run gives up
    return {**folders, "log": log}


def test_a_bad_step_changes_no_bit_at_any_stage(tmp_path, zygote):
    """Weights, moments and step counters of 2 ranks, and what the next good step makes of them."""
    log = tmp_path / "log.txt"
    ranks = zygote.start("tests.faults.engine_skips:check", str(tmp_path / "rows"), world_size=2, log=log)
    assert ranks.wait() == [0, 0], log.read_text()[-5000:]
    for rank in (0, 1):
        rows = json.loads((tmp_path / f"rows.{rank}").read_text())
        assert len(rows) == len(engine_skips.CELLS)
        for row in rows:
            assert all(row[check] is True for check in ("first", *engine_skips.BAD, "second")), row


@pytest.mark.parametrize("fault", ["nan", "inf"])
def test_a_bad_step_is_skipped_counted_and_logged(faulty, fault):
    records = read_journal(faulty[fault])
    (skipped,) = events(records, "skipped_step")
    assert skipped["step"] == BAD_STEP
    assert not math.isfinite(skipped["values"]["loss"])
    assert math.isinf(skipped["values"]["loss"]) == (fault == "inf")
    _, counts = series(records, "train/skipped_steps")
    assert counts == [0] * (BAD_STEP - 1) + [1] * (STEPS - BAD_STEP + 1)
    _, losses = series(records, "train/loss")
    assert len(losses) == STEPS - 1
    assert all(map(math.isfinite, losses))
    assert f"autoencoder step {BAD_STEP}: step skipped, weights untouched (loss " in faulty["log"].read_text()


def test_what_was_wrong_with_a_skipped_step_leaves_no_trace(faulty):
    assert weights_bytes(faulty["nan"]) == weights_bytes(faulty["inf"])
    assert weights_bytes(faulty["nan"]) != weights_bytes(faulty["clean"])


def test_ten_in_a_row_end_the_run_with_a_dump_that_shows_the_set(faulty):
    folder = faulty["ten"]
    dump = folder / "dump-step-00000011"
    assert [e["step"] for e in events(read_journal(folder), "skipped_step")] == list(range(2, 12))
    assert not (folder / "weights").exists()

    record = json.loads((dump / "step.json").read_text())
    expected = {"step": 11, "seed": 0, "stage": "autoencoder", "world_size": 2}
    assert {key: record[key] for key in expected} == expected
    assert (record["loss"], record["gradient_norm"]) == ("nan", "nan")
    held = {rank: load_dump(dump, rank) for rank in (0, 1)}
    bad_sets = [
        int(batch.set_index_s[s])
        for batch, loss_s in held[1]
        for s in torch.nonzero(~torch.isfinite(loss_s)).flatten()
    ]
    assert len(bad_sets) == 1
    assert all(torch.isfinite(loss_s).all() for _, loss_s in held[0])
    n_sets = sum(int(batch.layout.real_s.sum()) for part in held.values() for batch, _ in part)
    assert n_sets == record["n_sets"]

    (line,) = [
        text for text in faulty["log"].read_text().splitlines() if text.startswith("ten: ") and "10 " in text
    ][:1]
    assert f"sets with a non-finite loss of their own: {bad_sets}" in line
    assert str(dump) in line
    assert "autoencoder.max_skipped_in_a_row=9" in line


def test_a_dump_can_be_computed_again(faulty):
    """Its batches, weights and seed give the losses it states."""
    dump = faulty["ten"] / "dump-step-00000011"
    config = settings.load(faulty["ten"] / "config.yaml")
    record = json.loads((dump / "step.json").read_text())
    stage = AutoencoderStage(
        config.model.autoencoder, config.autoencoder, record["seed"], ["crystals", "molecules"]
    )
    stage.module.load_state_dict(load_file(dump / "weights.safetensors"))
    totals = StepTotals(record["step"] - 1, record["n_sets"], record["n_atoms"])
    for batch, loss_s in load_dump(dump, 0):
        with torch.no_grad():
            loss, _ = stage.loss(stage.module, stage.prepare(batch, totals), totals)
        assert float(loss) == pytest.approx(float(loss_s.sum()), rel=1e-5)


def test_a_spike_of_the_loss_is_reported(faulty):
    (event,) = events(read_journal(faulty["far"]), "loss_spike")
    values = event["values"]
    assert event["step"] == STEPS
    assert values["loss"] > values["median"] + 5.0 * values["sigma"]
    assert f"autoencoder step {STEPS}: the loss stands out" in faulty["log"].read_text()
    assert events(read_journal(faulty["clean"]), "loss_spike") == []


def test_named_steps_are_profiled_and_change_nothing(faulty):
    """The run whose clock jumps is not profiled, and ends with the same weights."""
    folder = faulty["clean"] / "profile"
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    steps = [event for event in events if "Optimizer.step" in event.get("name", "")]
    assert len(steps) == 2
    assert "adit_scale::grouped_attention" in (folder / "table.txt").read_text()
    assert "profile of steps 3 to 4: " in faulty["log"].read_text()
    assert not (faulty["clock"] / "profile").exists()


def test_a_log_line_and_the_summary_say_where_the_run_stands(faulty):
    lines = faulty["log"].read_text().splitlines()
    line = next(line for line in lines if f" {STEPS}/{STEPS}" in line)
    pattern = (
        r"autoencoder  12/12  loss [\d.]+  lr 1\.0e-03  grad [\d.]+  atoms/s [\d.]+k?  mfu unknown device  "
        r"mem [\d.]+ GiB  data wait [\d.]+%  left 0s"
    )
    assert re.fullmatch(pattern, line), line
    summary = next(line for line in lines if line.startswith("autoencoder finished"))
    for part in ("steps 12", "skipped 0", "loss spikes 0", "took ", "validation loss ", "checkpoints 1"):
        assert part in summary


def test_a_slow_rank_is_named_and_the_wait_for_data_shown(faulty):
    assert weights_bytes(faulty["slow"]) == weights_bytes(faulty["clean"])
    clocks = [r["clock"] for r in read_journal(faulty["slow"]) if "train/loss" in r["values"]]
    assert statistics.median(clock["slowest_rank"] for clock in clocks) == 1
    assert statistics.median(clock["step_s_max"] for clock in clocks) >= 0.25
    assert statistics.median(clock["data_wait_percent"] for clock in clocks) > 30
    assert "rank 1 is slow: 0." in faulty["log"].read_text()


def test_a_jump_of_the_wall_clock_changes_stamps_only(faulty):
    assert weights_bytes(faulty["clock"]) == weights_bytes(faulty["clean"])
    assert deterministic_fields(faulty["clock"]) == deterministic_fields(faulty["clean"])
    records = [r for r in read_journal(faulty["clock"]) if "train/loss" in r["values"]]
    stamps = [r["clock"]["time_s"] for r in records]
    assert stamps[2] - stamps[1] > 9e7  # the jumps did happen
    assert stamps[5] - stamps[4] < -1e8
    assert all(0 < r["clock"]["step_s"] < 60 and 0 <= r["clock"]["data_wait_percent"] <= 100 for r in records)

"""Which checkpoints stay, as a function of what the disk says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adit_scale.errors import ConfigError
from adit_scale.training import checkpoint
from adit_scale.training.checkpoint import TrainState
from adit_scale.training.config import DiffusionStageConfig, OptimConfig
from adit_scale.training.retention import Policy, Saved, prune, to_keep
from adit_scale.training.schedule import decay_start, learning_rate
from adit_scale.training.writer import CheckpointWriter

CPU = torch.device("cpu")
metrics = st.one_of(st.none(), st.floats(allow_nan=True, width=16))
saves = st.lists(
    st.tuples(st.floats(-100, 10_000), metrics, st.sampled_from([(), (), (), ("decay_start",)])), min_size=1
).map(lambda rows: [Saved(10 * (i + 1), *row) for i, row in enumerate(rows)])
policies = st.builds(
    Policy, st.integers(1, 4), st.sampled_from([0.0, 500.0]), st.sampled_from(["", "loss"]), st.booleans()
)


@given(saves, policies)
def test_pruning_after_every_save_ends_where_pruning_once_does(saved, policy):
    kept: list[Saved] = []
    for one in saved:
        kept = [s for s in (*kept, one) if s.step in to_keep([*kept, one], policy)]
    assert {s.step for s in kept} == to_keep(saved, policy)
    assert to_keep(kept, policy) == {s.step for s in kept}


@given(saves, policies)
def test_the_newest_the_tagged_and_the_best_stay(saved, policy):
    kept = to_keep(saved, policy)
    assert {s.step for s in saved[-policy.last :]} <= kept
    assert {s.step for s in saved if s.tags} <= kept
    measured = [s for s in saved if s.metric is not None and s.metric == s.metric]
    if policy.best and measured:
        best = (min if policy.best_is_lowest else max)(s.metric for s in measured)
        assert any(s.metric == best for s in measured if s.step in kept)


@given(saves)
def test_without_rules_only_the_last_stay(saved):
    untagged = [Saved(s.step, s.time_s, s.metric) for s in saved]
    assert to_keep(untagged, Policy(last=2)) == {s.step for s in saved[-2:]}


def test_one_every_so_many_hours_stays():
    saved = [Saved(step, time_s=step * 1800.0) for step in range(1, 13)]  # one every half hour
    kept = to_keep(saved, Policy(last=1, every_s=2 * 3600))
    assert kept == {1, 5, 9, 12}


def test_prune_reads_the_disk(tmp_path: Path, single_process):
    losses = {10: 3.0, 20: 1.0, 30: 2.0, 40: 2.5, 50: 2.2}
    policy = Policy.of(DiffusionStageConfig(keep_checkpoints=1, keep_best="validation/loss"))
    with CheckpointWriter(tmp_path, CPU, policy) as writer:
        for step, loss in losses.items():
            tags = ["decay_start"] if step == 30 else []
            writer.save(TrainState(step=step, validation={"loss": loss}, tags=tags), {})
    assert [p.name for p in checkpoint.committed(tmp_path)] == [f"step-000000{n}" for n in (50, 30, 20)]


def test_prune_drops_steps_of_an_abandoned_past_and_leaves_strangers(tmp_path: Path, single_process):
    with CheckpointWriter(tmp_path, CPU, Policy(last=5), background=False) as writer:
        for step in (4, 8, 12):
            writer.save(TrainState(step=step), {})
    (tmp_path / "step-by-step notes").mkdir()
    (tmp_path / "step-00000008" / "state.json").write_text("{")  # says nothing, but is one of the last two
    prune(tmp_path, 8, Policy(last=2))
    names = sorted(p.name for p in tmp_path.iterdir() if p.is_dir())
    assert names == ["step-00000004", "step-00000008", "step-by-step notes"]


@pytest.mark.parametrize("rule", ["loss", "validation/", "validation/loss best", "train/loss"])
def test_a_rule_that_names_no_validation_metric_is_refused(rule):
    with pytest.raises(ConfigError, match=r"diffusion\.keep_best is .*expected a validation metric"):
        DiffusionStageConfig(keep_best=rule).validate()


def test_the_best_needs_a_validation_at_every_checkpoint():
    with pytest.raises(ConfigError, match=r"multiple of validate_every_steps \(200\)"):
        DiffusionStageConfig(keep_best="validation/loss", checkpoint_every_steps=300).validate()


@given(st.integers(1, 3000), st.floats(0, 1))
def test_the_rate_is_full_up_to_the_decay_and_falls_behind_it(steps, fraction):
    optim = OptimConfig(lr=1.0, schedule="wsd", decay_fraction=fraction)
    start = decay_start(steps, optim)
    assert all(learning_rate(s, steps, optim) == 1.0 for s in range(0, start + 1, 7))
    assert learning_rate(start, steps, optim) == 1.0
    assert start + 1 >= steps or learning_rate(start + 1, steps, optim) < 1.0
    assert decay_start(steps, OptimConfig(schedule="cosine")) is None

"""The planner by the numbers; benchmarks/memory_planner.py holds it against what runs take."""

from __future__ import annotations

import pytest

from adit_scale.errors import ConfigError
from adit_scale.models.config import ModelConfig
from adit_scale.models.ladder import LADDER, denoiser_parameters
from adit_scale.training.config import ParallelConfig
from adit_scale.training.memory import plan_memory, state_bytes
from launchers import plan as command

N = 1000


@pytest.mark.parametrize(
    ("stage", "precision", "weights", "gradients", "master", "moments"),
    [
        (0, "fp32", 4, 4, 0, 8),
        (1, "fp32", 4, 2, 2, 4),
        (2, "fp32", 4, 2, 2, 4),
        (3, "fp32", 2, 2, 2, 4),
        (1, "bf16", 2, 6, 2, 4),
        (2, "bf16", 2, 2, 2, 4),
        (3, "bf16", 1, 2, 2, 4),
    ],
)
def test_states_a_parameter_on_two_ranks(stage, precision, weights, gradients, master, moments):
    found = state_bytes(N, stage, precision, 2)
    assert list(found.values()) == [N * x for x in (weights, gradients, master, moments)]


def test_more_ranks_and_higher_stages_need_less():
    def peak(stage: int, world: int, **more) -> int:
        parallel = ParallelConfig(zero_stage=stage, world_size=world, precision="bf16", **more)
        return plan_memory(ModelConfig(denoiser=LADDER["dit_l"]), parallel, "diffusion", True).peak_bytes

    assert peak(1, 1) > peak(1, 8) > peak(2, 8)
    assert peak(2, 8, micro_batch_atoms=8192) > peak(2, 8) > peak(2, 8, activation_checkpointing=True)


def test_activations_of_dit_l_by_hand():
    parallel = ParallelConfig(zero_stage=2, world_size=8, precision="bf16", micro_batch_atoms=4096)
    found = plan_memory(ModelConfig(denoiser=LADDER["dit_l"]), parallel, "diffusion", True)
    assert found.parameters == denoiser_parameters(LADDER["dit_l"])
    # 18 arrays of 4096 x 1024 a block in bf16 with fused modulation and 28 without, 24 blocks, and 20 bytes a
    # feature at the ends
    assert found.backward["activations"] == 24 * 18 * 2 * 4096 * 1024 + 20 * 4096 * 1024
    parallel.kernels = "torch"
    found = plan_memory(ModelConfig(denoiser=LADDER["dit_l"]), parallel, "diffusion", True)
    assert found.backward["activations"] == 24 * 28 * 2 * 4096 * 1024 + 20 * 4096 * 1024


def test_the_command_prints_the_plan(capsys):
    words = ["memory", "model=dit_l", "parallel.zero_stage=2", "parallel.world_size=8"]
    assert command.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == ("dit_l: 457.0 M parameters, bf16, ZeRO 2 on 8 ranks, micro-batches of 4096 atoms")
    assert any(line.split() == ["frozen", "autoencoder", "0.190", "GiB"] for line in lines)
    assert any(line.startswith("peak of a rank") for line in lines)
    assert "activation_checkpointing=true the peak is" in lines[-1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["time"], "time: no such plan; expected memory"),
        (["memory", "model=dit_m"], "dit_m: no such choice"),
        (["memory", "stage=x"], "stage is 'x'; expected autoencoder or diffusion"),
        (["memory", "model=dit_s,dit_b"], "model/denoiser has 2 values; expected one"),
        (["memory", "parallel.zero_stage=4"], "zero_stage is 4"),
    ],
)
def test_mistakes_are_named(words, says):
    with pytest.raises(ConfigError, match=says):
        command.main(words)

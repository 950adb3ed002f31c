"""muP: activations keep their size at every width, and learning rates by group at every ZeRO stage."""

from __future__ import annotations

import pytest
import torch

from adit_scale.atoms import PackedLayout
from adit_scale.errors import ConfigError
from adit_scale.models import mup
from adit_scale.models.attention import packed_attention
from adit_scale.models.config import DenoiserConfig
from adit_scale.models.dit import Denoiser
from adit_scale.training.config import AutoencoderStageConfig, OptimConfig
from adit_scale.training.optimizer import parameter_groups, set_learning_rate
from tests.training import coordinates

WIDTHS = (64, 128, 256, 512)
LR, STEPS = 1e-3, 5
GROWING = ("attention.qkv", "attention", "mlp")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def denoiser(width: int, **changes) -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(DenoiserConfig(width=width, depth=1, heads=width // 64, **changes))


# -- the parametrization -------------------------------------------------------------------------------------


def test_activations_keep_their_size_at_every_width_and_grow_without():
    """Over eight times the width: under muP within 8^0.1 = 1.23; the standard's blocks grow by 3 and more."""
    found = {p: coordinates.coordinates(p, WIDTHS, LR, STEPS) for p in ("mup", "standard")}
    for of in ("size", "change"):
        slopes = found["mup"].slopes(of, STEPS)
        assert len(slopes) == 14
        assert all(abs(slope) <= 0.1 for slope in slopes.values()), (of, slopes)
    standard = found["standard"].slopes("change", STEPS)
    for layer in [f"blocks.{i}.{part}" for i in range(2) for part in GROWING] + ["final.head"]:
        assert standard[layer] > 0.5, layer
    change = found["standard"].change["blocks.1.mlp"][:, STEPS]
    assert change[-1] / change[0] > 3


def test_at_the_base_width_both_are_the_same_bit_for_bit():
    datasets, data = coordinates.steps_of(4)
    trained = {}
    for parametrization in ("standard", "mup"):
        optim = OptimConfig(lr=LR, weight_decay=0.1, parametrization=parametrization, base_width=128)
        stage = coordinates.make_stage(128, optim, 0, datasets)
        adamw = coordinates.make_optimizer(stage)
        assert len(adamw.param_groups) == 1
        for step in range(4):
            coordinates.step_loss(stage, data[step], step).backward()
            adamw.step()
            adamw.zero_grad()
        trained[parametrization] = stage.module.state_dict()
    for name, value in trained["standard"].items():
        assert torch.equal(value, trained["mup"][name]), name


def test_every_parameter_has_a_role_and_its_rate():
    network = denoiser(320)
    names = [name for name, _ in network.named_parameters()]
    found = mup.lr_multipliers(names, 320, 80)
    for name, parameter in network.named_parameters():
        grows = sum(side % 320 == 0 for side in parameter.shape)  # sides that grow with the width
        expected = 0.25 if grows == 2 or name == "final.head.weight" else 1.0
        assert found[name] == expected, name
    with pytest.raises(KeyError):
        mup.role("blocks.0.norm.weight")


def test_initial_weights_have_the_variances_of_the_table():
    scale = {}
    for width in (64, 512):
        network = denoiser(width)
        mup.rescale_initial(network, 64)
        scale[width] = {name: float(p.detach().std()) for name, p in network.named_parameters()}
    for name in scale[64]:
        if name.endswith("bias") or "modulation" in name or "head" in name:
            assert scale[512][name] == 0, name
            continue
        expected = 8**-0.5 if mup.role(name) == mup.HIDDEN else 1.0
        assert scale[512][name] / scale[64][name] == pytest.approx(expected, rel=0.06), name


def test_attention_scores_fall_with_the_head_width():
    """b^1/2 / D of head width D: at D = b nothing differs, at 4 b the scores are half of D^-1/2's."""
    layout = PackedLayout.from_sizes((5, 4))
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 9, 2, 64)
    block = denoiser(128, base_head_width=16).blocks[0].attention
    assert block.scale == pytest.approx(0.5 * 64**-0.5)
    assert denoiser(128, base_head_width=64).blocks[0].attention.scale is None
    for backend in ("grouped", "reference"):
        got = packed_attention(q, k, v, layout, backend, block.scale)
        torch.testing.assert_close(got, packed_attention(0.5 * q, k, v, layout, backend))


def test_groups_hold_rates_and_decay():
    parameters = [(n, torch.nn.Parameter(torch.zeros(1))) for n in "abcd"]
    optim = OptimConfig(lr=0.5, weight_decay=0.1)
    groups = parameter_groups(parameters, optim, {"b": 0.25, "d": 0.25})
    assert [len(group["params"]) for group in groups] == [2, 2]
    for lr in (0.5, 0.2):
        set_learning_rate(groups, lr)
        assert [group["lr"] for group in groups] == [lr, lr / 4]
        assert [group["lr"] * group["weight_decay"] for group in groups] == pytest.approx([lr / 10] * 2)


def test_mistakes():
    with pytest.raises(ConfigError, match="one autoencoder serves all sizes"):
        AutoencoderStageConfig(optim=OptimConfig(parametrization="mup")).validate()
    with pytest.raises(ConfigError, match="parametrization is 'muP'; expected one of standard, mup"):
        OptimConfig(parametrization="muP").validate("diffusion.optim")
    with pytest.raises(ConfigError, match="base_width is 0"):
        OptimConfig(parametrization="mup", base_width=0).validate("diffusion.optim")

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import adit_scale
from adit_scale.atoms import PackedLayout
from adit_scale.cli import main as adit
from adit_scale.diffusion.sampling import sample_latents
from adit_scale.errors import CheckpointError, ConfigError
from adit_scale.models.autoencoder import Autoencoder
from adit_scale.models.config import AutoencoderConfig, DenoiserConfig, ModelConfig
from adit_scale.models.dit import Denoiser
from adit_scale.models.import_adit import Heads, import_adit, load_adit_weights
from tests.models.published import published_names

CONFIG = ModelConfig(
    autoencoder=AutoencoderConfig(width=64, encoder_depth=3, decoder_depth=3, heads=4, feedforward=128),
    denoiser=DenoiserConfig(name="golden", width=96, depth=4, heads=4, spacegroup_conditioning=True),
)


@pytest.fixture
def published(shared) -> dict[str, Tensor]:
    return load_file(shared / "golden" / "weights.safetensors")


def save(tmp_path: Path, weights: dict[str, Tensor]) -> Path:
    path = tmp_path / "adit.safetensors"
    save_file(weights, path)
    return path


def test_every_weight_arrives(published, tmp_path):
    autoencoder, denoiser = load_adit_weights(save(tmp_path, published), CONFIG)
    count = sum(p.numel() for model in (autoencoder, denoiser) for p in model.parameters())
    assert count == sum(tensor.numel() for tensor in published.values())
    expected = published["autoencoder.encoder.transformer.layers.2.self_attn.in_proj_weight"]
    assert torch.equal(autoencoder.encoder.blocks[2].attention.qkv.weight, expected)
    assert all(p.requires_grad and p.dtype == torch.float32 for p in denoiser.parameters())


def test_lightning_checkpoint(published, tmp_path):
    path = tmp_path / "adit.ckpt"
    torch.save({"epoch": 3, "state_dict": published}, path)
    _, denoiser = load_adit_weights(path, CONFIG)
    assert torch.equal(denoiser.final.head.bias, published["denoiser.final_layer.linear.bias"])


def drop(name: str) -> Callable[[dict], object]:
    return lambda weights: weights.pop(name)


def put(name: str, *shape: int) -> Callable[[dict], object]:
    return lambda weights: weights.update({name: torch.zeros(shape)})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop("denoiser.blocks.1.mlp.fc2.bias"), "missing tensor for denoiser.blocks.1.mlp.fc2.bias"),
        (drop("autoencoder.quant_conv.weight"), "missing tensor autoencoder.quant_conv.weight"),
        (
            put("denoiser.t_embedder.mlp.2.bias", 95),
            r"denoiser.t_embedder.mlp.2.bias has shape \(95,\); expected \(96,\)",
        ),
        (put("denoiser.x_embedder.weight", 96), r"x_embedder.weight has shape \(96,\)"),
        (put("denoiser.blocks.0.mlp.fc3.bias", 96), "unexpected tensor denoiser.blocks.0.mlp.fc3.bias"),
        (put("ema.decay", 1), "unexpected tensor ema.decay"),
        (put("denoiser.blocks.7.mlp.fc1.bias", 384), "denoiser has depth 5; expected 4"),
    ],
)
def test_damaged_weights(published, tmp_path, damage, message):
    damage(published)
    path = save(tmp_path, published)
    with pytest.raises(CheckpointError, match=message) as error:
        load_adit_weights(path, CONFIG)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_another_model_size(published, tmp_path):
    path = save(tmp_path, published)
    with pytest.raises(
        CheckpointError, match=r"its denoiser has width 96; expected 384 \(model.denoiser.width\)"
    ):
        load_adit_weights(path, ModelConfig(autoencoder=CONFIG.autoencoder))


def test_heads_cannot_be_guessed(published, tmp_path):
    with pytest.raises(CheckpointError, match="give a model config"):
        load_adit_weights(save(tmp_path, published))


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x80\x04."])
def test_unreadable_files(tmp_path, suffix, content):
    path = tmp_path / f"torn{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="torn"):
        load_adit_weights(path, CONFIG)


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        load_adit_weights(tmp_path / "absent.ckpt", CONFIG)


# -- whole Lightning checkpoints, and the folder made of them --------------------------------------------

SMALL = ModelConfig(
    autoencoder=AutoencoderConfig(width=16, encoder_depth=2, decoder_depth=1, heads=2, feedforward=32),
    denoiser=DenoiserConfig(name="imported", width=24, depth=2, heads=4, spacegroup_conditioning=True),
)
HEADS = ["autoencoder_heads=2", "denoiser_heads=4"]


class Settings(dict):
    """Of no class that torch knows, as the settings in a Lightning checkpoint are."""

    def __init__(self, **values: object) -> None:
        super().__init__(values)
        self.node = [self]


@pytest.fixture
def networks() -> tuple[Autoencoder, Denoiser]:
    torch.manual_seed(0)
    autoencoder, denoiser = Autoencoder(SMALL.autoencoder), Denoiser(SMALL.denoiser)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return autoencoder.eval(), denoiser.eval()


def lightning(path: Path, weights: dict[str, Tensor], **more: object) -> Path:
    tree = {
        "epoch": 3,
        "global_step": 4711,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": weights,
        "loops": {"fit_loop": Settings(n=1)},
        "callbacks": {"checkpoint": Settings(best=torch.zeros(2))},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [Settings(lr=1e-4)]}],
        "hyper_parameters": Settings(denoiser=Settings(d=24), f=re.compile("x")),
        **more,
    }
    torch.save(tree, path)
    return path


def test_a_lightning_checkpoint_of_unknown_classes_becomes_a_model(networks, tmp_path, capsys):
    path = lightning(tmp_path / "adit.ckpt", published_names(*networks))
    with pytest.raises(Exception, match="weights_only"):  # torch's own reader refuses the file
        torch.load(path, weights_only=True)
    assert adit(["import-adit", str(path), f"out={tmp_path / 'm'}", *HEADS]) == 0
    printed = capsys.readouterr().out
    n_parameters = sum(p.numel() for p in networks[1].parameters())
    assert re.search(rf"denoiser +24 +2 +4 \(as given\) +{n_parameters:,} ", printed)
    model = adit_scale.load_pretrained(tmp_path / "m")
    for found, expected in zip((model.autoencoder, model.denoiser), networks, strict=True):
        assert found.state_dict().keys() == expected.state_dict().keys()
        assert all(torch.equal(found.state_dict()[k], v) for k, v in expected.state_dict().items())
    assert model.config["imported"]["global_step"] == 4711
    with pytest.raises(ConfigError, match="does not say how many atoms"):
        model.sample(2, "molecule")
    sampled = model.sample(3, "molecule", atoms=4, steps=2)
    assert [len(one) for one in sampled] == [4, 4, 4]


def test_averaged_weights_are_a_choice(networks, tmp_path, capsys):
    weights = published_names(*networks)
    averaged = {f"ema.{k}": v * 0.5 for k, v in weights.items() if k.startswith("denoiser.")}
    both = {f"model.{k}": v for k, v in weights.items()} | averaged | {"ema.num_updates": torch.tensor(7)}
    path = lightning(tmp_path / "ema.ckpt", both)
    assert adit(["import-adit", str(path), f"out={tmp_path / 'm'}", *HEADS]) == 2
    assert "choose weights=ema (usual for sampling) or weights=model" in capsys.readouterr().err
    for chosen, factor in (("ema", 0.5), ("model", 1.0)):
        found = import_adit(path, Heads(2, 4), weights=chosen)
        expected = networks[1].state_dict()["final.head.weight"] * factor
        assert torch.equal(found.denoiser.state_dict()["final.head.weight"], expected)
        assert torch.equal(found.autoencoder.position_head.weight, networks[0].position_head.weight)
    plain = lightning(tmp_path / "plain.ckpt", weights)
    with pytest.raises(ConfigError, match="holds no averaged weights"):
        import_adit(plain, Heads(2, 4), weights="ema")
    outside = lightning(
        tmp_path / "outside.ckpt", weights, ema_state_dict={k: v + 1 for k, v in weights.items()}
    )
    found = import_adit(outside, Heads(2, 4), weights="ema")
    assert torch.equal(found.denoiser.final.head.bias, networks[1].final.head.bias + 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "are not published sizes; shapes do not tell their number of attention heads"),
        (["autoencoder_heads=2", "denoiser_heads=5"], "expected an even multiple of heads"),
        ([*HEADS, "weight=ema"], "weight=ema: no such word of adit import-adit; did you mean weights"),
        ([*HEADS, "weights=mean"], "weights is 'mean'; expected ema or model"),
        ([*HEADS, "data=nowhere"], "no such file; build the shards"),
        ([*HEADS, "other.ckpt"], "2 files; expected one checkpoint"),
    ],
)
def test_mistakes_of_the_import_are_one_line(networks, tmp_path, capsys, words, message):
    path = lightning(tmp_path / "adit.ckpt", published_names(*networks))
    assert adit(["import-adit", str(path), f"out={tmp_path / 'm'}", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "m").exists()


def test_strange_tensors_are_refused_unless_passed_over(networks, tmp_path):
    weights = published_names(*networks)
    path = lightning(tmp_path / "adit.ckpt", {**weights, "metrics.sum": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"unexpected tensor metrics.sum \(1 in all\)"):
        import_adit(path, Heads(2, 4))
    assert import_adit(path, Heads(2, 4), ignore=["metrics."]).passed_over == ["metrics.sum"]
    name = "denoiser.final_layer.linear.bias"
    path = lightning(tmp_path / "nan.ckpt", {**weights, name: weights[name] * torch.nan})
    with pytest.raises(CheckpointError, match=f"{name} holds NaN"):
        import_adit(path, Heads(2, 4))


@pytest.mark.real_data
def test_the_golden_checkpoint_samples_as_published(published, shared, tmp_path):
    """The golden weights as a Lightning file, through the imported folder, to the golden sampler's output."""
    path = lightning(tmp_path / "golden.ckpt", published)
    words = ["autoencoder_heads=4", "denoiser_heads=4"]
    assert adit(["import-adit", str(path), f"out={tmp_path / 'm'}", *words]) == 0
    model = adit_scale.load_pretrained(tmp_path / "m")
    by_config = load_adit_weights(path, CONFIG)
    for found, expected in zip((model.autoencoder, model.denoiser), by_config, strict=True):
        assert all(torch.equal(found.state_dict()[k], v) for k, v in expected.state_dict().items())
    v = load_file(shared / "golden" / "vectors.safetensors")
    layout = PackedLayout.from_sizes(v["in.num_atoms"].tolist())
    for name, scale in (("cfg2", 2.0), ("nocfg", 1.0)):
        sample = sample_latents(
            model.denoiser, layout, v["dit.dataset"], torch.zeros_like(v["dit.spacegroup"]), v["sampler.x_0"],
            steps=10, guidance_scale=scale,
        )  # fmt: skip
        assert torch.allclose(sample, v[f"sampler.{name}_selfcond_10steps"], rtol=1e-5, atol=1e-5)
    assert len(model.sample(4, "molecule", atoms=5, steps=3)) == 4

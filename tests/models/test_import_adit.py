from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from adit_scale.errors import CheckpointError
from adit_scale.models.config import AutoencoderConfig, DenoiserConfig, ModelConfig
from adit_scale.models.import_adit import load_adit_weights

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


class RunsCode:
    def __reduce__(self):
        return (print, ("code of the checkpoint ran",))


def test_no_code_of_a_checkpoint_is_run(tmp_path, capsys):
    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": RunsCode()}, path)
    with pytest.raises(CheckpointError, match="without running code"):
        load_adit_weights(path, CONFIG)
    assert capsys.readouterr().out == ""

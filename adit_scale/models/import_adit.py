"""Bring a published ADiT checkpoint: its weights under our names, with every name and shape checked."""

from __future__ import annotations

import pickle
import re
import struct
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from adit_scale.errors import CheckpointError, ConfigError
from adit_scale.models.autoencoder import Autoencoder
from adit_scale.models.config import AutoencoderConfig, DenoiserConfig, ModelConfig
from adit_scale.models.dit import Denoiser
from adit_scale.models.ladder import LADDER

# Published name -> name here, as regular expressions on the start of what follows the network's prefix.
_LAYER = r"(encoder|decoder)\.transformer\.layers\.(\d+)\."
_AUTOENCODER_NAMES = (
    (_LAYER + r"self_attn\.in_proj_(weight|bias)", r"\1.blocks.\2.attention.qkv.\3"),
    (_LAYER + r"self_attn\.out_proj\.", r"\1.blocks.\2.attention.proj."),
    (_LAYER + r"linear([12])\.", r"\1.blocks.\2.mlp.fc\3."),
    (_LAYER + r"norm([12])\.", r"\1.blocks.\2.norm\3."),
    (r"(encoder|decoder)\.transformer\.norm\.", r"\1.norm."),
    (r"encoder\.atom_type_embedder\.", "element_embedding."),
    (r"encoder\.pos_embedder\.0\.", "position_embedding.fc1."),
    (r"encoder\.pos_embedder\.2\.", "position_embedding.fc2."),
    (r"encoder\.frac_coords_embedder\.0\.", "fractional_embedding.fc1."),
    (r"encoder\.frac_coords_embedder\.2\.", "fractional_embedding.fc2."),
    (r"quant_conv\.", "to_moments."),
    (r"post_quant_conv\.", "from_latent."),
    (r"decoder\.atom_types_head\.", "element_head."),
    (r"decoder\.pos_head\.", "position_head."),
    (r"decoder\.frac_coords_head\.", "fractional_head."),
    (r"decoder\.lattice_head\.", "lattice_head."),
)
_DENOISER_NAMES = (
    (r"blocks\.(\d+)\.attn\.in_proj_(weight|bias)", r"blocks.\1.attention.qkv.\2"),
    (r"blocks\.(\d+)\.attn\.out_proj\.", r"blocks.\1.attention.proj."),
    (r"blocks\.(\d+)\.mlp\.", r"blocks.\1.mlp."),
    (r"blocks\.(\d+)\.adaLN_modulation\.1\.", r"blocks.\1.modulation."),
    (r"x_embedder\.", "input."),
    (r"t_embedder\.mlp\.0\.", "time_embedding.fc1."),
    (r"t_embedder\.mlp\.2\.", "time_embedding.fc2."),
    (r"dataset_embedder\.embedding_table\.", "domain_embedding."),
    (r"spacegroup_embedder\.embedding_table\.", "spacegroup_embedding."),
    (r"final_layer\.adaLN_modulation\.1\.", "final.modulation."),
    (r"final_layer\.linear\.", "final.head."),
)
# What torch's restricted unpickler raises on a foreign, torn or unsafe file; it does not wrap them.
_UNPICKLING_ERRORS = (
    pickle.UnpicklingError, RuntimeError, EOFError, LookupError,
    ValueError, TypeError, AttributeError, struct.error,
)  # fmt: skip
_PUBLISHED_AUTOENCODER_HEADS = {512: 8}  # by width


def load_adit_weights(path: Path | str, config: ModelConfig | None = None) -> tuple[Autoencoder, Denoiser]:
    """Both networks, in float32 on the CPU, with the weights of a published checkpoint.

    path: a ``.safetensors`` file of the checkpoint's ``state_dict``, or the ``.ckpt`` itself if it holds
        nothing but tensors and plain values (it is read with ``weights_only=True``; no code in it is run).
    config: the sizes expected. Without it they are read off the shapes; since shapes do not tell the number
        of attention heads, the sizes must then be published ones. Spacegroup labels are then heeded.
    Raises CheckpointError, naming the file, for a file that cannot be read, a missing, unknown or misshapen
    tensor, or another model size than expected.
    """
    path = Path(path)
    published = _read(path)
    found = _sizes(path, published)
    if config is None:
        config = _with_published_heads(path, found)
    else:
        _check_sizes(path, found, config)
    with torch.device("meta"):  # no initial weights, and so no random draws, only to overwrite them
        autoencoder, denoiser = Autoencoder(config.autoencoder), Denoiser(config.denoiser)
    taken = {*_load(path, published, "autoencoder.", _AUTOENCODER_NAMES, autoencoder)}
    taken |= {*_load(path, published, "denoiser.", _DENOISER_NAMES, denoiser)}
    unknown = sorted(published.keys() - taken)
    if unknown:
        raise CheckpointError(
            f"{path}: unexpected tensor {unknown[0]} ({len(unknown)} in all); expected the published names "
            "autoencoder.* and denoiser.* only"
        )
    return autoencoder, denoiser


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such file; expected a published checkpoint (.safetensors or .ckpt)"
        )
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except _UNPICKLING_ERRORS as error:
        raise CheckpointError(
            f"{path}: cannot be read without running code stored in it; save its state_dict as .safetensors"
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: holds no state_dict of tensors; expected a published ADiT checkpoint")
    return state


def _shape(path: Path, published: dict[str, Tensor], name: str) -> tuple[int, int]:
    if name not in published:
        raise CheckpointError(f"{path}: missing tensor {name}; expected a published ADiT checkpoint")
    shape = tuple(published[name].shape)
    if len(shape) != 2:
        raise CheckpointError(f"{path}: {name} has shape {shape}; expected two dimensions")
    return shape


def _depth(published: dict[str, Tensor], prefix: str) -> int:
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    return len({match[1] for name in published if (match := pattern.match(name))})


def _sizes(path: Path, published: dict[str, Tensor]) -> ModelConfig:
    """What the shapes tell; heads are left at 1."""
    latents_twice, width = _shape(path, published, "autoencoder.quant_conv.weight")
    hidden, _ = _shape(path, published, "autoencoder.encoder.transformer.layers.0.linear1.weight")
    denoiser_width, inputs = _shape(path, published, "denoiser.x_embedder.weight")
    denoiser_hidden, _ = _shape(path, published, "denoiser.blocks.0.mlp.fc1.weight")
    return ModelConfig(
        autoencoder=AutoencoderConfig(
            width=width,
            encoder_depth=_depth(published, "autoencoder.encoder.transformer.layers"),
            decoder_depth=_depth(published, "autoencoder.decoder.transformer.layers"),
            heads=1,
            feedforward=hidden,
            latent=latents_twice // 2,
        ),
        denoiser=DenoiserConfig(
            name="imported",
            width=denoiser_width,
            depth=_depth(published, "denoiser.blocks"),
            heads=1,
            mlp_ratio=denoiser_hidden // denoiser_width,
            latent=inputs // 2,
            spacegroup_conditioning=True,
        ),
    )


def _with_published_heads(path: Path, found: ModelConfig) -> ModelConfig:
    autoencoder, denoiser = found.autoencoder, found.denoiser
    rung = next((r for r in LADDER.values() if (r.width, r.depth) == (denoiser.width, denoiser.depth)), None)
    if rung is None or autoencoder.width not in _PUBLISHED_AUTOENCODER_HEADS:
        raise CheckpointError(
            f"{path}: autoencoder of width {autoencoder.width} and denoiser of width {denoiser.width}, depth "
            f"{denoiser.depth} are not published sizes; shapes do not tell their number of attention heads: "
            "give a model config"
        )
    autoencoder.heads = _PUBLISHED_AUTOENCODER_HEADS[autoencoder.width]
    denoiser.heads, denoiser.name = rung.heads, rung.name
    return found


def _check_sizes(path: Path, found: ModelConfig, config: ModelConfig) -> None:
    try:
        config.validate()
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
    for group, keys in (
        ("autoencoder", ("width", "encoder_depth", "decoder_depth", "feedforward", "latent")),
        ("denoiser", ("width", "depth", "mlp_ratio", "latent")),
    ):
        for key in keys:
            got, expected = getattr(getattr(found, group), key), getattr(getattr(config, group), key)
            if got != expected:
                raise CheckpointError(
                    f"{path}: another model size: its {group} has {key} {got}; expected {expected} "
                    f"(model.{group}.{key})"
                )


def _load(
    path: Path,
    published: dict[str, Tensor],
    prefix: str,
    names: tuple[tuple[str, str], ...],
    model: nn.Module,
) -> list[str]:
    """Fill ``model`` and return the published names that were used."""
    original = {
        renamed: name
        for name in published
        if name.startswith(prefix) and (renamed := _renamed(name.removeprefix(prefix), names)) is not None
    }
    state = {}
    for ours, parameter in model.state_dict().items():
        if ours not in original:
            raise CheckpointError(f"{path}: missing tensor for {prefix}{ours} (its name in this project)")
        tensor = published[original[ours]]
        if tensor.shape != parameter.shape:
            raise CheckpointError(
                f"{path}: {original[ours]} has shape {tuple(tensor.shape)}; expected {tuple(parameter.shape)}"
            )
        state[ours] = tensor.to(torch.float32)
    model.load_state_dict(state, assign=True)
    return [original[ours] for ours in state]


def _renamed(name: str, names: tuple[tuple[str, str], ...]) -> str | None:
    for pattern, replacement in names:
        renamed, count = re.subn(f"^{pattern}", replacement, name)
        if count:
            return renamed
    return None

"""Bring a published ADiT checkpoint: its weights under our names, with every name and shape checked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from adit_scale.errors import CheckpointError, ConfigError
from adit_scale.models.adit_state import AditState, pass_over, read_state
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
_PUBLISHED_AUTOENCODER_HEADS = {512: 8}  # by width


@dataclass(frozen=True)
class Heads:
    """Attention heads, which no shape tells; 0: those of the published model of this size."""

    autoencoder: int = 0
    denoiser: int = 0


@dataclass(frozen=True)
class Imported:
    """A published pair of networks, in float32 on the CPU. state: what was read from the file and how.

    assumed: of which networks the number of heads was taken from the published sizes. passed_over: tensors
    that were left out as asked.
    """

    autoencoder: Autoencoder
    denoiser: Denoiser
    state: AditState
    assumed: list[str]
    passed_over: list[str]


def load_adit_weights(path: Path | str, config: ModelConfig | None = None) -> tuple[Autoencoder, Denoiser]:
    """Both networks, in float32 on the CPU, with the weights of a published checkpoint.

    path: a ``.safetensors`` file of the checkpoint's ``state_dict``, or the ``.ckpt`` itself, of which only
        the tensors are read; no code in it is run.
    config: the sizes expected. Without it they are read off the shapes; since shapes do not tell the number
        of attention heads, the sizes must then be published ones. Spacegroup labels are then heeded.
    Raises CheckpointError, naming the file, for a file that cannot be read, a missing, unknown or misshapen
    tensor, or another model size than expected; ConfigError where it holds two sets of weights.
    """
    path = Path(path)
    state = read_state(path)
    found = _sizes(path, state.tensors)
    if config is None:
        config, _ = _with_heads(path, found, Heads())
    else:
        _check_sizes(path, found, config)
    return _networks(path, state, config, ())


def import_adit(
    path: Path, heads: Heads | None = None, weights: str = "", ignore: Sequence[str] = ()
) -> Imported:
    """A published checkpoint with its sizes read off the shapes.

    weights: "ema" or "model" where the file holds both. ignore: beginnings of names to pass over.
    Raises CheckpointError and ConfigError as ``load_adit_weights``.
    """
    state = read_state(path, weights)
    config, assumed = _with_heads(path, _sizes(path, state.tensors), heads or Heads())
    return Imported(*_networks(path, state, config, ignore), state, assumed, state.unknown)


def _networks(
    path: Path, state: AditState, config: ModelConfig, ignore: Sequence[str]
) -> tuple[Autoencoder, Denoiser]:
    with torch.device("meta"):  # no initial weights, and so no random draws, only to overwrite them
        autoencoder, denoiser = Autoencoder(config.autoencoder), Denoiser(config.denoiser)
    taken = {*_load(path, state.tensors, "autoencoder.", _AUTOENCODER_NAMES, autoencoder)}
    taken |= {*_load(path, state.tensors, "denoiser.", _DENOISER_NAMES, denoiser)}
    pass_over(path, sorted(state.tensors.keys() - taken) + state.unknown, ignore)
    return autoencoder, denoiser


def _shape(path: Path, published: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    if name not in published:
        raise CheckpointError(f"{path}: missing tensor {name}; expected a published ADiT checkpoint")
    shape = tuple(published[name].shape)
    if len(shape) != 2:
        raise CheckpointError(f"{path}: {name} has shape {shape}; expected two dimensions")
    return shape


def _depth(published: Mapping[str, Tensor], prefix: str) -> int:
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    return len({match[1] for name in published if (match := pattern.match(name))})


def _sizes(path: Path, published: Mapping[str, Tensor]) -> ModelConfig:
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


def _with_heads(path: Path, found: ModelConfig, heads: Heads) -> tuple[ModelConfig, list[str]]:
    """The sizes with heads as given, else as published; and of which networks they were assumed."""
    autoencoder, denoiser = found.autoencoder, found.denoiser
    rung = next((r for r in LADDER.values() if (r.width, r.depth) == (denoiser.width, denoiser.depth)), None)
    known = (_PUBLISHED_AUTOENCODER_HEADS.get(autoencoder.width, 0), rung.heads if rung else 0)
    autoencoder.heads, denoiser.heads = heads.autoencoder or known[0], heads.denoiser or known[1]
    if not (autoencoder.heads and denoiser.heads):
        raise CheckpointError(
            f"{path}: autoencoder of width {autoencoder.width} and denoiser of width {denoiser.width}, depth "
            f"{denoiser.depth} are not published sizes; shapes do not tell their number of attention heads: "
            "give a model config, or autoencoder_heads=N denoiser_heads=N to `adit import-adit`"
        )
    if rung is not None:
        denoiser.name = rung.name
    try:
        found.validate()
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
    assumed = {"autoencoder": heads.autoencoder, "denoiser": heads.denoiser}
    return found, [network for network, given in assumed.items() if not given]


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
    published: Mapping[str, Tensor],
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

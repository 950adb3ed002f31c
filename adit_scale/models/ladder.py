"""The sizes of a scaling study, with exact parameter counts and FLOPs. No torch: the planner reads this file.

FLOPs count matrix products only, as ``2 m n k`` (docs/method.md); a multiply and an add are two.
"""

from __future__ import annotations

from collections.abc import Iterable

from adit_scale.models.config import AutoencoderConfig, DenoiserConfig

N_ELEMENTS = 100
N_DOMAINS = 3
N_SPACEGROUPS = 231
TIME_FEATURES = 256


def _rungs(*shapes: tuple[str, int, int, int]) -> dict[str, DenoiserConfig]:
    return {
        name: DenoiserConfig(name=name, width=width, depth=depth, heads=heads)
        for name, width, depth, heads in shapes
    }


# (name, width, depth, heads). S, B, L and XL are the paper's; below S width/depth stays 32 and the head width
# 64 where they divide. Neighbours are at most 4 times apart in parameters.
LADDER: dict[str, DenoiserConfig] = _rungs(
    ("dit_32", 32, 2, 1),
    ("dit_48", 48, 2, 1),
    ("dit_64", 64, 2, 1),
    ("dit_96", 96, 3, 2),
    ("dit_128", 128, 4, 2),
    ("dit_160", 160, 5, 2),
    ("dit_192", 192, 6, 3),
    ("dit_256", 256, 8, 4),
    ("dit_320", 320, 10, 5),
    ("dit_s", 384, 12, 6),
    ("dit_b", 768, 12, 12),
    ("dit_l", 1024, 24, 16),
    ("dit_xl", 1152, 28, 16),
)


def _linear(n_in: int, n_out: int, bias: bool = True) -> int:
    return n_in * n_out + (n_out if bias else 0)


def denoiser_parameters(config: DenoiserConfig) -> int:
    """Trainable parameters, all tables included: the N of a study."""
    d, hidden = config.width, config.mlp_ratio * config.width
    block = _linear(d, 3 * d) + _linear(d, d) + _linear(d, hidden) + _linear(hidden, d) + _linear(d, 6 * d)
    return (
        config.depth * block
        + _linear(2 * config.latent, d)
        + _linear(TIME_FEATURES, d)
        + _linear(d, d)
        + (N_DOMAINS + N_SPACEGROUPS) * d
        + _linear(d, 2 * d)
        + _linear(d, config.latent)
    )


def n_mat(config: DenoiserConfig) -> int:
    """Weights of the matrices that meet every atom in the blocks: ``12 d^2 depth`` at MLP ratio 4."""
    return (4 + 2 * config.mlp_ratio) * config.width**2 * config.depth


def _stack_parameters(d: int, depth: int, feedforward: int) -> int:
    attention = _linear(d, 3 * d) + _linear(d, d)
    mlp = _linear(d, feedforward) + _linear(feedforward, d)
    return depth * (attention + mlp + 2 * 2 * d) + 2 * d


def autoencoder_parameters(config: AutoencoderConfig) -> int:
    """Trainable parameters of encoder and decoder, embeddings and heads included."""
    d = config.width
    coordinates = _linear(3, d, bias=False) + _linear(d, d)
    heads = _linear(d, N_ELEMENTS) + (3 + 3 + 6) * d
    return (
        N_ELEMENTS * d
        + 2 * coordinates
        + _stack_parameters(d, config.encoder_depth, config.feedforward)
        + 3 * config.latent * d
        + _stack_parameters(d, config.decoder_depth, config.feedforward)
        + heads
    )


def _totals(sizes: Iterable[int]) -> tuple[int, int, int]:
    """Sets, atoms and pairs of atoms of sets of the given sizes."""
    n = [int(size) for size in sizes]
    return len(n), sum(n), sum(size * size for size in n)


def forward_flops(config: DenoiserConfig, sizes: Iterable[int]) -> float:
    """FLOPs of one forward over real sets of the given atom counts, embeddings and head included."""
    n_sets, n_atoms, n_pairs = _totals(sizes)
    d, depth = config.width, config.depth
    an_atom = 2 * n_mat(config) + 2 * (2 * config.latent) * d + 2 * d * config.latent
    a_pair = 4 * d * depth  # scores and weighted values
    a_set = 12 * d * d * depth + 2 * TIME_FEATURES * d + 6 * d * d  # adaLN and time act once a set
    return float(n_atoms * an_atom + n_pairs * a_pair + n_sets * a_set)


def training_flops(config: DenoiserConfig, sizes: Iterable[int], p_self_conditioning: float) -> float:
    """FLOPs of one training pass: 3 forwards, and one more with the probability of self-conditioning."""
    return (3 + p_self_conditioning) * forward_flops(config, sizes)


def encoder_flops(config: AutoencoderConfig, sizes: Iterable[int]) -> float:
    """FLOPs of one forward of the frozen encoder, which every step of stage 2 pays."""
    _, n_atoms, n_pairs = _totals(sizes)
    d, depth = config.width, config.encoder_depth
    coordinates = 2 * (2 * 3 * d + 2 * d * d)
    layers = depth * (8 * d * d + 4 * d * config.feedforward)
    an_atom = coordinates + layers + 2 * d * 2 * config.latent
    return float(n_atoms * an_atom + n_pairs * 4 * d * depth)


def autoencoder_flops(config: AutoencoderConfig, sizes: Iterable[int]) -> float:
    """FLOPs of one forward of encoder and decoder with its heads."""
    n_sets, n_atoms, n_pairs = _totals(sizes)
    d, depth = config.width, config.decoder_depth
    layers = depth * (8 * d * d + 4 * d * config.feedforward)
    heads = 2 * d * (config.latent + N_ELEMENTS + 3 + 3)
    decoder = n_atoms * (layers + heads) + n_pairs * 4 * d * depth + n_sets * 2 * d * 6
    return encoder_flops(config, sizes) + float(decoder)

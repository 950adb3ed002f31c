"""The baseline of the speed benchmarks: the DiT as a plain padded implementation runs it, and sizes of sets.

A batch in the random order in which sets were drawn, padded to its largest set, ``(S, N, d)``, with
``torch.nn.MultiheadAttention`` and its padding mask; otherwise the same network, with the same weights.

Shapes: ``_s`` sets, ``_n`` places of the padded batch, ``_t`` atoms of the packed one, ``_d`` features.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adit_scale.atoms import CRYSTAL, MOLECULE, PackedLayout
from adit_scale.models.config import DenoiserConfig
from adit_scale.models.dit import Denoiser, DiTBlock, FinalLayer, TimeEmbedding
from adit_scale.models.transformer import Fp32Linear, Mlp, index_embedding

# Structures of 0, 1, 2, 3, … atoms. QM9: 2,000 molecules (mean 18.2). MP20: the 7,140 crystals of its
# validation split with at most three elements (mean 9.6). GEOM-DRUGS: thousands of its 6.9 M conformers with
# hydrogens (mean 46.7), from the table `geom_with_h` that Hoogeboom et al. (arXiv 2203.17003) publish with
# their code (github.com/ehoogeboom/e3_diffusion_for_molecules, configs/datasets_config.py); what is larger
# than 85, 0.25%, is pooled in the middle of each ten.
QM9_HISTOGRAM = [0] * 5 + [
    1, 0, 0, 0, 2, 9, 15, 29, 54, 81, 133, 212, 250, 267, 289, 223, 217, 83, 94, 11, 26, 0, 4,
]  # fmt: skip
MP20_HISTOGRAM = [
    0, 0, 171, 196, 1349, 438, 690, 182, 621, 248, 406, 88, 768, 155, 421, 85, 468, 51, 359, 64, 380,
]  # fmt: skip
GEOM_DRUGS_TAIL = {90: 8.4, 100: 2.9, 110: 2.0, 120: 2.1, 130: 1.3, 140: 1.5, 150: 0.7, 160: 0.1, 175: 0.2}
GEOM_DRUGS_HISTOGRAM = [0.0] * 15 + [
    0.6, 0.6, 0.9, 1.3, 1.9, 2.7, 3.6, 6.1, 8.7, 14, 17, 26, 32, 44, 57, 70, 83, 104, 123, 141, 165, 185,
    195, 219, 231, 243, 253, 268, 272, 277, 277, 275, 272, 263, 250, 245, 229, 215, 204, 192, 181, 164, 152,
    137, 120, 107, 95, 83, 68, 62, 49, 38, 33, 27, 21, 19, 15, 12, 10, 9, 6.5, 6.4, 4, 4.2, 3.8, 3.3, 2.9,
    1.8, 2.1, 1.4, 1.5, *(GEOM_DRUGS_TAIL.get(n, 0.0) for n in range(86, 176)),
]  # fmt: skip
# Of a mix, each set is of one of these kinds, all equally likely.
MIXES: dict[str, list[tuple[int, list[int] | list[float]]]] = {
    "qm9_mp20": [(MOLECULE, QM9_HISTOGRAM), (CRYSTAL, MP20_HISTOGRAM)],
    "geom_drugs": [(MOLECULE, GEOM_DRUGS_HISTOGRAM)],
}


def draw_sets(rng: np.random.Generator, mix: str, n_sets: int) -> tuple[np.ndarray, np.ndarray]:
    """Sizes and domains ``(n_sets,)`` of random sets of a mix, in random order."""
    kinds = MIXES[mix]
    kind_s = rng.integers(len(kinds), size=n_sets)
    sizes_s = np.empty(n_sets, dtype=np.int64)
    for i, (_, histogram) in enumerate(kinds):
        share = np.asarray(histogram) / np.sum(histogram)
        sizes_s[kind_s == i] = rng.choice(len(share), size=int((kind_s == i).sum()), p=share)
    return sizes_s, np.array([domain for domain, _ in kinds])[kind_s]


class DenseBlock(nn.Module):
    """A DiT block on ``(S, N, d)`` with a padding mask."""

    def __init__(self, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = Mlp(width, mlp_ratio * width)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x_snd: Tensor, condition_sd: Tensor, padding_sn: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition_sd)[:, None].chunk(6, dim=-1)
        h = modulate(x_snd, shift1, scale1)
        h, _ = self.attention(h, h, h, key_padding_mask=padding_sn, need_weights=False)
        x_snd = x_snd + gate1 * h
        return x_snd + gate2 * self.mlp(modulate(x_snd, shift2, scale2))


class DenseDenoiser(nn.Module):
    """The DiT on a padded batch, otherwise as ``Denoiser``, float32 in the same places."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        width = self.width = config.width
        self.input = Fp32Linear(2 * config.latent, width)
        self.time_embedding = TimeEmbedding(width)
        self.domain_embedding = nn.Embedding(3, width)
        self.spacegroup_embedding = nn.Embedding(231, width)
        self.blocks = nn.ModuleList(
            DenseBlock(width, config.heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.modulation = Fp32Linear(width, 2 * width)
        self.head = Fp32Linear(width, config.latent)

    def forward(self, x_snd: Tensor, t_s: Tensor, domain_s: Tensor, padding_sn: Tensor) -> Tensor:
        """The predicted clean latents ``(S, N, latent)``, float32. padding_sn: True where no atom is."""
        dtype = self.domain_embedding.weight.dtype
        condition_sd = self.time_embedding(t_s) + self.domain_embedding(domain_s)
        condition_sd = F.silu(condition_sd + self.spacegroup_embedding(torch.zeros_like(domain_s))).to(dtype)
        x_snd = self.input(torch.cat([x_snd, torch.zeros_like(x_snd)], dim=-1))
        place = PackedLayout.from_sizes([x_snd.shape[1]]).to(x_snd.device)
        x_snd = (x_snd + index_embedding(place, self.width, x_snd.dtype)).to(dtype)
        for block in self.blocks:
            x_snd = block(x_snd, condition_sd, padding_sn)
        shift, scale = self.modulation(condition_sd)[:, None].chunk(2, dim=-1)
        return self.head(modulate(x_snd.to(shift.dtype), shift, scale))


def modulate(x_snd: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x_snd, x_snd.shape[-1:], eps=1e-6) * (1 + scale) + shift


def dense_twin(packed: Denoiser) -> DenseDenoiser:
    """A dense model with the packed one's weights, on its device, so that both compute the same."""
    renamed = {
        name.replace("attention.qkv.", "attention.in_proj_")
        .replace("attention.proj.", "attention.out_proj.")
        .replace("final.", ""): value
        for name, value in packed.state_dict().items()
    }
    dense = DenseDenoiser(packed.config).to(next(packed.parameters()).device)
    dense.load_state_dict(renamed)
    return dense


def away_from_zero(model: Denoiser) -> Denoiser:
    """Random modulations and head; at the zero start a comparison of outputs would say nothing."""
    for module in model.modules():
        if isinstance(module, DiTBlock | FinalLayer):
            nn.init.normal_(module.modulation.weight, std=0.02)
    nn.init.normal_(model.final.head.weight, std=0.02)
    return model


def padded(x_td: Tensor, padding_sn: Tensor) -> Tensor:
    """Rows of atoms, set after set, as ``(S, N, d)`` with zeros where ``padding_sn`` is True."""
    out_snd = x_td.new_zeros(*padding_sn.shape, x_td.shape[-1])
    out_snd[~padding_sn] = x_td
    return out_snd

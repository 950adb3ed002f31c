"""Stage 2: the diffusion transformer on packed latents (docs/method.md; Peebles and Xie, arXiv 2212.09748).

Shapes: ``_t`` atoms, ``_s`` sets, ``_r`` rows of conditions (one a set, unless said), ``_d`` features.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adit_scale.atoms import DOMAIN_NAMES, PackedLayout
from adit_scale.models.config import DenoiserConfig
from adit_scale.models.kernels import Modulated, gated_add, modulated_norm, spread
from adit_scale.models.transformer import (
    BlockStack,
    Fp32Linear,
    Mlp,
    SelfAttention,
    at_least_fp32,
    index_embedding,
    trunk_dtype,
)

N_DOMAINS = len(DOMAIN_NAMES) + 1  # 0 is the null label
N_SPACEGROUPS = 231  # 0 is the null label
TIME_FEATURES = 256
TIME_MAX_PERIOD = 10_000


def time_features(t_s: Tensor, dtype: torch.dtype) -> Tensor:
    """Cosines, then sines, of t at 128 frequencies from 1 down to 1/10,000, ``(S, 256)``."""
    half = TIME_FEATURES // 2
    k = torch.arange(half, device=t_s.device, dtype=torch.float64)
    angle = t_s[:, None].double() * torch.exp(k * (-math.log(TIME_MAX_PERIOD) / half))
    return torch.cat([angle.cos(), angle.sin()], dim=1).to(dtype)


class TimeEmbedding(nn.Module):
    """Linear(256, d), SiLU, Linear(d, d) of ``time_features``; float32 throughout, as it runs once a set."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = Fp32Linear(TIME_FEATURES, width)
        self.fc2 = Fp32Linear(width, width)

    def forward(self, t_s: Tensor) -> Tensor:
        return self.fc2(F.silu(self.fc1(time_features(t_s, at_least_fp32(trunk_dtype(self))))))


class DiTBlock(Modulated):
    """adaLN-Zero: attention and MLP, each normed, shifted, scaled and gated by the set's condition."""

    def __init__(self, config: DenoiserConfig, backend: str = "auto") -> None:
        super().__init__()
        width = config.width
        self.attention = SelfAttention(width, config.heads, backend, config.base_head_width)
        self.mlp = Mlp(width, config.mlp_ratio * width)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(
        self, x_td: Tensor, condition_rd: Tensor, row_of_atom_t: Tensor | None, layout: PackedLayout
    ) -> Tensor:
        """condition_rd: ``(R, d)``, after the SiLU that all blocks share."""
        modulation_rd, row_of_atom_t = spread(self.modulation(condition_rd), row_of_atom_t, self.kernels)
        rows = row_of_atom_t, layout, self.kernels
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation_rd.chunk(6, dim=-1)
        x_td = gated_add(
            x_td, gate1, self.attention(modulated_norm(x_td, shift1, scale1, *rows), layout), *rows
        )
        return gated_add(x_td, gate2, self.mlp(modulated_norm(x_td, shift2, scale2, *rows)), *rows)


class FinalLayer(Modulated):
    """The last modulated norm and the head, in float32."""

    def __init__(self, width: int, latent: int) -> None:
        super().__init__()
        self.modulation = Fp32Linear(width, 2 * width)
        self.head = Fp32Linear(width, latent)

    def forward(
        self, x_td: Tensor, condition_rd: Tensor, row_of_atom_t: Tensor | None, layout: PackedLayout
    ) -> Tensor:
        modulation_rd, row_of_atom_t = spread(self.modulation(condition_rd), row_of_atom_t, self.kernels)
        shift_rd, scale_rd = modulation_rd.chunk(2, dim=-1)
        x_td = x_td.to(modulation_rd.dtype)
        return self.head(modulated_norm(x_td, shift_rd, scale_rd, row_of_atom_t, layout, self.kernels))


class Denoiser(nn.Module):
    """The DiT: predicts clean latents x_1 from x_t. ``attention_backend`` is that of ``packed_attention``."""

    def __init__(self, config: DenoiserConfig, attention_backend: str = "auto") -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.input = Fp32Linear(2 * config.latent, width)
        self.time_embedding = TimeEmbedding(width)
        self.domain_embedding = nn.Embedding(N_DOMAINS, width)
        self.spacegroup_embedding = nn.Embedding(N_SPACEGROUPS, width)
        self.blocks = BlockStack(DiTBlock(config, attention_backend) for _ in range(config.depth))
        self.final = FinalLayer(width, config.latent)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform, with N(0, 0.02) embeddings and time weights, zero biases, modulations and head."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        for module in self.modules():
            if isinstance(module, DiTBlock | FinalLayer):
                nn.init.zeros_(module.modulation.weight)
        nn.init.normal_(self.time_embedding.fc1.weight, std=0.02)
        nn.init.normal_(self.time_embedding.fc2.weight, std=0.02)
        nn.init.zeros_(self.final.head.weight)

    def forward(
        self,
        x_td: Tensor,
        self_conditioning_td: Tensor | None,
        t_s: Tensor,
        domain_s: Tensor,
        spacegroup_s: Tensor,
        layout: PackedLayout,
        row_of_atom_t: Tensor | None = None,
    ) -> Tensor:
        """The predicted clean latents ``(T, latent)``, float32.

        x_td: noised latents ``(T, latent)``. self_conditioning_td: an earlier prediction, or None for zeros.
        t_s: ``(S,)`` in [0, 1]; 1 is data. domain_s: 0 null, 1 crystal, 2 molecule.
        spacegroup_s: 0 null or 1 to 230; only read where the config has spacegroup_conditioning.
        t_s, domain_s and spacegroup_s may have one row, for all sets. Where many sets share few conditions,
        they may have any number of rows, and row_of_atom_t ``(T,)`` tells which is each atom's.
        """
        if row_of_atom_t is None and len(t_s) > 1:
            row_of_atom_t = layout.set_of_atom_t
        if self_conditioning_td is None:
            self_conditioning_td = torch.zeros_like(x_td)
        if not self.config.spacegroup_conditioning:
            spacegroup_s = torch.zeros_like(domain_s)
        condition_rd = (
            self.time_embedding(t_s)
            + self.domain_embedding(domain_s)
            + self.spacegroup_embedding(spacegroup_s)
        )
        dtype = trunk_dtype(self)
        condition_rd = F.silu(condition_rd).to(dtype)
        x_td = self.input(torch.cat([x_td, self_conditioning_td], dim=-1))
        x_td = (x_td + index_embedding(layout, self.config.width, x_td.dtype)).to(dtype)
        x_td = self.blocks(x_td, condition_rd, row_of_atom_t, layout)
        return self.final(x_td, condition_rd, row_of_atom_t, layout)

"""The baseline of the sampling benchmarks: the same weights as a plain padded implementation would run them.

A batch in the random order in which sizes were drawn, padded to its longest set, ``(S, N, d)``, float32,
``scaled_dot_product_attention`` with a padding mask, both halves of the guidance in one batch of 2 S sets,
adaLN of every set, Euler over a uniform grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from dense_denoiser import MP20_HISTOGRAM, QM9_HISTOGRAM, away_from_zero, modulate
from torch import Tensor

from adit_scale.atoms import PackedLayout
from adit_scale.diffusion.time_grids import time_grid
from adit_scale.models.dit import Denoiser, DiTBlock
from adit_scale.models.transformer import index_embedding

__all__ = ["MP20_HISTOGRAM", "QM9_HISTOGRAM", "DenseSampler", "away_from_zero", "padded"]


class DenseSampler:
    """Latents of padded batches with the weights of a packed denoiser."""

    def __init__(self, denoiser: Denoiser, guidance_scale: float, steps: int) -> None:
        self.net, self.scale = denoiser, guidance_scale
        self.times = time_grid(steps)

    @torch.no_grad()
    def __call__(self, x_0_snd: Tensor, domain_s: Tensor, padding_sn: Tensor) -> Tensor:
        """The sample ``(S, N, latent)``. padding_sn: True where no atom is. domain_s: ``(S,)``."""
        labels_s = torch.cat([domain_s, torch.zeros_like(domain_s)])
        # True where attention is allowed, for all heads and queries.
        seen_s11n = ~padding_sn.repeat(2, 1)[:, None, None, :]
        x_snd, x1_hat_snd = x_0_snd, torch.zeros_like(x_0_snd)
        for i, t in enumerate(self.times):
            both = self.predict(x_snd.repeat(2, 1, 1), x1_hat_snd.repeat(2, 1, 1), t, labels_s, seen_s11n)
            conditional, unconditional = both.chunk(2)
            x1_hat_snd = unconditional + self.scale * (conditional - unconditional)
            if i + 1 < len(self.times):
                x_snd = x_snd + (x1_hat_snd - x_snd) * ((self.times[i + 1] - t) / (1 - t))
        return x1_hat_snd

    def predict(self, x_snd: Tensor, newest_snd: Tensor, t: float, label_s: Tensor, seen: Tensor) -> Tensor:
        net = self.net
        t_s = torch.full(label_s.shape, t, device=x_snd.device)
        none_s = torch.zeros_like(label_s)
        condition_sd = net.time_embedding(t_s) + net.domain_embedding(label_s)
        condition_sd = F.silu(condition_sd + net.spacegroup_embedding(none_s))
        place = PackedLayout.from_sizes([x_snd.shape[1]]).to(x_snd.device)
        x_snd = net.input(torch.cat([x_snd, newest_snd], dim=-1))
        x_snd = x_snd + index_embedding(place, net.config.width, x_snd.dtype)
        for block in net.blocks:
            assert isinstance(block, DiTBlock)
            x_snd = dense_block(block, x_snd, condition_sd, seen)
        shift, scale = net.final.modulation(condition_sd)[:, None].chunk(2, dim=-1)
        return net.final.head(modulate(x_snd, shift, scale))


def dense_block(block: DiTBlock, x_snd: Tensor, condition_sd: Tensor, seen: Tensor) -> Tensor:
    shift1, scale1, gate1, shift2, scale2, gate2 = block.modulation(condition_sd)[:, None].chunk(6, dim=-1)
    attention = block.attention
    qkv = attention.qkv(modulate(x_snd, shift1, scale1)).unflatten(-1, (3, attention.heads, -1))
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
    x_snd = x_snd + gate1 * attention.proj(out.transpose(1, 2).flatten(2))
    return x_snd + gate2 * block.mlp(modulate(x_snd, shift2, scale2))


def padded(x_td: Tensor, sizes_s: Tensor) -> tuple[Tensor, Tensor]:
    """Packed rows as ``(S, N, d)``, and where no atom is, ``(S, N)``."""
    padding_sn = torch.arange(int(sizes_s.max()), device=x_td.device) >= sizes_s[:, None]
    out_snd = x_td.new_zeros(*padding_sn.shape, x_td.shape[-1])
    out_snd[~padding_sn] = x_td
    return out_snd, padding_sn

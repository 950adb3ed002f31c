"""What both networks are made of: packed self-attention, the pre-norm encoder, sums and copies by set.

Precision. Modules run in the dtype of their weights: float64, float32, or bfloat16 where DeepSpeed has cast
them. Then coordinates, latents, timesteps, the last norm and all heads still compute in float32
(``Fp32Linear``, ``Fp32LayerNorm``), since 8 bits of a 5 angstrom position are 0.02 angstrom; norms in between
take their statistics in float32 inside the kernel; the residual stream has the weights' dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from adit_scale.atoms import PackedLayout
from adit_scale.models.attention import SelfAttention

INDEX_PERIOD = 2048


def at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def trunk_dtype(module: nn.Module) -> torch.dtype:
    """The dtype of a module's weights."""
    return next(module.parameters()).dtype


class Fp32Linear(nn.Linear):
    """A linear layer that computes in float32 (float64 with such weights) and takes any input."""

    def forward(self, input: Tensor) -> Tensor:
        dtype = at_least_fp32(self.weight.dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        return F.linear(input.to(dtype), self.weight.to(dtype), bias)


class Fp32LayerNorm(nn.LayerNorm):
    """A layer norm with weights that computes and returns float32, for the input of heads."""

    def forward(self, input: Tensor) -> Tensor:
        dtype = at_least_fp32(self.weight.dtype)
        return F.layer_norm(
            input.to(dtype), self.normalized_shape, self.weight.to(dtype), self.bias.to(dtype), self.eps
        )


def expand_sets(x_sd: Tensor, layout: PackedLayout) -> Tensor:
    """Copy each set's row to its atoms, ``(S, d)`` to ``(T, d)``.

    ``index_select``, because its gradient is one ``index_add``; on a CPU ``x[index]`` takes twice as long.
    """
    return x_sd.index_select(0, layout.set_of_atom_t)


def sum_sets(x_td: Tensor, layout: PackedLayout) -> Tensor:
    """Sum over the atoms of each set, ``(T, ...)`` to ``(S, ...)``; zeros for an empty set."""
    out_sd = x_td.new_zeros(layout.n_sets, *x_td.shape[1:])
    return out_sd.index_add(0, layout.set_of_atom_t, x_td)


def mean_sets(x_td: Tensor, layout: PackedLayout) -> Tensor:
    """Mean over the atoms of each set, ``(T, d)`` to ``(S, d)``; zeros for an empty set."""
    return sum_sets(x_td, layout) / layout.sizes_s.clamp(min=1)[:, None].to(x_td.dtype)


def index_embedding(layout: PackedLayout, width: int, dtype: torch.dtype) -> Tensor:
    """Sines and cosines of an atom's place in its set, ``(T, width)`` (docs/method.md).

    Feature k < width/2 has the angle ``index * pi / 2048^(2k/width)``; sines come first, then cosines.
    """
    # One row a place, then a copy: far fewer sines than one row an atom. Large angles need float64.
    device = layout.index_in_set_t.device
    place = torch.arange(layout.max_atoms, device=device, dtype=torch.float64)
    exponent = torch.arange(width // 2, device=device, dtype=torch.float64) * (2 / width)
    angle = place[:, None] * math.pi / INDEX_PERIOD**exponent
    table = torch.cat([angle.sin(), angle.cos()], dim=1).to(dtype)
    return table.index_select(0, layout.index_in_set_t)


class BlockStack(nn.ModuleList):
    """Blocks run one after another.

    recompute: keep only the input of each block for the backward pass, which then runs each block's forward
    once more: far less memory for a third more work. The values are the same, bit for bit.
    """

    recompute = False

    def forward(self, x_td: Tensor, *args: Any) -> Tensor:
        for block in self:
            if self.recompute and torch.is_grad_enabled():
                x_td = checkpoint(block, x_td, *args, use_reentrant=False, preserve_rng_state=False)
            else:
                x_td = block(x_td, *args)
        return x_td


def prepare_blocks(
    module: nn.Module,
    recompute: bool,
    compiled: bool,
    backend: str | Callable = "inductor",
    fullgraph: bool = True,
) -> None:
    """Let every stack of blocks in ``module`` recompute its blocks and run them compiled, in place.

    Compiled for the shapes of the first batch and its layout's bound on the size of a set: batches of another
    capacity compile anew, those of another mix of sizes do not. Parameters keep their names.
    fullgraph: a block is one graph, and anything that would break it raises.
    """
    for stack in module.modules():
        if isinstance(stack, BlockStack):
            stack.recompute = recompute
            if compiled:
                for block in stack:
                    block.compile(fullgraph=fullgraph, dynamic=False, backend=backend)


class Mlp(nn.Module):
    """Linear, GELU (tanh form), Linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x_td: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x_td), approximate="tanh"))


class TransformerLayer(nn.Module):
    """A pre-norm Transformer encoder layer."""

    def __init__(self, width: int, heads: int, feedforward: int, backend: str = "auto") -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-5)
        self.attention = SelfAttention(width, heads, backend)
        self.norm2 = nn.LayerNorm(width, eps=1e-5)
        self.mlp = Mlp(width, feedforward)

    def forward(self, x_td: Tensor, layout: PackedLayout) -> Tensor:
        x_td = x_td + self.attention(self.norm1(x_td), layout)
        return x_td + self.mlp(self.norm2(x_td))


class TransformerEncoder(nn.Module):
    """Pre-norm layers and a final norm. Takes any float dtype; returns float32, or its weights' float64."""

    def __init__(self, width: int, depth: int, heads: int, feedforward: int, backend: str = "auto") -> None:
        super().__init__()
        self.blocks = BlockStack(TransformerLayer(width, heads, feedforward, backend) for _ in range(depth))
        self.norm = Fp32LayerNorm(width, eps=1e-5)

    def forward(self, x_td: Tensor, layout: PackedLayout) -> Tensor:
        x_td = x_td.to(trunk_dtype(self))
        return self.norm(self.blocks(x_td, layout))

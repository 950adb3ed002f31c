"""The fused kernels as torch operators, with gradients and shapes for the compiler.

To torch.compile each operator is one opaque node of the graph. Triton is imported when the first one runs.

Shapes: ``_t`` atoms, ``_s`` sets, ``_r`` rows of conditions, ``_d`` features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adit_scale.models.transformer import at_least_fp32


@torch.library.custom_op("adit_scale::modulated_norm", mutates_args=())
def modulated_norm(
    x_td: Tensor, shift_rd: Tensor, scale_rd: Tensor, row_of_atom_t: Tensor | None, offsets: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The modulated norm, and each atom's mean and inverse standard deviation ``(T,)`` for the backward pass.

    offsets: ``(S + 1,)``, used by the gradient alone, for which rows must be sets.
    """
    from adit_scale.models.kernels import modulation_triton

    return modulation_triton.norm_forward(x_td, shift_rd, scale_rd, row_of_atom_t)


@modulated_norm.register_fake
def _(
    x_td: Tensor, shift_rd: Tensor, scale_rd: Tensor, row_of_atom_t: Tensor | None, offsets: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    out_td = x_td.new_empty(x_td.shape)
    mean_t = x_td.new_empty(x_td.shape[0], dtype=at_least_fp32(x_td.dtype))
    return out_td, mean_t, torch.empty_like(mean_t)


@torch.library.custom_op("adit_scale::modulated_norm_backward", mutates_args=())
def modulated_norm_backward(
    dout_td: Tensor,
    x_td: Tensor,
    scale_sd: Tensor,
    mean_t: Tensor,
    rstd_t: Tensor,
    set_of_atom_t: Tensor,
    offsets: Tensor,
) -> tuple[Tensor, Tensor]:
    """The gradients of x ``(T, d)``, and of shift and scale as one ``(2, S, d)``."""
    from adit_scale.models.kernels import modulation_triton

    return modulation_triton.norm_backward(dout_td, x_td, scale_sd, mean_t, rstd_t, set_of_atom_t, offsets)


@modulated_norm_backward.register_fake
def _(
    dout_td: Tensor,
    x_td: Tensor,
    scale_sd: Tensor,
    mean_t: Tensor,
    rstd_t: Tensor,
    set_of_atom_t: Tensor,
    offsets: Tensor,
) -> tuple[Tensor, Tensor]:
    return x_td.new_empty(x_td.shape), scale_sd.new_empty(2, *scale_sd.shape)


def _keep_for_norm(ctx: Any, inputs: tuple, output: tuple) -> None:
    x_td, _, scale_rd, row_of_atom_t, offsets = inputs
    _, mean_t, rstd_t = output
    ctx.mark_non_differentiable(mean_t, rstd_t)
    ctx.set_materialize_grads(False)  # else zeros are made for those two
    ctx.save_for_backward(x_td, scale_rd, mean_t, rstd_t, row_of_atom_t, offsets)


def _norm_gradients(ctx: Any, dout_td: Tensor | None, *_: None) -> tuple:
    if dout_td is None:
        return None, None, None, None, None
    dx_td, sums_2sd = modulated_norm_backward(dout_td, *ctx.saved_tensors)
    return dx_td, *sums_2sd.unbind(0), None, None


modulated_norm.register_autograd(_norm_gradients, setup_context=_keep_for_norm)


@torch.library.custom_op("adit_scale::gated_add", mutates_args=())
def gated_add(
    x_td: Tensor, gate_rd: Tensor, y_td: Tensor, row_of_atom_t: Tensor | None, offsets: Tensor
) -> Tensor:
    """The gated sum; offsets as in ``modulated_norm``."""
    from adit_scale.models.kernels import modulation_triton

    return modulation_triton.gate_forward(x_td, gate_rd, y_td, row_of_atom_t)


@gated_add.register_fake
def _(x_td: Tensor, gate_rd: Tensor, y_td: Tensor, row_of_atom_t: Tensor | None, offsets: Tensor) -> Tensor:
    return x_td.new_empty(x_td.shape)


@torch.library.custom_op("adit_scale::gated_add_backward", mutates_args=())
def gated_add_backward(
    dout_td: Tensor, gate_sd: Tensor, y_td: Tensor, set_of_atom_t: Tensor, offsets: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of y ``(T, d)`` and of the gate ``(S, d)``; that of x is ``dout_td`` itself."""
    from adit_scale.models.kernels import modulation_triton

    return modulation_triton.gate_backward(dout_td, gate_sd, y_td, set_of_atom_t, offsets)


@gated_add_backward.register_fake
def _(
    dout_td: Tensor, gate_sd: Tensor, y_td: Tensor, set_of_atom_t: Tensor, offsets: Tensor
) -> tuple[Tensor, Tensor]:
    return y_td.new_empty(y_td.shape), gate_sd.new_empty(gate_sd.shape)


def _keep_for_gate(ctx: Any, inputs: tuple, output: Tensor) -> None:
    _, gate_rd, y_td, row_of_atom_t, offsets = inputs
    ctx.save_for_backward(gate_rd, y_td, row_of_atom_t, offsets)


def _gate_gradients(ctx: Any, dout_td: Tensor) -> tuple:
    dy_td, dgate_sd = gated_add_backward(dout_td, *ctx.saved_tensors)
    return dout_td, dgate_sd, dy_td, None, None


gated_add.register_autograd(_gate_gradients, setup_context=_keep_for_gate)

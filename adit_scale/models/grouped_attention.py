"""Attention inside sets by plain matrix products, one batch of them for each run of equal sizes.

One opaque operator, so that compiled code holds it as one node and is not made anew for another mix of sizes:
runs of sizes come as a tensor. It is used in eager code too, where it is faster than a
``scaled_dot_product_attention`` for each run: queries, keys, values and their gradients are laid out in one
copy each, and backward reuses the softmax (docs/benchmarks.md). It computes in float32 (float64 for such
inputs), in bfloat16 too: sets are so small that converting costs less than slower products gain.

Shapes: ``_t`` atoms, ``_3`` queries, keys, values, ``_h`` heads, ``_d`` features a head, ``_c`` sets of a
run, ``_n`` atoms of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_OPERATORS = torch.ops.adit_scale


def grouped_attention(qkv_t3hd: Tensor, groups_s2: Tensor, max_atoms: int, scale: float | None) -> Tensor:
    """Softmax attention among the atoms of each set.

    qkv_t3hd: ``(T, 3, H, D)``. groups_s2, max_atoms: of ``PackedLayout``. scale: of the scores; None is
    ``D^-1/2``. Returns ``(T, H, D)`` in the input's dtype.
    """
    scale = qkv_t3hd.shape[-1] ** -0.5 if scale is None else scale
    kept_weights = 0
    if torch.is_grad_enabled() and qkv_t3hd.requires_grad:
        # Compiled code has one shape for all mixes of sizes: room for the largest sets.
        pairs = len(qkv_t3hd) * max_atoms if torch.compiler.is_compiling() else _pairs(groups_s2)
        kept_weights = qkv_t3hd.shape[2] * pairs
    return _OPERATORS.grouped_attention(qkv_t3hd, groups_s2, scale, kept_weights)[0]


@torch.library.custom_op("adit_scale::grouped_attention", mutates_args=())
def _forward(
    qkv_t3hd: Tensor, groups_s2: Tensor, scale: float, n_weights: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The output, and for backward the laid out inputs and the softmax, both flat and run by run.

    n_weights: room for the softmax; 0 keeps nothing for backward.
    """
    out_thd, kept_inputs, kept_weights = _empty(qkv_t3hd, groups_s2, scale, n_weights)
    n_heads, head_width = out_thd.shape[1:]
    zero = kept_inputs.new_zeros(())
    first_weight = 0
    for first, n, count in _runs(groups_s2):
        atoms = slice(first, first + n * count)
        shape = (3, count, n_heads, n, head_width)
        if n_weights:
            inputs_3chnd = _taken(kept_inputs, 3 * first * n_heads * head_width, shape)
        else:
            inputs_3chnd = kept_inputs.new_empty(shape)
        inputs_3chnd.copy_(qkv_t3hd[atoms].unflatten(0, (count, n)).permute(2, 0, 3, 1, 4))
        q, k, v = inputs_3chnd.flatten(1, 2)
        weights = torch.baddbmm(zero, q, k.mT, beta=0, alpha=scale)
        if n_weights:
            kept = _taken(kept_weights, first_weight, weights.shape)
            weights = torch.softmax(weights, -1, out=kept)
            first_weight += kept.numel()
        else:
            weights = torch.softmax(weights, -1)
        result_chnd = torch.bmm(weights, v).view(shape[1:])
        out_thd[atoms].unflatten(0, (count, n)).copy_(result_chnd.transpose(1, 2))
    return out_thd, kept_inputs, kept_weights


@_forward.register_fake
def _empty(
    qkv_t3hd: Tensor, groups_s2: Tensor, scale: float, n_weights: int
) -> tuple[Tensor, Tensor, Tensor]:
    n_atoms, _, n_heads, head_width = qkv_t3hd.shape
    dtype = torch.promote_types(qkv_t3hd.dtype, torch.float32)
    return (
        qkv_t3hd.new_empty(n_atoms, n_heads, head_width),
        qkv_t3hd.new_empty(qkv_t3hd.numel() if n_weights else 0, dtype=dtype),
        qkv_t3hd.new_empty(n_weights, dtype=dtype),
    )


@torch.library.custom_op("adit_scale::grouped_attention_backward", mutates_args=())
def _backward(
    grad_thd: Tensor, kept_inputs: Tensor, kept_weights: Tensor, groups_s2: Tensor, scale: float
) -> Tensor:
    """The gradient of queries, keys and values, ``(T, 3, H, D)``."""
    grad_t3hd = _empty_gradient(grad_thd, kept_inputs, kept_weights, groups_s2, scale)
    n_heads, head_width = grad_thd.shape[1:]
    zero = kept_inputs.new_zeros(())
    first_weight = 0
    for first, n, count in _runs(groups_s2):
        atoms = slice(first, first + n * count)
        shape = (3, count, n_heads, n, head_width)
        q, k, v = _taken(kept_inputs, 3 * first * n_heads * head_width, shape).flatten(1, 2)
        weights = _taken(kept_weights, first_weight, (count * n_heads, n, n))
        first_weight += weights.numel()
        grad_chnd = kept_inputs.new_empty(shape[1:])
        grad_chnd.copy_(grad_thd[atoms].unflatten(0, (count, n)).transpose(1, 2))
        grad = grad_chnd.flatten(0, 1)
        result_3chnd = kept_inputs.new_empty(shape)
        grad_q, grad_k, grad_v = result_3chnd.flatten(1, 2)
        torch.bmm(weights.mT, grad, out=grad_v)
        grad_scores = torch.ops.aten._softmax_backward_data(torch.bmm(grad, v.mT), weights, -1, weights.dtype)
        torch.baddbmm(zero, grad_scores, k, beta=0, alpha=scale, out=grad_q)
        torch.baddbmm(zero, grad_scores.mT, q, beta=0, alpha=scale, out=grad_k)
        view = grad_t3hd[atoms].unflatten(0, (count, n))
        view.copy_(result_3chnd.permute(1, 3, 0, 2, 4))
    return grad_t3hd


@_backward.register_fake
def _empty_gradient(
    grad_thd: Tensor, kept_inputs: Tensor, kept_weights: Tensor, groups_s2: Tensor, scale: float
) -> Tensor:
    n_atoms, n_heads, head_width = grad_thd.shape
    return grad_thd.new_empty(n_atoms, 3, n_heads, head_width)


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, groups_s2, scale, _ = inputs
    _, kept_inputs, kept_weights = output
    ctx.mark_non_differentiable(kept_inputs, kept_weights)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(kept_inputs, kept_weights, groups_s2)
    ctx.scale = scale


def _gradients(ctx: Any, grad_thd: Tensor, *_: None) -> tuple[Tensor | None, ...]:
    grad_t3hd = _OPERATORS.grouped_attention_backward(grad_thd, *ctx.saved_tensors, ctx.scale)
    return grad_t3hd, None, None, None


_forward.register_autograd(_gradients, setup_context=_keep_for_backward)


def _pairs(groups_s2: Tensor) -> int:
    """Pairs of atoms within sets."""
    return int((groups_s2[:, 0].square() * groups_s2[:, 1]).sum())


def _runs(groups_s2: Tensor) -> Iterator[tuple[int, int, int]]:
    """(first atom, atoms a set, number of sets) of each run."""
    first = 0
    for n, count in groups_s2.tolist():
        if n == 0:
            break
        yield first, n, count
        first += n * count


def _taken(flat: Tensor, first: int, shape: tuple[int, ...] | torch.Size) -> Tensor:
    """The part of a flat tensor from ``first`` on, in a shape."""
    numel = 1
    for extent in shape:
        numel *= extent
    return flat[first : first + numel].view(shape)

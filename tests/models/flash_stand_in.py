"""FlashAttention on a CPU: torch's own operator with the CUDA kernels under it replaced by float64 sums.

The replacements have the kernels' signatures, so what the models hand them (offsets, bound, scale, strides)
is checked by the numbers that come out. Where a kernel would read wrongly or crash, they fail.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from adit_scale.models import attention


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``flash`` run on any device and dtype, until the test ends."""
    monkeypatch.setattr(attention, "_flash_lacks", lambda device, dtype, head_width: "")
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", _forward)
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_backward", _backward)


def _forward(q, k, v, cu_q, cu_k, max_q, max_k, dropout_p, is_causal, return_debug_mask=False, *,
             scale=None, **others):  # fmt: skip
    assert (dropout_p, is_causal, return_debug_mask) == (0.0, False, False)
    out_thd = torch.full(q.shape, float("nan"), dtype=q.dtype)
    lse_ht = torch.full((q.shape[1], q.shape[0]), float("nan"))
    for own in _sets((q, k, v), cu_q, cu_k, max_q, max_k, others):
        qs, ks, vs = (x[own].double().transpose(0, 1) for x in (q, k, v))
        scores_hnn = qs @ ks.mT * _scale(q, scale)
        lse_ht[:, own] = scores_hnn.logsumexp(-1).float()
        out_thd[own] = (scores_hnn.softmax(-1) @ vs).transpose(0, 1).to(q.dtype)
    unused = torch.empty(0)
    return out_thd, lse_ht, unused, unused, unused


def _backward(grad, q, k, v, out, lse, cu_q, cu_k, max_q, max_k, dropout_p, is_causal, rng_state, unused, *,
              scale=None, **others):  # fmt: skip
    assert (dropout_p, is_causal) == (0.0, False)
    grads = [torch.full(q.shape, float("nan"), dtype=q.dtype) for _ in range(3)]
    for own in _sets((grad, q, k, v, out), cu_q, cu_k, max_q, max_k, others):
        gs, qs, ks, vs, os = (x[own].double().transpose(0, 1) for x in (grad, q, k, v, out))
        weights_hnn = (qs @ ks.mT * _scale(q, scale) - lse[:, own].double()[..., None]).exp()
        d_scores_hnn = weights_hnn * (gs @ vs.mT - (gs * os).sum(-1, keepdim=True)) * _scale(q, scale)
        for total, part in zip(
            grads, (d_scores_hnn @ ks, d_scores_hnn.mT @ qs, weights_hnn.mT @ gs), strict=True
        ):
            total[own] = part.transpose(0, 1).to(q.dtype)
    return tuple(grads)


def _sets(tensors: tuple[Tensor, ...], cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int,
          others: dict) -> Iterator[slice]:  # fmt: skip
    assert {others.get("window_size_left", -1), others.get("window_size_right", -1)} == {-1}
    assert torch.equal(cu_q, cu_k)
    assert cu_q.dtype == torch.int32
    assert cu_q.is_contiguous()
    assert all(x.stride(-1) == 1 for x in tensors)
    offsets = cu_q.tolist()
    assert offsets[0] == 0
    assert offsets[-1] == len(tensors[0])
    for start, stop in pairwise(offsets):
        assert stop - start <= max_q == max_k
        yield slice(start, stop)


def _scale(q: Tensor, scale: float | None) -> float:
    return q.shape[-1] ** -0.5 if scale is None else scale

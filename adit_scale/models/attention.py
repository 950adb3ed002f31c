"""Self-attention inside each set of a packed batch, behind one function.

Atoms of different sets never meet, and no backend but the reference builds a ``T x T`` mask. Backends:

- ``varlen``: FlashAttention on packed sets (``torch.nn.attention.varlen``), CUDA in float16 or bfloat16.
- ``grouped_sdpa``: one dense ``scaled_dot_product_attention`` a run of equal sizes, anywhere, any precision.
  Batches are sorted by size, so there are about as many runs as different sizes.
- ``reference``: a dense float64 softmax with a mask, for tests.

Shapes: ``(T, H, D)`` atoms, heads, features a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from adit_scale.atoms import PackedLayout
from adit_scale.errors import ConfigError

BACKENDS = ("auto", "varlen", "grouped_sdpa", "reference")


# Compiled code would be made anew for every mix of sizes: there is one break in each block, here.
@torch.compiler.disable
def packed_attention(
    q_thd: Tensor,
    k_thd: Tensor,
    v_thd: Tensor,
    layout: PackedLayout,
    backend: str = "auto",
    scale: float | None = None,
) -> Tensor:
    """Softmax attention among the atoms of each set.

    q_thd, k_thd, v_thd: ``(T, H, D)``, of one dtype and device; views with strides are welcome.
    backend: one of ``BACKENDS``; ``auto`` takes varlen where it can run, else grouped_sdpa.
    scale: of the scores; None is ``D^-1/2``.
    Returns ``(T, H, D)`` in the inputs' dtype. Raises ConfigError if the backend is unknown or cannot run.
    """
    if backend == "auto":
        backend = "varlen" if _varlen_can_run(q_thd) else "grouped_sdpa"
    if backend == "varlen":
        return _varlen(q_thd, k_thd, v_thd, layout, scale)
    if backend == "grouped_sdpa":
        return _grouped_sdpa(q_thd, k_thd, v_thd, layout, scale)
    if backend == "reference":
        return _reference(q_thd, k_thd, v_thd, layout, scale)
    raise ConfigError(f"attention backend is {backend!r}; expected one of {', '.join(BACKENDS)}")


def _varlen_can_run(q_thd: Tensor) -> bool:
    return q_thd.is_cuda and q_thd.dtype in (torch.float16, torch.bfloat16)


def _varlen(q_thd: Tensor, k_thd: Tensor, v_thd: Tensor, layout: PackedLayout, scale: float | None) -> Tensor:
    if not _varlen_can_run(q_thd):
        raise ConfigError(
            f"attention backend 'varlen' got {q_thd.dtype} on {q_thd.device.type}; expected float16 or "
            "bfloat16 on cuda; choose 'auto' or 'grouped_sdpa'"
        )
    offsets = layout.offsets.to(torch.int32)
    longest = layout.max_atoms
    out_thd = varlen_attn(q_thd, k_thd, v_thd, offsets, offsets, longest, longest, scale=scale)
    assert isinstance(out_thd, Tensor)
    return out_thd


def _grouped_sdpa(
    q_thd: Tensor, k_thd: Tensor, v_thd: Tensor, layout: PackedLayout, scale: float | None
) -> Tensor:
    dtype = q_thd.dtype
    if q_thd.device.type == "cpu" and dtype == torch.bfloat16:
        # On sets of a dozen atoms the CPU kernel's bf16 backward takes eight times its fp32 one.
        q_thd, k_thd, v_thd = q_thd.float(), k_thd.float(), v_thd.float()
    # ``split`` and ``cat``, not slices: the gradient of a slice is a zero-filled copy of the whole batch.
    atoms_a_group = [n * count for n, count in layout.groups]
    outputs = []
    for (n, count), *qkv in zip(
        layout.groups,
        q_thd.split(atoms_a_group),
        k_thd.split(atoms_a_group),
        v_thd.split(atoms_a_group),
        strict=True,
    ):
        q, k, v = (x.unflatten(0, (count, n)).transpose(1, 2) for x in qkv)
        out = F.scaled_dot_product_attention(q, k, v, scale=scale)
        outputs.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs).to(dtype)


def _reference(
    q_thd: Tensor, k_thd: Tensor, v_thd: Tensor, layout: PackedLayout, scale: float | None
) -> Tensor:
    same_set_tt = layout.set_of_atom_t[:, None] == layout.set_of_atom_t[None, :]
    q, k, v = (x.double().transpose(0, 1) for x in (q_thd, k_thd, v_thd))
    scores_htt = (q @ k.transpose(1, 2)) * (q.shape[-1] ** -0.5 if scale is None else scale)
    weights_htt = scores_htt.masked_fill(~same_set_tt, float("-inf")).softmax(-1)
    return (weights_htt @ v).transpose(0, 1).to(q_thd.dtype)

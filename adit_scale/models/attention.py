"""Self-attention inside each set of a packed batch, and the choice of what computes it.

Atoms of different sets never meet, and no backend but the reference builds a ``T x T`` mask. Backends:

- ``flash``: FlashAttention on packed sets (``torch.nn.attention.varlen``), CUDA in float16 or bfloat16.
- ``grouped``: matrix products for each run of equal sizes, on any device, in any precision
  (grouped_attention.py). Batches are sorted by size, so there are about as many runs as different sizes.
- ``reference``: a dense float64 softmax with a mask, for tests.

Shapes: ``(T, H, D)`` atoms, heads, features a head; ``_td`` is ``(T, H * D)``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn

from adit_scale.atoms import PackedLayout
from adit_scale.errors import ConfigError
from adit_scale.models.grouped_attention import grouped_attention

BACKENDS = ("auto", "flash", "grouped", "reference")
_FLASH_DTYPES = (torch.float16, torch.bfloat16)
_FLASH_CAPABILITY = (8, 0)
_FLASH_WIDTHS = range(8, 257, 8)


def resolve_attention(asked: str, device: torch.device, dtype: torch.dtype, head_width: int) -> str:
    """The backend that runs: flash, grouped or reference.

    asked: one of ``BACKENDS``; ``auto`` is flash where it can run, else grouped, and never fails.
    head_width: features a head. Raises ConfigError for an unknown backend, and for flash where it cannot run.
    """
    if asked not in BACKENDS:
        raise ConfigError(f"parallel.attention is {asked!r}; expected one of {', '.join(BACKENDS)}")
    if asked in ("grouped", "reference"):
        return asked
    lacking = _flash_lacks(device, dtype, head_width)
    if asked == "flash" and lacking:
        raise ConfigError(f"parallel.attention=flash {lacking}")
    return "grouped" if lacking else "flash"


def _flash_lacks(device: torch.device, dtype: torch.dtype, head_width: int) -> str:
    """What FlashAttention needs and has not, with a setting that works; empty where it can run."""
    if device.type != "cuda":
        return f"needs a CUDA device, and this one is {device.type}; set parallel.attention=auto"
    capability = _compute_capability(device)
    if capability < _FLASH_CAPABILITY:
        found = "{}.{}".format(*capability) if capability else "none, as CUDA is not available"
        return f"needs compute capability 8.0 or higher, and got {found}; set parallel.attention=auto"
    if dtype not in _FLASH_DTYPES:
        name = str(dtype).removeprefix("torch.")
        return f"computes in bfloat16, and got {name}; set parallel.precision=bf16 or parallel.attention=auto"
    if head_width not in _FLASH_WIDTHS:
        return (
            f"needs width / heads to be a multiple of 8 up to 256, and got {head_width}; "
            "choose another number of heads or set parallel.attention=auto"
        )
    return ""


@torch.compiler.assume_constant_result
def _compute_capability(device: torch.device) -> tuple[int, ...]:
    """(major, minor) of a CUDA device, () where there is none."""
    return torch.cuda.get_device_capability(device) if torch.cuda.is_available() else ()


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
    backend: one of ``BACKENDS``. scale: of the scores; None is ``D^-1/2``.
    Returns ``(T, H, D)`` in the inputs' dtype. Raises ConfigError as ``resolve_attention``.
    """
    return attend_packed(torch.stack([q_thd, k_thd, v_thd], dim=1), layout, backend, scale)


def attend_packed(
    qkv_t3hd: Tensor, layout: PackedLayout, backend: str = "auto", scale: float | None = None
) -> Tensor:
    """As ``packed_attention``, for queries, keys and values that one projection made, ``(T, 3, H, D)``."""
    backend = resolve_attention(backend, qkv_t3hd.device, qkv_t3hd.dtype, qkv_t3hd.shape[-1])
    if backend == "grouped":
        return grouped_attention(qkv_t3hd, layout.groups_s2, layout.max_atoms, scale)
    q_thd, k_thd, v_thd = qkv_t3hd.unbind(1)
    attend = _flash if backend == "flash" else _reference
    return attend(q_thd, k_thd, v_thd, layout, scale)


def _flash(q_thd: Tensor, k_thd: Tensor, v_thd: Tensor, layout: PackedLayout, scale: float | None) -> Tensor:
    offsets, longest = layout.offsets, layout.max_atoms
    out_thd = varlen_attn(q_thd, k_thd, v_thd, offsets, offsets, longest, longest, scale=scale)
    assert isinstance(out_thd, Tensor)
    return out_thd


def _reference(
    q_thd: Tensor, k_thd: Tensor, v_thd: Tensor, layout: PackedLayout, scale: float | None
) -> Tensor:
    same_set_tt = layout.set_of_atom_t[:, None] == layout.set_of_atom_t[None, :]
    q, k, v = (x.double().transpose(0, 1) for x in (q_thd, k_thd, v_thd))
    scores_htt = (q @ k.transpose(1, 2)) * (q.shape[-1] ** -0.5 if scale is None else scale)
    weights_htt = scores_htt.masked_fill(~same_set_tt, float("-inf")).softmax(-1)
    return (weights_htt @ v).transpose(0, 1).to(q_thd.dtype)


class SelfAttention(nn.Module):
    """Multi-head self-attention inside each set, with one packed projection for queries, keys and values.

    base_head_width: scores are scaled by its root over the head width; 0 is one over the head width's root.
    """

    def __init__(self, width: int, heads: int, backend: str = "auto", base_head_width: int = 0) -> None:
        super().__init__()
        self.heads = heads
        self.backend = backend
        # None where both are the same, so that not a bit differs.
        head_width = width // heads
        self.scale = base_head_width**0.5 / head_width if base_head_width not in (0, head_width) else None
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform over the packed projection and zero biases, as ``nn.MultiheadAttention`` starts."""
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x_td: Tensor, layout: PackedLayout) -> Tensor:
        qkv_t3hd = self.qkv(x_td).unflatten(-1, (3, self.heads, -1))
        return self.proj(attend_packed(qkv_t3hd, layout, self.backend, self.scale).flatten(1))


def set_attention(module: nn.Module, backend: str) -> None:
    """Let all attention inside ``module`` use a backend, as ``resolve_attention`` returns it, in place."""
    for part in module.modules():
        if isinstance(part, SelfAttention):
            part.backend = backend

"""The modulation of a DiT block in plain torch: what runs on a CPU, and what the fused kernels are tested by.

Shapes: ``_t`` atoms, ``_r`` rows of conditions, ``_d`` features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

NORM_EPS = 1e-6


def expand_rows(x_rd: Tensor, row_of_atom_t: Tensor | None) -> Tensor:
    """Copy each row to its atoms, ``(R, d)`` to ``(T, d)``; None leaves the rows as they are.

    On CUDA its gradient adds by atomic operations, in the dtype of the rows: not the same bits each time.
    """
    return x_rd if row_of_atom_t is None else x_rd.index_select(0, row_of_atom_t)


def modulated_norm(x_td: Tensor, shift_td: Tensor, scale_td: Tensor) -> Tensor:
    """A layer norm without weights, then scale and shift: a row an atom, or one row for all."""
    if shift_td.shape[0] == 1:  # one kernel instead of three
        return F.layer_norm(x_td, x_td.shape[-1:], 1 + scale_td[0], shift_td[0], eps=NORM_EPS)
    return torch.addcmul(shift_td, F.layer_norm(x_td, x_td.shape[-1:], eps=NORM_EPS), 1 + scale_td)

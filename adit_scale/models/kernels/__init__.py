"""The modulation of a DiT block (adaLN-Zero: norm, scale, shift, gate by set), in torch or in fused kernels.

- ``torch``: plain torch, anywhere. All six chunks of the modulation are first copied to the atoms.
- ``triton``: one CUDA kernel for a norm and one for a gate, that read a set's row in place. Gradients are
  summed by set in float32 and in a fixed order: the same bits each time.

Shapes: ``_t`` atoms, ``_s`` sets, ``_r`` rows of conditions (one for all, one a set, any), ``_d`` features.
"""

from __future__ import annotations

import os
import shutil

import torch
from torch import Tensor, nn

from adit_scale.atoms import PackedLayout
from adit_scale.errors import ConfigError
from adit_scale.models.kernels import modulation, modulation_torch
from adit_scale.models.kernels.modulation_torch import expand_rows

CHOICES = ("auto", "torch", "triton")


class Modulated(nn.Module):
    """A module that norms, scales, shifts or gates by set. kernels: ``torch`` or ``triton``."""

    kernels = "torch"


def set_kernels(module: nn.Module, choice: str) -> None:
    """Let all modulations in ``module`` run by ``choice``, an answer of ``resolve_kernels``, in place."""
    for part in module.modules():
        if isinstance(part, Modulated):
            part.kernels = choice


def resolve_kernels(asked: str, device: torch.device | str) -> str:
    """``torch`` or ``triton``, for ``parallel.kernels``; ``auto`` is triton wherever it can run.

    Raises ConfigError if ``asked`` is unknown, or is triton where it cannot run.
    """
    device_type = torch.device(device).type
    if asked not in CHOICES:
        raise ConfigError(f"parallel.kernels is {asked!r}; expected one of {', '.join(CHOICES)}")
    if asked == "torch":
        return "torch"
    lacking = _lacking_for_triton(device_type)
    if lacking is None:
        return "triton"
    if asked == "triton":
        raise ConfigError(
            f"parallel.kernels is 'triton' on {device_type}; it needs {lacking}; set parallel.kernels=auto"
        )
    return "torch"


def _lacking_for_triton(device_type: str) -> str | None:
    if device_type != "cuda":
        return "a CUDA device"
    if not _triton_imports():
        return "the package triton"
    # Triton builds the launcher of each kernel in C.
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "a C compiler (gcc or clang)"
    return None


def _triton_imports() -> bool:
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True


def spread(modulation_rd: Tensor, row_of_atom_t: Tensor | None, choice: str) -> tuple[Tensor, Tensor | None]:
    """What the chunks of a modulation are cut from, and which row of it is each atom's.

    For torch one copy of all chunks to the atoms, then None; for triton the arguments, as its kernels read
    rows in place.
    """
    if choice == "triton":
        return modulation_rd, row_of_atom_t
    return expand_rows(modulation_rd, row_of_atom_t), None


def modulated_norm(
    x_td: Tensor,
    shift_rd: Tensor,
    scale_rd: Tensor,
    row_of_atom_t: Tensor | None,
    layout: PackedLayout,
    choice: str,
) -> Tensor:
    """``norm(x) * (1 + scale[row]) + shift[row]``; the norm is a layer norm without weights, eps 1e-6.

    x_td: ``(T, d)``. shift_rd, scale_rd: ``(R, d)``, views with strides are welcome.
    row_of_atom_t: ``(T,)`` int64; None where there is one row for all atoms, or (torch only) one an atom.
    choice: ``torch`` or ``triton``. Statistics are in float32, with triton everything in between too.
    Returns ``(T, d)`` in the dtype of x. Gradients by triton are for rows that are sets, by torch for any.
    """
    if choice == "triton" and _triton_can(row_of_atom_t, layout, x_td, shift_rd, scale_rd):
        return modulation.modulated_norm(x_td, shift_rd, scale_rd, row_of_atom_t, layout.offsets)[0]
    return modulation_torch.modulated_norm(
        x_td, expand_rows(shift_rd, row_of_atom_t), expand_rows(scale_rd, row_of_atom_t)
    )


def gated_add(
    x_td: Tensor,
    gate_rd: Tensor,
    y_td: Tensor,
    row_of_atom_t: Tensor | None,
    layout: PackedLayout,
    choice: str,
) -> Tensor:
    """``x + gate[row] * y``; arguments and result as in ``modulated_norm``, y as x."""
    if choice == "triton" and _triton_can(row_of_atom_t, layout, x_td, gate_rd, y_td):
        return modulation.gated_add(x_td, gate_rd, y_td, row_of_atom_t, layout.offsets)
    return torch.addcmul(x_td, expand_rows(gate_rd, row_of_atom_t), y_td)


def _triton_can(row_of_atom_t: Tensor | None, layout: PackedLayout, *inputs: Tensor) -> bool:
    """Whether the kernels' backward pass knows these rows, if there is one."""
    by_set = row_of_atom_t is layout.set_of_atom_t
    return by_set or not (torch.is_grad_enabled() and any(x.requires_grad for x in inputs))

"""Linear layers whose products oneDNN makes, with and without gradient: on many CPUs faster than torch's own.

Plain ``F.linear`` multiplies float32 with MKL, which on processors that are not Intel's takes about twice the
time of oneDNN; and where no gradient is asked for, oneDNN applies GELU while it writes the product. torch
calls it so itself when it compiles for inference. A row of a product, or of its gradient by the input, does
not depend on the rows beside it (tests/models, tests/diffusion).

Shapes: ``_n`` rows, ``_i`` features in, ``_o`` features out.
"""

from __future__ import annotations

import functools
import platform
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from adit_scale.models.precision import multiplies_bf16
from adit_scale.models.transformer import Mlp

CPU_FACTS = Path("/proc/cpuinfo")


def onednn_can_run(dtype: torch.dtype, device: torch.device) -> bool:
    """On x86 processors; bfloat16 is refused by those without hardware for it."""
    return (
        device.type == "cpu"
        and platform.machine() in ("x86_64", "AMD64")
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and (dtype == torch.float32 or (dtype == torch.bfloat16 and multiplies_bf16(device)))
    )


def onednn_trains_faster(dtype: torch.dtype, device: torch.device) -> bool:
    """Where plain torch would multiply with MKL, on a processor of AMD's; bfloat16 goes to oneDNN anyway."""
    return dtype == torch.float32 and onednn_can_run(dtype, device) and _is_amd()


@functools.cache
def _is_amd() -> bool:
    """Or of AMD's design, under another maker's name."""
    said = CPU_FACTS.read_text(errors="replace") if CPU_FACTS.is_file() else platform.processor()
    return "AuthenticAMD" in said or "HygonGenuine" in said


def use_onednn(module: nn.Module, dtype: torch.dtype, device: torch.device, trained: bool) -> None:
    """Let the linear layers in ``module`` multiply with oneDNN where that is faster, in place.

    Parameters keep their names; a layer that computes in float32 whatever its weights are stays as it is.
    dtype: of the weights once ``module`` runs. trained: whether gradients are asked of it.
    """
    if onednn_trains_faster(dtype, device) if trained else onednn_can_run(dtype, device):
        _swap(module)


def _swap(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        if type(child) is Mlp:
            setattr(module, name, OneDnnMlp(child))
        elif type(child) is nn.Linear:
            setattr(module, name, OneDnnLinear(child))
        else:
            _swap(child)


class OneDnnLinear(nn.Linear):
    """The same layer, with the same parameters, by oneDNN."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.train(linear.training)

    def forward(self, input: Tensor) -> Tensor:
        if not len(input):  # oneDNN knows no empty product
            return super().forward(input)
        if torch.is_grad_enabled() and (input.requires_grad or self.weight.requires_grad):
            return _Product.apply(input, self.weight, self.bias)
        return product(input, self.weight, self.bias)


class OneDnnMlp(Mlp):
    """The same layers, with the same parameters; without gradient GELU is part of the first product."""

    def __init__(self, mlp: Mlp) -> None:
        nn.Module.__init__(self)
        self.fc1, self.fc2 = OneDnnLinear(mlp.fc1), OneDnnLinear(mlp.fc2)
        self.train(mlp.training)

    def forward(self, x_td: Tensor) -> Tensor:
        if torch.is_grad_enabled() or not len(x_td):
            return self.fc2(F.gelu(self.fc1(x_td), approximate="tanh"))
        return self.fc2(product(x_td, self.fc1.weight, self.fc1.bias, "gelu"))


def product(
    x_ni: Tensor, weight_oi: Tensor, bias_o: Tensor | None = None, activation: str = "none"
) -> Tensor:
    """``activation(x @ weight.T + bias)``, ``(N, O)``, by oneDNN. activation: ``none``, or ``gelu`` in the
    tanh form."""
    form = "tanh" if activation == "gelu" else ""
    return torch.ops.mkldnn._linear_pointwise(x_ni, weight_oi, bias_o, activation, [], form)


class _Product(torch.autograd.Function):
    """``x @ weight.T + bias`` of ``(N, I)``, ``(O, I)`` and ``(O,)``, with both gradients by oneDNN."""

    @staticmethod
    def forward(ctx: Any, x_ni: Tensor, weight_oi: Tensor, bias_o: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_ni, weight_oi)
        return product(x_ni, weight_oi, bias_o)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_no: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x_ni, weight_oi = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        grad_no = grad_no.contiguous()
        # Transposed views are read in place. The wider side stands where oneDNN packs it: up to a third less.
        grad_oi = None
        if needs_weight and x_ni.shape[1] >= grad_no.shape[1]:
            grad_oi = product(grad_no.t(), x_ni.t())
        elif needs_weight:
            grad_oi = product(x_ni.t(), grad_no.t()).t()
        grad_x_ni = product(grad_no, weight_oi.t()) if needs_x else None
        return grad_x_ni, grad_oi, grad_no.sum(0) if needs_bias else None

"""The denoiser as a sampler runs it: in the precision that is asked for and, on a CPU, with faster products.

Plain ``F.linear`` multiplies float32 with MKL, which on processors that are not Intel's takes about twice the
time of oneDNN; and oneDNN applies GELU while it writes the product. torch calls it so itself when it compiles
for inference. Its rows do not depend on how many others stand beside them (tests/diffusion).
"""

from __future__ import annotations

import copy
import platform

import torch
from torch import Tensor, nn

from adit_scale.diffusion.config import SamplingConfig
from adit_scale.models.dit import Denoiser
from adit_scale.models.precision import multiplies_bf16
from adit_scale.models.transformer import Mlp, trunk_dtype

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def resolve_precision(config: SamplingConfig, device: torch.device) -> str:
    """``sampling.precision`` made definite: ``auto`` is bf16 where ``device`` has hardware for it."""
    if config.precision != "auto":
        return config.precision
    return "bf16" if multiplies_bf16(device) else "fp32"


def in_precision(denoiser: Denoiser, config: SamplingConfig) -> Denoiser:
    """The denoiser to sample with, the given one untouched; weights that need no cast are shared with it.

    float64 weights stay as they are.
    """
    device = next(denoiser.parameters()).device
    dtype = DTYPES[resolve_precision(config, device)]
    if trunk_dtype(denoiser) == torch.float64 or _is_ready(denoiser, dtype, device):
        return denoiser
    shared = {id(p): p for p in denoiser.parameters()} if trunk_dtype(denoiser) == dtype else {}
    ready = copy.deepcopy(denoiser, shared).to(dtype)
    if _onednn_can_run(dtype, device):
        _swap_products(ready)
    return ready.eval()


class OneDnnLinear(nn.Module):
    """A linear layer by oneDNN, without gradient. activation: ``none``, or ``gelu`` in the tanh form."""

    def __init__(self, linear: nn.Linear, activation: str = "none") -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.activation = activation
        self.form = "tanh" if activation == "gelu" else ""

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, self.activation, [], self.form)


def _swap_products(module: nn.Module) -> None:
    """Put oneDNN's layers in place of plain linear layers; those that compute in float32 anyway stay."""
    for name, child in list(module.named_children()):
        if type(child) is Mlp:
            fused = nn.Sequential(OneDnnLinear(child.fc1, "gelu"), OneDnnLinear(child.fc2))
            setattr(module, name, fused)
        elif type(child) is nn.Linear:
            setattr(module, name, OneDnnLinear(child))
        else:
            _swap_products(child)


def _onednn_can_run(dtype: torch.dtype, device: torch.device) -> bool:
    """On x86 processors; bfloat16 is refused by those without hardware for it."""
    return (
        device.type == "cpu"
        and platform.machine() in ("x86_64", "AMD64")
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and (dtype == torch.float32 or multiplies_bf16(device))
    )


def _is_ready(denoiser: Denoiser, dtype: torch.dtype, device: torch.device) -> bool:
    if trunk_dtype(denoiser) != dtype:
        return False
    swapped = any(isinstance(module, OneDnnLinear) for module in denoiser.modules())
    return swapped or not _onednn_can_run(dtype, device)

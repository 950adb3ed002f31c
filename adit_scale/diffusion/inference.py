"""The denoiser as a sampler runs it: in the precision that is asked for and, on a CPU, with faster products.

The products are models/products.py's; their rows do not depend on how many others stand beside them
(tests/diffusion).
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from adit_scale.diffusion.config import BATCH_ATOMS, SamplingConfig
from adit_scale.errors import ConfigError
from adit_scale.models import products
from adit_scale.models.attention import resolve_attention
from adit_scale.models.dit import Denoiser, DiTBlock
from adit_scale.models.precision import DTYPES, multiplies_bf16
from adit_scale.models.transformer import prepare_blocks, trunk_dtype


def resolve_precision(config: SamplingConfig, device: torch.device) -> str:
    """``sampling.precision`` made definite: ``auto`` is bf16 where ``device`` has hardware for it."""
    if config.precision != "auto":
        return config.precision
    return "bf16" if multiplies_bf16(device) else "fp32"


def for_device(config: SamplingConfig, device: torch.device) -> SamplingConfig:
    """``config`` with what it leaves to the device made definite: precision and atoms a batch."""
    atoms = config.batch_atoms or BATCH_ATOMS.get(device.type, BATCH_ATOMS["cpu"])
    return replace(config, precision=resolve_precision(config, device), batch_atoms=atoms)


def why_no_graphs(config: SamplingConfig, denoiser: Denoiser, device: torch.device) -> str:
    """Why evaluations of ``denoiser`` on ``device`` run without CUDA graphs; "" where graphs run.

    Raises ConfigError where graphs are asked for and cannot run.
    """
    if config.cuda_graphs == "off":
        return "sampling.cuda_graphs=off"
    why, cure = _obstacle(config, denoiser, device)
    if why and config.compile:
        raise ConfigError(f"sampling.compile is true, but {why}; expected sampling.compile=false{cure}")
    if why and config.cuda_graphs == "on":
        raise ConfigError(f"sampling.cuda_graphs is 'on', but {why}; expected 'auto' or 'off'{cure}")
    return why


def _obstacle(config: SamplingConfig, denoiser: Denoiser, device: torch.device) -> tuple[str, str]:
    """What is in the way of graphs, and what else could be set; "" where nothing is."""
    if device.type != "cuda":
        return f"the device is {device.type}", ""
    if not config.pad_batches:
        return "with sampling.pad_batches=false every batch has a shape of its own", ", or pad_batches=true"
    backend, precision = _attention_of(denoiser, config, device), resolve_precision(config, device)
    if backend != "flash":
        return (
            f"in {precision} attention is {backend}, which follows the sizes of each batch",
            ", or sampling.precision=bf16" if precision != "bf16" else "",
        )
    return "", ""


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
    products.use_onednn(ready, dtype, device, trained=False)
    return ready.eval()


def _attention_of(denoiser: Denoiser, config: SamplingConfig, device: torch.device) -> str:
    """The attention backend that runs once the denoiser is on the device, in its precision."""
    dtype = trunk_dtype(denoiser)
    if dtype != torch.float64:
        dtype = DTYPES[resolve_precision(config, device)]
    block = denoiser.blocks[0]
    assert isinstance(block, DiTBlock)
    head_width = denoiser.config.width // denoiser.config.heads
    return resolve_attention(block.attention.backend, device, dtype, head_width)


def compiled(denoiser: Denoiser) -> Denoiser:
    """A denoiser with the same weights whose blocks run compiled, each as one graph."""
    own = copy.deepcopy(denoiser, {id(p): p for p in denoiser.parameters()})
    prepare_blocks(own, recompute=False, compiled=True)
    return own


def _is_ready(denoiser: Denoiser, dtype: torch.dtype, device: torch.device) -> bool:
    if trunk_dtype(denoiser) != dtype:
        return False
    swapped = any(isinstance(module, products.OneDnnLinear) for module in denoiser.modules())
    return swapped or not products.onednn_can_run(dtype, device)

"""Which precision a device multiplies fastest."""

from __future__ import annotations

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}  # of weights, by the name in the settings


def multiplies_bf16(device: torch.device) -> bool:
    """Whether bfloat16 products have hardware of their own: CUDA from Ampere on, AVX512-BF16, AMX-BF16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities()
    return device.type == "cpu" and bool(found.get("avx512_bf16") or found.get("amx_bf16"))

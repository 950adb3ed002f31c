"""What a device could do at most: the denominator of MFU (model FLOPs utilisation).

Peaks are the vendor's dense figures (without sparsity), in FLOP/s of matrix products:
NVIDIA data sheets of A100, H100, H200 and B200 (HGX board, one GPU).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

TERA = 1e12
# (a word of the device's name, short name, {format of the products: TFLOP/s}); the first that fits counts.
_PEAKS: tuple[tuple[str, str, dict[str, float]], ...] = (
    ("H100 PCIe", "H100 PCIe", {"bf16": 756, "tf32": 378, "fp32": 51}),
    ("H100 NVL", "H100 NVL", {"bf16": 835, "tf32": 417.5, "fp32": 60}),
    ("GH200", "GH200", {"bf16": 989.4, "tf32": 494.7, "fp32": 67}),
    ("H200 NVL", "H200 NVL", {"bf16": 835.5, "tf32": 417.5, "fp32": 60}),
    ("H200", "H200", {"bf16": 989.4, "tf32": 494.7, "fp32": 67}),
    ("H100", "H100 SXM", {"bf16": 989.4, "tf32": 494.7, "fp32": 67}),
    ("B200", "B200", {"bf16": 2250, "tf32": 1125, "fp32": 75}),
    ("A100", "A100", {"bf16": 312, "tf32": 156, "fp32": 19.5}),
)
UNKNOWN_DEVICE = "unknown device"


@dataclass(frozen=True)
class Peak:
    """flops_per_s: of one device. source: device and format it holds for, such as ``H200 bf16 989T``."""

    flops_per_s: float
    source: str


def find_peak(device_name: str, products: str) -> Peak | None:
    """The peak of a device by its name; ``products`` is bf16, tf32 or fp32. None where it is not known."""
    for word, short, tera in _PEAKS:
        if word.lower() in device_name.lower():
            return Peak(tera[products] * TERA, f"{short} {products} {tera[products]:.0f}T")
    return None


def device_peak(device: torch.device, precision: str) -> Peak | None:
    """The peak of ``device`` for the products of a run of ``precision`` bf16 or fp32."""
    if device.type != "cuda":
        return None
    if precision == "fp32" and torch.get_float32_matmul_precision() != "highest":
        precision = "tf32"
    return find_peak(torch.cuda.get_device_name(device), precision)


def describe(mfu: float | None, peak: Peak | None) -> str:
    """``41.2% of H200 bf16 989T``, or that the device is unknown."""
    return f"{100 * mfu:.1f}% of {peak.source}" if mfu is not None and peak else UNKNOWN_DEVICE


def utilisation(flops: float, seconds: float, devices: int, peak: Peak | None) -> float | None:
    """MFU, 0 to 1, of ``flops`` done by ``devices`` in ``seconds``; None where the peak is not known."""
    if peak is None or seconds <= 0:
        return None
    return flops / (seconds * devices * peak.flops_per_s)

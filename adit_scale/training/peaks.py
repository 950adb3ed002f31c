"""What a device could do at most, by its name. No torch: the planner reads this file.

Peaks are the vendor's dense figures (without sparsity), in FLOP/s of matrix products:
NVIDIA data sheets of A100, H100, H200 and B200 (HGX board, one GPU).
"""

from __future__ import annotations

from dataclasses import dataclass

TERA = 1e12
DEVICE_TAG = "adit.device"  # of a training run: what it began on
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
GPUS = tuple(sorted(word.lower() for word, _, _ in _PEAKS))


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

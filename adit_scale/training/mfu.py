"""MFU (model FLOPs utilisation): what a run did, as a share of what its devices could do at most."""

from __future__ import annotations

import torch

from adit_scale.training.peaks import Peak, find_peak

__all__ = ["UNKNOWN_DEVICE", "Peak", "describe", "device_name", "device_peak", "find_peak", "utilisation"]

UNKNOWN_DEVICE = "unknown device"


def device_peak(device: torch.device, precision: str) -> Peak | None:
    """The peak of ``device`` for the products of a run of ``precision`` bf16 or fp32."""
    if device.type != "cuda":
        return None
    if precision == "fp32" and torch.get_float32_matmul_precision() != "highest":
        precision = "tf32"
    return find_peak(torch.cuda.get_device_name(device), precision)


def device_name(device: torch.device) -> str:
    """Such as "NVIDIA H200"; "CPU" without one."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def describe(mfu: float | None, peak: Peak | None) -> str:
    """``41.2% of H200 bf16 989T``, or that the device is unknown."""
    return f"{100 * mfu:.1f}% of {peak.source}" if mfu is not None and peak else UNKNOWN_DEVICE


def utilisation(flops: float, seconds: float, devices: int, peak: Peak | None) -> float | None:
    """MFU, 0 to 1, of ``flops`` done by ``devices`` in ``seconds``; None where the peak is not known."""
    if peak is None or seconds <= 0:
        return None
    return flops / (seconds * devices * peak.flops_per_s)

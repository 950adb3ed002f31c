"""What was measured on GPUs, where benchmarks/results of this checkout has it."""

from __future__ import annotations

import json
from pathlib import Path

from adit_scale.training.peaks import find_peak

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


def measured_mfu(rung: str, gpu: str, folder: Path = RESULTS) -> tuple[float, str] | None:
    """(share of the vendor's bf16 peak, which file) of the fastest packed training step of a rung on a GPU.

    None where benchmarks/training_step.py has not measured that rung on that kind of GPU.
    """
    peak = find_peak(gpu, "bf16")
    assert peak is not None, gpu
    found: list[tuple[float, str]] = []
    for path in sorted(folder.glob(f"training_step-gpu-{rung}-*.json")):
        result = json.loads(path.read_text())
        measured_on = find_peak(str(result["machine"]), "bf16")
        if measured_on != peak:
            continue
        rates = [
            row["value"] * 1e9 / peak.flops_per_s
            for row in result["rows"]
            if "packed, bf16" in row["what"] and row["what"].endswith(", MFU")
        ]
        found += [(rate, f"measured, {path.name}") for rate in rates]
    return max(found, default=None)

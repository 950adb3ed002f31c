"""The best micro-batch of a GPU: rates and MFU of the packed bf16 step over capacities.

    python benchmarks/gpu_sweep.py --rung dit_s [--atoms 8192 16384 32768 65536]

Sides and rates are those of training_step.py, without a baseline: how training_step.py goes on at the best
capacity is up to gpu.py. A capacity that does not fit the memory ends the sweep. Writes
benchmarks/results/training_step-{cpu|gpu}-{rung}-sweep.json anew after every capacity.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from dense_denoiser import MIXES
from limits import measured_limits
from record import RESULTS, record, write
from training_step import VARIANTS, StepOptions, compare_steps

from adit_scale.models.ladder import LADDER

CAPACITIES = (8192, 16_384, 32_768, 65_536)
FAST = ("flash", "flash_compile", "flash_triton", "flash_triton_compile")


def sweep(options: list[StepOptions], name: str, folder: Path) -> dict[str, Any]:
    """Measure each in turn, the smallest first; writes what there is after each."""
    rows: list[dict[str, Any]] = []
    best: dict[str, Any] = {"mfu": 0.0}
    first = options[0]
    limits = measured_limits(first.device, first.threads)
    found: dict[str, Any] = {}
    for i, option in enumerate(options):
        try:
            measured = compare_steps(option)
        except torch.cuda.OutOfMemoryError:
            found["does_not_fit"] = option.atoms
            break
        for row in measured["rows"]:
            row["what"] = f"{row['what']}, {option.atoms:,} atoms"
            if row["ratio"] > best["mfu"]:
                best = {"mfu": row["ratio"], "atoms": option.atoms, "what": row["what"]}
        rows += measured["rows"]
        found |= {"best": best, "partial": i + 1 < len(options)}
        write(name, record("gpu_sweep", ["torch"], rows, limits) | found, folder)
        if first.device == "cuda":
            torch.cuda.empty_cache()
    found["partial"] = False
    result = record("gpu_sweep", ["torch"], rows, limits) | found
    write(name, result, folder)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--rung", default="dit_s", choices=LADDER)
    parser.add_argument("--mix", default="qm9_mp20", choices=MIXES)
    parser.add_argument("--atoms", type=int, nargs="+", default=CAPACITIES)
    parser.add_argument("--batches", type=int, default=15)
    parser.add_argument("--sides", nargs="+", default=FAST, choices=VARIANTS)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    args = parser.parse_args()
    options = [
        StepOptions(args.device, args.rung, args.mix, 1, atoms, args.batches, sides=tuple(args.sides))
        for atoms in sorted(args.atoms)
    ]
    place = "gpu" if args.device == "cuda" else "cpu"
    sweep(options, f"training_step-{place}-{args.rung}-sweep", args.out)


if __name__ == "__main__":
    main()

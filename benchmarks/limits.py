"""The limits of this machine: its rates of matrix products and of copying, by which others are judged.

    python benchmarks/limits.py [--device cpu|cuda] [--threads 2]

Products of random square matrices: 8192³ on a GPU, on a CPU the largest up to 2048³ that stays under a
second. The best of several, as a limit is what nothing disturbed. On a CPU fp32 is timed through MKL and
through oneDNN, and the faster counts. A copy counts its bytes twice, read and written. Baselines: one thread
on a CPU; on a GPU the vendor's figure for products, and for copies those from the host. Prints JSON and
writes it to benchmarks/results/limits-{cpu|gpu}.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from record import RESULTS, record, row, write
from torch import Tensor

from adit_scale.training.peaks import find_peak

SIZES_CPU, SIZE_CUDA = (512, 1024, 2048), 8192
LONGEST_S = 1.0  # a product on a CPU
# Far larger than the caches (of H200's, 50 MB); on a CPU with room for both halves on a small machine.
COPY_BYTES = {"cpu": 512 * 2**20, "cuda": 4 * 2**30}
HOST_BYTES = 2**30
ROUNDS = {"cpu": 4, "cuda": 20}
PRODUCTS = {"fp32": torch.float32, "bf16": torch.bfloat16}


@cache
def measured_limits(device: str, threads: int) -> dict[str, Any]:
    """Rates of ``device`` (cpu, cuda), measured once a process, in seconds. torch's threads stay as they are.

    matmul_fp32_flops_per_s, matmul_bf16_flops_per_s, copy_bytes_per_s; and what was multiplied and copied:
    matmul_fp32_size, matmul_bf16_size, copy_bytes.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found: dict[str, Any] = {"device": device, "threads": threads}
        for name, dtype in PRODUCTS.items():
            size, flops_per_s = product_rate(torch.device(device), dtype)
            found |= {f"matmul_{name}_size": size, f"matmul_{name}_flops_per_s": flops_per_s}
        n_bytes = COPY_BYTES[device]
        source = torch.ones(n_bytes // 4, device=device)
        target = torch.empty_like(source)
        seconds = best_seconds(lambda: target.copy_(source), torch.device(device))
        return found | {"copy_bytes": n_bytes, "copy_bytes_per_s": 2 * n_bytes / seconds}
    finally:
        torch.set_num_threads(before)


def product_rate(device: torch.device, dtype: torch.dtype) -> tuple[int, float]:
    """(n, FLOP/s) of an n x n x n product, TF32 off."""
    best = 0, 0.0
    for n in (SIZE_CUDA,) if device.type == "cuda" else SIZES_CPU:
        if best[0] and 2 * n**3 / best[1] > LONGEST_S:
            break
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        seconds = min(best_seconds(multiply, device) for multiply in _ways(a, b))
        best = n, 2 * n**3 / seconds
    return best


def _ways(a: Tensor, b: Tensor) -> list[Callable[[], Tensor]]:
    """The ways to multiply that this package uses: the plain one, and oneDNN's of fp32 on a CPU."""
    ways: list[Callable[[], Tensor]] = [lambda: a @ b]
    if a.device.type == "cpu" and a.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        ways.append(lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], ""))
    return ways


def best_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Of one call, after one that warms up."""
    work()
    rounds = []
    for _ in range(ROUNDS[device.type]):
        _finish(device)
        start = time.perf_counter()
        work()
        _finish(device)
        rounds.append(time.perf_counter() - start)
    return min(rounds)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rows(device: str, threads: int) -> list[dict[str, Any]]:
    found = measured_limits(device, threads)
    made = []
    for name in PRODUCTS:
        n, value = found[f"matmul_{name}_size"], found[f"matmul_{name}_flops_per_s"] / 1e9
        baseline, known = _known_product(device, name)
        what = f"matrix product, {name}, {n}³{_by(device, threads)}"
        made.append(row(what, value, baseline, known, "GFLOP/s"))
    baseline, known = _known_copy(device)
    what = f"copy of {found['copy_bytes'] / 2**30:g} GiB, read and written{_by(device, threads)}"
    return [*made, row(what, found["copy_bytes_per_s"] / 1e9, baseline, known, "GB/s")]


def _by(device: str, threads: int) -> str:
    return f", {threads} threads" if device == "cpu" else ""


def _known_product(device: str, name: str) -> tuple[str, float]:
    if device == "cpu":
        return "one thread", measured_limits(device, 1)[f"matmul_{name}_flops_per_s"] / 1e9
    peak = find_peak(torch.cuda.get_device_name(), name)
    return (f"vendor's figure, {peak.source}", peak.flops_per_s / 1e9) if peak else ("vendor's, unknown", 0.0)


def _known_copy(device: str) -> tuple[str, float]:
    if device == "cpu":
        return "one thread", measured_limits(device, 1)["copy_bytes_per_s"] / 1e9
    source = torch.ones(HOST_BYTES // 4).pin_memory()
    target = torch.empty_like(source, device=device)
    seconds = best_seconds(lambda: target.copy_(source, non_blocking=True), torch.device(device))
    return "from the host's page-locked memory, bytes counted once", HOST_BYTES / seconds / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="of a CPU")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    made = rows(args.device, args.threads)
    result = record("limits", ["torch"], made, measured_limits(args.device, args.threads))
    write(f"limits-{'gpu' if args.device == 'cuda' else 'cpu'}", result, args.out)


if __name__ == "__main__":
    main()

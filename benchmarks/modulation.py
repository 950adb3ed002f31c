"""Claim: the fused modulation moves its bytes at close to the rate of a copy, and wins over compiled torch.

    python benchmarks/modulation.py --device cuda [--sweep]
    python benchmarks/modulation.py --device cpu --tiny

Half a DiT block without its attention or MLP: a modulated norm of x and a gated sum of x and y, in bf16, by
eager torch, by torch compiled by Inductor, and by the Triton kernels, which take turns. Sizes of sets are
those of QM9 and MP20. The time is that of the GPU's work alone, replayed as a CUDA graph; ``launched_us``
beside it is that of the calls one by one, launches included. Rates count what must be moved at least: a
forward reads x for the norm, x and y for the sum and writes two results; a backward reads x, y and two
gradients and writes two. The limit is the measured rate of a copy. ``--sweep`` varies the kernels' constants
one at a time, beside their present values (modulation-sweep.json). On a CPU the kernels run in Triton's
interpreter at one tiny size, which only shows that the script runs. Prints JSON and writes it to
benchmarks/results/modulation.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not any(word.endswith("cuda") for word in sys.argv):
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when it is first imported

import numpy as np
import torch
from dense_denoiser import draw_sets
from limits import measured_limits
from record import RESULTS, record, row, summary, write
from torch import Tensor

from adit_scale.atoms import PackedLayout
from adit_scale.models.kernels import gated_add, modulated_norm, spread

WIDTHS = {"dit_s": 384, "dit_b": 768, "dit_l": 1024, "dit_xl": 1152}
ATOMS = (16_384, 65_536)
BASELINE, FUSED, PRESENT = "eager torch", "triton", "as they are"
PASSES_FORWARD, PASSES_BACKWARD = 5, 6  # over an array of atoms x features
ROUNDS, CALLS = 7, 20
SWEEP: dict[str, tuple[int, ...]] = {
    "ELEMENTS": (1024, 4096),
    "ATOMS": (4, 16),
    "TILE": (16, 64),
    "STAGES": (2, 3),
}


@dataclass(frozen=True)
class Inputs:
    """x, y and upstream gradients ``(T, d)``, and the modulation ``(S, 3d)``."""

    layout: PackedLayout
    x_td: Tensor
    y_td: Tensor
    modulation_sd: Tensor
    upstream: tuple[Tensor, Tensor]

    @property
    def pass_bytes(self) -> int:
        return self.x_td.numel() * self.x_td.element_size()


def draw_inputs(device: str, n_atoms: int, width: int) -> Inputs:
    rng = np.random.default_rng(0)
    sizes, _ = draw_sets(rng, "qm9_mp20", n_atoms // 5)
    sizes = sizes[np.cumsum(sizes) <= n_atoms]
    layout = PackedLayout.from_sizes(np.sort(sizes)[::-1], n_atoms, len(sizes) + 1).to(device)
    torch.manual_seed(0)
    shapes = (*((n_atoms, width),) * 4, (layout.n_sets, 3 * width))
    x, y, a, b, modulation = (torch.randn(s, device=device, dtype=torch.bfloat16) for s in shapes)
    return Inputs(layout, x.requires_grad_(), y.requires_grad_(), modulation.requires_grad_(), (a, b))


def half_block(
    x_td: Tensor, y_td: Tensor, modulation_sd: Tensor, layout: PackedLayout, choice: str
) -> tuple[Tensor, Tensor]:
    modulation_rd, row_of_atom_t = spread(modulation_sd, layout.set_of_atom_t, choice)
    shift, scale, gate = modulation_rd.chunk(3, dim=-1)
    rows = row_of_atom_t, layout, choice
    return modulated_norm(x_td, shift, scale, *rows), gated_add(x_td, gate, y_td, *rows)


compiled_half_block = torch.compile(half_block, dynamic=False, fullgraph=True)
SIDES: dict[str, Callable[[Inputs], tuple[Tensor, Tensor]]] = {
    BASELINE: lambda i: half_block(i.x_td, i.y_td, i.modulation_sd, i.layout, "torch"),
    "compiled torch": lambda i: compiled_half_block(i.x_td, i.y_td, i.modulation_sd, i.layout, "torch"),
    FUSED: lambda i: half_block(i.x_td, i.y_td, i.modulation_sd, i.layout, FUSED),
}


def forward(side: Callable[[Inputs], tuple[Tensor, Tensor]], inputs: Inputs) -> Callable[[], object]:
    def work() -> object:
        with torch.no_grad():
            return side(inputs)

    return work


def both_passes(side: Callable[[Inputs], tuple[Tensor, Tensor]], inputs: Inputs) -> Callable[[], object]:
    wanted = inputs.x_td, inputs.y_td, inputs.modulation_sd
    return lambda: torch.autograd.grad(side(inputs), wanted, inputs.upstream)


def replayed(work: Callable[[], object]) -> Callable[[], object]:
    """The GPU's part of ``work`` alone."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        work()
    return graph.replay


def seconds_a_call(works: dict[str, Callable[[], object]], device: str, tiny: bool) -> dict[str, float]:
    """Medians over rounds, in which all take turns."""
    rounds, calls = (1, 1) if tiny else (ROUNDS, CALLS)
    taken: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(rounds):
        for name, work in works.items():
            _finish(device)
            start = time.perf_counter()
            for _ in range(calls):
                work()
            _finish(device)
            taken[name].append((time.perf_counter() - start) / calls)
    return {name: statistics.median(values) for name, values in taken.items()}


def _finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def timed(
    sides: dict[str, Callable[[Inputs], tuple[Tensor, Tensor]]], inputs: Inputs, device: str, tiny: bool
) -> dict[str, dict[str, tuple[float, float]]]:
    """By pass and side: seconds of the GPU's work alone, and of calls one by one (on a CPU, these twice)."""
    found = {}
    for name, make in (("forward", forward), ("forward and backward", both_passes)):
        works = {side: make(run, inputs) for side, run in sides.items()}
        launched = seconds_a_call(works, device, tiny)
        alone = launched
        if device == "cuda":
            alone = seconds_a_call({side: replayed(work) for side, work in works.items()}, device, tiny)
        found[name] = {side: (alone[side], launched[side]) for side in sides}
    return found


def rows_of(
    found: dict[str, dict[str, tuple[float, float]]],
    inputs: Inputs,
    label: str,
    baseline: str,
    copy_bytes_per_s: float,
) -> Iterator[dict[str, Any]]:
    passes = {"forward": PASSES_FORWARD, "forward and backward": PASSES_FORWARD + PASSES_BACKWARD}
    for name, sides in found.items():
        moved_gb = passes[name] * inputs.pass_bytes / 1e9
        rates = {side: moved_gb / alone for side, (alone, _) in sides.items()}
        for side, (alone, launched) in sides.items():
            more: dict[str, Any] = {"us": alone * 1e6, "launched_us": launched * 1e6}
            if copy_bytes_per_s:
                more["of_copy_rate"] = rates[side] * 1e9 / copy_bytes_per_s
            yield row(f"{label}, {name}: {side}", rates[side], baseline, rates[baseline], "GB/s", **more)


@contextmanager
def constant(name: str, value: int) -> Iterator[None]:
    """The kernels with one of their constants changed."""
    from adit_scale.models.kernels import modulation_triton

    before = getattr(modulation_triton, name)
    setattr(modulation_triton, name, value)
    try:
        yield
    finally:
        setattr(modulation_triton, name, before)


def compared(
    device: str, n_atoms: int, width: int, label: str, tiny: bool, copy: float
) -> list[dict[str, Any]]:
    torch.compiler.reset()  # else Dynamo gives up after eight shapes
    inputs = draw_inputs(device, n_atoms, width)
    return list(rows_of(timed(SIDES, inputs, device, tiny), inputs, label, BASELINE, copy))


def swept(n_atoms: int, width: int, label: str, copy: float) -> list[dict[str, Any]]:
    """The kernels as they are, and with each constant changed."""
    inputs = draw_inputs("cuda", n_atoms, width)
    found = timed({PRESENT: SIDES[FUSED]}, inputs, "cuda", False)
    for name, values in SWEEP.items():
        for value in values:
            with constant(name, value):
                changed = timed({f"{name}={value}": SIDES[FUSED]}, inputs, "cuda", False)
            found = {part: found[part] | changed[part] for part in found}
    return list(rows_of(found, inputs, label, PRESENT, copy))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tiny", action="store_true", help="one small size; so it always is on a CPU")
    parser.add_argument("--sweep", action="store_true", help="vary the kernels' constants instead (cuda)")
    parser.add_argument("--out", type=Path, help="folder for the result; without it a tiny one is not kept")
    args = parser.parse_args()
    if args.device == "cpu" and args.sweep:
        parser.error("--sweep needs --device cuda")
    tiny = args.tiny or args.device == "cpu"
    limits = None if tiny else measured_limits(args.device, 1)
    copy = limits["copy_bytes_per_s"] if limits else 0.0
    rows: list[dict[str, Any]] = []
    for name, width in {"tiny": 48}.items() if tiny else WIDTHS.items():
        for n_atoms in (64,) if tiny else ATOMS:
            label = f"{name}, {n_atoms} atoms"
            if args.sweep:
                rows += swept(n_atoms, width, label, copy)
            else:
                rows += compared(args.device, n_atoms, width, label, tiny, copy)
    result = record("modulation", ["torch", "triton"], rows, limits)
    if tiny and args.out is None:
        print(summary(result))
    else:
        write("modulation-sweep" if args.sweep else "modulation", result, args.out or RESULTS)


if __name__ == "__main__":
    main()

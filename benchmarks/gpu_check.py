"""What must hold on a GPU before its speeds mean anything: fast paths' numerics, and the tests marked gpu.

    python benchmarks/gpu_check.py [--tests FILE ...] [--golden shared/golden]

Errors are relative, in the L2 norm, of outputs and of gradients, on random sets of both mixes against a
float64 run with dense masked attention on the CPU. Golden outputs are those of shared/golden where it is
found. Loss parity is that of training_step.py over 20 steps. The baseline of each row is its bound, so that a
ratio above 1 is a failure; the status is then 1. Writes benchmarks/results/gpu-check.json after every part.
"""

from __future__ import annotations

import argparse
import copy
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dense_denoiser import MIXES, away_from_zero
from limits import measured_limits
from record import REPO, RESULTS, record, row, write
from step_sides import Batch, draw_batches, packed_inputs
from torch import Tensor, nn
from training_step import LOSS_BOUND, VARIANTS, StepOptions, chosen_sides, compare_steps

from adit_scale.atoms import PackedLayout
from adit_scale.diffusion.flow_matching import flow_matching_loss
from adit_scale.models.attention import set_attention
from adit_scale.models.config import AutoencoderConfig, DenoiserConfig, ModelConfig
from adit_scale.models.dit import Denoiser
from adit_scale.models.import_adit import load_adit_weights
from adit_scale.models.kernels import set_kernels
from adit_scale.models.transformer import prepare_blocks

# Of a network of four blocks: about three times what is seen on a CPU.
BOUNDS = {
    torch.float32: {"outputs": 1e-5, "gradients": 1e-5},
    torch.bfloat16: {"outputs": 0.02, "gradients": 0.04},
}
# Largest difference over the largest golden value; fp32 sums in another order, bf16 keeps 8 bits.
GOLDEN_BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 0.05}
SMALL = DenoiserConfig(name="check", width=128, depth=4, heads=2)
# shared/golden/README.md.
GOLDEN = ModelConfig(
    autoencoder=AutoencoderConfig(width=64, encoder_depth=3, decoder_depth=3, heads=4, feedforward=128),
    denoiser=DenoiserConfig(name="golden", width=96, depth=4, heads=4, spacegroup_conditioning=True),
)
Rows = list[dict[str, Any]]


def prepared(weights: Denoiser, key: str, device: torch.device) -> nn.Module:
    """A copy of the network as a variant of training_step.py runs it."""
    variant = VARIANTS[key]
    torch.compiler.reset()  # what was compiled before counts against torch's limit a block
    model = copy.deepcopy(weights).to(device, variant.dtype)
    set_attention(model, variant.attention)
    set_kernels(model, variant.kernels)
    prepare_blocks(model, recompute=False, compiled=variant.compiled)
    return model


def outputs_and_gradients(
    model: nn.Module, batch: Batch, fixed: bool, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Of the flow-matching loss, in float64 on the CPU; outputs of real atoms. dtype: of the inputs."""
    inputs, x_1_td = packed_inputs(batch, fixed)
    inputs = (inputs[0].to(dtype), None, *inputs[2:])
    outputs_td = model(*inputs)
    flow_matching_loss(outputs_td, x_1_td.to(dtype), inputs[2], inputs[5]).sum().backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    found = {"outputs": outputs_td[: batch.n_atoms], "gradients": torch.cat(gradients)}
    return {name: value.detach().double().cpu() for name, value in found.items()}


def numerics(keys: list[str], device: torch.device) -> Rows:
    """A row for outputs and one for gradients of each side."""
    torch.manual_seed(0)
    weights = away_from_zero(Denoiser(SMALL))
    exact = copy.deepcopy(weights).double()
    set_attention(exact, "reference")
    rows: Rows = []
    for mix in MIXES:
        (here,) = draw_batches(np.random.default_rng(0), mix, 1, 512, SMALL.latent, torch.device("cpu"))
        (there,) = draw_batches(np.random.default_rng(0), mix, 1, 512, SMALL.latent, device)
        exact.zero_grad(set_to_none=True)
        expected = outputs_and_gradients(exact, here, False, torch.float64)
        for key in keys:
            variant = VARIANTS[key]
            model = prepared(weights, key, device)
            actual = outputs_and_gradients(model, there, variant.capacity, torch.float32)
            for name, value in actual.items():
                error = float((value - expected[name]).norm() / expected[name].norm())
                what = f"error of {name}, {mix}, {variant.name}"
                rows.append(row(what, error, "bound", BOUNDS[variant.dtype][name], ""))
    return rows


@torch.no_grad()
def golden(keys: list[str], device: torch.device, folder: Path) -> Rows:
    """The published recipe's tensors by each side."""
    from safetensors.torch import load_file

    vectors = load_file(folder / "vectors.safetensors")
    _, denoiser = load_adit_weights(folder / "weights.safetensors", GOLDEN)
    layout = PackedLayout.from_sizes(vectors["in.num_atoms"].tolist()).to(device)
    names = ("dit.x_t", "dit.t", "dit.dataset", "dit.spacegroup")
    x_t_td, t_s, domain_s, spacegroup_s = (vectors[name].to(device) for name in names)
    expected_td = vectors["dit.out"]
    rows: Rows = []
    for key in keys:
        variant = VARIANTS[key]
        model = prepared(denoiser, key, device)
        actual_td = model(x_t_td, None, t_s, domain_s, spacegroup_s, layout).cpu()
        error = float((actual_td - expected_td).abs().max() / expected_td.abs().max())
        what = f"error of golden outputs, {variant.name}"
        rows.append(row(what, error, "bound", GOLDEN_BOUNDS[variant.dtype], ""))
    return rows


def parity(keys: list[str], device: torch.device, rung: str, atoms: int) -> Rows:
    """How far the loss of each bf16 side goes from fp32's over 20 steps."""
    a_turn = 5 if device.type == "cuda" else 1
    options = StepOptions(
        device.type,
        rung,
        atoms=atoms,
        batches=20 - a_turn,
        threads=torch.get_num_threads(),
        sides=tuple(keys),
    )
    found = compare_steps(options)["loss_parity"]
    assert found is not None
    return [
        row(f"largest difference of the loss over {found['steps']} steps, {rung}, {name}", apart,
            "bound", LOSS_BOUND, "")
        for name, apart in found["largest_relative_difference"].items()
    ]  # fmt: skip


def files_with_marked_tests() -> list[str]:
    """The others may need packages that are not on a bare machine."""
    found = sorted((REPO / "tests").rglob("test_*.py"))
    return [str(path.relative_to(REPO)) for path in found if "@pytest.mark.gpu" in path.read_text()]


def marked_tests(paths: list[str], limit_s: float) -> tuple[Rows, list[str]]:
    """Counts of the tests marked gpu, and the names of those that failed or could not be collected."""
    with tempfile.TemporaryDirectory() as name:
        report = Path(name) / "report.xml"
        command = [
            *(sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider"),
            *("--continue-on-collection-errors", f"--junitxml={report}", *paths),
        ]
        try:
            subprocess.run(command, cwd=REPO, timeout=limit_s, check=False, stdout=sys.stderr)
        except subprocess.TimeoutExpired:
            return [row("tests marked gpu that did not end in time", 1, "bound", 1, "")], []
        cases = list(ET.parse(report).getroot().iter("testcase"))
    bad = [f"{c.get('classname')}::{c.get('name')}" for c in cases if c.find("failure") is not None]
    bad += [
        f"{c.get('classname') or c.get('name')}: not collected" for c in cases if c.find("error") is not None
    ]
    skipped = sum(c.find("skipped") is not None for c in cases)
    passed = len(cases) - len(bad) - skipped
    return [row("tests marked gpu that passed", passed, "collected", len(cases), "", skipped=skipped)], bad


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--rung", default="dit_s", help="of the loss parity")
    parser.add_argument("--atoms", type=int, default=8192, help="of the loss parity, a step")
    parser.add_argument("--tests", nargs="*", help="files; all with a test marked gpu by default")
    parser.add_argument("--tests-limit-s", type=float, default=240)
    parser.add_argument("--golden", type=Path, help="the folder shared/golden")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    args = parser.parse_args()
    device = torch.device(args.device)
    limits = measured_limits(args.device, torch.get_num_threads())
    sides = chosen_sides(StepOptions(args.device, compiled=args.device == "cuda"))
    keys = [key for key in sides if VARIANTS[key].packed]
    folder = args.golden or golden_folder()
    parts: dict[str, Callable[[], Rows]] = {"numerics": lambda: numerics(keys, device)}
    if folder:
        parts["golden"] = lambda: golden(keys, device, folder)
    parts["loss parity"] = lambda: parity(keys, device, args.rung, args.atoms)
    rows: Rows = []
    failed_tests: list[str] = []

    def keep(partial: bool) -> None:
        result = record("gpu_check", ["torch", "numpy"], rows, limits)
        more = {"golden": str(folder) if folder else "not found", "failed_tests": failed_tests}
        write("gpu-check", result | more | {"partial": partial}, args.out)

    for part in parts.values():
        rows += part()
        keep(partial=True)
    files = files_with_marked_tests() if args.tests is None else args.tests
    if files:
        tests, failed_tests = marked_tests(files, args.tests_limit_s)
        rows += tests
    keep(partial=False)
    wrong = [r["what"] for r in rows if r["baseline"] == "bound" and r["value"] > r["baseline_value"]]
    for name in (*wrong, *failed_tests):
        print(f"FAILED: {name}", file=sys.stderr)
    return int(bool(wrong or failed_tests))


def golden_folder() -> Path | None:
    """shared/golden in ADIT_SHARED, in the checkout or beside it; None where it is not."""
    places = [Path(os.environ[k]) for k in ("ADIT_SHARED",) if k in os.environ]
    found = [p / "golden" for p in (*places, REPO / "shared", REPO.parent / "shared")]
    return next((p for p in found if (p / "vectors.safetensors").is_file()), None)


if __name__ == "__main__":
    sys.exit(main())

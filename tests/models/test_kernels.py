"""Fused modulation: right in Triton's interpreter, compiled for GPUs without one, and on one if there is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adit_scale.atoms import PackedLayout
from adit_scale.errors import ConfigError
from adit_scale.models import kernels
from adit_scale.models.config import DenoiserConfig
from adit_scale.models.dit import Denoiser
from adit_scale.models.kernels import modulated_norm, resolve_kernels, set_kernels

needs_triton = pytest.mark.skipif(sys.platform != "linux", reason="Triton is made for Linux")
S, B, L, XL = 384, 768, 1024, 1152


def test_choice(monkeypatch):
    assert resolve_kernels("auto", "cpu") == resolve_kernels("torch", "cuda") == "torch"
    with pytest.raises(ConfigError, match=r"'triton' on cpu; it needs a CUDA.*set parallel\.kernels=auto"):
        resolve_kernels("triton", "cpu")
    with pytest.raises(ConfigError, match=r"kernels is 'cuda'; expected one of auto, torch, triton"):
        resolve_kernels("cuda", "cuda")
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setattr(kernels, "_triton_imports", lambda: True)
    assert resolve_kernels("auto", "cuda:1") == "triton"
    monkeypatch.setattr(kernels, "_triton_imports", lambda: False)
    assert resolve_kernels("auto", "cuda") == "torch"
    with pytest.raises(ConfigError, match=r"needs the package triton; set parallel\.kernels=auto"):
        resolve_kernels("triton", torch.device("cuda"))


def test_set_on_blocks_and_the_final_layer():
    network = Denoiser(DenoiserConfig(name="t", width=16, depth=3, heads=2))
    set_kernels(network, "triton")
    assert [part.kernels for part in (*network.blocks, network.final)] == ["triton"] * 4


def test_torch_reads_rows_as_if_copied():
    layout = PackedLayout.from_sizes((3, 1), 6, 4)
    x_td, (shift_sd, scale_sd) = torch.randn(6, 8), torch.randn(4, 16).chunk(2, dim=-1)
    shift_td, scale_td = (t[layout.set_of_atom_t] for t in (shift_sd, scale_sd))
    by_row = modulated_norm(x_td, shift_sd, scale_sd, layout.set_of_atom_t, layout, "torch")
    assert torch.equal(by_row, modulated_norm(x_td, shift_td, scale_td, None, layout, "torch"))


def release(package: str) -> tuple[int, ...]:
    """Major and minor number; (0, 0) where it is not installed."""
    try:
        return tuple(int(part) for part in metadata.version(package).split(".")[:2])
    except metadata.PackageNotFoundError:
        return 0, 0


@needs_triton
@pytest.mark.skipif(
    release("triton") < (3, 7) and release("numpy") >= (2, 4),
    reason="Triton 3.6's interpreter turns arrays of one element into ints, which NumPy 2.4 refuses",
)
def test_interpreted():
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider"]
    command.append(str(Path(__file__).with_name("interpreted_kernels.py")))
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout


# -- compiled ahead of time ----------------------------------------------------------------------------------

INT64 = ("row_ptr", "set_ptr", "offsets_ptr")
FLOAT32 = ("mean_ptr", "rstd_ptr", "parts_ptr")
NAMES = ("_norm_forward", "_gate_forward", "_norm_backward", "_gate_backward", "_sum_parts")
BUILDS = [
    *((name, XL, 90, "bf16") for name in NAMES),
    *(("_norm_backward", width, 90, "bf16") for width in (S, B, L)),
    ("_norm_backward", XL, 90, "fp32"),
    ("_norm_backward", XL, 80, "bf16"),
    ("_norm_forward", S, 80, "bf16"),
]


def build(name: str, width: int, capability: int, dtype: str) -> Any:
    """One kernel for a GPU that need not be here, with the alignments that the networks' tensors have."""
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from adit_scale.models.kernels import modulation_triton as source

    function = getattr(source, name)
    sizes = source.tiling(width)
    options = {"num_warps": sizes.pop("num_warps")}
    constants = {
        **sizes,
        "STEPS": source.forward_steps(sizes["ROWS"]),
        "TILE": source.TILE,
        "WHOLE": source.WHOLE,
        "STAGES": source.STAGES,
        "ONE_ROW": False,
        "EPS": 1e-6,
        "FLOAT": tl.float32,
    }
    signature = {
        name: "constexpr"
        if name.isupper()
        else "i32"
        if not name.endswith("_ptr")
        else "*i64"
        if name in INT64
        else "*fp32"
        if name in FLOAT32
        else f"*{dtype}"
        for name in function.arg_names
    }
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(function.arg_names)
        if name.endswith(("_ptr", "_stride"))
    }
    constants = {name: value for name, value in constants.items() if name in function.arg_names}
    ast = ASTSource(function, signature, constants, aligned)
    return triton.compile(ast, target=GPUTarget("cuda", capability, 32), options=options)


@needs_triton
@pytest.mark.parametrize(("name", "width", "capability", "dtype"), BUILDS)
def test_builds_for_a_gpu(tmp_path, monkeypatch, name, width, capability, dtype):
    """No spilled registers, wide loads, and little shared memory: what speed needs, seen without a GPU."""
    from triton import knobs

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    kernel = build(name, width, capability, dtype)
    ptx = tmp_path / "kernel.ptx"
    ptx.write_text(kernel.asm["ptx"])
    chip = re.findall(r"\.target (sm_\w+)", kernel.asm["ptx"])[0]
    command = [knobs.nvidia.ptxas.path, "-v", f"--gpu-name={chip}", str(ptx), "-o", os.devnull]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in said
    registers = int(re.findall(r"Used (\d+) registers", said)[0])
    threads = 32 * kernel.metadata.num_warps
    assert registers * threads <= 65536 // 3  # three programs or more at once on a multiprocessor
    assert kernel.metadata.shared <= 8192
    assert re.search(r"ld\.global[^;]*\.v4\.b32", kernel.asm["ptx"])


# -- on a GPU ------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("width", [48, S, B, L, XL, 4096])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu(width: int, dtype: torch.dtype):
    """Values and gradients against float64 (stated tolerance: one rounding), and the same bits ten times."""
    from adit_scale.models.kernels import gated_add

    sizes = torch.randint(1, 30, (600,), generator=torch.Generator().manual_seed(0)).sort(descending=True)[0]
    layout = PackedLayout.from_sizes([180, 70, *sizes.tolist()], 12_000, 700).to("cuda")
    torch.manual_seed(0)
    shapes = (layout.n_atoms, width), (layout.n_atoms, width), (layout.n_sets, 6 * width)
    tensors = [torch.randn(shape, device="cuda").to(dtype).requires_grad_() for shape in shapes]
    upstream = torch.randn(shapes[0], device="cuda").to(dtype)

    def outcome(inputs: list[Tensor], choice: str) -> list[Tensor]:
        x_td, y_td, modulation_sd = inputs
        shift_sd, _, scale_sd, gate_sd, *_ = modulation_sd.chunk(6, dim=-1)
        rows = layout.set_of_atom_t, layout, choice
        out_td = gated_add(x_td, gate_sd, y_td, *rows) + modulated_norm(x_td, shift_sd, scale_sd, *rows)
        return [out_td, *torch.autograd.grad(out_td, inputs, upstream.to(x_td.dtype))]

    expected = outcome([t.detach().double().requires_grad_() for t in tensors], "torch")
    got = outcome(tensors, "triton")
    tolerance = 2e-6 if dtype == torch.float32 else 1e-2
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == dtype
        assert ((a.double() - b).norm() / b.norm()).item() < tolerance
    for _ in range(10):
        assert all(torch.equal(a, b) for a, b in zip(outcome(tensors, "triton"), got, strict=True))

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from adit_scale.atoms import PackedLayout
from adit_scale.errors import ConfigError
from adit_scale.models import attention
from adit_scale.models.attention import (
    SelfAttention,
    attend_packed,
    packed_attention,
    resolve_attention,
    set_attention,
)
from adit_scale.models.ladder import LADDER
from tests.models import flash_stand_in

SIZES = (7, 7, 7, 1, 1, 5, 29, 5)  # equal neighbours, single atoms, and an order that is not sorted
LAYOUTS = {
    "plain": PackedLayout.from_sizes(SIZES),
    "capacities": PackedLayout.from_sizes(SIZES, capacity_atoms=100, capacity_sets=14, max_atoms=32),
    "dummy": PackedLayout.from_sizes([]),
}
HEAD_WIDTHS = sorted({c.width // c.heads for c in LADDER.values()} | {256})
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def mix(seed: int) -> PackedLayout:
    """Another mix of sizes at the same capacities and bound."""
    sizes = np.random.default_rng(seed).integers(1, 12, 6 + seed)
    return PackedLayout.from_sizes(np.sort(sizes)[::-1], capacity_atoms=96, capacity_sets=20, max_atoms=16)


def projected(layout: PackedLayout, dtype: torch.dtype, heads: int = 3, head_width: int = 16) -> Tensor:
    torch.manual_seed(0)
    wide = torch.randn(layout.n_atoms, 3, heads, head_width, dtype=torch.float64)
    return wide.to(dtype).requires_grad_()


def output_and_gradient(
    attend: Callable[..., Tensor], qkv_t3hd: Tensor, layout: PackedLayout, *options
) -> list[Tensor]:
    out = attend(qkv_t3hd, layout, *options)
    weights = torch.linspace(-1, 1, out.numel(), dtype=torch.float64, device=out.device).view_as(out)
    gradient = torch.autograd.grad((out * weights.to(out.dtype)).sum(), qkv_t3hd)
    return [out.detach(), *gradient]


def assert_equals_reference(found: list[Tensor], qkv_t3hd: Tensor, layout: PackedLayout, scale, tolerance):
    wide = qkv_t3hd.detach().double().requires_grad_()
    expected = output_and_gradient(attend_packed, wide, layout, "reference", scale)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == qkv_t3hd.dtype
        torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance)


@pytest.fixture(params=["grouped", "flash"])
def backend(request, monkeypatch) -> str:
    """Both backends; flash with its kernels stood in for."""
    if request.param == "flash":
        flash_stand_in.install(monkeypatch)
    return request.param


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("scale", [None, 0.07])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 2e-6), (torch.bfloat16, 0.02)]
)
def test_backends_equal_the_reference(backend, layout, scale, dtype, tolerance):
    if (backend, dtype) == ("grouped", torch.float64):
        tolerance = 1e-13  # FlashAttention's log-sum-exp is float32
    qkv_t3hd = projected(layout, dtype)
    found = output_and_gradient(attend_packed, qkv_t3hd, layout, backend, scale)
    assert_equals_reference(found, qkv_t3hd, layout, scale, tolerance)
    with torch.no_grad():
        q, k, v = qkv_t3hd.unbind(1)
        assert torch.equal(attend_packed(qkv_t3hd, layout, backend, scale), found[0])
        assert torch.equal(packed_attention(q, k, v, layout, backend, scale), found[0])


def test_compiled_attention_equals_the_reference_and_compiles_once(backend, fresh_compiler):
    """One graph for training and one for inference, whatever the mix of sizes."""
    compiled = torch.compile(attend_packed, fullgraph=True, dynamic=False, backend="aot_eager")
    for seed in range(5):
        layout = mix(seed)
        qkv_t3hd = projected(layout, torch.float32)
        found = output_and_gradient(compiled, qkv_t3hd, layout, backend, 0.2)
        assert_equals_reference(found, qkv_t3hd, layout, 0.2, 2e-6)
        with torch.no_grad():
            assert torch.equal(compiled(qkv_t3hd, layout, backend, 0.2), found[0])
        torch._dynamo.config.error_on_recompile = True  # from the second mix on


def test_flash_traces_on_cuda_in_one_graph(monkeypatch, fresh_compiler):
    """With shapes alone, as a CPU has no such tensors: what reaches the kernel, and that nothing breaks."""
    monkeypatch.setattr(attention, "_compute_capability", lambda device: (9, 0))
    calls: list[torch.fx.Node] = []

    def look(graph: torch.fx.GraphModule, _):
        calls.extend(n for n in graph.graph.nodes if "_varlen_attn" in str(n.target))
        return graph.forward

    with FakeTensorMode(allow_non_fake_inputs=True):
        host = mix(0)
        layout = replace(host, offsets=torch.empty(host.offsets.shape, dtype=torch.int32, device="cuda"))
        qkv_t3hd = torch.empty(layout.n_atoms, 3, 3, 16, dtype=torch.bfloat16, device="cuda")
        compiled = torch.compile(attend_packed, fullgraph=True, dynamic=False, backend=look)
        with torch.no_grad():
            out_thd = compiled(qkv_t3hd, layout, "auto", 0.3)
    assert (out_thd.device.type, out_thd.dtype, out_thd.shape) == ("cuda", torch.bfloat16, (96, 3, 16))
    (call,) = calls
    tensors = [n.meta["example_value"] for n in call.args[:5]]
    assert [t.stride() for t in tensors[:3]] == [(144, 16, 1)] * 3  # views of the projection, not copies
    assert all(t.dtype == torch.int32 and t.is_cuda for t in tensors[3:])
    assert call.args[5:9] == (16, 16, False, 0.3)  # the bounds, causal, scale


def test_auto_on_cpu_is_grouped():
    layout = LAYOUTS["plain"]
    qkv_t3hd = projected(layout, torch.float32)
    auto, grouped = (attend_packed(qkv_t3hd, layout, name) for name in ("auto", "grouped"))
    assert torch.equal(auto, grouped)


def test_one_atom_attends_to_itself():
    layout = PackedLayout.from_sizes([1, 1, 1])
    q, k, v = projected(layout, torch.float32).unbind(1)
    torch.testing.assert_close(packed_attention(q, k, v, layout), v)


def test_a_set_does_not_see_its_neighbours():
    layout = LAYOUTS["plain"]
    q, k, v = projected(layout, torch.float32).detach().unbind(1)
    before = packed_attention(q, k, v, layout)
    k[7:14] += 1.0
    v[7:14] *= -3.0
    after = packed_attention(q, k, v, layout)
    assert torch.equal(before[:7], after[:7])
    assert torch.equal(before[14:], after[14:])
    assert not torch.equal(before[7:14], after[7:14])


@pytest.mark.parametrize("scale", [0.125, 1 / 3])
def test_a_set_has_the_same_bits_in_any_company(scale):
    """So that a sample does not depend on what is drawn beside it."""
    for n in (1, 2, 9, 16, 29, 44, 90):
        many = PackedLayout.from_sizes([n] * 7)
        qkv_t3hd = projected(many, torch.float32, 2, 64).detach()
        together = attend_packed(qkv_t3hd, many, "grouped", scale)
        alone = attend_packed(qkv_t3hd[:n], PackedLayout.from_sizes([n]), "grouped", scale)
        assert torch.equal(together[:n], alone)


CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("device", "capability", "dtype", "head_width", "message"),
    [
        (
            CPU,
            (),
            torch.bfloat16,
            64,
            "needs a CUDA device, and this one is cpu; set parallel.attention",
        ),
        (CUDA, (), torch.bfloat16, 64, "got none, as CUDA is not available; set parallel.attention=auto"),
        (CUDA, (7, 5), torch.bfloat16, 64, "capability 8.0 or higher, and got 7.5; set parallel.attention"),
        (CUDA, (9, 0), torch.float32, 64, "got float32; set parallel.precision=bf16 or parallel.attention"),
        (
            CUDA,
            (9, 0),
            torch.bfloat16,
            20,
            "multiple of 8 up to 256, and got 20; choose another number",
        ),
        (CUDA, (9, 0), torch.bfloat16, 264, "got 264; choose another number of heads or set parallel.attent"),
    ],
)
def test_flash_where_it_cannot_run(monkeypatch, device, capability, dtype, head_width, message):
    monkeypatch.setattr(attention, "_compute_capability", lambda device: capability)
    with pytest.raises(ConfigError, match=message) as caught:
        resolve_attention("flash", device, dtype, head_width)
    assert str(caught.value).startswith("parallel.attention=flash ")
    assert "\n" not in str(caught.value)
    assert resolve_attention("auto", device, dtype, head_width) == "grouped"


def test_flash_where_it_can_run(monkeypatch):
    monkeypatch.setattr(attention, "_compute_capability", lambda device: (8, 0))
    for head_width in HEAD_WIDTHS:
        for asked in ("auto", "flash"):
            assert resolve_attention(asked, CUDA, torch.bfloat16, head_width) == "flash"
    assert resolve_attention("grouped", CUDA, torch.bfloat16, 64) == "grouped"


def test_a_backend_that_does_not_exist():
    with pytest.raises(ConfigError, match=r"parallel\.attention is 'varlen'; expected one of auto, flash"):
        attend_packed(projected(LAYOUTS["plain"], torch.float32), LAYOUTS["plain"], "varlen")


def test_the_backend_is_set_everywhere():
    first, second = SelfAttention(16, 2), SelfAttention(16, 1)
    set_attention(torch.nn.Sequential(first, torch.nn.ModuleList([second])), "flash")
    with pytest.raises(ConfigError, match=r"parallel\.attention=flash needs a CUDA device"):
        second(torch.zeros(8, 16), PackedLayout.from_sizes([8]))
    assert first.backend == "flash"


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("scale", [None, 0.07])
@pytest.mark.parametrize("head_width", HEAD_WIDTHS)
def test_flash_kernel_equals_the_reference(layout, scale, head_width):
    assert resolve_attention("auto", CUDA, torch.bfloat16, head_width) == "flash"
    layout = layout.to("cuda")
    qkv_t3hd = projected(layout, torch.bfloat16, 2, head_width).detach().cuda().requires_grad_()
    found = output_and_gradient(attend_packed, qkv_t3hd, layout, "flash", scale)
    assert_equals_reference(found, qkv_t3hd, layout, scale, 0.03)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(("name", "dtype"), [("flash", torch.bfloat16), ("grouped", torch.float32)])
def test_compiled_on_the_gpu_equals_eager_and_compiles_once(name, dtype, fresh_compiler):
    compiled = torch.compile(attend_packed, fullgraph=True, dynamic=False)
    for seed in range(5):
        layout = mix(seed).to("cuda")
        qkv_t3hd = projected(layout, dtype, 2, 64).detach().cuda().requires_grad_()
        found = output_and_gradient(compiled, qkv_t3hd, layout, name, 0.2)
        expected = output_and_gradient(attend_packed, qkv_t3hd, layout, name, 0.2)
        for a, b in zip(found, expected, strict=True):
            assert torch.equal(a, b)
        torch._dynamo.config.error_on_recompile = True


@pytest.mark.gpu
@needs_gpu
def test_grouped_on_the_gpu_equals_the_reference():
    for layout in LAYOUTS.values():
        moved = layout.to("cuda")
        assert moved.groups_s2.device.type == "cpu"
        qkv_t3hd = projected(moved, torch.float64).detach().cuda().requires_grad_()
        found = output_and_gradient(attend_packed, qkv_t3hd, moved, "grouped", 0.2)
        assert_equals_reference(found, qkv_t3hd, moved, 0.2, 1e-12)

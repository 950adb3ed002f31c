from __future__ import annotations

import pytest
import torch
from torch import Tensor

from adit_scale.atoms import PackedLayout
from adit_scale.errors import ConfigError
from adit_scale.models.attention import packed_attention

SIZES = (7, 7, 7, 1, 1, 5, 29, 5)  # equal neighbours, single atoms, and an order that is not sorted
LAYOUTS = {
    "plain": PackedLayout.from_sizes(SIZES),
    "capacities": PackedLayout.from_sizes(SIZES, capacity_atoms=80, capacity_sets=12),
    "dummy": PackedLayout.from_sizes([]),
}

Inputs = tuple[Tensor, Tensor, Tensor]


def qkv(layout: PackedLayout, dtype: torch.dtype, heads: int = 3, head_width: int = 16) -> Inputs:
    torch.manual_seed(0)
    packed = torch.randn(layout.n_atoms, 3, heads, head_width, dtype=torch.float64).to(dtype)
    q, k, v = (x.detach().requires_grad_() for x in packed.unbind(1))
    return q, k, v


def output_and_gradients(inputs: Inputs, layout: PackedLayout, backend: str) -> list[Tensor]:
    out = packed_attention(*inputs, layout, backend)
    weights = torch.linspace(-1, 1, out.numel(), dtype=torch.float64, device=out.device).view_as(out)
    return [out.detach(), *torch.autograd.grad((out * weights.to(out.dtype)).sum(), inputs)]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
def test_grouped_sdpa_equals_reference(layout: PackedLayout, dtype: torch.dtype, tolerance: float):
    got = output_and_gradients(qkv(layout, dtype), layout, "grouped_sdpa")
    expected = output_and_gradients(qkv(layout, torch.float64), layout, "reference")
    for g, e in zip(got, expected, strict=True):
        assert g.dtype == dtype
        torch.testing.assert_close(g.double(), e, rtol=tolerance, atol=tolerance)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_varlen_equals_reference(layout: PackedLayout, dtype: torch.dtype):
    layout = layout.to("cuda")
    inputs = [x.detach().cuda().requires_grad_() for x in qkv(layout, dtype)]
    got = output_and_gradients(inputs, layout, "varlen")
    wide = [x.detach().double().requires_grad_() for x in inputs]
    expected = output_and_gradients(wide, layout, "reference")
    epsilon = torch.finfo(dtype).eps
    for g, e in zip(got, expected, strict=True):
        torch.testing.assert_close(g.double(), e, rtol=2 * epsilon, atol=4 * epsilon)


def test_auto_on_cpu_is_grouped_sdpa():
    layout = LAYOUTS["plain"]
    inputs = qkv(layout, torch.float32)
    auto, grouped = (packed_attention(*inputs, layout, backend) for backend in ("auto", "grouped_sdpa"))
    assert torch.equal(auto, grouped)


def test_one_atom_attends_to_itself():
    layout = PackedLayout.from_sizes([1, 1, 1])
    q, k, v = qkv(layout, torch.float32)
    torch.testing.assert_close(packed_attention(q, k, v, layout), v)


def test_a_set_does_not_see_its_neighbours():
    layout = LAYOUTS["plain"]
    q, k, v = (x.detach() for x in qkv(layout, torch.float32))
    before = packed_attention(q, k, v, layout)
    k[7:14] += 1.0
    v[7:14] *= -3.0
    after = packed_attention(q, k, v, layout)
    assert torch.equal(before[:7], after[:7])
    assert torch.equal(before[14:], after[14:])
    assert not torch.equal(before[7:14], after[7:14])


@pytest.mark.parametrize(
    ("backend", "message"),
    [("varlen", "float32 on cpu; expected float16"), ("flash", "expected one of auto")],
)
def test_a_backend_that_cannot_run_is_a_config_error(backend: str, message: str):
    layout = LAYOUTS["plain"]
    with pytest.raises(ConfigError, match=message):
        packed_attention(*qkv(layout, torch.float32), layout, backend)

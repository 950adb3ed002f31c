"""The fused kernels in Triton's interpreter, on a CPU: ``test_kernels.py`` runs this with TRITON_INTERPRET=1.

A process of its own, as Triton decides when it is first imported.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from adit_scale.atoms import PackedLayout
from adit_scale.diffusion.flow_matching import flow_matching_loss
from adit_scale.models.config import DenoiserConfig
from adit_scale.models.dit import Denoiser
from adit_scale.models.kernels import gated_add, modulated_norm, set_kernels
from adit_scale.models.kernels.modulation_triton import WHOLE
from adit_scale.models.transformer import prepare_blocks

assert os.environ.get("TRITON_INTERPRET") == "1"

LAYOUTS = {
    "single atoms, a tail, empty sets": PackedLayout.from_sizes((7, 3, 1, 1), 20, 7),
    "cut sets": PackedLayout.from_sizes((180, WHOLE + 1, WHOLE, 9, 2)),
    "a long tail": PackedLayout.from_sizes((3,), 110, 4),
    "dummy atom": PackedLayout.from_sizes(()),
}
SMALL = "single atoms, a tail, empty sets"
TOLERANCE = {torch.float32: 5e-7, torch.bfloat16: 5e-3, torch.float64: 1e-15}


def fused(
    tensors: Sequence[Tensor], row_of_atom_t: Tensor | None, layout: PackedLayout, choice: str
) -> tuple[Tensor, Tensor]:
    """A norm and a gate of (x, y, modulation), by three of its six chunks: views with the stride of all."""
    x_td, y_td, modulation_rd = tensors
    shift_rd, scale_rd, gate_rd, *_ = modulation_rd.chunk(6, dim=-1)
    rows = row_of_atom_t, layout, choice
    return modulated_norm(x_td, shift_rd, scale_rd, *rows), gated_add(x_td, gate_rd, y_td, *rows)


def inputs(layout: PackedLayout, width: int, dtype: torch.dtype, n_rows: int | None = None) -> list[Tensor]:
    torch.manual_seed(0)
    n_rows = layout.n_sets if n_rows is None else n_rows
    shapes = (layout.n_atoms, width), (layout.n_atoms, width), (n_rows, 6 * width)
    return [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]


def outcome(tensors: list[Tensor], layout: PackedLayout, choice: str) -> list[Tensor]:
    """Both results and the gradients of x, y and the modulation."""
    out = fused(tensors, layout.set_of_atom_t, layout, choice)
    torch.manual_seed(1)
    upstream = [torch.randn(o.shape).to(tensors[0].dtype).to(o.dtype) for o in out]
    return [*out, *torch.autograd.grad(out, tensors, upstream)]


def relative_error(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected).norm() / expected.norm())


CASES = [
    *((name, 48, dtype) for name in LAYOUTS for dtype in (torch.float32, torch.bfloat16)),
    (SMALL, 48, torch.float64),
    (SMALL, 1152, torch.float32),
    ("a long tail", 384, torch.bfloat16),
]


@pytest.mark.parametrize(("name", "width", "dtype"), CASES)
def test_values_and_gradients(name: str, width: int, dtype: torch.dtype):
    """Stated tolerance: what one rounding to the dtype gives, in norm."""
    layout, tensors = LAYOUTS[name], inputs(LAYOUTS[name], width, dtype)
    got = outcome(tensors, layout, "triton")
    doubles = [t.detach().double().requires_grad_() for t in tensors]
    for value, expected in zip(got, outcome(doubles, layout, "torch"), strict=True):
        assert value.dtype == dtype
        assert relative_error(value.detach(), expected.detach()) < TOLERANCE[dtype]
    empty_s = layout.sizes_s == 0
    assert torch.count_nonzero(got[-1][empty_s]) == 0
    assert torch.count_nonzero(got[-1][:, 3 * width :]) == 0


def test_sums_do_not_depend_on_where_a_set_lies():
    """A sum has one order, that of the set's atoms: moved in the batch, a set keeps its bits."""
    front, back = (PackedLayout.from_sizes(sizes) for sizes in ((60, 30, 5), (30, 5, 60)))
    tensors = inputs(front, 48, torch.float32)
    moved = [
        torch.cat([t[start:], t[:start]]).detach().requires_grad_()
        for t, start in zip(tensors, (60, 60, 1), strict=True)
    ]
    shift = [torch.ones(95, 48).cumsum(0), torch.ones(95, 48).cumsum(0)]
    first = torch.autograd.grad(fused(tensors, front.set_of_atom_t, front, "triton"), tensors, shift)
    rolled = [torch.cat([g[60:], g[:60]]) for g in shift]
    second = torch.autograd.grad(fused(moved, back.set_of_atom_t, back, "triton"), moved, rolled)
    for a, b, start in zip(first, second, (60, 60, 1), strict=True):
        assert torch.equal(torch.cat([a[start:], a[:start]]), b)


def test_gradcheck():
    layout = PackedLayout.from_sizes((WHOLE + 2, 3, 1), 75, 5)

    def sets_alone(x_td: Tensor, y_td: Tensor, modulation_sd: Tensor) -> tuple[Tensor, Tensor]:
        return fused((x_td, y_td, modulation_sd), layout.set_of_atom_t, layout, "triton")

    assert torch.autograd.gradcheck(sets_alone, inputs(layout, 6, torch.float64), fast_mode=True)


def test_any_rows_and_one_row():
    """Values by the kernels where no gradient is asked for, and right gradients where one is."""
    layout = LAYOUTS["cut sets"]
    some_t = torch.arange(layout.n_atoms) % 3
    for row_of_atom_t, n_rows in ((some_t, 3), (None, 1)):
        tensors = inputs(layout, 48, torch.float32, n_rows)
        doubles = [t.detach().double().requires_grad_() for t in tensors]
        expected = fused(doubles, row_of_atom_t, layout, "torch")
        with torch.no_grad():
            values = fused(tensors, row_of_atom_t, layout, "triton")
        with_gradient = fused(tensors, row_of_atom_t, layout, "triton")
        for a, b, c in zip(values, with_gradient, expected, strict=True):
            assert relative_error(a, c.detach()) < 1e-6
            assert relative_error(b.detach(), c.detach()) < 1e-6
        got = torch.autograd.grad(sum(o.square().sum() for o in with_gradient), tensors)
        right = torch.autograd.grad(sum(o.square().sum() for o in expected), doubles)
        assert all(relative_error(a, b) < 1e-5 for a, b in zip(got, right, strict=True))


def test_a_frozen_input_and_an_expanded_gradient():
    layout = LAYOUTS[SMALL]
    x_td, y_td, modulation_sd = inputs(layout, 48, torch.float32)
    out = fused((x_td.detach(), y_td, modulation_sd), layout.set_of_atom_t, layout, "triton")
    (out[0].sum() + out[1].sum()).backward()
    sums = torch.zeros(layout.n_sets, 48).index_add(0, layout.set_of_atom_t, torch.ones(layout.n_atoms, 48))
    assert x_td.grad is None
    assert modulation_sd.grad is not None
    assert torch.equal(modulation_sd.grad[:, :48], sums)


# -- in the network ------------------------------------------------------------------------------------------


def denoiser(choice: str) -> Denoiser:
    torch.manual_seed(0)
    network = Denoiser(DenoiserConfig(name="t", width=48, depth=2, heads=2))
    for p in network.parameters():
        nn.init.normal_(p, std=0.05)  # at the zero start blocks do nothing
    set_kernels(network, choice)
    return network


def step(network: Denoiser, layout: PackedLayout) -> list[Tensor]:
    """Output and all gradients of a step with self-conditioning, as training makes it."""
    torch.manual_seed(2)
    none_s = torch.zeros(layout.n_sets, dtype=torch.long)
    x_td, t_s = torch.randn(layout.n_atoms, 8), torch.linspace(0.1, 0.9, layout.n_sets)
    with torch.no_grad():
        first_td = network(x_td, None, t_s, none_s, none_s, layout)
    network.zero_grad()
    out_td = network(x_td, first_td, t_s, none_s, none_s, layout)
    flow_matching_loss(out_td, x_td, t_s, layout).sum().backward()
    return [out_td.detach(), *(p.grad for p in network.parameters() if p.grad is not None)]


def test_the_denoiser_recomputed_or_not():
    layout = PackedLayout.from_sizes((5, 2, 1), 24, 5)
    plain, other, recomputing = denoiser("triton"), denoiser("torch"), denoiser("triton")
    prepare_blocks(recomputing, True, False)
    got = step(plain, layout)
    for a, b in zip(got, step(other, layout), strict=True):
        assert relative_error(a, b.double()) < 1e-5
    assert all(torch.equal(a, b) for a, b in zip(got, step(recomputing, layout), strict=True))


def test_an_empty_micro_batch_has_zero_gradients():
    for value in step(denoiser("triton"), PackedLayout.from_sizes((), 16, 4))[1:]:
        assert torch.count_nonzero(value) == 0


def test_compiled_without_a_break_and_once():
    """``fullgraph``: an error at a break; the mixes of sizes share one graph."""
    compiled = torch.compile(fused, backend="aot_eager", fullgraph=True, dynamic=False)
    for sizes in ((5, 3), (7, 1, 1), (4, 4, 2)):
        layout = PackedLayout.from_sizes(sizes, 16, 5)
        tensors = inputs(layout, 48, torch.float32)
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                out = compiled(tensors, layout.set_of_atom_t, layout, "triton")
                expected = fused(tensors, layout.set_of_atom_t, layout, "triton")
            assert all(torch.equal(a, b) for a, b in zip(out, expected, strict=True))
            if grad:
                both = (torch.autograd.grad([o.sum() for o in values], tensors) for values in (out, expected))
                assert all(torch.equal(a, b) for a, b in zip(*both, strict=True))
        torch._dynamo.config.error_on_recompile = True  # from the second mix on


def test_operators_as_torch_expects_them():
    """Schema, gradients' registration, fake shapes and dynamic shapes, by torch's own checks."""
    layout = LAYOUTS[SMALL]
    x_td, y_td, modulation_sd = inputs(layout, 48, torch.bfloat16)
    shift_sd, scale_sd, gate_sd, *_ = modulation_sd.detach().chunk(6, dim=-1)
    rows = layout.set_of_atom_t, layout.offsets
    shift_sd, scale_sd, gate_sd = (t.requires_grad_() for t in (shift_sd, scale_sd, gate_sd))
    kernels = torch.ops.adit_scale
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(kernels.modulated_norm, (x_td, shift_sd, scale_sd, *rows), test_utils=checks)
    torch.library.opcheck(kernels.gated_add, (x_td, gate_sd, y_td, *rows), test_utils=checks)

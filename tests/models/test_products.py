"""The layers of oneDNN are the plain ones: values and gradients of float64, the same parameters, no draw."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from adit_scale.atoms import PackedLayout
from adit_scale.models import products
from adit_scale.models.config import DenoiserConfig
from adit_scale.models.dit import Denoiser
from adit_scale.models.products import OneDnnLinear, OneDnnMlp, onednn_can_run, use_onednn
from adit_scale.models.transformer import Mlp

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(not onednn_can_run(torch.float32, CPU), reason="no oneDNN products here")


@pytest.fixture
def on_amd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_is_amd", lambda: True)


def gradients(layer: nn.Module, x_ni: Tensor, grad_no: Tensor) -> list[Tensor]:
    """Output, gradient by the input, gradients by the parameters."""
    x_ni = x_ni.clone().requires_grad_()
    out_no = layer(x_ni)
    return [out_no.detach(), *torch.autograd.grad(out_no, [x_ni, *layer.parameters()], grad_no)]


@pytest.mark.parametrize("rows", [0, 1, 7, 300])
@pytest.mark.parametrize(("wide", "narrow"), [(48, 16), (16, 48)], ids=["down", "up"])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_float64(rows: int, wide: int, narrow: int, bias: bool):
    torch.manual_seed(0)
    linear = nn.Linear(wide, narrow, bias=bias)
    x_ni, grad_no = torch.randn(rows, wide), torch.randn(1, narrow).expand(rows, narrow)
    exact = gradients(copy.deepcopy(linear).double(), x_ni.double(), grad_no.double())
    found = gradients(OneDnnLinear(linear), x_ni, grad_no)
    assert len(found) == len(exact) == 3 + bias
    for ours, expected in zip(found, exact, strict=True):
        assert ours.shape == expected.shape
        torch.testing.assert_close(ours.double(), expected, rtol=2e-6, atol=2e-5)


def test_a_row_does_not_depend_on_the_rows_beside_it():
    torch.manual_seed(0)
    layer = OneDnnLinear(nn.Linear(64, 192))
    x_ni, grad_no = torch.randn(256, 64), torch.randn(256, 192)
    others_ni, others_no = x_ni.clone(), grad_no.clone()
    others_ni[100:], others_no[100:] = torch.randn(156, 64), torch.randn(156, 192)
    first, second = gradients(layer, x_ni, grad_no), gradients(layer, others_ni, others_no)
    assert torch.equal(first[0][:100], second[0][:100])
    assert torch.equal(first[1][:100], second[1][:100])
    again = gradients(layer, x_ni, grad_no)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_denoiser_trains_as_in_float64_under_its_own_names(on_amd: None):
    torch.manual_seed(0)
    plain = Denoiser(DenoiserConfig(width=32, depth=2, heads=2))
    for parameter in plain.parameters():
        nn.init.normal_(parameter, std=0.1)
    swapped, exact = copy.deepcopy(plain), copy.deepcopy(plain).double()
    before = torch.get_rng_state()
    use_onednn(swapped, torch.float32, CPU, trained=True)
    assert torch.equal(torch.get_rng_state(), before)
    assert list(dict(swapped.named_parameters())) == list(dict(plain.named_parameters()))
    assert sum(type(module) is OneDnnLinear for module in swapped.modules()) == 2 * 5

    layout = PackedLayout.from_sizes(np.array([3, 5, 5, 9]))
    x_td = torch.randn(layout.n_atoms, 8)
    t_s, label_s = torch.rand(layout.n_sets), torch.ones(layout.n_sets, dtype=torch.int64)
    for network in (exact, swapped):
        dtype = next(network.parameters()).dtype
        network(x_td.to(dtype), None, t_s.to(dtype), label_s, label_s, layout).square().sum().backward()
    with torch.no_grad():  # GELU inside the product
        quick = swapped(x_td, None, t_s, label_s, label_s, layout)
        slow = plain(x_td, None, t_s, label_s, label_s, layout)
    torch.testing.assert_close(quick, slow, rtol=1e-5, atol=1e-5)
    for (name, ours), theirs in zip(swapped.named_parameters(), exact.parameters(), strict=True):
        scale = theirs.grad.abs().max().item()
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=0, atol=1e-5 * scale, msg=name)


def test_only_where_it_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def swaps(dtype: torch.dtype, trained: bool, device: torch.device = CPU) -> bool:
        module = nn.Sequential(Mlp(8, 16))
        use_onednn(module, dtype, device, trained)
        return type(module[0]) is OneDnnMlp

    monkeypatch.setattr(products, "CPU_FACTS", tmp_path / "cpuinfo")
    for maker, trains in (("GenuineIntel", False), ("AuthenticAMD", True)):
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {maker}\n")
        products._is_amd.cache_clear()
        assert swaps(torch.float32, trained=True) is trains
        assert swaps(torch.float32, trained=False)
        assert not swaps(torch.bfloat16, trained=True)
        assert not swaps(torch.float64, trained=True)
        assert not swaps(torch.float64, trained=False)
        assert not swaps(torch.float32, False, torch.device("cuda"))
    products._is_amd.cache_clear()

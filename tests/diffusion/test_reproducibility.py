"""Sample i is the same to the last bit wherever its batch has the same capacities, and to 1e-4 elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from adit_scale.atoms import CRYSTAL, MOLECULE
from adit_scale.diffusion.config import SamplingConfig
from adit_scale.diffusion.generate import Sampler, draw_sizes, generate, in_precision, plan_batches
from adit_scale.models import products
from adit_scale.models.autoencoder import Autoencoder
from adit_scale.models.config import AutoencoderConfig, DenoiserConfig
from adit_scale.models.dit import Denoiser

Found = dict[tuple[int, int], list[Tensor]]
HISTOGRAM = np.array([0, 1, 2, 4, 8, 8, 6, 5, 4, 3, 2, 2, 1])
FP32 = SamplingConfig(steps=4, batch_atoms=128, precision="fp32")
BF16 = replace(FP32, precision="bf16")


@cache
def networks(spacegroups: bool = False) -> tuple[Denoiser, Autoencoder]:
    torch.manual_seed(0)
    shape = DenoiserConfig(name="t", width=64, depth=2, heads=2, spacegroup_conditioning=spacegroups)
    denoiser = Denoiser(shape)
    for parameter in denoiser.parameters():  # adaLN-Zero starts as a constant: nothing to compare
        torch.nn.init.normal_(parameter, std=0.1)
    config = AutoencoderConfig(width=32, encoder_depth=1, decoder_depth=1, heads=2, feedforward=64)
    return denoiser.eval(), Autoencoder(config).eval()


def sizes(n: int, domains: tuple[int, ...] = (CRYSTAL, MOLECULE)) -> dict[int, np.ndarray]:
    return {domain: draw_sizes(HISTOGRAM, n, domain, seed=0) for domain in domains}


def by_sample(batches: Iterator) -> Found:
    """Everything decoded of each (domain, sample)."""
    found: Found = {}
    for batch in batches:
        decoded, offsets = batch.decoded, batch.layout.offsets.tolist()
        for s, index in enumerate(batch.index_s.tolist()):
            atoms = slice(offsets[s], offsets[s + 1])
            found[int(batch.domain_s[s]), index] = [
                decoded.atom_type_logits_t100[atoms], decoded.positions_t3[atoms],
                decoded.fractional_t3[atoms], decoded.lengths_s3[s], decoded.angles_s3[s],
            ]  # fmt: skip
    return found


def assert_same_bits(found: Found, expected: Found) -> None:
    for key, tensors in found.items():
        assert all(torch.equal(a, b) for a, b in zip(tensors, expected[key], strict=True)), key


def assert_close(found: Found, expected: Found, tolerance: float) -> None:
    for key, tensors in found.items():
        for a, b in zip(tensors, expected[key], strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("config", [FP32, BF16], ids=["fp32", "bf16"])
def test_how_many_are_drawn_does_not_matter(config: SamplingConfig):
    """60 samples a domain, 25, and 25 of one domain alone: other batches, other neighbours, other tails."""
    many = by_sample(generate(*networks(), sizes(60), config))
    assert len(many) == 120
    assert len({float(found[1].sum()) for found in many.values()}) == 120  # no two alike
    assert_same_bits(by_sample(generate(*networks(), sizes(25), config)), many)
    assert_same_bits(by_sample(generate(*networks(), sizes(25, (MOLECULE,)), config)), many)


@pytest.mark.parametrize("world_size", [2, 3])
def test_world_size_and_order_do_not_matter(world_size: int):
    alone = by_sample(generate(*networks(), sizes(40), FP32))
    plans = plan_batches(sizes(40), FP32)
    assert len(plans) >= 4
    denoiser, autoencoder = networks()
    together: Found = {}
    for rank in reversed(range(world_size)):
        drawn = Sampler(denoiser, FP32, plans).batches(autoencoder, plans[rank::world_size])
        together |= by_sample(batch for _, batch in drawn)
    assert together.keys() == alone.keys()
    assert_same_bits(together, alone)


@pytest.mark.parametrize(
    "other",
    [
        {"batch_atoms": 96},
        {"batch_sets": 5},
        {"pad_batches": False},
        {"pad_batches": False, "batch_atoms": 1},
    ],
    ids=str,
)
def test_other_capacities_change_rounding_alone(other: dict):
    few = sizes(15)
    expected = by_sample(generate(*networks(), few, FP32))
    found = by_sample(generate(*networks(), few, replace(FP32, **other)))
    assert found.keys() == expected.keys()
    assert_close(found, expected, 1e-4)


@pytest.mark.parametrize("config", [FP32, BF16], ids=["fp32", "bf16"])
def test_threads_do_not_matter(config: SamplingConfig):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = by_sample(generate(*networks(), sizes(12), config))
        torch.set_num_threads(2)
        two = by_sample(generate(*networks(), sizes(12), config))
    finally:
        torch.set_num_threads(before)
    assert_same_bits(two, one)


def test_with_spacegroups_too():
    def labels(n: int) -> dict[int, np.ndarray]:
        return {CRYSTAL: np.random.default_rng(0).integers(1, 231, 40)[:n]}

    def drawn(n: int, spacegroups: dict[int, np.ndarray]) -> Found:
        return by_sample(generate(*networks(True), sizes(n), FP32, spacegroups=spacegroups))

    many = drawn(40, labels(40))
    assert_same_bits(drawn(9, labels(9)), many)
    other = drawn(9, {CRYSTAL: labels(9)[CRYSTAL] % 230 + 1})
    assert (other[CRYSTAL, 0][1] - many[CRYSTAL, 0][1]).abs().max() > 1e-3
    assert_same_bits({k: v for k, v in other.items() if k[0] == MOLECULE}, many)


def test_other_precision_is_near_and_leaves_the_network_alone():
    denoiser, autoencoder = networks()
    before = {name: value.clone() for name, value in denoiser.state_dict().items()}
    fp32 = by_sample(generate(denoiser, autoencoder, sizes(10), FP32))
    bf16 = by_sample(generate(denoiser, autoencoder, sizes(10), BF16))
    off = max(float((bf16[key][1] - fp32[key][1]).abs().max()) for key in fp32)
    assert 1e-6 < off < 0.5
    assert all(tensor.dtype == torch.float32 for tensors in bf16.values() for tensor in tensors)
    assert denoiser.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in denoiser.state_dict().items())
    assert not any(isinstance(module, products.OneDnnLinear) for module in denoiser.modules())


def test_the_sampling_copy_computes_the_same():
    denoiser, _ = networks()
    ready = in_precision(denoiser, FP32)
    assert ready is denoiser or any(isinstance(module, products.OneDnnLinear) for module in ready.modules())
    assert in_precision(ready, FP32) is ready
    assert ready.input.weight is denoiser.input.weight  # shared, not copied
    layout = plan_batches(sizes(20), FP32)[0].layout()
    x_td = torch.randn(layout.n_atoms, 8)
    t_s, label_s = torch.full((layout.n_sets,), 0.3), torch.ones(layout.n_sets, dtype=torch.int64)
    with torch.no_grad():
        a_row_a_set = denoiser(x_td, x_td, t_s, label_s, label_s, layout)
        one_row = denoiser(x_td, x_td, t_s[:1], label_s[:1], label_s[:1], layout)
        torch.testing.assert_close(one_row, a_row_a_set, rtol=1e-5, atol=1e-5)
        swapped = ready(x_td, x_td, t_s[:1], label_s[:1], label_s[:1], layout)
        torch.testing.assert_close(swapped, a_row_a_set, rtol=1e-5, atol=1e-5)


def test_without_onednn_the_samples_are_the_same(monkeypatch: pytest.MonkeyPatch):
    expected = by_sample(generate(*networks(), sizes(10), FP32))
    monkeypatch.setattr(products, "onednn_can_run", lambda dtype, device: False)
    denoiser, autoencoder = networks()
    assert in_precision(denoiser, FP32) is denoiser
    assert_close(by_sample(generate(denoiser, autoencoder, sizes(10), FP32)), expected, 1e-4)


@pytest.mark.parametrize("config", [FP32, BF16], ids=["fp32", "bf16"])
def test_a_network_that_gives_nan_gives_nan_samples(config: SamplingConfig):
    denoiser, autoencoder = networks()
    broken = Denoiser(denoiser.config)
    torch.nn.init.constant_(broken.final.head.bias, float("nan"))
    found = by_sample(generate(broken.eval(), autoencoder, sizes(5), replace(config, solver="heun")))
    assert len(found) == 10
    assert all(tensor.isnan().all() for tensors in found.values() for tensor in tensors)

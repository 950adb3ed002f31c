from __future__ import annotations

import pytest
import torch

from adit_scale.atoms import PackedLayout
from adit_scale.diffusion.flow_matching import (
    centred_noise,
    drop_labels,
    flow_matching_loss,
    interpolate,
    sample_times,
)
from adit_scale.models.transformer import mean_sets
from adit_scale.randomness import normal_atoms, set_keys


def keys(indices, purpose: str = "x_0") -> torch.Tensor:
    index_s = torch.as_tensor(indices, dtype=torch.int64)
    return set_keys(0, purpose, torch.zeros_like(index_s), torch.zeros_like(index_s), index_s)


def test_noise_is_centred_except_for_one_atom():
    layout = PackedLayout.from_sizes((5, 3, 1, 1))
    key_s = keys(range(4))
    noise_td = centred_noise(key_s, layout, 8)
    assert noise_td.dtype == torch.float32
    assert mean_sets(noise_td, layout)[:2].abs().max() < 1e-6
    raw_td = normal_atoms(key_s, layout.set_of_atom_t, layout.index_in_set_t, 8)
    assert torch.equal(noise_td[8:], raw_td[8:])
    assert noise_td[8:].abs().min() > 0


def test_noise_belongs_to_the_set():
    together = centred_noise(keys([3, 7, 9]), PackedLayout.from_sizes((4, 6, 2)), 8)
    alone = centred_noise(keys([7]), PackedLayout.from_sizes((6,)), 8)
    assert torch.equal(together[4:10], alone)


def test_noise_moments():
    layout = PackedLayout.from_sizes([20] * 2000)
    noise_td = centred_noise(keys(range(2000)), layout, 8)
    # Centring takes one of 20 degrees of freedom; 320,000 values have a standard error of 0.0025.
    assert noise_td.var().item() == pytest.approx(0.95, abs=0.01)


def test_times_are_uniform():
    t_s = sample_times(keys(range(20_000), "t"))
    assert t_s.min() >= 0.01
    assert t_s.max() <= 0.99
    assert t_s.mean().item() == pytest.approx(0.5, abs=0.01)
    counts = torch.histc(t_s, bins=10, min=0.01, max=0.99)
    assert (counts - 2000).abs().max() < 5 * 2000**0.5


def test_labels_dropped_at_the_given_rate():
    label_s = torch.full((20_000,), 2)
    dropped_s = drop_labels(label_s, keys(range(20_000), "label"), 0.1)
    assert set(dropped_s.tolist()) == {0, 2}
    assert (dropped_s == 0).double().mean().item() == pytest.approx(0.1, abs=0.01)
    assert torch.equal(drop_labels(label_s, keys(range(20_000)), 0.0), label_s)
    assert torch.count_nonzero(drop_labels(label_s, keys(range(20_000)), 1.0)) == 0


def test_interpolation_ends():
    layout = PackedLayout.from_sizes((2, 1, 1))
    x_0_td, x_1_td = torch.randn(2, 4, 3)
    x_t = interpolate(x_0_td, x_1_td, torch.tensor([0.0, 1.0, 0.25]), layout)
    assert torch.equal(x_t[:2], x_0_td[:2])
    assert torch.equal(x_t[2], x_1_td[2])
    torch.testing.assert_close(x_t[3], 0.75 * x_0_td[3] + 0.25 * x_1_td[3])


def test_loss_by_hand():
    """Errors of 1 in one of two features; weights 1/(1-t)^2 up to t = 0.9; nothing from the tail."""
    layout = PackedLayout.from_sizes((2, 1, 4), capacity_atoms=9, capacity_sets=6)
    x_1_td = torch.zeros(9, 2)
    prediction_td = torch.tensor([1.0, 0.0]).repeat(9, 1)
    prediction_td[8] = float("nan")
    t_s = torch.tensor([0.5, 0.95, 0.0, 0.5, 1.0, 1.0])
    loss_s = flow_matching_loss(prediction_td, x_1_td, t_s, layout)
    torch.testing.assert_close(loss_s, torch.tensor([2.0, 50.0, 0.5, 0.0, 0.0, 0.0]))

"""Behaviour of both networks that does not depend on golden values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from adit_scale.atoms import CRYSTAL, MOLECULE, PackedBatch, PackedLayout
from adit_scale.diffusion.flow_matching import flow_matching_loss
from adit_scale.models.autoencoder import (
    Autoencoder,
    Posterior,
    autoencoder_loss_terms,
    normalised_loss,
)
from adit_scale.models.config import AutoencoderConfig, DenoiserConfig
from adit_scale.models.dit import Denoiser
from adit_scale.models.transformer import expand_sets, index_embedding, mean_sets, sum_sets

SIZES = (12, 12, 8, 5, 1)
WEIGHTS = {
    "atom_type": 1.0,
    "lengths": 1.0,
    "angles": 10.0,
    "fractional": 10.0,
    "positions": 10.0,
    "kl": 1e-5,
}


def shake(module: nn.Module, scale: float = 0.1) -> nn.Module:
    """Away from the zero initialisation, at which most of a DiT does nothing."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return module


def autoencoder() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(
        AutoencoderConfig(width=64, encoder_depth=2, decoder_depth=2, heads=4, feedforward=128)
    )


def denoiser(**changes) -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(DenoiserConfig(width=64, depth=3, heads=2, **changes))


def atoms(layout: PackedLayout) -> PackedBatch:
    """Sets that are crystals and molecules in turn, in cubic cells of 5 angstrom."""
    torch.manual_seed(2)
    n_sets, n_atoms = layout.n_sets, layout.n_atoms
    domain_s = torch.where(torch.arange(n_sets) % 2 == 0, CRYSTAL, MOLECULE)
    fractional_t3 = torch.rand(n_atoms, 3)
    positions_t3 = 5.0 * fractional_t3
    periodic_s = domain_s == CRYSTAL
    zero_s = torch.zeros(n_sets, dtype=torch.int64)
    return PackedBatch(
        layout=layout,
        numbers_t=torch.randint(1, 100, (n_atoms,)),
        positions_t3=positions_t3,
        fractional_t3=torch.where(periodic_s[layout.set_of_atom_t][:, None], fractional_t3, 0.0),
        cells_s33=5.0 * torch.eye(3) * periodic_s[:, None, None],
        domain_s=domain_s,
        dataset_s=zero_s,
        spacegroup_s=zero_s,
        set_index_s=zero_s,
        epoch_s=zero_s,
        repetition_s=zero_s,
    )


def autoencoder_terms(model: Autoencoder, batch: PackedBatch) -> dict[str, Tensor]:
    layout = batch.layout
    posterior = model.encode(batch.numbers_t, batch.positions_t3, batch.fractional_t3, layout)
    return autoencoder_loss_terms(model.decode(posterior.mean_td, layout), posterior, batch)


def denoiser_inputs(layout: PackedLayout) -> tuple:
    torch.manual_seed(3)
    label_s = torch.arange(layout.n_sets) % 3
    x_td, previous_td = torch.randn(2, layout.n_atoms, 8)
    return x_td, previous_td, torch.linspace(0.1, 0.9, layout.n_sets), label_s, label_s * 70, layout


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference over that of the expected."""
    got, expected = got.detach().double(), expected.detach().double()
    return float((got - expected).norm() / expected.norm())


# -- sums by set ---------------------------------------------------------------------------------------------


def test_sums_and_copies_by_set():
    layout = PackedLayout.from_sizes((2, 1), capacity_atoms=4, capacity_sets=5)
    x_t1 = torch.tensor([[1.0], [2.0], [5.0], [7.0]])
    assert sum_sets(x_t1, layout)[:, 0].tolist() == [3, 5, 7, 0, 0]
    assert mean_sets(x_t1, layout)[:, 0].tolist() == [1.5, 5, 7, 0, 0]
    assert expand_sets(torch.arange(5.0)[:, None], layout)[:, 0].tolist() == [0, 0, 1, 2]


def test_index_embedding_restarts_in_each_set():
    embedding = index_embedding(PackedLayout.from_sizes((3, 2)), 4, torch.float64)
    assert torch.equal(embedding[:2], embedding[3:])
    angle = torch.tensor([torch.pi * 2, torch.pi * 2 / 2048**0.5], dtype=torch.float64)
    torch.testing.assert_close(embedding[2], torch.cat([angle.sin(), angle.cos()]))


# -- initial weights -----------------------------------------------------------------------------------------


def test_denoiser_starts_at_zero():
    model, inputs = denoiser(), denoiser_inputs(PackedLayout.from_sizes(SIZES))
    assert torch.count_nonzero(model(*inputs)) == 0
    assert all(torch.count_nonzero(block.modulation.weight) == 0 for block in model.blocks)
    assert all(torch.count_nonzero(m.bias) == 0 for m in model.modules() if isinstance(m, nn.Linear))


def test_initial_scales():
    torch.manual_seed(0)
    model = Denoiser(DenoiserConfig(width=256, depth=1, heads=4))
    weights = model.state_dict()
    assert weights["time_embedding.fc1.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    assert weights["spacegroup_embedding.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    bound = (6 / (256 + 1024)) ** 0.5
    assert weights["blocks.0.mlp.fc1.weight"].abs().max().item() == pytest.approx(bound, rel=0.01)


# -- conditioning --------------------------------------------------------------------------------------------


def test_no_self_conditioning_is_zeros():
    model = shake(denoiser())
    x_td, _, *labels = denoiser_inputs(PackedLayout.from_sizes(SIZES))
    assert torch.equal(model(x_td, None, *labels), model(x_td, torch.zeros_like(x_td), *labels))


def test_labels_and_time_reach_the_output():
    model = shake(denoiser(spacegroup_conditioning=True))
    x_td, previous_td, t_s, domain_s, spacegroup_s, layout = denoiser_inputs(PackedLayout.from_sizes(SIZES))
    out = model(x_td, previous_td, t_s, domain_s, spacegroup_s, layout)
    for changed in (
        (t_s + 0.05, domain_s, spacegroup_s),
        (t_s, (domain_s + 1) % 3, spacegroup_s),
        (t_s, domain_s, spacegroup_s + 1),
    ):
        assert relative_error(model(x_td, previous_td, *changed, layout), out) > 1e-3
    blind = shake(denoiser())
    with_label = blind(x_td, previous_td, t_s, domain_s, spacegroup_s, layout)
    assert torch.equal(with_label, blind(x_td, previous_td, t_s, domain_s, spacegroup_s * 0, layout))


# -- packing -------------------------------------------------------------------------------------------------


def test_the_tail_changes_nothing():
    plain = PackedLayout.from_sizes(SIZES)
    fixed = PackedLayout.from_sizes(SIZES, capacity_atoms=64, capacity_sets=9)
    model = shake(denoiser()).double()
    x_td, previous_td, t_s, domain_s, spacegroup_s, _ = denoiser_inputs(fixed)
    x_td, previous_td, t_s = x_td.double(), previous_td.double(), t_s.double()
    n, s = plain.n_atoms, plain.n_sets
    whole = model(x_td, previous_td, t_s, domain_s, spacegroup_s, fixed)
    alone = model(x_td[:n], previous_td[:n], t_s[:s], domain_s[:s], spacegroup_s[:s], plain)
    torch.testing.assert_close(whole[:n], alone, rtol=1e-12, atol=1e-12)
    loss_s = flow_matching_loss(whole, x_td, t_s, fixed)
    torch.testing.assert_close(loss_s[:s], flow_matching_loss(alone, x_td[:n], t_s[:s], plain))
    assert torch.count_nonzero(loss_s[s:]) == 0


def test_autoencoder_terms_do_not_depend_on_the_tail():
    model = autoencoder()
    plain = atoms(PackedLayout.from_sizes(SIZES))
    fixed = atoms(PackedLayout.from_sizes(SIZES, capacity_atoms=64, capacity_sets=9))
    n = plain.layout.n_atoms
    fixed = fixed.replace(
        numbers_t=torch.cat([plain.numbers_t, fixed.numbers_t[n:]]),
        positions_t3=torch.cat([plain.positions_t3, fixed.positions_t3[n:]]),
        fractional_t3=torch.cat([plain.fractional_t3, fixed.fractional_t3[n:]]),
    )
    alone, whole = autoencoder_terms(model, plain), autoencoder_terms(model, fixed)
    for name, term_s in alone.items():
        torch.testing.assert_close(whole[name][: len(SIZES)], term_s, rtol=1e-4, atol=1e-4)
        assert torch.count_nonzero(whole[name][len(SIZES) :]) == 0


def test_terms_by_domain():
    terms = autoencoder_terms(autoencoder(), atoms(PackedLayout.from_sizes(SIZES)))
    crystal_s = torch.tensor([True, False, True, False, True])
    for name in ("lengths", "angles", "fractional"):
        assert torch.equal(terms[name] > 0, crystal_s)
    assert torch.equal(terms["positions"] > 0, ~crystal_s)
    assert (terms["atom_type"] > 0).all()


def test_losses_of_micro_batches_add_up():
    terms = autoencoder_terms(autoencoder(), atoms(PackedLayout.from_sizes(SIZES)))
    whole = normalised_loss(terms, WEIGHTS, sum(SIZES), len(SIZES))
    first = normalised_loss({k: v[:2] for k, v in terms.items()}, WEIGHTS, sum(SIZES), len(SIZES))
    rest = normalised_loss({k: v[2:] for k, v in terms.items()}, WEIGHTS, sum(SIZES), len(SIZES))
    for name in whole:
        torch.testing.assert_close(first[name] + rest[name], whole[name])


@pytest.mark.parametrize(
    "layout",
    [PackedLayout.from_sizes([]), PackedLayout.from_sizes([], capacity_atoms=16, capacity_sets=4)],
    ids=["dummy atom", "capacities"],
)
def test_an_empty_micro_batch_has_zero_finite_gradients(layout: PackedLayout):
    """An empty micro-batch runs so that collectives match; it must add nothing and break nothing."""
    vae, dit = autoencoder(), shake(denoiser())
    batch = atoms(layout)
    vae_loss = sum(normalised_loss(autoencoder_terms(vae, batch), WEIGHTS, 100, 10).values())
    inputs = denoiser_inputs(layout)
    dit_loss = flow_matching_loss(dit(*inputs), inputs[0], inputs[2], layout).sum() / 10
    for loss, model in ((vae_loss, vae), (dit_loss, dit)):
        assert loss.item() == 0.0
        loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert torch.count_nonzero(parameter.grad) == 0, name


class LargestTensor(TorchDispatchMode):
    """Remembers the element count of the largest result."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, list | tuple) else [out]:
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


def test_memory_grows_with_atoms_not_their_square():
    layout = PackedLayout.from_sizes([10] * 300)
    model, inputs = shake(denoiser()), denoiser_inputs(layout)
    with LargestTensor() as largest:
        model(*inputs).sum().backward()
    assert largest.numel == 6 * 64 * 3000  # the modulation, or 1/8 of a T x T mask


# -- precision -----------------------------------------------------------------------------------------------


def test_bf16_denoiser_is_close_to_fp32():
    """Stated tolerance: outputs within 2%, gradients within 5% in norm, for weights rounded to bf16."""
    layout = PackedLayout.from_sizes(SIZES)
    inputs = denoiser_inputs(layout)
    low = shake(denoiser()).bfloat16()
    high = denoiser().float()
    high.load_state_dict({name: value.float() for name, value in low.state_dict().items()})
    out_low, out_high = low(*inputs), high(*inputs)
    assert out_low.dtype == torch.float32
    assert relative_error(out_low, out_high) < 0.02
    for out in (out_low, out_high):
        flow_matching_loss(out, inputs[0], inputs[2], layout).sum().backward()
    for (name, p_low), p_high in zip(low.named_parameters(), high.parameters(), strict=True):
        if p_high.grad.norm() > 1e-6:
            assert relative_error(p_low.grad, p_high.grad) < 0.05, name


def test_bf16_autoencoder_is_close_to_fp32():
    """Stated tolerance: latents and every head within 2% in norm."""
    batch = atoms(PackedLayout.from_sizes(SIZES))
    inputs = (batch.numbers_t, batch.positions_t3, batch.fractional_t3, batch.layout)
    low = autoencoder().bfloat16()
    high = autoencoder().float()
    high.load_state_dict({name: value.float() for name, value in low.state_dict().items()})
    mean_low, mean_high = low.encode(*inputs).mean_td, high.encode(*inputs).mean_td
    assert mean_low.dtype == torch.float32
    assert relative_error(mean_low, mean_high) < 0.02
    decoded_low, decoded_high = (vars(model.decode(mean_high, batch.layout)) for model in (low, high))
    for name, value in decoded_low.items():
        assert value.dtype == torch.float32
        assert relative_error(value, decoded_high[name]) < 0.02, name


def test_float64_agrees_with_float32():
    layout = PackedLayout.from_sizes(SIZES)
    x_td, previous_td, t_s, *labels = denoiser_inputs(layout)
    model = shake(denoiser())
    single = model(x_td, previous_td, t_s, *labels)
    double = model.double()(x_td.double(), previous_td.double(), t_s.double(), *labels)
    assert double.dtype == torch.float64
    assert relative_error(single, double) < 2e-6


# -- posterior -----------------------------------------------------------------------------------------------


def test_posterior():
    posterior = Posterior(torch.zeros(2, 8), torch.zeros(2, 8))
    assert posterior.kl_t().tolist() == [0.0, 0.0]
    shifted = Posterior(torch.ones(1, 8), torch.full((1, 8), 2.0))
    expected = 8 * 0.5 * (1 + torch.tensor(2.0).exp() - 1 - 2)
    assert shifted.kl_t().item() == pytest.approx(float(expected))
    noise_td = torch.full((1, 8), -1.0)
    torch.testing.assert_close(shifted.sample(noise_td), torch.full((1, 8), 1 - torch.e))

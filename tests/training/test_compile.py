"""Blocks compiled or recomputed in backward: the same numbers, one compilation, less memory."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from adit_scale.atoms import PackedLayout
from adit_scale.models.attention import set_attention
from adit_scale.models.autoencoder import Autoencoder
from adit_scale.models.config import AutoencoderConfig, DenoiserConfig
from adit_scale.models.dit import Denoiser
from adit_scale.models.transformer import prepare_blocks
from tests.models import flash_stand_in
from tests.training import runs
from tests.training.test_parity import losses, relative_difference

CAPACITY_ATOMS, CAPACITY_SETS, MAX_ATOMS = 128, 32, 12


@pytest.fixture
def denoiser() -> Denoiser:
    torch.manual_seed(0)
    network = Denoiser(DenoiserConfig(name="t", width=32, depth=3, heads=2))
    for p in network.parameters():
        nn.init.normal_(p, std=0.05)  # at the zero start blocks do nothing
    return network


def batch(seed: int) -> tuple:
    """Inputs of a forward over sets of a new mix of sizes, at the same capacities."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 12, 16)
    layout = PackedLayout.from_sizes(np.sort(sizes)[::-1], CAPACITY_ATOMS, CAPACITY_SETS, MAX_ATOMS)
    generator = torch.Generator().manual_seed(seed)
    x_td = torch.randn(CAPACITY_ATOMS, 8, generator=generator)
    none_s = torch.zeros(CAPACITY_SETS, dtype=torch.long)
    return x_td, None, torch.rand(CAPACITY_SETS, generator=generator), none_s + 1, none_s, layout


def outcome(network: nn.Module, inputs: tuple) -> tuple[Tensor, Tensor]:
    """Output and all gradients of a step with self-conditioning, as training makes it."""
    network.zero_grad()
    with torch.no_grad():
        first_td = network(*inputs)
    out_td = network(inputs[0], first_td, *inputs[2:])
    out_td.square().mean().backward()
    return out_td.detach(), torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


@pytest.mark.parametrize(
    ("attention", "recompute", "backend"),
    [
        ("grouped", False, "aot_eager"),
        ("grouped", True, "aot_eager"),
        ("flash", True, "aot_eager"),
        pytest.param("grouped", False, "inductor", marks=pytest.mark.slow),
        pytest.param("grouped", True, "inductor", marks=pytest.mark.slow),
    ],
)
def test_compiled_blocks_compute_the_same_and_compile_once(
    denoiser, fresh_compiler, monkeypatch, attention, recompute, backend
):
    if attention == "flash":
        flash_stand_in.install(monkeypatch)
    compiled = copy.deepcopy(denoiser)
    set_attention(compiled, attention)
    prepare_blocks(compiled, recompute, True, backend)
    assert list(compiled.state_dict()) == list(denoiser.state_dict())
    for seed in range(5):
        expected, found = outcome(denoiser, batch(seed)), outcome(compiled, batch(seed))
        for a, b in zip(expected, found, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-6)
        torch._dynamo.config.error_on_recompile = True  # from the second batch on


def test_recomputed_blocks_compute_the_same_bits_in_less_memory(denoiser):
    recomputing = copy.deepcopy(denoiser)
    prepare_blocks(recomputing, True, False)
    for a, b in zip(outcome(denoiser, batch(0)), outcome(recomputing, batch(0)), strict=True):
        assert torch.equal(a, b)
    plain, less = (kept_bytes(net, batch(0)) for net in (denoiser, recomputing))
    width, depth = 32, 3
    # A block keeps 29 arrays of atoms x width, or its input alone (training/memory.py).
    assert (plain - less) / (CAPACITY_ATOMS * width * 4 * depth) == pytest.approx(28, rel=0.02)


def test_the_autoencoder_recomputes_too():
    torch.manual_seed(0)
    config = AutoencoderConfig(width=16, encoder_depth=2, decoder_depth=2, heads=2, feedforward=32)
    plain = Autoencoder(config)
    recomputing = copy.deepcopy(plain)
    prepare_blocks(recomputing, True, False)
    layout = batch(0)[-1]
    numbers_t = torch.randint(1, 20, (CAPACITY_ATOMS,))
    positions_t3 = torch.randn(CAPACITY_ATOMS, 3)
    gradients = []
    for network in (plain, recomputing):
        posterior = network.encode(numbers_t, positions_t3, positions_t3 % 1.0, layout)
        network.decode(posterior.mean_td, layout).positions_t3.square().sum().backward()
        gradients.append([p.grad for p in network.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def kept_bytes(network: nn.Module, inputs: tuple) -> int:
    """Bytes of what autograd keeps of a forward, weights left out."""
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, int] = {}

    def keep(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        out_td = network(*inputs)
    assert out_td.requires_grad
    return sum(kept.values())


def test_recomputing_runs_keep_their_losses_bit_for_bit(tmp_path, shards, autoencoder):
    curves = []
    for zero_stage, recompute in ((1, False), (1, True), (3, True)):
        config = runs.small_study(shards, 6, zero_stage=zero_stage, activation_checkpointing=recompute)
        folder = tmp_path / f"{zero_stage}-{recompute}"
        curves.append(runs.prepare(folder, config, "diffusion"))
    runs.run(curves, 1, autoencoder)
    plain, recomputed, at_zero_3 = map(losses, curves)
    assert (plain == recomputed).all()
    assert relative_difference(at_zero_3, plain) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [1, 3])
def test_a_compiled_run_keeps_its_losses(tmp_path, shards, autoencoder, zero_stage):
    curves = []
    for on in (False, True):
        config = runs.small_study(shards, 8, compile=on, zero_stage=zero_stage)
        curves.append(runs.prepare(tmp_path / str(on), config, "diffusion"))
    runs.run(curves, 1, autoencoder)
    assert relative_difference(losses(curves[1]), losses(curves[0])) < 1e-5

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from adit_scale.atoms import PackedLayout
from adit_scale.models import attention, ladder
from adit_scale.models.autoencoder import Autoencoder
from adit_scale.models.config import AutoencoderConfig
from adit_scale.models.dit import Denoiser

SIZES = [9, 9, 4, 1]


@pytest.mark.parametrize(
    ("rung", "millions"), [("dit_s", 32.6), ("dit_b", 129.7), ("dit_l", 457.0), ("dit_xl", 673.9)]
)
def test_published_sizes(rung: str, millions: float):
    assert ladder.denoiser_parameters(ladder.LADDER[rung]) / 1e6 == pytest.approx(millions, abs=0.1)


def test_published_autoencoder():
    assert ladder.autoencoder_parameters(AutoencoderConfig()) / 1e6 == pytest.approx(51.1, abs=0.05)


@pytest.mark.parametrize("config", ladder.LADDER.values(), ids=ladder.LADDER)
def test_denoiser_count_is_exact(config):
    config.validate()
    with torch.device("meta"):
        model = Denoiser(config)
    assert ladder.denoiser_parameters(config) == sum(p.numel() for p in model.parameters())
    assert ladder.n_mat(config) == 12 * config.width**2 * config.depth


@pytest.mark.parametrize(
    "config", [AutoencoderConfig(), AutoencoderConfig(64, 3, 2, 4, feedforward=128, latent=6)]
)
def test_autoencoder_count_is_exact(config):
    with torch.device("meta"):
        model = Autoencoder(config)
    assert ladder.autoencoder_parameters(config) == sum(p.numel() for p in model.parameters())


def test_neighbours_are_at_most_four_times_apart():
    counts = [ladder.denoiser_parameters(config) for config in ladder.LADDER.values()]
    assert all(small < large <= 4 * small for small, large in pairwise(counts))
    assert counts[0] < 60_000
    assert list(ladder.LADDER) == [config.name for config in ladder.LADDER.values()]


@pytest.fixture(autouse=True)
def attention_in_sight(monkeypatch):
    """The counter sees no products inside one operator: here each set attends by plain products."""

    def by_set(qkv_t3hd, groups_s2, max_atoms, scale):
        sizes = [n for n, count in groups_s2.tolist() for _ in range(count)]
        each = []
        for own in qkv_t3hd.split(sizes):
            q, k, v = own.permute(1, 2, 0, 3)
            each.append(F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(0, 1))
        return torch.cat(each)

    monkeypatch.setattr(attention, "grouped_attention", by_set)


def counted(call) -> float:
    # The counter knows batched matrix products but not the fused attention kernel of the CPU.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize("rung", ["dit_32", "dit_96"])
def test_forward_flops(rung: str):
    config, layout = ladder.LADDER[rung], PackedLayout.from_sizes(SIZES)
    model = Denoiser(config)
    label_s = torch.ones(4, dtype=torch.int64)
    inputs = (torch.zeros(layout.n_atoms, 8), None, torch.rand(4), label_s, label_s, layout)
    assert ladder.forward_flops(config, SIZES) == counted(lambda: model(*inputs))


def test_training_flops():
    config, layout = ladder.LADDER["dit_32"], PackedLayout.from_sizes(SIZES)
    forward = ladder.forward_flops(config, SIZES)
    assert ladder.training_flops(config, SIZES, 0.5) == pytest.approx(3.5 * forward)
    # A backward costs two forwards, less the gradients of latents and times, which nothing asks for.
    model = Denoiser(config)
    label_s = torch.ones(4, dtype=torch.int64)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.zeros(layout.n_atoms, 8), None, torch.rand(4), label_s, label_s, layout).sum().backward()
    not_asked_for = sum(SIZES) * 2 * 16 * 32 + len(SIZES) * 2 * 256 * 32
    assert counter.get_total_flops() == 3 * forward - not_asked_for


def test_the_formula_of_the_plan():
    config = ladder.LADDER["dit_s"]
    d, depth, n = 384, 12, 18
    blocks = n * (24 * d * d * depth + 4 * n * d * depth) + 12 * d * d * depth
    embeddings = n * 2 * (16 + 8) * d + 2 * 256 * d + 2 * d * d + 4 * d * d
    assert ladder.forward_flops(config, [n]) == blocks + embeddings
    assert ladder.forward_flops(config, [n] * 10) == 10 * ladder.forward_flops(config, [n])


def test_encoder_flops():
    config, layout = AutoencoderConfig(64, 2, 1, 4, feedforward=160), PackedLayout.from_sizes(SIZES)
    model, zeros_t3 = Autoencoder(config), torch.zeros(layout.n_atoms, 3)
    numbers_t = torch.ones(layout.n_atoms, dtype=torch.int64)
    got = counted(lambda: model.encode(numbers_t, zeros_t3, zeros_t3, layout))
    assert ladder.encoder_flops(config, SIZES) == got


def test_the_ladder_needs_no_torch():
    code = "import sys, adit_scale.models.ladder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

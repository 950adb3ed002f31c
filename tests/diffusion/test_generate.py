"""Sampling as a whole: sizes like the training set's, and samples that no batching changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from adit_scale.atoms import CRYSTAL, MOLECULE
from adit_scale.diffusion.config import SamplingConfig
from adit_scale.diffusion.generate import draw_sizes, generate, n_evaluations, network_passes
from adit_scale.errors import ConfigError, DataError
from adit_scale.models.autoencoder import Autoencoder
from adit_scale.models.config import AutoencoderConfig, DenoiserConfig
from adit_scale.models.dit import Denoiser


def networks() -> tuple[Denoiser, Autoencoder]:
    torch.manual_seed(0)
    denoiser = Denoiser(DenoiserConfig(name="t", width=32, depth=1, heads=2))
    for parameter in denoiser.parameters():  # adaLN-Zero starts as a constant: nothing to compare
        torch.nn.init.normal_(parameter, std=0.1)
    shape = AutoencoderConfig(width=32, encoder_depth=1, decoder_depth=1, heads=2, feedforward=64)
    return denoiser.eval(), Autoencoder(shape).eval()


def decoded_by_sample(sizes: dict[int, np.ndarray], **settings) -> dict[tuple[int, int], torch.Tensor]:
    """Positions of each (domain, sample)."""
    found = {}
    config = SamplingConfig(steps=3, precision="fp32", **settings)
    for batch in generate(*networks(), sizes, config):
        offsets = batch.layout.offsets.tolist()
        for s, index in enumerate(batch.index_s.tolist()):
            positions = batch.decoded.positions_t3[offsets[s] : offsets[s + 1]]
            found[int(batch.domain_s[s]), index] = positions
    return found


def test_sizes_follow_the_histogram():
    histogram = np.array([0, 0, 500, 0, 300, 200])
    sizes = draw_sizes(histogram, 20000, CRYSTAL, seed=0)
    share = np.bincount(sizes, minlength=6) / len(sizes)
    # Standard error 0.0035 at 0.5: within four of them.
    np.testing.assert_allclose(share, histogram / histogram.sum(), atol=0.014)
    assert set(sizes) == {2, 4, 5}
    assert (draw_sizes(histogram, 10, CRYSTAL, 0) == sizes[:10]).all()
    assert (draw_sizes(histogram, 100, MOLECULE, 0) != sizes[:100]).any()
    assert (draw_sizes(histogram, 100, CRYSTAL, 1) != sizes[:100]).any()


def test_a_domain_without_training_sets_is_named():
    with pytest.raises(DataError, match="no training structures of a domain that is to be sampled"):
        draw_sizes(np.array([0]), 5, CRYSTAL, seed=0)


def test_samples_do_not_depend_on_batches_or_on_each_other():
    sizes = {CRYSTAL: np.array([5, 2, 3, 2]), MOLECULE: np.array([4, 3])}
    together = decoded_by_sample(sizes, batch_atoms=1000)
    assert {domain: [len(together[domain, i]) for i in range(len(of))] for domain, of in sizes.items()} == {
        CRYSTAL: [5, 2, 3, 2],
        MOLECULE: [4, 3],
    }
    one_by_one = decoded_by_sample(sizes, batch_atoms=1)
    fewer = decoded_by_sample({MOLECULE: np.array([4])}, batch_atoms=1000)
    for key, positions in together.items():
        torch.testing.assert_close(one_by_one[key], positions, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fewer[MOLECULE, 0], together[MOLECULE, 0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[CRYSTAL, 1], together[CRYSTAL, 3])


def test_progress_is_called_as_often_as_announced():
    sizes = {CRYSTAL: np.array([5, 2, 3, 2])}
    config = SamplingConfig(steps=3, batch_atoms=7)
    calls = []
    list(generate(*networks(), sizes, config, lambda: calls.append(1)))
    assert len(calls) == n_evaluations(sizes, config) == 6
    config = replace(config, solver="heun", guidance_t_high=0.5)
    calls.clear()
    list(generate(*networks(), sizes, config, lambda: calls.append(1)))
    assert len(calls) == n_evaluations(sizes, config) == 8
    assert network_passes(config) == 4 + 1  # of 0.01, 0.505, 0.505, 1 the first alone is guided


def test_spacegroups_of_a_denoiser_without_labels():
    batches = generate(
        *networks(), {CRYSTAL: np.array([3])}, SamplingConfig(steps=3), spacegroups={CRYSTAL: np.array([225])}
    )
    with pytest.raises(ConfigError, match="the denoiser t was trained without"):
        next(batches)


def test_any_number_of_atoms_can_be_asked_for():
    """Places in a set are sines, not a table: sets larger than a batch, or than in training, are drawn."""
    sizes = {MOLECULE: np.array([5, 3000])}
    config = SamplingConfig(steps=2, batch_atoms=64, guidance_scale=1.0)
    found = {int(b.index_s[0]): b.decoded for b in generate(*networks(), sizes, config)}
    assert found[1].positions_t3.shape == (3000, 3)
    assert found[1].positions_t3.isfinite().all()

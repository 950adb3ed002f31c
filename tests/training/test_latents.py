"""Latents from the cache are those of the encoder under the same augmentation; bf16 stays close to fp32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from adit_scale.data.loader import BatchLoader
from adit_scale.errors import DataError
from adit_scale.training import latents as module
from adit_scale.training import weights
from adit_scale.training.latents import LatentCache
from adit_scale.training.stages import DiffusionStage
from tests.training import runs
from tests.training.test_parity import losses

K = 3


def stage_and_loader(shards: Path, autoencoder: Path, capacity: bool = False, **diffusion):
    config = runs.small_study(shards)
    settings = replace(config.diffusion, **{"latent_cache": K, **diffusion})
    loader = BatchLoader(config.data, seed=0, atom_budget=120, micro_batch_atoms=60, capacity=capacity)
    network = weights.load_autoencoder(autoencoder)
    return DiffusionStage(config.model.denoiser, settings, 7, loader.datasets, network), loader


@pytest.fixture
def opened(tmp_path, shards, autoencoder, single_process, monkeypatch):
    monkeypatch.setattr(module, "PIECE_ATOMS", 200)  # several files an augmentation
    stage, loader = stage_and_loader(shards, autoencoder)
    stage.open_latents(tmp_path, loader.manifest, 60, torch.device("cpu"))
    with loader:
        yield stage, loader


def test_cached_posteriors_are_the_encoders(opened):
    stage, loader = opened
    cache: LatentCache = stage.latents
    taken = set()
    for step in range(12):
        for batch in loader.step(step).batches:
            chosen_s = cache.augmentation(batch, stage.seed)
            taken |= set(chosen_s.tolist())
            expected = stage.posterior(cache.augmented(batch, chosen_s))
            found = cache.posterior(batch, stage.seed)
            torch.testing.assert_close(found.mean_td, expected.mean_td, rtol=0, atol=1e-6)
            torch.testing.assert_close(found.logvar_td, expected.logvar_td, rtol=0, atol=1e-6)
    assert taken == set(range(K))


def test_an_augmentation_is_that_of_the_epoch_of_its_number(opened, monkeypatch):
    """On the fly in epoch 1, or cached as augmentation 1: the same latents, posterior noise included."""
    stage, loader = opened
    batch = loader.step(0).batches[0]
    first = batch.replace(epoch_s=torch.ones_like(batch.epoch_s), repetition_s=batch.repetition_s * 0)
    monkeypatch.setattr(stage.latents, "augmentation", lambda batch, seed: torch.ones_like(batch.epoch_s))
    cached = stage.latents_of(first)
    stage.latents = None
    torch.testing.assert_close(cached, stage.latents_of(first), rtol=0, atol=1e-6)


def test_posterior_noise_is_drawn_anew(opened, monkeypatch):
    stage, loader = opened
    monkeypatch.setattr(stage.latents, "augmentation", lambda batch, seed: torch.zeros_like(batch.epoch_s))
    batch = loader.step(0).batches[0]
    later = batch.replace(epoch_s=batch.epoch_s + 5)
    a, b = (stage.latents.posterior(x, stage.seed) for x in (batch, later))
    assert torch.equal(a.mean_td, b.mean_td)
    assert not torch.allclose(stage.latents_of(batch), stage.latents_of(later), atol=1e-4)


def test_the_masked_tail_has_zeros(tmp_path, shards, autoencoder, single_process):
    stage, loader = stage_and_loader(shards, autoencoder, capacity=True)
    with loader:
        stage.open_latents(tmp_path, loader.manifest, 60, torch.device("cpu"))
        for batch in loader.step(0).batches:
            found = stage.latents.posterior(batch, 0)
            tail_t = ~batch.layout.real_t
            assert not found.mean_td[tail_t].any()
            assert found.mean_td[batch.layout.real_t].abs().sum(1).all()


def test_a_killed_build_goes_on(opened, tmp_path):
    stage, loader = opened
    cache: LatentCache = stage.latents
    files = sorted(cache.folder.glob("k*.npy"))
    assert len(files) > 2 * K
    before = {path: path.read_bytes() for path in files}
    untouched = {path: path.stat().st_mtime_ns for path in files}
    files[3].unlink()
    again = LatentCache(tmp_path, loader.manifest, cache.identity, cache.latent)
    again.build(stage.posterior, 60, torch.device("cpu"))
    assert {path: path.read_bytes() for path in files} == before
    assert [path for path in files if path.stat().st_mtime_ns != untouched[path]] == [files[3]]


def test_runs_that_build_at_once_share_the_work(opened, tmp_path, monkeypatch):
    stage, loader = opened
    cache = stage.latents
    files = sorted(cache.folder.glob("k*.npy"))
    before = [path.read_bytes() for path in files]
    for path in files:
        path.unlink()
    written: list[LatentCache] = []

    def write(self: LatentCache, piece: int, k: int, found: np.ndarray) -> None:
        """Another run writes all that is left behind this one's first file."""
        kept(self, piece, k, found)
        written.append(self)
        if len(written) == 1:
            other.build(stage.posterior, 60, torch.device("cpu"))

    kept = LatentCache._write
    monkeypatch.setattr(LatentCache, "_write", write)
    first, other = (LatentCache(tmp_path, loader.manifest, cache.identity, cache.latent) for _ in range(2))
    first.build(stage.posterior, 60, torch.device("cpu"))
    assert written == [first] + [other] * (len(files) - 1)
    assert [path.read_bytes() for path in files] == before


def test_a_damaged_file_is_named(opened, tmp_path):
    stage, loader = opened
    cache = LatentCache(tmp_path, loader.manifest, stage.latents.identity, stage.latents.latent)
    for path in cache.folder.glob("k*.npy"):
        path.write_bytes(path.read_bytes()[:100])
    batch = loader.step(0).batches[0]
    with pytest.raises(DataError, match=r"k\d\d-\d{5}\.npy: cannot be read .*; remove it and start again"):
        cache.posterior(batch, 0)


def test_bf16_latents_are_close_to_fp32_and_validation_stays_in_fp32(shards, autoencoder):
    exact, loader = stage_and_loader(shards, autoencoder, latent_cache=0)
    rounded, _ = stage_and_loader(shards, autoencoder, latent_cache=0, encoder_precision="bf16")
    with loader:
        batch = loader.step(0).batches[0]
    a, b = exact.latents_of(batch), rounded.latents_of(batch)
    assert b.dtype == torch.float32
    difference = float((a - b).norm() / a.norm())
    assert 1e-5 < difference < 3e-2
    assert exact.autoencoder_digest == rounded.autoencoder_digest
    torch.manual_seed(0)
    net = exact.module
    with torch.no_grad():
        expected, found = (s.validation_sums(net, batch) for s in (exact, rounded))
    for name, (value, _) in expected.items():
        assert float(value) == float(found[name][0])


def test_runs_on_two_ranks_share_the_work_and_the_cache(tmp_path, shards, autoencoder):
    curves = []
    for world_size in (1, 2):
        config = runs.small_study(shards, 8, world_size=world_size)
        config.diffusion.latent_cache = K
        folder = runs.prepare(tmp_path / str(world_size) / "run", config, "diffusion")
        runs.run([folder], world_size, autoencoder)
        curves.append(losses(folder))
    assert np.max(np.abs(curves[0] / curves[1] - 1)) < 1e-4
    caches = [sorted(p.name for p in tmp_path.glob(f"{w}/latents-*/*")) for w in (1, 2)]
    assert caches[0] == caches[1]
    assert len(caches[0]) == K + 1

"""Every tensor of the golden instance of the published recipe, to 1e-5 in float32."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from adit_scale.atoms import CRYSTAL, MOLECULE, PackedBatch, PackedLayout
from adit_scale.diffusion.flow_matching import flow_matching_loss
from adit_scale.diffusion.sampling import sample_latents
from adit_scale.models.autoencoder import Autoencoder, autoencoder_loss_terms, normalised_loss
from adit_scale.models.config import AutoencoderConfig, DenoiserConfig, ModelConfig
from adit_scale.models.dit import Denoiser
from adit_scale.models.import_adit import load_adit_weights
from adit_scale.training.config import LossWeights

GOLDEN_CONFIG = ModelConfig(
    autoencoder=AutoencoderConfig(width=64, encoder_depth=3, decoder_depth=3, heads=4, feedforward=128),
    denoiser=DenoiserConfig(name="golden", width=96, depth=4, heads=4, spacegroup_conditioning=True),
)


@dataclass
class Golden:
    vectors: dict[str, Tensor]
    autoencoder: Autoencoder
    denoiser: Denoiser
    batch: PackedBatch


@pytest.fixture(scope="module")
def golden(shared) -> Golden:
    vectors = load_file(shared / "golden" / "vectors.safetensors")
    autoencoder, denoiser = load_adit_weights(shared / "golden" / "weights.safetensors", GOLDEN_CONFIG)
    layout = PackedLayout.from_sizes(vectors["in.num_atoms"].tolist())
    zero_s = torch.zeros(layout.n_sets, dtype=torch.int64)
    batch = PackedBatch(
        layout=layout,
        numbers_t=vectors["in.atomic_numbers"],
        positions_t3=vectors["in.pos"],
        fractional_t3=vectors["in.frac_coords"],
        cells_s33=vectors["in.cell"],
        domain_s=torch.where(vectors["in.dataset_idx"] == 0, CRYSTAL, MOLECULE),
        dataset_s=zero_s,
        spacegroup_s=zero_s,
        set_index_s=zero_s,
        epoch_s=zero_s,
        repetition_s=zero_s,
    )
    return Golden(vectors, autoencoder, denoiser, batch)


def check(actual: Tensor, expected: Tensor) -> None:
    """Within 1e-5: absolute below 1, relative above."""
    assert actual.shape == expected.shape
    assert actual.dtype == torch.float32
    error = (actual - expected).abs() / expected.abs().clamp(min=1.0)
    assert error.max() <= 1e-5, f"off by {error.max():.2e}"


@torch.no_grad()
def test_encoder(golden: Golden):
    batch = golden.batch
    inputs = (batch.numbers_t, batch.positions_t3, batch.fractional_t3, batch.layout)
    check(golden.autoencoder.encode_features(*inputs), golden.vectors["vae.encoder_out"])
    posterior = golden.autoencoder.encode(*inputs)
    check(torch.cat([posterior.mean_td, posterior.logvar_td], -1), golden.vectors["vae.moments"])


@torch.no_grad()
def test_decoder(golden: Golden):
    v, layout = golden.vectors, golden.batch.layout
    decoded = golden.autoencoder.decode(v["vae.moments"][:, :8], layout)
    check(decoded.atom_type_logits_t100, v["vae.out.atom_types"])
    check(decoded.positions_t3 / 10, v["vae.out.pos"])  # golden in nm, here in angstrom
    check(decoded.fractional_t3, v["vae.out.frac_coords"])
    check(decoded.angles_s3, v["vae.out.angles"])
    # The golden heads give lengths per cube root of the atom count; here they come in angstrom.
    per_root = decoded.lengths_s3 / layout.sizes_s[:, None] ** (1 / 3)
    check(per_root, v["vae.out.lengths"])
    check(torch.cat([per_root, decoded.angles_s3], -1), v["vae.out.lattices"])


@torch.no_grad()
def test_cells(golden: Golden):
    check(golden.batch.lengths_s3, golden.vectors["in.lengths"])
    check(torch.rad2deg(golden.batch.angles_s3), golden.vectors["in.angles"])


@torch.no_grad()
def test_autoencoder_loss(golden: Golden):
    v, batch = golden.vectors, golden.batch
    posterior = golden.autoencoder.encode(
        batch.numbers_t, batch.positions_t3, batch.fractional_t3, batch.layout
    )
    decoded = golden.autoencoder.decode(posterior.mean_td, batch.layout)
    terms = autoencoder_loss_terms(decoded, posterior, batch)
    loss = normalised_loss(terms, asdict(LossWeights()), n_atoms=53, n_sets=5)
    names = {
        "atom_type": "type", "lengths": "lengths", "angles": "angles",
        "fractional": "frac_coords", "positions": "pos", "kl": "kl",
    }  # fmt: skip
    assert loss.keys() == names.keys()
    for ours, theirs in names.items():
        check(loss[ours][None], v[f"vae.loss.{theirs}"])
    check(torch.stack(list(loss.values())).sum()[None], v["vae.loss.total"])


@torch.no_grad()
@pytest.mark.parametrize("backend", ["grouped", "reference"])
def test_denoiser(golden: Golden, backend: str):
    v, layout = golden.vectors, golden.batch.layout
    check(v["dit.x_1"], v["vae.moments"][:, :8])
    for block in golden.denoiser.blocks:
        block.attention.backend = backend
    labels = (v["dit.t"], v["dit.dataset"], v["dit.spacegroup"], layout)
    check(golden.denoiser(v["dit.x_t"], None, *labels), v["dit.out"])
    out = golden.denoiser(v["dit.x_t"], v["dit.out"], *labels)
    check(out, v["dit.out_self_cond"])
    loss_s = flow_matching_loss(out, v["dit.x_1"], v["dit.t"], layout)
    check(loss_s, v["dit.loss_per_sample"])
    check(loss_s.mean()[None], v["dit.loss"])


@pytest.mark.parametrize(("name", "scale"), [("cfg2", 2.0), ("nocfg", 1.0)])
def test_sampler(golden: Golden, name: str, scale: float):
    v = golden.vectors
    sample = sample_latents(
        golden.denoiser,
        golden.batch.layout,
        v["dit.dataset"],
        torch.zeros_like(v["dit.spacegroup"]),
        v["sampler.x_0"],
        steps=10,
        guidance_scale=scale,
    )
    check(sample, v[f"sampler.{name}_selfcond_10steps"])

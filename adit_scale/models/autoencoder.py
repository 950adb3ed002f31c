"""Stage 1: the Transformer VAE that maps molecules and crystals to one latent space (docs/method.md).

Shapes: ``_t`` atoms, ``_s`` sets, ``_d`` features. Lengths in angstrom, angles in radians.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adit_scale.atoms import CRYSTAL, MAX_ATOMIC_NUMBER, MOLECULE, PackedBatch, PackedLayout
from adit_scale.models.config import AutoencoderConfig
from adit_scale.models.transformer import (
    Fp32Linear,
    TransformerEncoder,
    expand_sets,
    index_embedding,
    mean_sets,
    sum_sets,
    trunk_dtype,
)

N_ELEMENTS = MAX_ATOMIC_NUMBER + 1  # class 0 is the mask
ANGSTROM_PER_NM = 10.0
PER_ATOM_TERMS = ("atom_type", "fractional", "positions", "kl")
PER_SET_TERMS = ("lengths", "angles")


@dataclass(frozen=True)
class Posterior:
    """A diagonal Gaussian an atom: mean_td and logvar_td, ``(T, latent)``, float32."""

    mean_td: Tensor
    logvar_td: Tensor

    def sample(self, noise_td: Tensor) -> Tensor:
        """A draw from standard normals ``(T, latent)``."""
        return self.mean_td + (0.5 * self.logvar_td).exp() * noise_td

    def kl_t(self) -> Tensor:
        """Kullback-Leibler divergence from N(0, 1), summed over latent features, ``(T,)`` nats."""
        return 0.5 * (self.mean_td**2 + self.logvar_td.exp() - 1.0 - self.logvar_td).sum(-1)


@dataclass(frozen=True)
class Decoded:
    """The heads' outputs, float32.

    atom_type_logits_t100: ``(T, 100)``; class z is the element of atomic number z.
    positions_t3: ``(T, 3)`` angstrom, with an origin of no meaning.
    fractional_t3: ``(T, 3)``, not wrapped.
    lengths_s3: ``(S, 3)`` angstrom. angles_s3: ``(S, 3)`` radians.
    """

    atom_type_logits_t100: Tensor
    positions_t3: Tensor
    fractional_t3: Tensor
    lengths_s3: Tensor
    angles_s3: Tensor


class CoordinateEmbedding(nn.Module):
    """Linear(3, d) in float32, SiLU, Linear(d, d)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = Fp32Linear(3, width, bias=False)
        self.fc2 = nn.Linear(width, width)

    def forward(self, x_t3: Tensor) -> Tensor:
        return self.fc2(F.silu(self.fc1(x_t3)).to(trunk_dtype(self)))


class Autoencoder(nn.Module):
    """The VAE. ``attention_backend`` is that of ``packed_attention``."""

    def __init__(self, config: AutoencoderConfig, attention_backend: str = "auto") -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.element_embedding = nn.Embedding(N_ELEMENTS, width)
        self.position_embedding = CoordinateEmbedding(width)
        self.fractional_embedding = CoordinateEmbedding(width)
        self.encoder = TransformerEncoder(
            width, config.encoder_depth, config.heads, config.feedforward, attention_backend
        )
        self.to_moments = Fp32Linear(width, 2 * config.latent, bias=False)
        self.from_latent = Fp32Linear(config.latent, width, bias=False)
        self.decoder = TransformerEncoder(
            width, config.decoder_depth, config.heads, config.feedforward, attention_backend
        )
        self.element_head = Fp32Linear(width, N_ELEMENTS)
        self.position_head = Fp32Linear(width, 3, bias=False)
        self.fractional_head = Fp32Linear(width, 3, bias=False)
        self.lattice_head = Fp32Linear(width, 6, bias=False)

    def encode_features(
        self, numbers_t: Tensor, positions_t3: Tensor, fractional_t3: Tensor, layout: PackedLayout
    ) -> Tensor:
        """The encoder's output ``(T, width)``, after its final norm."""
        x_td = (
            self.element_embedding(numbers_t)
            + self.position_embedding(positions_t3)
            + self.fractional_embedding(fractional_t3)
        )
        return self.encoder(x_td + index_embedding(layout, self.config.width, x_td.dtype), layout)

    def encode(
        self, numbers_t: Tensor, positions_t3: Tensor, fractional_t3: Tensor, layout: PackedLayout
    ) -> Posterior:
        """The posterior of each atom's latent.

        numbers_t: ``(T,)`` atomic numbers 1 to 99, 0 = masked. positions_t3: ``(T, 3)`` angstrom.
        fractional_t3: ``(T, 3)``, zeros for molecules.
        """
        moments_td = self.to_moments(self.encode_features(numbers_t, positions_t3, fractional_t3, layout))
        mean_td, logvar_td = moments_td.chunk(2, dim=-1)
        return Posterior(mean_td, logvar_td.clamp(-30.0, 20.0))

    def decode(self, latents_td: Tensor, layout: PackedLayout) -> Decoded:
        """Atoms and cells from latents ``(T, latent)``. Cells mean something for crystals only."""
        x_td = self.from_latent(latents_td)
        x_td = self.decoder(x_td + index_embedding(layout, self.config.width, x_td.dtype), layout)
        lattice_s6 = self.lattice_head(mean_sets(x_td, layout))
        # The head predicts lengths per cube root of the atom count, so that cells of any size look alike.
        scale_s1 = layout.sizes_s.to(lattice_s6.dtype)[:, None] ** (1 / 3)
        return Decoded(
            atom_type_logits_t100=self.element_head(x_td),
            positions_t3=self.position_head(x_td) * ANGSTROM_PER_NM,  # the recipe's head speaks nm
            fractional_t3=self.fractional_head(x_td),
            lengths_s3=lattice_s6[:, :3] * scale_s1,
            angles_s3=lattice_s6[:, 3:],
        )


def autoencoder_loss_terms(decoded: Decoded, posterior: Posterior, target: PackedBatch) -> dict[str, Tensor]:
    """Each loss term's sum over the atoms of each set, ``(S,)``, without weights or normalisation.

    Squared errors are first averaged over their 3 components, the divergence is summed over latent features.
    Zero where a term does not apply: lengths (per cube root of the atom count), angles (radians) and
    fractional coordinates are for crystals, positions (nm, both sides centred) for molecules, none for the
    masked tail.
    ``normalised_loss`` turns these into the loss of docs/method.md.
    """
    layout = target.layout
    crystal_s = layout.real_s & (target.domain_s == CRYSTAL)
    molecule_s = layout.real_s & (target.domain_s == MOLECULE)
    scale_s1 = layout.sizes_s.clamp(min=1)[:, None] ** (1 / 3)
    atom_type_t = F.cross_entropy(decoded.atom_type_logits_t100, target.numbers_t, reduction="none")
    fractional_t = (decoded.fractional_t3 - target.fractional_t3).square().mean(-1)
    error_t3 = (decoded.positions_t3 - target.positions_t3) / ANGSTROM_PER_NM
    positions_t = (error_t3 - expand_sets(mean_sets(error_t3, layout), layout)).square().mean(-1)
    terms_s = {
        "atom_type": (sum_sets(atom_type_t, layout), layout.real_s),
        "lengths": (((decoded.lengths_s3 - target.lengths_s3) / scale_s1).square().mean(-1), crystal_s),
        "angles": ((decoded.angles_s3 - target.angles_s3).square().mean(-1), crystal_s),
        "fractional": (sum_sets(fractional_t, layout), crystal_s),
        "positions": (sum_sets(positions_t, layout), molecule_s),
        "kl": (sum_sets(posterior.kl_t(), layout), layout.real_s),
    }
    # A choice rather than a product: whatever stands in the tail must not reach the loss.
    return {name: torch.where(mask_s, term_s, 0.0) for name, (term_s, mask_s) in terms_s.items()}


def normalised_loss(
    terms: Mapping[str, Tensor], weights: Mapping[str, float], n_atoms: int, n_sets: int
) -> dict[str, Tensor]:
    """The weighted scalar of each term; the loss is their sum.

    terms: from ``autoencoder_loss_terms``. weights: one a term. n_atoms, n_sets: real atoms and sets of the
    whole step, over all domains, micro-batches and ranks: then micro-batches' scalars add up to the step's.
    """
    count = dict.fromkeys(PER_ATOM_TERMS, n_atoms) | dict.fromkeys(PER_SET_TERMS, n_sets)
    return {name: weights[name] * term_s.sum() / count[name] for name, term_s in terms.items()}

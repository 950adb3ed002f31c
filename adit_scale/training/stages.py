"""The two stages: what a step computes, what it measures, and what is scored on held-out sets.

The trainer knows neither. A stage owns the module that is trained, turns a packed batch into this rank's part
of the step's loss, and evaluates EMA weights on a fixed validation grid. What needs no weights of that module
(augmentation, latents, every draw) is ``prepare``, so that it can run ahead (feed.py). Losses are sums over
sets (or atoms) divided by the totals of the *global* step, so that they do not depend on how a step was cut
into batches.

Shapes: T atoms, S sets, D latent features.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from adit_scale import randomness
from adit_scale.atoms import DOMAIN_NAMES, PackedBatch, PackedLayout
from adit_scale.data.augment import augment
from adit_scale.data.manifest import Manifest
from adit_scale.diffusion.flow_matching import (
    T_LOSS_MAX,
    centred_noise,
    drop_labels,
    flow_matching_loss,
    interpolate,
    sample_times,
)
from adit_scale.models import ladder, mup
from adit_scale.models.autoencoder import (
    PER_ATOM_TERMS,
    Autoencoder,
    Posterior,
    autoencoder_loss_terms,
    normalised_loss,
)
from adit_scale.models.config import AutoencoderConfig, DenoiserConfig
from adit_scale.models.dit import Denoiser
from adit_scale.models.transformer import mean_sets, prepare_blocks
from adit_scale.training import weights
from adit_scale.training.config import AutoencoderStageConfig, DiffusionStageConfig
from adit_scale.training.latents import LatentCache
from adit_scale.training.optimizer import parametrized
from adit_scale.training.stage import Stage, StepTotals, Sums, atom_normals, keys_of

TIME_BINS = ((0.01, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 0.99))
# The grid on which every diffusion run is validated, whatever its seed, size or data order.
VALIDATION_SEED = 0
VALIDATION_TIMES = (0.05, 0.15, 0.3, 0.45, 0.6, 0.75, 0.85, 0.95)


# -- stage 1 ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Corrupted:
    """A micro-batch of stage 1: what is encoded, what it should decode to, and the posterior's noise."""

    batch: PackedBatch
    target: PackedBatch
    noise_td: Tensor


class AutoencoderModule(nn.Module):
    """Encode, draw from the posterior, decode: one forward for the engine to wrap."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.network = Autoencoder(config)

    def forward(self, batch: PackedBatch, target: PackedBatch, noise_td: Tensor) -> dict[str, Tensor]:
        """Loss terms as sums a set, ``(S,)``, of decoding a posterior draw of ``batch`` to ``target``."""
        layout = batch.layout
        posterior = self.network.encode(batch.numbers_t, batch.positions_t3, batch.fractional_t3, layout)
        decoded = self.network.decode(posterior.sample(noise_td), layout)
        return autoencoder_loss_terms(decoded, posterior, target)


class AutoencoderStage(Stage):
    name = "autoencoder"
    config: AutoencoderStageConfig
    model_config: AutoencoderConfig
    module: AutoencoderModule

    def __init__(
        self, model: AutoencoderConfig, config: AutoencoderStageConfig, seed: int, datasets: list[str]
    ):
        self.config, self.seed, self.datasets = config, seed, datasets
        self.model_config = model
        self.module = AutoencoderModule(model)

    @torch.no_grad()
    def prepare(self, batch: PackedBatch, totals: StepTotals) -> Corrupted:
        target = augment(batch, self.seed)
        noise_td = atom_normals(batch, self.seed, "posterior", self.model_config.latent)
        return Corrupted(self.corrupt(target), target, noise_td)

    def loss(self, forward: Callable, prepared: Corrupted, totals: StepTotals) -> tuple[Tensor, Sums]:
        terms = forward(prepared.batch, prepared.target, prepared.noise_td)
        weighted = normalised_loss(terms, vars(self.config.loss_weights), totals.n_atoms, totals.n_sets)
        return torch.stack(list(weighted.values())).sum(), self._sums(terms, prepared.target)

    def validation_sums(self, module: nn.Module, batch: PackedBatch) -> Sums:
        """Terms of decoding the posterior mean of uncorrupted sets."""
        zeros_td = torch.zeros(batch.layout.n_atoms, self.model_config.latent, device=batch.numbers_t.device)
        terms = module(batch, batch, zeros_td)
        n_atoms, n_sets = batch.layout.real_t.sum().double(), batch.layout.real_s.sum().double()
        everything = {
            f"all/{name}": (sum_s.double().sum(), n_atoms if name in PER_ATOM_TERMS else n_sets)
            for name, sum_s in terms.items()
        }
        return self._sums(terms, batch) | everything

    def validation_values(self, means: dict[str, float]) -> dict[str, float]:
        """The weighted loss as in training, and each unweighted term over the sets it applies to."""
        weights = vars(self.config.loss_weights)
        loss = sum(weights[name] * means[f"all/{name}"] for name in weights)
        return {"loss": loss} | {k: v for k, v in means.items() if not k.startswith("all/")}

    def corrupt(self, batch: PackedBatch) -> PackedBatch:
        """Mask the type of some atoms and move others, fractional coordinates recomputed."""
        layout, config = batch.layout, self.config

        def chosen(purpose: str, probability: float) -> Tensor:
            keys = keys_of(batch, self.seed, purpose)
            return randomness.uniform_atoms(keys, layout.set_of_atom_t, layout.index_in_set_t) < probability

        masked_t = chosen("mask", config.mask_probability)
        moved_t = chosen("move", config.noise_probability)
        noise_t3 = config.noise_angstrom * atom_normals(batch, self.seed, "displacement", 3)
        positions_t3 = torch.where(moved_t[:, None], batch.positions_t3 + noise_t3, batch.positions_t3)
        # A singular cell belongs to a molecule, whose fractional coordinates stay zero.
        identity = torch.eye(3, device=positions_t3.device)
        cells_s33 = torch.where(batch.periodic_s[:, None, None], batch.cells_s33, identity)
        # ``inv_ex``: ``inv`` waits for the device to check what a cell of the data set is not, singular.
        inverse_t33 = torch.linalg.inv_ex(cells_s33).inverse[layout.set_of_atom_t]
        fractional_t3 = torch.einsum("ti,tij->tj", positions_t3, inverse_t33) % 1.0
        recompute_t = moved_t & batch.periodic_s[layout.set_of_atom_t]
        return batch.replace(
            numbers_t=torch.where(masked_t, 0, batch.numbers_t),
            positions_t3=positions_t3,
            fractional_t3=torch.where(recompute_t[:, None], fractional_t3, batch.fractional_t3),
        )

    def flops(self, sizes: np.ndarray) -> tuple[float, float]:
        flops = 3 * ladder.autoencoder_flops(self.model_config, sizes.tolist())
        return flops, flops

    def _sums(self, terms: dict[str, Tensor], batch: PackedBatch) -> Sums:
        """Each unweighted term over the sets it applies to."""
        layout = batch.layout
        atoms_s = layout.sizes_s * layout.real_s
        applies = {
            "lengths": batch.periodic_s,
            "angles": batch.periodic_s,
            "fractional": batch.periodic_s,
            "positions": ~batch.periodic_s,
        }
        sums: Sums = {}
        for name, sum_s in terms.items():
            unit_s = atoms_s if name in PER_ATOM_TERMS else layout.real_s.to(atoms_s.dtype)
            count = (unit_s * applies[name]).sum() if name in applies else unit_s.sum()
            sums[name] = (sum_s.detach().sum().double(), count.double())
        return sums


# -- stage 2 ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Noised:
    """A micro-batch of stage 2: latents, their noised form at times t, and labels, some of them dropped."""

    batch: PackedBatch
    x_1_td: Tensor
    x_t_td: Tensor
    t_s: Tensor
    domain_s: Tensor
    spacegroup_s: Tensor


class DenoiserModule(nn.Module):
    """The denoiser with its optional self-conditioning pass: one forward for the engine to wrap."""

    def __init__(self, config: DenoiserConfig):
        super().__init__()
        self.network = Denoiser(config)

    def forward(
        self,
        x_t_td: Tensor,
        t_s: Tensor,
        domain_s: Tensor,
        spacegroup_s: Tensor,
        layout: PackedLayout,
        self_condition: bool,
    ) -> Tensor:
        """The predicted x_1 ``(T, D)``; ``self_condition`` gives it a first prediction, without gradient."""
        first_td = None
        if self_condition:
            with torch.no_grad():
                first_td = self.network(x_t_td, None, t_s, domain_s, spacegroup_s, layout).detach()
        return self.network(x_t_td, first_td, t_s, domain_s, spacegroup_s, layout)


class DiffusionStage(Stage):
    name = "diffusion"
    config: DiffusionStageConfig
    model_config: DenoiserConfig
    module: DenoiserModule

    def __init__(
        self,
        model: DenoiserConfig,
        config: DiffusionStageConfig,
        seed: int,
        datasets: list[str],
        autoencoder: Autoencoder,
    ):
        self.config, self.seed, self.datasets = config, seed, datasets
        self.model_config = parametrized(model, config.optim)
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.autoencoder_digest = weights.digest(autoencoder.state_dict())
        self.module = DenoiserModule(self.model_config)
        if config.optim.parametrization == "mup":
            mup.rescale_initial(self.module.network, config.optim.base_width)
        self.latents: LatentCache | None = None
        self.encoder = self.autoencoder
        if config.encoder_precision == "bf16":
            self.encoder = copy.deepcopy(autoencoder).to(torch.bfloat16)

    def lr_multipliers(self) -> dict[str, float]:
        optim = self.config.optim
        if optim.parametrization == "standard":
            return {}
        names = [name for name, _ in self.module.network.named_parameters()]
        found = mup.lr_multipliers(names, self.model_config.width, optim.base_width)
        return {f"network.{name}": multiplier for name, multiplier in found.items()}

    def compile_encoder(self) -> None:
        """Compile the encoder of training; that of validation, whose capacities vary, stays as it is."""
        if self.encoder is self.autoencoder:
            self.encoder = copy.deepcopy(self.autoencoder)
        prepare_blocks(self.encoder, recompute=False, compiled=True)

    @torch.no_grad()
    def posterior(self, batch: PackedBatch, encoder: Autoencoder | None = None) -> Posterior:
        """Of the frozen encoder, in the precision of training's latents unless ``encoder`` is given."""
        encoder = encoder or self.encoder
        return encoder.encode(batch.numbers_t, batch.positions_t3, batch.fractional_t3, batch.layout)

    def latents_of(self, batch: PackedBatch) -> Tensor:
        """x_1 ``(T, D)`` fp32 of a training batch: augmented, or of a cached augmentation; noise drawn anew.

        The same on every packing.
        """
        if self.latents is None:
            posterior = self.posterior(augment(batch, self.seed))
        else:
            posterior = self.latents.posterior(batch, self.seed)
        return posterior.sample(atom_normals(batch, self.seed, "posterior", self.model_config.latent))

    def open_latents(self, root: Path, manifest: Manifest, atoms: int, device: torch.device) -> None:
        """Take latents from the cache under ``root``, built first where it is not. A collective call."""
        identity = {
            "autoencoder": self.autoencoder_digest,
            "fingerprint": manifest.fingerprint,
            "augmentations": self.config.latent_cache,
            "seed": self.seed,
            "precision": self.config.encoder_precision,
        }
        latents = LatentCache(root, manifest, identity, self.model_config.latent)
        latents.build(self.posterior, atoms, device)
        self.latents = latents

    @torch.no_grad()
    def prepare(self, batch: PackedBatch, totals: StepTotals) -> Noised:
        x_1_td = self.latents_of(batch)
        x_0_td = centred_noise(keys_of(batch, self.seed, "x_0"), batch.layout, self.model_config.latent)
        t_s = sample_times(keys_of(batch, self.seed, "time"))
        label_keys = keys_of(batch, self.seed, "label")
        return Noised(
            batch,
            x_1_td,
            x_t_td=interpolate(x_0_td, x_1_td, t_s, batch.layout),
            t_s=t_s,
            domain_s=drop_labels(batch.domain_s, label_keys, self.config.label_dropout),
            spacegroup_s=drop_labels(batch.spacegroup_s, label_keys, self.config.label_dropout),
        )

    def self_conditions(self, step: int) -> bool:
        """Whether a step predicts twice, on all ranks."""
        drawn = randomness.step_uniform(self.seed, "self_conditioning", step)
        return drawn < self.config.self_conditioning

    def heaviest_step(self) -> int:
        return next((step for step in range(1000) if self.self_conditions(step)), 0)

    def loss(self, forward: Callable, prepared: Noised, totals: StepTotals) -> tuple[Tensor, Sums]:
        p, layout = prepared, prepared.batch.layout
        twice = self.self_conditions(totals.step)
        x_1_hat_td = forward(p.x_t_td, p.t_s, p.domain_s, p.spacegroup_s, layout, twice)
        loss_s = flow_matching_loss(x_1_hat_td, p.x_1_td, p.t_s, layout)
        # A step without a set (data.domain_match=samples) is a step without a gradient.
        return loss_s.sum() / max(1, totals.n_sets), self._sums(loss_s.detach(), p.t_s, p.batch)

    def validation_sums(self, module: nn.Module, batch: PackedBatch) -> Sums:
        """Loss on the fixed grid of (t, noise), labels given, without self-conditioning."""
        layout = batch.layout
        noise_td = atom_normals(batch, VALIDATION_SEED, "posterior", self.model_config.latent)
        x_1_td = self.posterior(batch, self.autoencoder).sample(noise_td)
        total_s = torch.zeros(layout.n_sets, dtype=torch.float64, device=x_1_td.device)
        for i, t in enumerate(VALIDATION_TIMES):
            keys = keys_of(batch, VALIDATION_SEED, f"validation/x_0/{i}")
            x_0_td = centred_noise(keys, layout, self.model_config.latent)
            t_s = torch.full((layout.n_sets,), t, device=x_1_td.device)
            x_t_td = interpolate(x_0_td, x_1_td, t_s, layout)
            x_1_hat_td = module(x_t_td, t_s, batch.domain_s, batch.spacegroup_s, layout, False)
            total_s += flow_matching_loss(x_1_hat_td, x_1_td, t_s, layout).double()
        loss_s = total_s / len(VALIDATION_TIMES)
        sums: Sums = {"loss": (loss_s.sum(), layout.real_s.sum().double())}
        for domain, name in DOMAIN_NAMES.items():
            chosen_s = layout.real_s & (batch.domain_s == domain)
            sums[f"loss/{name}"] = ((loss_s * chosen_s).sum(), chosen_s.sum().double())
        return sums | self._latent_moments(x_1_td, layout)

    def validation_values(self, means: dict[str, float]) -> dict[str, float]:
        """Losses, and beside them the loss of the best constant prediction on the same grid."""
        mean_d = [v for k, v in means.items() if k.startswith("latent_mean/")]
        variance = means["latent_square"] - sum(m * m for m in mean_d) / len(mean_d)
        weight = sum((1 - min(t, T_LOSS_MAX)) ** -2 for t in VALIDATION_TIMES) / len(VALIDATION_TIMES)
        values = {k: v for k, v in means.items() if not k.startswith("latent_")}
        return values | {"constant_predictor_loss": weight * variance}

    def _latent_moments(self, x_1_td: Tensor, layout: PackedLayout) -> Sums:
        """First and second moments of x_1, each set weighing the same as it does in the loss."""
        x_1_td = torch.where(layout.real_t[:, None], x_1_td, 0.0)
        n_sets = layout.real_s.sum().double()
        mean_sd = mean_sets(x_1_td, layout).double()
        square_s = mean_sets(x_1_td.square().mean(-1, keepdim=True), layout).double()
        moments: Sums = {"latent_square": (square_s.sum(), n_sets)}
        for d in range(mean_sd.shape[1]):
            moments[f"latent_mean/{d}"] = (mean_sd[:, d].sum(), n_sets)
        return moments

    def flops(self, sizes: np.ndarray) -> tuple[float, float]:
        sizes = sizes.tolist()
        flops = ladder.training_flops(self.model_config, sizes, self.config.self_conditioning)
        if self.latents is not None:
            return flops, flops  # its making is not a step's
        return flops, flops + ladder.encoder_flops(self.autoencoder.config, sizes)

    def _sums(self, loss_s: Tensor, t_s: Tensor, batch: PackedBatch) -> Sums:
        """Loss by data set and by time bin."""
        real_s = batch.layout.real_s
        loss_s = loss_s.double()
        chosen = {f"loss/{name}": batch.dataset_s == i for i, name in enumerate(self.datasets)}
        for low, high in TIME_BINS:
            chosen[f"loss/t_{low:.2f}_{high:.2f}"] = (t_s >= low) & (t_s < high)
        return {
            name: ((loss_s * (chosen_s & real_s)).sum(), (chosen_s & real_s).sum().double())
            for name, chosen_s in chosen.items()
        }

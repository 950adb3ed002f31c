"""Structures from noise: set sizes, starting noise, latents and their decoding, in batches of bounded size.

Sample i of a domain is a pure function of (seed, domain, i): batching changes neither its size nor its noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from adit_scale.atoms import PackedLayout
from adit_scale.diffusion.config import SamplingConfig
from adit_scale.diffusion.sampling import sample_latents, sampling_noise
from adit_scale.errors import DataError
from adit_scale.models.autoencoder import Autoencoder, Decoded
from adit_scale.models.dit import Denoiser
from adit_scale.randomness import set_keys, uniform

# Samples of different domains are numbered apart, so that adding some of one changes none of another.
SAMPLES_PER_DOMAIN = 1 << 32


@dataclass(frozen=True)
class GeneratedBatch:
    """Decoded samples. index_s: the number of each sample within its domain, ``(S,)`` int64."""

    decoded: Decoded
    layout: PackedLayout
    domain_s: Tensor
    index_s: Tensor


def draw_sizes(histogram: np.ndarray, n_samples: int, domain: int, seed: int) -> np.ndarray:
    """Atom counts ``(n_samples,)`` drawn from a histogram: ``histogram[n]`` training sets of n atoms.

    Raises DataError for a histogram without any set.
    """
    total = int(histogram.sum())
    if total == 0:
        raise DataError(
            "no training structures of a domain that is to be sampled; set sampling.crystals=0 or "
            "sampling.molecules=0 for the domain that the data do not have"
        )
    number_s = _sample_numbers(domain, np.arange(n_samples))
    zero_s = torch.zeros_like(number_s)
    u = uniform(set_keys(seed, "sample_size", zero_s, zero_s, number_s), 1)[:, 0].double().numpy()
    # u is in (0, 1]: the smallest size whose cumulative count reaches u of the total, never an empty one.
    return np.searchsorted(np.cumsum(histogram), np.ceil(u * total))


def generate(
    denoiser: Denoiser,
    autoencoder: Autoencoder,
    sizes: Mapping[int, np.ndarray],
    config: SamplingConfig,
    on_evaluation: Callable[[], object] | None = None,
) -> Iterator[GeneratedBatch]:
    """Samples of each domain, ``sizes[domain]`` from ``draw_sizes``; batch after batch, like sizes together.

    Runs on the device of the networks' weights; the batches come back on the CPU.
    on_evaluation: called after each evaluation of the denoiser, ``n_evaluations`` times in all.
    """
    device = next(denoiser.parameters()).device
    for domain, sizes_s in sizes.items():
        for chosen in _batches(sizes_s, config.batch_atoms):
            layout = PackedLayout.from_sizes(sizes_s[chosen]).to(device)
            domain_s = torch.full((len(chosen),), domain, dtype=torch.int64, device=device)
            number_s = _sample_numbers(domain, chosen).to(device)
            latents_td = sample_latents(
                denoiser,
                layout,
                domain_s,
                torch.zeros_like(domain_s),
                sampling_noise(config.seed, number_s, layout, autoencoder.config.latent),
                steps=config.steps,
                guidance_scale=config.guidance_scale,
                on_step=on_evaluation,
            )
            with torch.no_grad():
                decoded = autoencoder.decode(latents_td, layout)
            yield GeneratedBatch(_to_cpu(decoded), layout.to("cpu"), domain_s.cpu(), torch.from_numpy(chosen))


def n_evaluations(sizes: Mapping[int, np.ndarray], config: SamplingConfig) -> int:
    """Evaluations of the denoiser that ``generate`` will make."""
    return config.steps * sum(len(list(_batches(s, config.batch_atoms))) for s in sizes.values())


def _batches(sizes_s: np.ndarray, batch_atoms: int) -> Iterator[np.ndarray]:
    """Places of samples, by size, in runs of at most ``batch_atoms`` atoms (at least one sample)."""
    order = np.argsort(sizes_s, kind="stable")
    start = 0
    while start < len(order):
        ends = np.cumsum(sizes_s[order[start:]])
        stop = start + max(1, int(np.searchsorted(ends, batch_atoms, side="right")))
        yield order[start:stop]
        start = stop


def _sample_numbers(domain: int, index: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(index, dtype=np.int64)) + domain * SAMPLES_PER_DOMAIN


def _to_cpu(decoded: Decoded) -> Decoded:
    return Decoded(**{name: tensor.cpu() for name, tensor in vars(decoded).items()})

"""Samples of a trained pair of networks: latents from noise, decoded, as systems of atoms."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from adit_scale.atoms import AtomSet
from adit_scale.diffusion.config import SamplingConfig
from adit_scale.diffusion.generate import generate
from adit_scale.evaluation.decode import Invalid, decode_sets
from adit_scale.models.autoencoder import Autoencoder
from adit_scale.models.dit import Denoiser

Samples = dict[int, list[AtomSet | Invalid]]


def draw_samples(
    denoiser: Denoiser,
    autoencoder: Autoencoder,
    sizes: Mapping[int, np.ndarray],
    sampling: SamplingConfig,
    on_evaluation: Callable[[], object] | None = None,
) -> Samples:
    """Samples of each domain, in the order of their numbers, which are their ids.

    sizes: by domain, ``(n,)`` atom counts from ``draw_sizes``.
    """
    found: dict[int, dict[int, AtomSet | Invalid]] = {domain: {} for domain in sizes}
    for batch in generate(denoiser, autoencoder, sizes, sampling, on_evaluation):
        numbers = batch.index_s.tolist()
        sets = decode_sets(batch.decoded, batch.layout, batch.domain_s, ids=[str(i) for i in numbers])
        found[int(batch.domain_s[0])].update(zip(numbers, sets, strict=True))
    return {domain: [by_number[i] for i in sorted(by_number)] for domain, by_number in found.items()}

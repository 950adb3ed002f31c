"""What is asked of samples: atom counts, spacegroups and domains, chosen or drawn from training histograms.

Draws are addressed by (seed, domain, sample), one purpose a quantity: more samples, or a choice in place of
another draw, change none of the rest. Sizes and spacegroups are drawn independently of each other.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from adit_scale.atoms import CRYSTAL
from adit_scale.diffusion.config import SamplingConfig, check_spacegroups
from adit_scale.errors import DataError
from adit_scale.randomness import set_keys, uniform

__all__ = [
    "check_spacegroups",
    "draw_domains",
    "draw_sizes",
    "draw_spacegroups",
    "sample_numbers",
    "sizes_asked",
    "spacegroups_asked",
]

# Samples of different domains are numbered apart, so that adding some of one changes none of another.
SAMPLES_PER_DOMAIN = 1 << 32


def sample_numbers(domain: int, index: np.ndarray) -> Tensor:
    """Numbers that address the draws of samples ``index`` of a domain, int64."""
    return torch.from_numpy(np.asarray(index, dtype=np.int64)) + domain * SAMPLES_PER_DOMAIN


def draw_sizes(histogram: np.ndarray, n_samples: int, domain: int, seed: int) -> np.ndarray:
    """Atom counts ``(n_samples,)`` drawn from a histogram: ``histogram[n]`` training sets of n atoms.

    Raises DataError for a histogram without any set.
    """
    return _draw(histogram, sample_numbers(domain, np.arange(n_samples)), seed, "sample_size")


def draw_spacegroups(histogram: np.ndarray, n_samples: int, domain: int, seed: int) -> np.ndarray:
    """Spacegroups ``(n_samples,)``, 0 = unknown, from ``histogram[g]`` training sets of spacegroup g."""
    return _draw(histogram, sample_numbers(domain, np.arange(n_samples)), seed, "sample_spacegroup")


def draw_domains(n_sets: Mapping[int, int], n_samples: int, seed: int) -> dict[int, int]:
    """How many of ``n_samples`` fall to each domain, drawn in proportion to the training sets of each."""
    domains = sorted(n_sets)
    number_s = torch.arange(n_samples)
    drawn = _draw(np.array([n_sets[domain] for domain in domains]), number_s, seed, "sample_domain")
    return {domain: int((drawn == place).sum()) for place, domain in enumerate(domains)}


def sizes_asked(config: SamplingConfig, histogram: np.ndarray, n_samples: int, domain: int) -> np.ndarray:
    """Atom counts of a domain's samples as ``sampling.atoms`` has it: one for all, or drawn."""
    if (chosen := config.chosen_atoms) is not None:
        return np.full(n_samples, chosen, dtype=np.int64)
    return draw_sizes(histogram, n_samples, domain, config.seed)


def spacegroups_asked(
    config: SamplingConfig, histogram: np.ndarray | None, n_samples: int, domain: int
) -> np.ndarray | None:
    """Spacegroups of a domain's samples as ``sampling.spacegroup`` has it; None where there is no such label.

    histogram: of the training sets' spacegroups; only read where they are drawn.
    """
    chosen = config.chosen_spacegroup
    if domain != CRYSTAL or chosen == 0:
        return None
    if chosen is not None:
        return np.full(n_samples, chosen, dtype=np.int64)
    if histogram is None:
        raise DataError("sampling.spacegroup=drawn, but the spacegroups of the training data are not known")
    return draw_spacegroups(histogram, n_samples, domain, config.seed)


def _draw(histogram: np.ndarray, number_s: Tensor, seed: int, purpose: str) -> np.ndarray:
    """Places in a histogram, each as likely as its count."""
    total = int(histogram.sum())
    if total == 0:
        raise DataError(
            "no training structures of a domain that is to be sampled; set sampling.crystals=0 or "
            "sampling.molecules=0 for the domain that the data do not have"
        )
    zero_s = torch.zeros_like(number_s)
    u = uniform(set_keys(seed, purpose, zero_s, zero_s, number_s), 1)[:, 0].double().numpy()
    # u is in (0, 1]: the smallest place whose cumulative count reaches u of the total, never an empty one.
    return np.searchsorted(np.cumsum(histogram), np.ceil(u * total))

"""Sampled structures of a trained pair of networks: drawn, decoded, written."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from adit_scale.atoms import CRYSTAL, DOMAIN_NAMES, MOLECULE, AtomSet
from adit_scale.data.config import DataConfig
from adit_scale.data.formats import extended_xyz
from adit_scale.data.loader import size_histogram
from adit_scale.data.manifest import open_manifest
from adit_scale.diffusion.config import SamplingConfig
from adit_scale.diffusion.generate import draw_sizes
from adit_scale.evaluation.draw import Samples, draw_samples

__all__ = ["Samples", "draw_samples", "sample_sizes", "write_samples"]


def sample_sizes(data: DataConfig, sampling: SamplingConfig) -> dict[int, np.ndarray]:
    """Atom counts of the samples of each domain, drawn from the training data. Raises DataError."""
    manifest = open_manifest(data)
    counts = {CRYSTAL: sampling.crystals, MOLECULE: sampling.molecules}
    return {
        domain: draw_sizes(size_histogram(manifest, domain), n, domain, sampling.seed)
        for domain, n in counts.items()
        if n
    }


def write_samples(samples: Samples, folder: Path) -> list[Path]:
    """One extended xyz file a domain. Samples that are no system of atoms are left out, their ids missing."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for domain, sets in samples.items():
        path = folder / f"{DOMAIN_NAMES[domain]}s.extxyz"
        path.write_text("".join(extended_xyz(s) for s in sets if isinstance(s, AtomSet)))
        paths.append(path)
    return paths

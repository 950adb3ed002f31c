"""A run that keeps what it draws, and an export that draws the same.

``python -m tests.training.sampling_run train FOLDER AUTOENCODER`` trains a prepared diffusion run and writes
the samples of its last validity curve to drawn.npz; ``... open EXPORT OUT`` writes those of an export.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from adit_scale import config as settings
from adit_scale.atoms import CRYSTAL, MOLECULE, AtomSet

N, SEED = 6, 3


def write(path: Path, samples: Mapping[str, Sequence]) -> None:
    arrays: dict[str, np.ndarray] = {}
    for domain, sets in samples.items():
        for s in sets:
            if isinstance(s, AtomSet):
                key = f"{domain}/{s.id}"
                arrays |= {f"{key}/n": s.numbers, f"{key}/x": s.positions, f"{key}/cell": s.cell}
    np.savez(path, **arrays)


def train(folder: Path, autoencoder: Path) -> None:
    from adit_scale.evaluation.draw import draw_samples
    from adit_scale.jobs.sampling import sample_sizes
    from adit_scale.models.dit import Denoiser
    from adit_scale.training.run import train as train_run
    from adit_scale.training.side_scoring import SideScoring
    from adit_scale.training.weights import load_autoencoder

    config = settings.load(folder / "config.yaml")
    sampling = replace(config.sampling, crystals=N, molecules=N, seed=SEED)

    class Drawing(SideScoring):
        """Draws at once, from the weights as they are handed over."""

        def open(self, step, device, note):
            return False

        def hand_over(self, step, weights, network, values, last=False):
            denoiser = Denoiser(network).eval()
            denoiser.load_state_dict(weights)
            sizes = sample_sizes(config.data, sampling)
            drawn = draw_samples(denoiser, load_autoencoder(autoencoder), sizes, sampling)
            write(folder / "drawn.npz", {"crystal": drawn[CRYSTAL], "molecule": drawn[MOLECULE]})

    def make_scorer(run_folder, study, _):
        return Drawing(run_folder, study, [])

    assert train_run(folder, config, "diffusion", autoencoder, make_scorer)


def open_export(export: Path, out: Path) -> None:
    import adit_scale

    model = adit_scale.load_pretrained(export)
    write(out, {domain: model.sample(N, domain, seed=SEED) for domain in ("crystal", "molecule")})
    loaded = [name for name in ("deepspeed", "mlflow", "hydra") if name in sys.modules]
    assert not loaded, f"opening an export imported {loaded}"
    assert not torch.is_grad_enabled() or not any(p.requires_grad for p in model.denoiser.parameters())


if __name__ == "__main__":
    {"train": train, "open": open_export}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))

"""The losses that both stages must go on having: 50 steps of tiny networks on the demo corpus, fp32.

``python -m tests.training.golden`` writes golden_losses.json anew; do so only with a reason to name.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch

from adit_scale.config import StudyConfig
from adit_scale.data.config import DataConfig
from adit_scale.data.manifest import Manifest
from adit_scale.models.autoencoder import Autoencoder
from adit_scale.models.config import AutoencoderConfig, DenoiserConfig, ModelConfig
from adit_scale.tracking.journal import read_journal, series
from adit_scale.training import weights
from adit_scale.training.config import (
    AutoencoderStageConfig,
    DiffusionStageConfig,
    OptimConfig,
    ParallelConfig,
)
from tests.training import runs

GOLDEN = Path(__file__).with_name("golden_losses.json")
DEMO = runs.REPO / "shards" / "demo"
STEPS = 50


def study() -> StudyConfig:
    stage = {
        "steps": STEPS,
        "atom_budget": 400,
        "log_every_steps": 1,
        "validate_every_steps": 25,
        "validation_sets": 16,
        "checkpoint_every_steps": STEPS,
    }
    optim = OptimConfig(lr=1e-3, warmup_steps=5, schedule="wsd", decay_fraction=0.3)
    return StudyConfig(
        data=DataConfig(shards=str(DEMO)),
        model=ModelConfig(
            AutoencoderConfig(width=32, encoder_depth=2, decoder_depth=2, heads=2, feedforward=64),
            DenoiserConfig(name="tiny", width=32, depth=2, heads=2),
        ),
        autoencoder=AutoencoderStageConfig(optim=optim, **stage),
        diffusion=DiffusionStageConfig(optim=optim, **stage),
        parallel=ParallelConfig(micro_batch_atoms=250, threads=1, device="cpu"),
    )


def curves(root: Path) -> dict[str, list[float]]:
    """Losses a step of both stages; the diffusion stage's latents are of an autoencoder never trained."""
    config = study()
    torch.manual_seed(0)
    network = Autoencoder(config.model.autoencoder)
    weights.save(root / "untrained", config.model.autoencoder, network.state_dict())
    folders = {kind: runs.prepare(root / kind, config, kind) for kind in ("autoencoder", "diffusion")}
    runs.run(list(folders.values()), 1, root / "untrained")
    found = {}
    for kind, folder in folders.items():
        records = read_journal(folder)
        found[kind] = series(records, "train/loss")[1]
        found[f"{kind} validation"] = series(records, "validation/loss")[1]
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        record = {"fingerprint": Manifest.load(DEMO).fingerprint, "curves": curves(Path(folder))}
    GOLDEN.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

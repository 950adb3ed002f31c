"""The ceiling: real held-out structures under the same rules, and the autoencoder's errors on them."""

from __future__ import annotations

from functools import reduce
from operator import add

import torch

from adit_scale.atoms import CRYSTAL, MOLECULE
from adit_scale.config import StudyConfig
from adit_scale.data.loader import BatchLoader, reference_sets
from adit_scale.evaluation.reconstruction import Reconstruction, compare_reconstruction
from adit_scale.evaluation.score import score_sets
from adit_scale.jobs.node import NodeFolder, Result
from adit_scale.tracking.journal import Journal
from adit_scale.training.run import choose_device
from adit_scale.training.weights import load_autoencoder


def run(node: NodeFolder, config: StudyConfig) -> Result:
    """Leaves scores.json, and rates and reconstruction errors in DONE.json."""
    n = config.evaluation.reference_sets
    real = {domain: reference_sets(config.data, "test", domain, n) for domain in (MOLECULE, CRYSTAL)}
    print(f"scoring {len(real[MOLECULE])} molecules and {len(real[CRYSTAL])} crystals", flush=True)
    scores = score_sets(real[MOLECULE], real[CRYSTAL], config.evaluation)
    scores_path = node.path / "scores.json"
    scores_path.write_text(scores.to_json() + "\n")
    errors = reconstruct(node, config).metrics()
    with Journal(node.path) as journal:
        journal.truncate(0)
        journal.log_metrics(0, scores.flat_values() | errors)
    values = {
        "scores": {name: rate.to_dict() for name, rate in scores.rates.items()},
        "reconstruction": errors,
    }
    return Result((scores_path,), values)


@torch.no_grad()
def reconstruct(node: NodeFolder, config: StudyConfig) -> Reconstruction:
    """Encode and decode held-out sets with the posterior's mean."""
    device = choose_device(config.parallel)
    autoencoder = load_autoencoder(node.inputs["autoencoder"] / "weights").to(device)
    loader = BatchLoader(
        config.data,
        seed=config.seed,
        atom_budget=config.autoencoder.atom_budget,
        micro_batch_atoms=config.parallel.micro_batch_atoms,
    )
    parts = []
    for host_batch in loader.validation_batches(
        config.evaluation.reference_sets, config.parallel.micro_batch_atoms
    ):
        batch = host_batch.to(device)
        posterior = autoencoder.encode(batch.numbers_t, batch.positions_t3, batch.fractional_t3, batch.layout)
        parts.append(compare_reconstruction(autoencoder.decode(posterior.mean_td, batch.layout), batch))
    loader.close()
    return reduce(add, parts, Reconstruction())

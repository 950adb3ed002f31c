"""The ceilings: real held-out structures under the same rules, and what the autoencoder makes of them.

Samples cannot be expected to score above the data, nor above the validity of the data's own reconstructions:
what is drawn from the latent space goes through the same decoder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path

import torch

from adit_scale.atoms import CRYSTAL, MOLECULE, AtomSet
from adit_scale.config import StudyConfig
from adit_scale.data.loader import BatchLoader, reference_sets
from adit_scale.evaluation.judging import judge
from adit_scale.evaluation.kept import replace_text
from adit_scale.evaluation.leakage import Leak, find_leaks
from adit_scale.evaluation.reconstruction import (
    Reconstruction,
    ReconstructionReport,
    compare_reconstruction,
    compare_reconstructions,
    reconstruct_sets,
    reconstructions,
)
from adit_scale.evaluation.score import Scores
from adit_scale.jobs.evaluation import STAGES, training_references
from adit_scale.jobs.node import NodeFolder, Result
from adit_scale.jobs.points import LEAKAGE, RECONSTRUCTED
from adit_scale.tracking.journal import Journal
from adit_scale.training.run import choose_device
from adit_scale.training.weights import load_autoencoder


def run(node: NodeFolder, config: StudyConfig) -> Result:
    """Leaves verdicts and scores.json of real structures, those of their reconstructions in a folder of its
    own, and in DONE.json the rates and errors of both, and the leakage of the validation split."""
    n = config.evaluation.reference_sets
    real = {domain: reference_sets(config.data, "test", domain, n) for domain in (MOLECULE, CRYSTAL)}
    print(f"scoring {len(real[MOLECULE])} molecules and {len(real[CRYSTAL])} crystals", flush=True)
    references = training_references(node, config, [domain for domain, sets in real.items() if sets])
    judged = judge(real, config.evaluation, references, node.path / STAGES)
    paths = judged.write(node.path)
    leaks = leakage(config)
    errors = reconstruct(node, config).metrics()
    report, rebuilt, files = score_reconstructions(node, config, real)
    with Journal(node.path) as journal:
        journal.truncate(0)
        ceiling = {f"reconstruction/{name}": value for name, value in rebuilt.flat_values().items()}
        journal.log_metrics(0, judged.scores.flat_values() | errors | report.flat_values() | ceiling)
    values = {
        "scores": _plain(judged.scores.rates),
        "reconstruction": errors | report.metrics,
        "reconstruction_rates": _plain(report.rates),
        "reconstruction_scores": _plain(rebuilt.rates),
        LEAKAGE: {name: leak.to_json() for name, leak in leaks.items()},
    }
    return Result((*paths, *files), values)


def leakage(config: StudyConfig) -> dict[str, Leak]:
    """Validation structures that stand in the training data: where there are many, losses measure memory."""
    leaks = find_leaks(config.data, "val", processes=config.evaluation.worker_processes())
    for name, leak in leaks.items():
        print(leak.describe(name, "val"), flush=True)
    return leaks


def _plain(rates: Mapping) -> dict[str, dict]:
    return {name: rate.to_dict() for name, rate in rates.items()}


def score_reconstructions(
    node: NodeFolder, config: StudyConfig, real: Mapping[int, Sequence[AtomSet]]
) -> tuple[ReconstructionReport, Scores, list[Path]]:
    """The real structures through the autoencoder: how far off, and how many are still valid."""
    autoencoder = load_autoencoder(node.inputs["autoencoder"] / "weights").to(choose_device(config.parallel))
    pairs = reconstruct_sets(autoencoder, [s for sets in real.values() for s in sets])
    # Of a copy nobody asks whether it is new, or what it relaxes to.
    settings = replace(
        config.evaluation, novelty=False, crystal_uniqueness=False, relax="", hull="", relax_molecules=[]
    )
    report = compare_reconstructions(pairs, settings, processes=settings.worker_processes())
    folder = node.path / RECONSTRUCTED
    decoded = {domain: reconstructions(pairs, domain) for domain in real}
    judged = judge(decoded, settings, keep=folder / STAGES)
    files = judged.write(folder)
    errors = folder / "reconstruction.json"
    record = {"metrics": report.metrics, "rates": _plain(report.rates), "reasons": report.reasons}
    replace_text(errors, json.dumps(record, indent=1) + "\n")
    return report, judged.scores, [*files, errors]


@torch.no_grad()
def reconstruct(node: NodeFolder, config: StudyConfig) -> Reconstruction:
    """Encode and decode held-out sets with the posterior's mean."""
    device = choose_device(config.parallel)
    autoencoder = load_autoencoder(node.inputs["autoencoder"] / "weights").to(device)
    loader = BatchLoader(
        config.data,
        seed=config.seed,
        atom_budget=config.autoencoder.atom_budget,
        micro_batch_atoms=config.parallel.capacity_atoms,
    )
    parts = []
    for host_batch in loader.validation_batches(
        config.evaluation.reference_sets, config.parallel.capacity_atoms
    ):
        batch = host_batch.to(device)
        posterior = autoencoder.encode(batch.numbers_t, batch.positions_t3, batch.fractional_t3, batch.layout)
        parts.append(compare_reconstruction(autoencoder.decode(posterior.mean_td, batch.layout), batch))
    loader.close()
    return reduce(add, parts, Reconstruction())

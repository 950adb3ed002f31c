"""Sampling and scoring of one point: structures from its denoiser, judged by the rules of their domain."""

from __future__ import annotations

import time

from adit_scale.atoms import CRYSTAL, MOLECULE
from adit_scale.config import StudyConfig
from adit_scale.diffusion.generate import n_evaluations
from adit_scale.evaluation.score import score_sets
from adit_scale.jobs.node import NodeFolder, Result
from adit_scale.jobs.sampling import draw_samples, sample_sizes, write_samples
from adit_scale.tracking.journal import Journal
from adit_scale.training.run import choose_device
from adit_scale.training.weights import load_autoencoder, load_denoiser

PROGRESS_EVERY_S = 5.0


def run(node: NodeFolder, config: StudyConfig) -> Result:
    """Leaves samples/*.extxyz, scores.json, and the rates in DONE.json and in the journal."""
    device = choose_device(config.parallel)
    autoencoder = load_autoencoder(node.inputs["autoencoder"] / "weights").to(device)
    denoiser = load_denoiser(node.inputs["diffusion"] / "weights").to(device)
    sizes = sample_sizes(config.data, config.sampling)
    progress = _Progress(n_evaluations(sizes, config.sampling))
    begin = time.monotonic()
    samples = draw_samples(denoiser, autoencoder, sizes, config.sampling, progress)
    sampling_s = time.monotonic() - begin
    paths = write_samples(samples, node.path / "samples")
    print(f"scoring {sum(map(len, samples.values()))} samples", flush=True)
    scores = score_sets(samples.get(MOLECULE, []), samples.get(CRYSTAL, []), config.evaluation)
    scores_path = node.path / "scores.json"
    scores_path.write_text(scores.to_json() + "\n")
    with Journal(node.path) as journal:
        journal.truncate(0)
        clock = {"sampling_s": sampling_s, "scoring_s": time.monotonic() - begin - sampling_s}
        journal.log_metrics(config.diffusion.steps, scores.flat_values(), clock)
    values = {"scores": {name: rate.to_dict() for name, rate in scores.rates.items()}}
    return Result((*paths, scores_path), values)


class _Progress:
    """Called once an evaluation of the denoiser: a line every few seconds."""

    def __init__(self, total: int) -> None:
        self.done, self.total = 0, total
        self.next_s = time.monotonic() + PROGRESS_EVERY_S

    def __call__(self) -> None:
        self.done += 1
        if time.monotonic() >= self.next_s:
            self.next_s = time.monotonic() + PROGRESS_EVERY_S
            print(f"sampling: {self.done:,} of {self.total:,} evaluations", flush=True)

"""Sampling and scoring of one point: structures from its denoiser, judged by the rules of their domain.

Both halves go on where a killed job was: samples batch by batch, scores stage by stage. The training set's
SMILES are shared by the points of a study.
"""

from __future__ import annotations

import time
from pathlib import Path

from adit_scale.atoms import CRYSTAL, MOLECULE
from adit_scale.config import StudyConfig
from adit_scale.evaluation.judging import Judged, judge
from adit_scale.evaluation.pictures.figures import write_figures
from adit_scale.evaluation.pictures.gallery import write_gallery
from adit_scale.evaluation.reading import training_chunks
from adit_scale.evaluation.references import References, load_references
from adit_scale.evaluation.sample_files import finish
from adit_scale.evaluation.samples import DONE, SampleFolder, Samples, read_samples
from adit_scale.jobs.finals import final_metrics
from adit_scale.jobs.node import NodeFolder, Result, read_done
from adit_scale.jobs.sample_model import open_model
from adit_scale.jobs.sampling import Ranks, make_order
from adit_scale.tracking.journal import Journal
from adit_scale.training.run import choose_device

PROGRESS_EVERY_S = 5.0
STAGES, REFERENCES, PICTURES = ".stages", "references", "pictures"


def run(node: NodeFolder, config: StudyConfig) -> Result:
    """Leaves samples/, verdicts, scores.json and pictures/; the rates in DONE.json and in the journal, in the
    former the numbers of the run they belong to as well."""
    begin = time.monotonic()
    samples, files = draw(node, config)
    sampled = time.monotonic()
    print(f"scoring {sum(map(len, samples.values()))} samples", flush=True)
    judged = score_node(node, config, samples)
    paths = [*files, *judged.write(node.path)]
    scored = time.monotonic()
    paths += _pictures(node, samples, judged)
    clock = {
        "sampling_s": sampled - begin,
        "scoring_s": scored - sampled,
        "pictures_s": time.monotonic() - scored,
    }
    with Journal(node.path) as journal:
        journal.truncate(0)
        journal.log_metrics(config.diffusion.steps, judged.scores.flat_values(), clock)
    values = {
        "scores": {name: rate.to_dict() for name, rate in judged.scores.rates.items()},
        "metrics": final_metrics(
            node.inputs["diffusion"]
        ),  # so that rates can be drawn against size and loss
    }
    return Result(tuple(paths), values)


def draw(node: NodeFolder, config: StudyConfig) -> tuple[Samples, list[Path]]:
    """The samples of the node's folder, drawn where they are not there yet; and their files."""
    model = open_model(node.inputs["diffusion"], autoencoder=node.inputs["autoencoder"])
    counts = {CRYSTAL: config.sampling.crystals, MOLECULE: config.sampling.molecules}
    counts = {domain: n for domain, n in counts.items() if n}
    order = make_order(model, counts, config.sampling, choose_device(config.parallel))
    folder: SampleFolder = order.folder(node.path / "samples")
    order.draw(folder, Ranks(), _Progress(sum(counts.values())))
    done = finish(folder)
    files = [folder.path / name for written in done["files"].values() for name in written["files"]]
    return read_samples(folder.path), [*files, folder.path / DONE]


def score_node(node: NodeFolder, config: StudyConfig, samples: Samples) -> Judged:
    """Scores with novelty against the study's training set."""
    references = training_references(node, config, list(samples))
    return judge(samples, config.evaluation, references, node.path / STAGES, _Lines())


def training_references(node: NodeFolder, config: StudyConfig, domains: list[int]) -> References:
    """The training set of the node's shards; its SMILES are kept in the study's folder."""
    fingerprint = str(read_done(node.inputs["shards"])["fingerprint"])
    cache = node.path.parent / REFERENCES
    return load_references(training_chunks(config.data), domains, config.evaluation, cache, fingerprint)


def _pictures(node: NodeFolder, samples: Samples, judged: Judged) -> list[Path]:
    """Gallery and figures: what a reader of the rates wants to see. They are results: a fault in one is an
    error, not a gap."""
    folder, name = node.path / PICTURES, node.label or node.study
    gallery = write_gallery(folder, samples, judged.verdicts, name)
    return [*gallery, *write_figures({name: judged.verdicts}, None, folder)]


class _Progress:
    """Called with the samples just drawn, in fractions: a line every few seconds."""

    def __init__(self, total: int) -> None:
        self.done, self.total = 0.0, total
        self.next_s = time.monotonic() + PROGRESS_EVERY_S

    def __call__(self, samples: float) -> None:
        self.done += samples
        if time.monotonic() >= self.next_s:
            self.next_s = time.monotonic() + PROGRESS_EVERY_S
            print(f"sampling: {int(self.done):,} of {self.total:,} samples", flush=True)


class _Lines:
    """Stages of scoring: a line every few seconds."""

    def __init__(self) -> None:
        self.next_s = time.monotonic() + PROGRESS_EVERY_S

    def __call__(self, stage: str, done: int, total: int | None = None) -> None:
        if time.monotonic() >= self.next_s:
            self.next_s = time.monotonic() + PROGRESS_EVERY_S
            print(f"scoring {stage}: {done:,} of {total or 0:,}", flush=True)

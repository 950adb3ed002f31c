"""From the folders of a study's nodes to its points: what `adit report` and the report node read.

Only what the nodes left is read (node.json, config.yaml, the journal, attempts.jsonl, DONE.json) and the
shards' manifest. Folders of earlier versions load as well: what they do not say stays unknown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adit_scale import config as settings
from adit_scale.config import StudyConfig
from adit_scale.errors import DataError
from adit_scale.evaluation.statistics import Rate
from adit_scale.jobs.node import CONFIG, DONE, NODE, NodeFolder, failure_reason, is_running, read_done
from adit_scale.jobs.run_facts import (
    axes_of,
    last_value,
    optimiser,
    planned_gpu_hours,
    seen,
    training_rates,
    validation_grid,
)
from adit_scale.jobs.training_data import TrainingData
from adit_scale.jobs.usage import Usage, devices_of, median_of, usage_of
from adit_scale.models.ladder import autoencoder_parameters, denoiser_parameters, n_mat
from adit_scale.scaling.config import SweepConfig
from adit_scale.scaling.study_data import (
    TRAINING_LOSS_KEY,
    VALIDATION_LOSS_KEY,
    Point,
    loss_curve,
    read_evaluation,
)
from adit_scale.scaling.table import RECONSTRUCTION_ROW, REFERENCE_ROW
from adit_scale.tracking.journal import FILE_NAME, read_journal, read_run

STUDY = "study.json"  # which nodes a study has, as last submitted; the report is the last
LEAKAGE = "leakage"  # in the DONE.json of a reference node, by domain
RECONSTRUCTED = "reconstructed"  # in its folder: the verdicts of the second ceiling
CONSTANT_KEY = f"{VALIDATION_LOSS_KEY.rpartition('/')[0]}/constant_predictor_loss"


@dataclass(frozen=True)
class Collected:
    """points: of all studies, each once. ceilings: rates of the real data and of its reconstructions.

    hypotheses: by study. sweep: settings of the (first) study, under the names of all. total_points: those
    the studies were to have. shared: what autoencoders, trunks, scoring and references took, by kind.
    evaluations: folders of finished ones, by the points' labels. reference: that of a finished reference.
    """

    points: list[Point]
    ceilings: dict[str, dict[str, Rate]]
    hypotheses: dict[str, str]
    sweep: SweepConfig
    total_points: int
    shared: dict[str, Usage]
    evaluations: dict[str, Path]
    reference: Path | None

    @property
    def studies(self) -> list[str]:
        return list(self.hypotheses)


def collect(folders: Sequence[Path]) -> Collected:
    """The points of one study or of several over one autoencoder, from the studies' folders.

    A point that two studies share counts once; other points of one label are told apart by their study.
    Raises DataError for a folder without a study, ConfigError for settings that cannot be read.
    """
    assert folders
    data = TrainingData()
    found = [collect_report(report_node(folder), data) for folder in folders]
    if len(found) == 1:
        return found[0]
    points: list[Point] = []
    known: set[tuple[str, str]] = set()
    labels: set[str] = set()
    evaluations: dict[str, Path] = {}
    n_shared = 0
    for study in found:
        for point in study.points:
            identity = (point.run, json.dumps({k: r.to_dict() for k, r in point.rates.items()}))
            if identity in known:
                n_shared += 1
                continue
            known.add(identity)
            own = point if point.label not in labels else replace(point, label=f"{point.study}/{point.label}")
            labels.add(own.label)
            points.append(own)
            if point.label in study.evaluations:
                evaluations[own.label] = study.evaluations[point.label]
    hypotheses = {name: text for study in found for name, text in study.hypotheses.items()}
    said = " ".join(f"{name}: {text}" for name, text in hypotheses.items() if text)
    return Collected(
        _with_leakage(points),
        next((study.ceilings for study in found if study.ceilings), {}),
        hypotheses,
        replace(found[0].sweep, name=" + ".join(hypotheses), hypothesis=said),
        sum(study.total_points for study in found) - n_shared,
        _added([study.shared for study in found]),
        evaluations,
        next((study.reference for study in found if study.reference), None),
    )


def _with_leakage(points: Sequence[Point]) -> list[Point]:
    """A study without references says nothing of leakage; another one over the same data may."""
    known = {p.data_fingerprint: p.leakage for p in points if p.data_fingerprint and p.leakage}
    return [replace(p, leakage=p.leakage or known.get(p.data_fingerprint, {})) for p in points]


def report_node(folder: Path) -> NodeFolder:
    """The report's node in a study's folder: it names every other one.

    A study that was launched again with other settings has several; study.json tells which is the last one's,
    without it the newest is taken. Raises DataError where there is none.
    """
    record = folder / STUDY
    names: list[str] = []
    if record.is_file():
        try:
            names = [json.loads(record.read_text())["nodes"][-1]["folder"]]
        except (ValueError, LookupError, TypeError) as error:
            raise DataError(f"{record}: not as launch.py writes it ({error!r}); launch again") from error
    if not names:
        reports = [path.parent for path in folder.glob(f"report-*/{NODE}")]
        names = [path.name for path in sorted(reports, key=lambda path: (path / NODE).stat().st_mtime)]
    if not names or not (folder / names[-1] / NODE).is_file():
        raise DataError(
            f"{folder}: no study there (no {STUDY}, no report-*/{NODE}); expected the folder RUNS/STUDY that "
            "launch.py made"
        )
    return NodeFolder.load(folder / names[-1])


def collect_report(node: NodeFolder, data: TrainingData | None = None) -> Collected:
    """The points that the inputs of a report's node stand for."""
    sweep = settings.load(node.path / CONFIG).sweep
    inputs = {name: _here(folder, node.path.parent) for name, folder in node.inputs.items()}
    labels = [name.partition("/")[2] for name in inputs if name.startswith("diffusion/")]
    reader = _Reader(node, sweep, inputs, data or TrainingData())
    points = [point for label in labels if (point := reader.point(label)) is not None]
    finished = {name: folder for name, folder in inputs.items() if (folder / DONE).is_file()}
    return Collected(
        points,
        reader.ceilings(),
        {node.study: sweep.hypothesis},
        sweep,
        len(labels),
        reader.shared(),
        {label: finished[name] for label in labels if (name := f"evaluation/{label}") in finished},
        next((folder for name, folder in finished.items() if name.startswith("reference/")), None),
    )


def _here(folder: Path, study: Path) -> Path:
    """Where a node lies now: node.json names it by its place when the study was launched, and whole studies
    are copied from one machine to another."""
    places = (folder, study / folder.name, study.parent / folder.parent.name / folder.name)
    return next((place for place in places if (place / NODE).is_file()), folder)


class _Reader:
    def __init__(
        self, report: NodeFolder, sweep: SweepConfig, inputs: Mapping[str, Path], data: TrainingData
    ) -> None:
        self.report, self.sweep, self.inputs, self.data = report, sweep, inputs, data
        self._shared: dict[str, dict[Path, Usage]] = {}

    def point(self, label: str) -> Point | None:
        """None where the run's folder is gone: nothing says what it was."""
        folder, evaluation = self.inputs[f"diffusion/{label}"], self.inputs.get(f"evaluation/{label}")
        if not (folder / NODE).is_file():
            return None
        node, config = NodeFolder.load(folder), settings.load(folder / CONFIG)
        journal = (folder / FILE_NAME).is_file()
        records, both = (read_journal(folder), read_run(folder)) if journal else ([], [])
        parents = {name: _here(path, folder.parent) for name, path in node.inputs.items()}
        status, note = outcome(folder, evaluation, config, parents.values(), len(records))
        shape, autoencoder = config.model.denoiser, config.model.autoencoder
        shown = self.data.shown(config)
        used = usage_of(folder, config.parallel.world_size, records)
        self._add_shared(parents, evaluation)
        curve = loss_curve(records)
        done = (folder / DONE).is_file()
        sampling = self._sampling(evaluation)
        devices = devices_of(records, config.parallel.world_size)
        return Point(
            label=label,
            size=shape.name,
            n_parameters=denoiser_parameters(shape),
            n_matrix_parameters=n_mat(shape),
            seed=config.seed,
            final_loss=curve.loss[-1] if done and curve.loss else math.nan,
            train_loss=last_value(records, TRAINING_LOSS_KEY, math.nan),
            constant_loss=last_value(records, CONSTANT_KEY, math.nan),
            domain_losses={name: column[-1] for name, column in curve.domain.items() if done},
            curve=curve,
            rates=read_evaluation(evaluation) if evaluation and (evaluation / DONE).is_file() else {},
            training_rates=training_rates(both),
            status=status,
            note=note,
            study=self.report.study,
            run=node.id,
            trunk=_trunk(parents, config),
            axes=dict(self.report.points.get(label) or axes_of(self.sweep, config, sampling)),
            autoencoder_id=NodeFolder.load(parents["autoencoder"]).id,
            data_fingerprint=_fingerprint(parents["shards"]),
            validation_grid=validation_grid(config, shown),
            autoencoder={
                "width": autoencoder.width,
                "latent": autoencoder.latent,
                "parameters": autoencoder_parameters(autoencoder),
            },
            sampling_steps=sampling.sampling.steps if sampling else 0,
            guidance=sampling.sampling.guidance_scale if sampling else math.nan,
            solver=sampling.sampling.solver if sampling else "",
            gpu_hours=used.rank_hours,
            planned_gpu_hours=planned_gpu_hours(config, shown, devices),
            restarts=used.restarts,
            atoms_per_s=median_of(records, "atoms_per_s"),
            mfu=median_of(records, "mfu"),
            devices=devices,
            leakage=_leakage(self.inputs.get(f"reference/{label}")),
            **optimiser(config, records),
            **seen(records, config, shown),
        )

    def ceilings(self) -> dict[str, dict[str, Rate]]:
        """Rates of the reconstructed and of the real held-out data; points share one reference unless the
        study varies the data."""
        for name, folder in self.inputs.items():
            if name.startswith("reference/") and (folder / DONE).is_file():
                return {
                    RECONSTRUCTION_ROW: read_evaluation(folder, "reconstruction_scores"),
                    REFERENCE_ROW: read_evaluation(folder),
                }
        return {}

    def shared(self) -> dict[str, Usage]:
        for name, folder in self.inputs.items():
            if name.startswith("reference/"):
                self._use("reference", folder)
        return {kind: _sum(used.values()) for kind, used in self._shared.items()}

    def _add_shared(self, parents: Mapping[str, Path], evaluation: Path | None) -> None:
        self._use("autoencoder", parents["autoencoder"])
        if "trunk" in parents:
            self._use("trunk", parents["trunk"])
        if evaluation is not None:
            self._use("evaluation", evaluation)

    def _use(self, kind: str, folder: Path) -> None:
        """Once a folder, however many points share it."""
        known = self._shared.setdefault(kind, {})
        if folder not in known and (folder / NODE).is_file():
            training = kind in ("autoencoder", "trunk") and (folder / CONFIG).is_file()
            ranks = settings.load(folder / CONFIG).parallel.world_size if training else 1
            known[folder] = usage_of(folder, ranks)

    @staticmethod
    def _sampling(evaluation: Path | None) -> StudyConfig | None:
        if evaluation is None or not (evaluation / CONFIG).is_file():
            return None
        return settings.load(evaluation / CONFIG)


def outcome(
    folder: Path, evaluation: Path | None, config: StudyConfig, parents: Any, n_records: int
) -> tuple[str, str]:
    """Status and note of a point. evaluation: None where the study asks for losses alone."""
    if (folder / DONE).is_file():
        if evaluation is None or (evaluation / DONE).is_file():
            return "done", ""
        return "done", f"not scored: {failure_reason(evaluation) or 'its evaluation did not run'}"
    if is_running(folder):
        return "running", "has not reached its last step"
    reason = failure_reason(folder)
    if reason is not None:
        return ("diverged" if "non-finite" in reason else "failed"), reason
    if n_records:
        steps = max((int(p.parent.name[5:]) for p in folder.glob("checkpoints/step-*/COMMITTED")), default=0)
        return "unfinished", f"stopped at step {steps} of {config.diffusion.steps}"
    for parent in parents:
        if (reason := failure_reason(parent)) is not None:
            return "missing", f"did not run: {parent.name} failed ({reason})"
    return "missing", "did not run"


def _trunk(parents: Mapping[str, Path], config: StudyConfig) -> str:
    """The id of the node whose checkpoint a branch started from, or that checkpoint's digest."""
    if "trunk" in parents:
        return NodeFolder.load(parents["trunk"]).id
    return config.diffusion.trunk_digest


def _fingerprint(shards: Path) -> str:
    """ "" while the shards are not built."""
    return str(read_done(shards)["fingerprint"]) if (shards / DONE).is_file() else ""


def _leakage(reference: Path | None) -> dict[str, float]:
    """Shares by domain; {} where the reference did not look."""
    if reference is None or not (reference / DONE).is_file():
        return {}
    found = read_done(reference).get(LEAKAGE, {})
    return {d: leak["n_leaked"] / leak["n_held_out"] for d, leak in found.items() if leak["n_held_out"]}


def _added(parts: Sequence[Mapping[str, Usage]]) -> dict[str, Usage]:
    kinds = dict.fromkeys(kind for part in parts for kind in part)
    return {kind: _sum([part[kind] for part in parts if kind in part]) for kind in kinds}


def _sum(parts: Any) -> Usage:
    known = [u.rank_hours for u in parts if not math.isnan(u.rank_hours)]
    return Usage(sum(known), sum(u.restarts for u in parts), "")

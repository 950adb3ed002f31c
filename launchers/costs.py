"""What a study costs before it is run: ``launch.py plan``, and the budget that ``submit`` keeps to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adit_scale.config import StudyConfig
from adit_scale.data.config import DataConfig
from adit_scale.data.manifest import MANIFEST_FILE
from adit_scale.errors import ConfigError
from adit_scale.scaling import costs
from adit_scale.scaling.config import BudgetConfig
from adit_scale.scaling.points import EpochContents, StudyPoint, epoch_contents, run_label
from adit_scale.training.peaks import Peak, find_peak
from launchers.compose import Study, compose_study
from launchers.config import LauncherConfig, Resources
from launchers.graph import Graph, Node, spread, states, study_graph

LARGEST_NAMED = 3


@dataclass(frozen=True)
class JobCost:
    """One job, or several of a kind, of a study.

    flops: C_total of all of it. gpu_hours_left: of what no committed checkpoint has done yet. disk_bytes: at
    its fullest; disk_left_bytes: what is not there yet.
    """

    name: str
    flops: float
    gpu_hours: float
    gpu_hours_left: float
    disk_bytes: int
    disk_left_bytes: int


@dataclass(frozen=True)
class PointCost:
    """A point before it is run.

    axes: its place in the sweep. atoms: an upper bound, steps times the budget. sets, epochs: None where the
    shards are not built. flops: C of the model; run.flops: C_total of its own job, which for a decay branch
    begins at its trunk's end. scoring: None where the study measures losses alone. memory_bytes: of a rank.
    hours: of its own job, all ranks at once.
    """

    point: str
    axes: Mapping[str, Any]
    size: str
    parameters: int
    steps: int
    steps_done: int
    atoms: float
    sets: float | None
    epochs: float | None
    flops: float
    run: JobCost
    scoring: JobCost | None
    memory_bytes: int
    precision: str
    on_gpu: bool
    resources: Resources
    hours: float
    status: str


@dataclass(frozen=True)
class StudyCosts:
    """The points, and the jobs they share. estimated: sizes of sets are assumed, the shards being unbuilt.

    trunks: the runs that decay branches leave. notes: a line on each point that the design left out.
    """

    study: str
    folder: Path
    slurm: bool
    points: tuple[PointCost, ...]
    shared: tuple[JobCost, ...]
    trunks: tuple[JobCost, ...]
    budget: BudgetConfig
    peak: Peak
    estimated: bool
    notes: tuple[str, ...] = ()

    @property
    def jobs(self) -> list[JobCost]:
        """Every job once: points may share their runs."""
        own = {job.name: job for p in self.points for job in (p.run, p.scoring) if job is not None}
        return [*own.values(), *self.shared, *self.trunks]

    @property
    def gpu_hours(self) -> float:
        return sum(job.gpu_hours for job in self.jobs)

    @property
    def gpu_hours_left(self) -> float:
        return sum(job.gpu_hours_left for job in self.jobs)

    @property
    def disk_left_bytes(self) -> int:
        return sum(job.disk_left_bytes for job in self.jobs)

    @property
    def rate(self) -> str:
        """How FLOPs became hours, but those of a step that is modelled."""
        return f"{100 * self.budget.mfu:g}% of {self.peak.source}"


def plan(words: Sequence[str], *, as_json: bool = False) -> int:
    """Print what the study costs; nothing is run or written. Raises AditError."""
    from launchers.cost_table import table_text, to_record

    study = compose_study(words)
    known = all(shards_known(point.config.data) for point in study.points)
    graph = study_graph(study.config, study.points, study.folder, study.launcher) if known else None
    found = study_costs(study, graph)
    print(json.dumps(to_record(found), indent=1) if as_json else table_text(found))
    return 0


def study_costs(study: Study, graph: Graph | None) -> StudyCosts:
    """Of all points; without a graph (shards that can not be named yet) as if nothing had been run."""
    budget = study.config.budget
    peak = find_peak(budget.gpu, "bf16")
    assert peak is not None, budget.gpu
    return _Reckoner(study, graph, budget, peak).costs()


def check_budget(found: StudyCosts) -> None:
    """Raises ConfigError where what is left to do needs more than ``budget.gpu_hours``."""
    limit = found.budget.gpu_hours
    if not limit or found.gpu_hours_left <= limit:
        return
    largest = sorted(found.points, key=lambda p: -p.run.gpu_hours_left)[:LARGEST_NAMED]
    names = ", ".join(f"{p.point} {p.run.gpu_hours_left:.4g}" for p in largest)
    raise ConfigError(
        f"budget.gpu_hours is {limit:g}, what is left of the study needs {found.gpu_hours_left:.4g} "
        f"at {found.rate} (largest points: {names}); raise budget.gpu_hours, or lower diffusion.steps or the "
        "number of points"
    )


def shards_known(data: DataConfig) -> bool:
    """Whether the data can be named now: sources to digest, or shards that stand."""
    return bool(data.sources) or (Path(data.shards) / MANIFEST_FILE).is_file()


class _Reckoner:
    def __init__(self, study: Study, graph: Graph | None, budget: BudgetConfig, peak: Peak) -> None:
        self.study, self.graph, self.budget, self.peak = study, graph, budget, peak
        self.states = states(graph) if graph else {}
        self.epochs: dict[str, EpochContents | None] = {}

    def costs(self) -> StudyCosts:
        points = tuple(map(self._point, self.study.points))
        shared = (*self._autoencoders(), *self._latent_caches())
        return StudyCosts(
            study=self.study.config.sweep.name,
            folder=self.study.folder,
            slurm=self.study.launcher.kind == "slurm",
            points=points,
            shared=shared,
            trunks=self._trunks(),
            budget=self.budget,
            peak=self.peak,
            estimated=any(epoch is None for epoch in self.epochs.values()),
            notes=self.study.notes,
        )

    def _point(self, point: StudyPoint) -> PointCost:
        launcher = self.study.launcher
        shape, stage = point.config.model.denoiser, point.config.diffusion
        resources, config = placed(point.config, launcher, "diffusion")
        run, scoring = self._node("diffusion", point), self._node("evaluation", point)
        epoch = self._epoch(run, point.config)
        contents = epoch or costs.ASSUMED
        flops, flops_total = costs.diffusion_flops(config, contents)
        begin = stage.optim.decay_from
        done = steps_done(run.folder) if run else 0
        flops_total *= 1 - begin / stage.steps
        on_gpu = uses_gpu(launcher, config, resources)
        hours = self._run_hours(config, resources, contents, flops_total, stage.steps - begin)
        parameters = costs.run_parameters(config, "diffusion")
        n_bytes = costs.training_bytes(stage, parameters, hours)
        memory, precision = costs.rank_memory(config, "diffusion", on_gpu)
        atoms = contents.epochs(stage.steps, stage.atom_budget) * contents.atoms
        epochs = epoch.epochs(stage.steps, stage.atom_budget) if epoch else None
        share = max(0, done - begin) / (stage.steps - begin)
        return PointCost(
            point=point.label,
            axes=point.axes,
            size=shape.name,
            parameters=parameters,
            steps=stage.steps,
            steps_done=stage.steps if self._done(run) else min(done, stage.steps),
            atoms=atoms,
            sets=epochs * epoch.sets if epoch and epochs is not None else None,
            epochs=epochs,
            flops=flops,
            run=self._job(
                run or f"diffusion {run_label(point.axes)}",
                flops_total,
                n_bytes,
                share,
                hours * resources.world_size,
            ),
            scoring=self._scoring(point, scoring, contents),
            memory_bytes=memory,
            precision=precision,
            on_gpu=on_gpu,
            resources=resources,
            hours=hours,
            status=self._status(run, scoring),
        )

    def _scoring(self, point: StudyPoint, node: Node | None, contents: EpochContents) -> JobCost | None:
        config = node.config if node else point.config
        if not config.sweep.evaluate:
            return None
        flops, n_bytes = costs.sampling_flops(config, contents), costs.sampling_bytes(config, contents)
        return self._job(node or f"evaluation {point.label}", flops, n_bytes)

    def _trunks(self) -> tuple[JobCost, ...]:
        """Each once, however many branches leave it."""
        found: dict[str, JobCost] = {}
        for point in self.study.points:
            if point.trunk is None or point.trunk.label in found:
                continue
            branch = self._node("diffusion", point)
            node = branch.inputs["trunk"] if branch else None
            resources, config = placed(point.trunk.config, self.study.launcher, "diffusion")
            contents = self._epoch(node, config) or costs.ASSUMED
            _, flops = costs.diffusion_flops(config, contents)
            hours = self._run_hours(config, resources, contents, flops, config.diffusion.steps)
            n_bytes = costs.training_bytes(config.diffusion, costs.run_parameters(config, "diffusion"), hours)
            share = steps_done(node.folder) / config.diffusion.steps if node else 0.0
            found[point.trunk.label] = self._job(
                node or f"diffusion {point.trunk.label}",
                flops,
                n_bytes,
                share,
                hours * resources.world_size,
            )
        return tuple(found.values())

    def _autoencoders(self) -> list[JobCost]:
        found: dict[str, JobCost] = {}
        for point in self.study.points:
            node = self._node("diffusion", point)
            source = node.inputs["autoencoder"] if node else None
            config = point.config
            data = replace(config.data, domain="", domain_match="flops")
            key = source.id if source else repr((config.model.autoencoder, config.autoencoder, data))
            if key in found:
                continue
            joint = replace(config, data=replace(config.data, domain=""))
            resources, config = placed(joint, self.study.launcher, "autoencoder")
            flops = costs.autoencoder_run_flops(config, self._epoch(node, config) or costs.ASSUMED)
            hours = self._gpu_hours(flops) / resources.world_size
            parameters = costs.run_parameters(config, "autoencoder")
            n_bytes = costs.training_bytes(config.autoencoder, parameters, hours)
            share = steps_done(source.folder) / config.autoencoder.steps if source else 0.0
            found[key] = self._job(source or "autoencoder", flops, n_bytes, share)
        return _numbered(list(found.values()))

    def _latent_caches(self) -> list[JobCost]:
        """One for all points of one autoencoder and seed; it stands beside the runs."""
        found: dict[tuple, JobCost] = {}
        for point in self.study.points:
            config, node = point.config, self._node("diffusion", point)
            epoch = self._epoch(node, config)
            if not config.diffusion.latent_cache or node is None or epoch is None:
                continue
            stage = config.diffusion
            key = (node.inputs["autoencoder"].id, config.seed, stage.latent_cache, stage.encoder_precision)
            done = self._done(node) or (key in found and not found[key].gpu_hours_left)
            n_bytes, flops = costs.latent_cache_bytes(config, epoch), costs.latent_cache_flops(config, epoch)
            hours = self._gpu_hours(flops)
            found[key] = JobCost(
                "latents", flops, hours, 0.0 if done else hours, n_bytes, 0 if done else n_bytes
            )
        return _numbered(list(found.values()))

    def _job(
        self,
        job: Node | str,
        flops: float,
        n_bytes: int,
        share_done: float = 0.0,
        gpu_hours: float | None = None,
    ) -> JobCost:
        """Of a node, or of one that cannot be named yet. gpu_hours: where they do not follow from FLOPs."""
        hours = self._gpu_hours(flops) if gpu_hours is None else gpu_hours
        if isinstance(job, str):
            return JobCost(job, flops, hours, hours, n_bytes, n_bytes)
        if self._done(job):
            return JobCost(job.name, flops, hours, 0.0, n_bytes, 0)
        left = hours * (1 - min(1.0, share_done))
        return JobCost(job.name, flops, hours, left, n_bytes, max(0, n_bytes - folder_bytes(job.folder)))

    def _gpu_hours(self, flops: float) -> float:
        return flops / (self.budget.mfu * self.peak.flops_per_s) / 3600

    def _run_hours(
        self, config: StudyConfig, resources: Resources, contents: EpochContents, flops: float, steps: int
    ) -> float:
        """Of a diffusion run, all ranks at once: of the step model where the network is known."""
        if not self.budget.network:
            return self._gpu_hours(flops) / resources.world_size
        a_node = resources.ranks_per_node if resources.nodes > 1 else 0
        return steps * costs.diffusion_step(config, self.budget, contents, a_node).step_s / 3600

    def _epoch(self, run: Node | None, config: StudyConfig) -> EpochContents | None:
        """None where the shards are not built."""
        own = config.data
        data = own
        if run is not None:
            visits: dict[str, Any] = {
                "repeat": own.repeat,
                "domain": own.domain,
                "domain_match": own.domain_match,
            }
            data = replace(run.config.data, **visits)
        key = repr(data)
        if key not in self.epochs:
            stand = run is not None and (Path(data.shards) / MANIFEST_FILE).is_file()
            self.epochs[key] = epoch_contents(data) if stand else None
        return self.epochs[key]

    def _node(self, kind: str, point: StudyPoint) -> Node | None:
        return self.graph.nodes[-1].inputs.get(f"{kind}/{point.label}") if self.graph else None

    def _done(self, node: Node | None) -> bool:
        return node is not None and self.states[node.id] == "done"

    def _status(self, run: Node | None, scoring: Node | None) -> str:
        """A point is as far as its evaluation; before that, as its run."""
        if self._done(run):
            return "done" if scoring is None or self._done(scoring) else "trained"
        state = self.states[run.id] if run else "waiting"
        return "not started" if state == "waiting" else state


def placed(config: StudyConfig, launcher: LauncherConfig, kind: str) -> tuple[Resources, StudyConfig]:
    """What a training run will take, and its settings as it is spread over ranks. Raises ConfigError."""
    if launcher.kind == "slurm":
        return spread(launcher.resources(kind, config.model.denoiser.name), config)
    return Resources(tasks_per_node=config.parallel.world_size), config


def uses_gpu(launcher: LauncherConfig, config: StudyConfig, resources: Resources) -> bool:
    """Without a word about it, a GPU is assumed: this machine need not be the one that trains."""
    if config.parallel.device != "auto":
        return config.parallel.device == "cuda"
    return launcher.kind != "slurm" or bool(resources.gpus_per_node or "gpu" in resources.gres)


def steps_done(folder: Path) -> int:
    """Of the newest committed checkpoint of a training run's folder; 0 without one."""
    markers = folder.glob("checkpoints/step-*/COMMITTED")
    return max((int(marker.parent.name.removeprefix("step-")) for marker in markers), default=0)


def folder_bytes(folder: Path) -> int:
    """Of all files below; those that vanish meanwhile (an old checkpoint) are passed over."""
    n_bytes = 0
    for path in folder.rglob("*"):
        try:
            n_bytes += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return n_bytes


def free_bytes(folder: Path) -> int:
    """Free where ``folder`` is or will be."""
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    return shutil.disk_usage(existing).free


def hours_text(hours: float) -> str:
    """For readers: <0.01, 3.4, 12,345."""
    if 0 < hours < 0.01:
        return "<0.01"
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.1f}" if hours >= 1 else f"{hours:.2g}"


def _numbered(jobs: list[JobCost]) -> list[JobCost]:
    """Names told apart where there are several."""
    if len(jobs) < 2:
        return jobs
    return [replace(job, name=f"{job.name} {i}") for i, job in enumerate(jobs, start=1)]

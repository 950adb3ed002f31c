"""A study as a graph of jobs: who they are, what they wait for, and which of them are left to do.

shards -> autoencoder -> one diffusion run a point -> sampling and scoring -> report, with one reference node
(the real data scored by the same code) beside the points. Decay branches have their trunk, a diffusion run
that is no point, as an input. A node's id is the hash of the settings that
decide its result and of its inputs' ids, so that two launches of the same science meet in the same folder
and everything else (launcher, parallelism, tracking, paths) may change between them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from adit_scale import config as settings
from adit_scale.config import StudyConfig
from adit_scale.diffusion.config import SamplingConfig
from adit_scale.errors import ConfigError
from adit_scale.jobs.node import (
    CONFIG,
    NodeFolder,
    failure_reason,
    is_running,
)
from adit_scale.jobs.node import is_done as folder_is_done
from adit_scale.models.ladder import denoiser_parameters
from adit_scale.scaling.points import StudyPoint, run_label
from adit_scale.tracking.config import without_credentials
from launchers.config import TRAINING, LauncherConfig, Resources
from launchers.identity import node_id, science, shards_science
from launchers.reuse import Twins


@dataclass(frozen=True)
class Node:
    """One job. ``optional_inputs``: it runs with those inputs that finished, when none is left to wait for.

    processes: how many processes it runs at once. cost: any measure of its length; longer ones start first.
    folder: of another study where that one has finished the node (launchers/reuse.py).
    resources: what a SLURM job of it asks for. command: what to run instead of ``python -m adit_scale.jobs
    FOLDER``. points: of the report, the axes of each point by label.
    """

    kind: str
    label: str
    id: str
    folder: Path
    config: StudyConfig
    inputs: Mapping[str, Node] = field(default_factory=dict)
    optional_inputs: bool = False
    processes: int = 1
    cost: float = 0.0
    resources: Resources = field(default_factory=Resources)
    command: tuple[str, ...] = ()
    points: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.kind} {self.label}".strip()

    @property
    def steps(self) -> int | None:
        """Of a training run."""
        stages = {"autoencoder": self.config.autoencoder, "diffusion": self.config.diffusion}
        return stages[self.kind].steps if self.kind in stages else None


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which every node follows its inputs; the report is the last."""

    study: str
    folder: Path
    nodes: tuple[Node, ...]

    @property
    def own(self) -> list[Node]:
        """Without those that other studies have finished."""
        return [node for node in self.nodes if node.folder.parent == self.folder]

    def of_kind(self, kind: str) -> list[Node]:
        return [node for node in self.nodes if node.kind == kind]

    def beside(self, node: Node) -> list[Node]:
        """The nodes that may run at the same time: neither before this one nor after it."""
        before = _ancestors(node)
        return [
            n for n in self.nodes if n.id not in before and n.id != node.id and node.id not in _ancestors(n)
        ]

    def node_of(self, kind: str, point: str) -> Node:
        """The node of a point, which other points of the same science may share."""
        return self.nodes[-1].inputs[f"{kind}/{point}"]


def _ancestors(node: Node) -> set[str]:
    return {id_ for source in node.inputs.values() for id_ in (source.id, *_ancestors(source))}


def study_graph(
    config: StudyConfig, points: Sequence[StudyPoint], folder: Path, launcher: LauncherConfig | None = None
) -> Graph:
    """All nodes of a study; points that need the same shards or autoencoder share it.

    launcher: where SLURM's, training runs are spread over the ranks that its resources give them.

    Reads the sources (for their digests) or the shards' manifest. Raises DataError where there are neither,
    ConfigError where parallel and launcher disagree about the number of ranks.
    """
    builder = _Builder(folder, config, launcher or LauncherConfig())
    inputs: dict[str, Node] = {}
    for point in points:
        inputs.update(builder.point(point))
    axes = {point.label: point.axes for point in points}
    builder.add("report", "", config, science("report", config), inputs, optional_inputs=True, points=axes)
    return Graph(config.sweep.name, folder, tuple(builder.nodes.values()))


class _Builder:
    def __init__(self, folder: Path, base: StudyConfig, launcher: LauncherConfig) -> None:
        self.folder, self.base, self.launcher = folder, base, launcher
        self.nodes: dict[str, Node] = {}
        self.shards: dict[str, Node] = {}
        self.twins = Twins(folder.parent, folder) if base.sweep.reuse else None

    def add(
        self,
        kind: str,
        label: str,
        config: StudyConfig,
        science: Mapping[str, Any],
        inputs: Mapping[str, Node],
        **more: Any,
    ) -> Node:
        id_ = node_id(kind, science, {name: node.id for name, node in inputs.items()})
        if id_ not in self.nodes:
            name = "-".join(part for part in (kind, label, id_[:8]) if part)
            resources = self.launcher.resources(kind, config.model.denoiser.name)
            if kind in TRAINING:
                if self.launcher.kind == "slurm":
                    resources, config = spread(resources, config)
                more["processes"] = config.parallel.world_size
            folder = self._elsewhere(kind, id_, self.folder / name, inputs) or self.folder / name
            node = Node(kind, label, id_, folder, config, dict(inputs), resources=resources, **more)
            self.nodes[id_] = node
        return self.nodes[id_]

    def _elsewhere(self, kind: str, id_: str, place: Path, inputs: Mapping[str, Node]) -> Path | None:
        """Where another study, or this one under another label, has finished the node."""
        if self.twins is None or not all(is_done(node) for node in inputs.values()):
            return None
        return self.twins.finished(kind, id_, {name: n.folder for name, n in inputs.items()}, place)

    def point(self, point: StudyPoint) -> dict[str, Node]:
        """The nodes of one point, as inputs of the report."""
        shards = self._shards(point.config)
        own = point.config.data
        data = replace(
            shards.config.data, repeat=own.repeat, domain=own.domain, domain_match=own.domain_match
        )
        scoring = point.config.evaluation
        if scoring.hull:  # from anywhere
            scoring = replace(scoring, hull=str(Path(scoring.hull).absolute()))
        config = replace(
            point.config,
            data=data,
            evaluation=scoring,
            sampling=_of_domain(point.config.sampling, data.domain),
            runs=str(self.folder.parent),
        )
        # Points may vary the seed, the mixture and the domain; they still share one autoencoder.
        joint = replace(data, repeat=self.base.data.repeat, domain="", domain_match="flops")
        shared = replace(config, seed=self.base.seed, data=joint, sampling=point.config.sampling)
        autoencoder = self.add("autoencoder", "", shared, science("autoencoder", shared), {"shards": shards})
        inputs = {"shards": shards, "autoencoder": autoencoder}
        found: dict[str, Node] = {}
        if config.sweep.evaluate:
            reference = self.add("reference", "", shared, science("reference", shared), inputs)
            found[f"reference/{point.label}"] = reference
        diffusion = self._diffusion(point, config, inputs)
        found[f"diffusion/{point.label}"] = diffusion
        if config.sweep.evaluate:
            shape = config.model.denoiser
            found[f"evaluation/{point.label}"] = self.add(
                "evaluation",
                point.label,
                config,
                science("evaluation", config),
                {**inputs, "diffusion": diffusion},
                cost=float(shape.depth * shape.width**2),
            )
        return found

    def _diffusion(self, point: StudyPoint, config: StudyConfig, inputs: Mapping[str, Node]) -> Node:
        """The run of a point, which points that differ in how they are scored share; its trunk before it."""
        if point.trunk is not None:
            inputs = {**inputs, "trunk": self._trunk(point.trunk, config, inputs)}
        label = run_label(point.axes)
        cost = training_cost(config)
        return self.add("diffusion", label, config, science("diffusion", config), inputs, cost=cost)

    def _trunk(self, trunk: StudyPoint, branch: StudyConfig, inputs: Mapping[str, Node]) -> Node:
        """The run that a decay branch leaves, on the branch's data; its own steps count too, since those of
        the branches are where its checkpoints stay."""
        config = replace(branch, diffusion=trunk.config.diffusion)
        own = {**science("diffusion", config), "branches": config.diffusion.branch_steps}
        return self.add("diffusion", trunk.label, config, own, inputs, cost=training_cost(config))

    def _shards(self, config: StudyConfig) -> Node:
        # How they are visited is no matter of theirs; large sources are digested once.
        data = replace(config.data, repeat={}, domain="", domain_match="flops")
        key = json.dumps(asdict(data), sort_keys=True)
        if key not in self.shards:
            contents = shards_science(data)
            id_ = node_id("shards", contents, {})
            data = replace(
                data,
                shards=_place(data.shards or f"shards/{data.name}-{id_[:8]}"),
                sources=[_absolute(word) for word in data.sources],
                cache=str(Path(data.cache).expanduser().absolute()) if data.cache else "",
                split_lists={split: str(Path(place).absolute()) for split, place in data.split_lists.items()},
            )
            self.shards[key] = self.add("shards", data.name, replace(config, data=data), contents, {})
        return self.shards[key]


def _of_domain(sampling: SamplingConfig, domain: str) -> SamplingConfig:
    """A denoiser that never saw a domain is not asked for its structures."""
    if domain == "molecule":
        return replace(sampling, crystals=0)
    return replace(sampling, molecules=0) if domain == "crystal" else sampling


def training_cost(config: StudyConfig) -> float:
    """Any measure of a diffusion run's length."""
    stage, shape = config.diffusion, config.model.denoiser
    steps = stage.steps - stage.optim.decay_from
    return float(steps) * stage.atom_budget * shape.depth * shape.width**2


def spread(resources: Resources, config: StudyConfig) -> tuple[Resources, StudyConfig]:
    """A training run over the ranks of its resources; where these name none, over parallel.world_size.

    Raises ConfigError where both name a number and differ.
    """
    asked = config.parallel.world_size
    if asked > 1 and not (resources.tasks_per_node or resources.gpus_per_node):
        if asked % resources.nodes:
            raise ConfigError(
                f"parallel.world_size is {asked}, launcher.nodes {resources.nodes}; expected a multiple of it"
            )
        resources = replace(resources, tasks_per_node=asked // resources.nodes)
    elif asked not in (1, resources.world_size):
        raise ConfigError(
            f"parallel.world_size is {asked}, but the launcher gives {config.model.denoiser.name} "
            f"{resources.nodes} x {resources.ranks_per_node} ranks; set launcher.nodes and "
            "launcher.gpus_per_node (or tasks_per_node) to match, or leave parallel.world_size at 1"
        )
    own: dict[str, Any] = {"world_size": resources.world_size}
    if resources.zero_stage >= 0:
        own["zero_stage"] = resources.zero_stage
    if resources.micro_batch_atoms:
        own["micro_batch_atoms"] = resources.micro_batch_atoms
    spread_config = replace(config, parallel=replace(config.parallel, **own))
    spread_config.validate()
    return resources, spread_config


def _place(shards: str) -> str:
    """A folder from anywhere; an address as it stands."""
    return shards if "://" in shards else str(Path(shards).absolute())


def _absolute(word: str) -> str:
    """The same source from any folder."""
    from adit_scale.data.sources import Source

    path = str(Source.from_word(word).path)
    named = word.removesuffix(path) if word.endswith(path) else ""
    return f"{named}{Path(path).absolute()}"


def is_done(node: Node) -> bool:
    """As ``jobs.node.is_done``, of a node that need not be frozen."""
    inputs = {name: source.folder for name, source in node.inputs.items()}
    return folder_is_done(node.folder, node.id, inputs, node.optional_inputs)


def states(graph: Graph) -> dict[str, str]:
    """State of each node from its folder alone, by id: done, running, failed, waiting or blocked by ..."""
    found: dict[str, str] = {}
    for node in graph.nodes:
        if is_done(node):
            found[node.id] = "done"
        elif is_running(node.folder):
            found[node.id] = "running"
        elif not node.optional_inputs and (blockers := blocked_by(node, found)):
            found[node.id] = f"blocked by {blockers[0].name}"
        elif failure_reason(node.folder) is not None:
            found[node.id] = "failed"
        else:
            found[node.id] = "waiting"
    return found


def blocked_by(node: Node, state: Mapping[str, str]) -> list[Node]:
    """The inputs that failed, or that are blocked themselves: named at their root."""
    roots: list[Node] = []
    for source in node.inputs.values():
        if state.get(source.id) == "failed":
            roots.append(source)
        elif state.get(source.id, "").startswith("blocked"):
            roots.extend(blocked_by(source, state))
    return roots


def freeze(nodes: Iterable[Node], study: str, tags: Mapping[str, str] | None = None) -> None:
    """Write what each node is to do into its folder; from here on, edited configs change nothing.

    tags: of every node's run in MLflow, beside its own.
    """
    for node in nodes:
        node.folder.mkdir(parents=True, exist_ok=True)
        tracking = node.config.tracking  # a password, if any, reaches jobs by the environment
        public = replace(tracking, uri=without_credentials(tracking.uri))
        settings.save(replace(node.config, tracking=public), node.folder / CONFIG)
        inputs = {name: source.folder for name, source in node.inputs.items()}
        frozen = NodeFolder(node.folder, node.kind, node.id, node.label, study, inputs, node.optional_inputs)
        replace(frozen, tags={**(tags or {}), **_tags(node, study)}, points=node.points).save()


def _tags(node: Node, study: str) -> dict[str, str]:
    tags = {
        "adit.study": study,
        "adit.kind": node.kind,
        "adit.label": node.label,
        "adit.id": node.id,
        "adit.size": node.config.model.denoiser.name if node.label else "",
        "adit.seed": str(node.config.seed),
        "adit.data": node.config.data.name,
        "adit.autoencoder": node.inputs["autoencoder"].id if "autoencoder" in node.inputs else "",
    }
    if node.kind in ("diffusion", "evaluation"):
        tags |= {
            "adit.n_parameters": str(denoiser_parameters(node.config.model.denoiser)),
            "adit.lr": f"{node.config.diffusion.optim.lr:g}",
            "adit.domain": node.config.data.domain or "joint",
        }
    return {name: value for name, value in tags.items() if value}

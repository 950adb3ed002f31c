"""A study as a graph of jobs: who they are, what they wait for, and which of them are left to do.

shards -> autoencoder -> one diffusion run a point -> sampling and scoring -> report, with one reference node
(the real data scored by the same code) beside the points. A node's id is the hash of the settings that
decide its result and of its inputs' ids, so that two launches of the same science meet in the same folder
and everything else (launcher, parallelism, tracking, paths) may change between them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from adit_scale import config as settings
from adit_scale.config import StudyConfig
from adit_scale.data.building.identity import conversion
from adit_scale.data.config import DataConfig
from adit_scale.errors import ConfigError, DataError
from adit_scale.evaluation.config import OPERATIONAL, EvaluationConfig
from adit_scale.jobs.node import (
    CONFIG,
    NodeFolder,
    failure_reason,
    file_digest,
    is_running,
)
from adit_scale.jobs.node import is_done as folder_is_done
from adit_scale.scaling.points import StudyPoint
from adit_scale.tracking.config import without_credentials
from launchers.config import TRAINING, LauncherConfig, Resources

# Settings of a stage that say how often something is written, not what is computed.
BOOKKEEPING = (
    "log_every_steps",
    "checkpoint_every_steps",
    "checkpoint_async",
    "keep_checkpoints",
    "keep_every_hours",
    "keep_best",
    "branch_steps",
    "spike_factor",
    "profile",
    "scoring",
)


@dataclass(frozen=True)
class Node:
    """One job. ``optional_inputs``: it runs with those inputs that finished, when none is left to wait for.

    processes: how many processes it runs at once. cost: any measure of its length; longer ones start first.
    resources: what a SLURM job of it asks for. command: what to run instead of ``python -m adit_scale.jobs
    FOLDER``.
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
    builder.add("report", "", config, asdict(config.sweep), inputs, optional_inputs=True)
    return Graph(config.sweep.name, folder, tuple(builder.nodes.values()))


class _Builder:
    def __init__(self, folder: Path, base: StudyConfig, launcher: LauncherConfig) -> None:
        self.folder, self.base, self.launcher = folder, base, launcher
        self.nodes: dict[str, Node] = {}
        self.shards: dict[str, Node] = {}

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
            node = Node(
                kind, label, id_, self.folder / name, config, dict(inputs), resources=resources, **more
            )
            self.nodes[id_] = node
        return self.nodes[id_]

    def point(self, point: StudyPoint) -> dict[str, Node]:
        """The nodes of one point, as inputs of the report."""
        shards = self._shards(point.config)
        data = replace(shards.config.data, repeat=point.config.data.repeat)
        scoring = point.config.evaluation
        if scoring.hull:  # from anywhere
            scoring = replace(scoring, hull=str(Path(scoring.hull).absolute()))
        config = replace(point.config, data=data, evaluation=scoring, runs=str(self.folder.parent))
        # Points may vary the seed and the mixture; they still share one autoencoder.
        shared = replace(config, seed=self.base.seed, data=replace(data, repeat=self.base.data.repeat))
        autoencoder = self.add("autoencoder", "", shared, science("autoencoder", shared), {"shards": shards})
        reference = self.add(
            "reference",
            "",
            shared,
            science("reference", shared),
            {"shards": shards, "autoencoder": autoencoder},
        )
        shape = config.model.denoiser
        diffusion = self.add(
            "diffusion",
            point.label,
            config,
            science("diffusion", config),
            {"shards": shards, "autoencoder": autoencoder},
            cost=float(config.diffusion.steps) * config.diffusion.atom_budget * shape.depth * shape.width**2,
        )
        evaluation = self.add(
            "evaluation",
            point.label,
            config,
            science("evaluation", config),
            {"shards": shards, "autoencoder": autoencoder, "diffusion": diffusion},
            cost=float(shape.depth * shape.width**2),
        )
        return {
            f"reference/{point.label}": reference,
            f"diffusion/{point.label}": diffusion,
            f"evaluation/{point.label}": evaluation,
        }

    def _shards(self, config: StudyConfig) -> Node:
        data = config.data
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


def node_id(kind: str, science: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """sha256 of what decides a node's result: its kind, its settings and its inputs' ids."""
    text = json.dumps({"kind": kind, "science": science, "inputs": inputs}, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def science(kind: str, config: StudyConfig) -> dict[str, Any]:
    """The settings that decide the result of a node of this kind; its inputs' own are left to them."""
    if kind in ("autoencoder", "diffusion"):
        stage = asdict(config.autoencoder if kind == "autoencoder" else config.diffusion)
        shape = config.model.autoencoder if kind == "autoencoder" else config.model.denoiser
        return {
            "seed": config.seed,
            "repeat": dict(config.data.repeat),
            "model": asdict(shape),
            "stage": {key: value for key, value in stage.items() if key not in BOOKKEEPING},
        }
    evaluation = _evaluation_science(config.evaluation)
    if kind == "reference":
        return {"evaluation": evaluation}
    assert kind == "evaluation", kind
    evaluation.pop("reference_sets")
    sampling = asdict(config.sampling)
    for key in ("batch_atoms", "batch_sets", "pad_batches"):  # sample i is the same in any batch
        sampling.pop(key)
    return {"evaluation": evaluation, "sampling": sampling}


def _evaluation_science(config: EvaluationConfig) -> dict[str, Any]:
    """Without what decides only how long scoring takes; a hull by its contents, not by its place.

    Raises DataError where the hull's file is missing.
    """
    found = asdict(config)
    for key in OPERATIONAL:
        found.pop(key)
    if config.hull:
        if not Path(config.hull).is_file():
            raise DataError(f"evaluation.hull: {config.hull}: no such file; expected JSON of entries")
        found["hull"] = file_digest(Path(config.hull))
    return found


def shards_science(data: DataConfig) -> dict[str, Any]:
    """Contents of the sources and how they are converted; for ready-made shards, their fingerprint.

    Raises DataError naming the first source that is missing.
    """
    if data.sources:
        from adit_scale.data.build import source_identities  # heavy, as what is below
        from adit_scale.data.sources import Source

        try:
            sources = source_identities([Source.from_word(word) for word in data.sources])
        except DataError as error:
            raise DataError(f"data.sources: {error}") from error
        return {"sources": sources, "conversion": conversion(data)}
    if not data.shards:
        raise DataError(
            "data.sources is empty; expected files such as 'data.sources=[a.extxyz.gz,b.csv.gz]', "
            "or data.shards=FOLDER of shards that stand"
        )
    from adit_scale.data.manifest import open_manifest

    return {"fingerprint": open_manifest(data).fingerprint}


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
        replace(frozen, tags={**(tags or {}), **_tags(node, study)}).save()


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
    return {name: value for name, value in tags.items() if value}

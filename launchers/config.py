"""Settings of launchers: where jobs run, what each may take, and how often it is tried. No heavy imports."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from adit_scale.errors import ConfigError, check_range

KINDS = ("local", "slurm")
JOB_KINDS = ("shards", "autoencoder", "reference", "diffusion", "evaluation", "report")
TRAINING = ("autoencoder", "diffusion")


@dataclass(frozen=True)
class Resources:
    """What SLURM is asked for, a job. Empty strings and zeros are left to the cluster's defaults.

    tasks_per_node: ranks of a training run on each node; 0 is one a GPU, or one where there are no GPUs. All
        other jobs are one process.
    mem_gib: of a node. time_min: a training run that needs longer saves and queues itself again.
    zero_stage, micro_batch_atoms: of training runs with these resources; -1 and 0 leave parallel's own.
    """

    nodes: int = 1
    tasks_per_node: int = 0
    gpus_per_node: int = 0
    cpus_per_task: int = 4
    mem_gib: int = 0
    time_min: int = 720
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    gres: str = ""
    zero_stage: int = -1
    micro_batch_atoms: int = 0

    def validate(self, where: str) -> None:
        for key, low in (("nodes", 1), ("tasks_per_node", 0), ("gpus_per_node", 0), ("cpus_per_task", 1),
                         ("mem_gib", 0), ("time_min", 1), ("micro_batch_atoms", 0)):  # fmt: skip
            check_range(f"{where}.{key}", getattr(self, key), low)
        check_range(f"{where}.zero_stage", self.zero_stage, -1, 3)
        if self.gpus_per_node and self.tasks_per_node > self.gpus_per_node:
            raise ConfigError(
                f"{where}.tasks_per_node is {self.tasks_per_node}, gpus_per_node is {self.gpus_per_node}; "
                "expected at most one rank a GPU"
            )

    @property
    def ranks_per_node(self) -> int:
        return self.tasks_per_node or self.gpus_per_node or 1

    @property
    def world_size(self) -> int:
        return self.nodes * self.ranks_per_node


@dataclass
class LauncherConfig:
    """Where jobs run.

    parallel: at most so many jobs at once under the local launcher; under SLURM of one array, 0 for all.
    by_kind, by_size: resources that differ from the ones above, by kind of job (shards, autoencoder,
        reference, diffusion, evaluation, report) and, for diffusion runs, by size; the size wins.
    retries: how often a job that crashed is tried again, the first time after backoff_s, then twice as long
        each time. Mistakes in the settings and diverged runs are never tried again.
    signal_before_s: so long before the time limit a job is told to save and queue again.
    modules, setup: lines of the job script before anything else. container: words before `python`, such as
        "apptainer exec --nv adit.sif". environment: variables of the jobs.
    mail_user: SLURM writes there when the report ends or a job fails for good.
    runs_are_shared: `runs` is visible on all nodes, whatever its file system looks like.
    """

    kind: str = "local"
    parallel: int = 2
    nodes: int = 1
    tasks_per_node: int = 0
    gpus_per_node: int = 0
    cpus_per_task: int = 4
    mem_gib: int = 0
    time_min: int = 720
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    gres: str = ""
    zero_stage: int = -1
    micro_batch_atoms: int = 0
    by_kind: dict[str, dict[str, Any]] = field(default_factory=dict)
    by_size: dict[str, dict[str, Any]] = field(default_factory=dict)
    retries: int = 3
    backoff_s: float = 30.0
    signal_before_s: int = 120
    modules: list[str] = field(default_factory=list)
    setup: list[str] = field(default_factory=list)
    container: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    mail_user: str = ""
    runs_are_shared: bool = False

    def validate(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"launcher.kind is {self.kind!r}; expected {' or '.join(KINDS)}")
        if self.kind == "local" and self.parallel < 1:
            raise ConfigError(f"launcher.parallel is {self.parallel}; expected at least 1")
        for key, low in (("parallel", 0), ("retries", 0), ("backoff_s", 0), ("signal_before_s", 10)):
            check_range(f"launcher.{key}", getattr(self, key), low)
        for name in self.environment:
            if not re.fullmatch(r"[A-Za-z_]\w*", name):
                raise ConfigError(f"launcher.environment: {name!r}; expected names of variables")
        for kind in self.by_kind:
            if kind not in JOB_KINDS:
                raise ConfigError(
                    f"launcher.by_kind.{kind}: no such kind of job; expected {', '.join(JOB_KINDS)}"
                )
        asked = [self.resources(kind) for kind in JOB_KINDS]
        asked += [self.resources("diffusion", size) for size in self.by_size]
        shortest = min(resources.time_min for resources in asked)
        if self.kind == "slurm" and self.signal_before_s >= 60 * shortest:
            raise ConfigError(
                f"launcher.signal_before_s is {self.signal_before_s}, launcher.time_min is {shortest}; "
                "expected the signal after a job has begun: a larger time_min"
            )

    def resources(self, kind: str, size: str = "") -> Resources:
        """Of a job of this kind; of a diffusion run of this size. Raises ConfigError."""
        found = Resources(**{f.name: getattr(self, f.name) for f in fields(Resources)})
        found.validate("launcher")
        if kind not in TRAINING:  # one process, wherever the study's default has many
            found = replace(found, nodes=1, tasks_per_node=1, gpus_per_node=min(found.gpus_per_node, 1))
            if kind in ("shards", "report"):
                found = replace(found, gpus_per_node=0, gres="")
        found = _changed(found, self.by_kind.get(kind, {}), f"launcher.by_kind.{kind}")
        if kind == "diffusion":
            found = _changed(found, self.by_size.get(size, {}), f"launcher.by_size.{size}")
        if kind not in TRAINING and found.world_size != 1:
            raise ConfigError(
                f"launcher.by_kind.{kind}: {found.nodes} nodes and {found.ranks_per_node} tasks a node; such "
                "a job is one process: expected nodes=1, tasks_per_node=1"
            )
        return found


def _changed(resources: Resources, changes: Mapping[str, Any], where: str) -> Resources:
    known = asdict(resources)
    for key, value in changes.items():
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise ConfigError(f"{where}.{key}: no such setting{hint}; expected one of {', '.join(known)}")
        if type(value) is not type(known[key]):
            raise ConfigError(
                f"{where}.{key} is {value!r}; expected a value of type {type(known[key]).__name__}"
            )
    changed = replace(resources, **changes)
    changed.validate(where)
    return changed

"""What would go wrong on the cluster, found before a job is queued: one line with the setting to change.

In order: SLURM's programs and its controller, the partitions and their limits, what their nodes have, the
account, the folders, the disk. Two to five calls, whatever the number of jobs. What SLURM's own
`sbatch --test-only` knows better (limits of users and of qualities of service) is left to it.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adit_scale.errors import ConfigError, size_text
from launchers.config import Resources
from launchers.graph import Graph, is_done
from launchers.shared_folders import check_shared

PROGRAMS = ("sbatch", "scontrol", "sinfo", "squeue")
ANSWER_S = 20.0  # a controller that is there answers in milliseconds; SLURM's programs try for a minute
GIB_MB = 1024
UNLIMITED = ("UNLIMITED", "INFINITE", "NONE", "")
UP = "UP"


@dataclass(frozen=True)
class Job:
    """A job to be queued; ``name`` is for messages. trains: it would use GPUs if it were given some."""

    name: str
    resources: Resources
    trains: bool = False


@dataclass(frozen=True)
class Partition:
    """max_min: minutes, None without a limit; likewise max_nodes. lists: AllowAccounts and the like."""

    name: str
    state: str
    is_default: bool
    max_min: float | None
    max_nodes: int | None
    lists: Mapping[str, str]


@dataclass(frozen=True)
class NodeOffer:
    """What a node of a partition has."""

    name: str
    cpus: int
    memory_mb: int
    gpus: int


def preflight(
    jobs: Sequence[Job],
    folder: Path,
    disk_bytes: float,
    *,
    runs_are_shared: bool = False,
    inputs: Mapping[str, str] | None = None,
) -> list[str]:
    """Raises ConfigError for the first thing that would fail. Returns lines about what only looks wrong.

    folder: of the study, made here. disk_bytes: that it will grow by. inputs: setting -> folder or file that
    jobs read (data.sources, evaluation.hull, ...).
    """
    check_programs()
    partitions = _partitions()
    asked = {job.resources: job for job in reversed(jobs)}  # one job, the first, stands for its resources
    chosen = {resources: _candidates(resources, partitions) for resources in asked}
    offers = _offers()
    for resources, job in reversed(asked.items()):
        reasons = [
            refusal(job.name, resources, partition, offers.get(partition.name, []))
            for partition in chosen[resources]
        ]
        if reasons and all(reasons):  # of several partitions one is enough
            raise ConfigError(str(reasons[0]))
    _check_accounts(list(asked))
    _check_writable(folder)
    used = {partition.name for found in chosen.values() for partition in found}
    if not runs_are_shared:
        check_shared({"runs": str(folder), **(inputs or {})}, used, _nodes)
    _check_disk(folder, disk_bytes)
    return [
        f"note: {job.name} ask for no GPU, though nodes of partition {partition.name} have some: "
        "they will run on processors unless launcher.gpus_per_node is set"
        for resources, job in reversed(asked.items())
        for partition in chosen[resources][:1]
        if job.trains
        and not (resources.gpus_per_node or resources.gres)
        and any(offer.gpus for offer in offers.get(partition.name, []))
    ]


def input_places(graph: Graph) -> dict[str, str]:
    """What a study's jobs read besides ``runs``: setting -> folder or file, for ``preflight``."""
    from adit_scale.data.sources import Source  # heavy

    places: dict[str, str] = {}
    for node in graph.nodes:
        data, hull = node.config.data, node.config.evaluation.hull
        if node.kind == "shards":
            places["data.shards"] = data.shards
            if data.sources and not is_done(node):
                places["data.sources"] = str(Source.from_word(data.sources[0]).path)
        if hull:
            places["evaluation.hull"] = hull
    return places


def check_programs() -> None:
    """Raises ConfigError on a machine without SLURM."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        raise ConfigError(
            f"launcher=slurm: no {missing[0]} on this machine; expected SLURM's programs on PATH: "
            "use launcher=local, or launch on a login node of the cluster"
        )


# -- partitions ------------------------------------------------------------------------------------------


def _partitions() -> dict[str, Partition]:
    found = {}
    for line in _ask(["scontrol", "show", "partition", "--all", "--oneliner"]).splitlines():
        fields = fields_of(line)
        if "PartitionName" in fields:
            name, nodes = fields["PartitionName"], fields.get("MaxNodes", "")
            found[name] = Partition(
                name=name,
                state=fields.get("State", UP),
                is_default=fields.get("Default") == "YES",
                max_min=minutes(fields.get("MaxTime", "")),
                max_nodes=None if nodes in UNLIMITED else int(nodes),
                lists={k: v for k, v in fields.items() if re.match("(Allow|Deny)(Accounts|Qos)", k)},
            )
    return found


def fields_of(line: str) -> dict[str, str]:
    """``Key=value`` pairs of a line of scontrol; values hold no spaces but in a few descriptions."""
    return dict(word.split("=", 1) for word in line.split() if "=" in word)


def minutes(text: str) -> float | None:
    """Of SLURM's ``[days-]hours:minutes:seconds``; None where there is no limit."""
    if text in UNLIMITED:
        return None
    days, _, clock = text.rpartition("-")
    hours, mins, seconds = ([0, 0, *map(int, clock.split(":"))])[-3:]
    return int(days or 0) * 1440 + hours * 60 + mins + seconds / 60


def _candidates(resources: Resources, partitions: Mapping[str, Partition]) -> list[Partition]:
    """The partitions a job may go to: those named, else the default."""
    if not resources.partition:
        found = [partition for partition in partitions.values() if partition.is_default]
        if not found:
            raise ConfigError(
                f"launcher.partition is empty and the cluster has no default; expected {_names(partitions)}"
            )
        return found
    names = resources.partition.split(",")
    for name in names:
        if name not in partitions:
            raise ConfigError(
                f"launcher.partition: no partition {name!r} on this cluster; expected {_names(partitions)}"
            )
    return [partitions[name] for name in names]


def _names(partitions: Mapping[str, Partition]) -> str:
    return f"one of {', '.join(sorted(partitions))}" if partitions else "a partition, but it has none"


def refusal(name: str, resources: Resources, partition: Partition, offers: Sequence[NodeOffer]) -> str | None:
    """Why a partition can not run a job, as a line for users; None where it can."""
    where = f"partition {partition.name}"
    if partition.state != UP:
        return f"launcher.partition={partition.name} is {partition.state}; expected one that is UP"
    if partition.max_min is not None and resources.time_min > partition.max_min:
        return (
            f"launcher.time_min is {resources.time_min} ({name}), {where} allows {partition.max_min:g} "
            f"minutes; set launcher.time_min={int(partition.max_min)} (a run that needs longer saves and "
            "queues itself again) or another launcher.partition"
        )
    if partition.max_nodes is not None and resources.nodes > partition.max_nodes:
        return (
            f"launcher.nodes is {resources.nodes} ({name}), {where} allows {partition.max_nodes} a job; "
            "set fewer nodes or another launcher.partition"
        )
    for setting, key in (("account", "Accounts"), ("qos", "Qos")):
        value = getattr(resources, setting)
        allowed = partition.lists.get(f"Allow{key}", "ALL")
        denied = partition.lists.get(f"Deny{key}", "")
        if value and ((allowed != "ALL" and value not in allowed.split(",")) or value in denied.split(",")):
            return (
                f"launcher.{setting}={value} may not use {where} ({name}); expected "
                + (f"one of {allowed}" if allowed != "ALL" else f"none of {denied}")
                + ", or another launcher.partition"
            )
    return _too_large(name, resources, where, offers)


# -- nodes -----------------------------------------------------------------------------------------------


def _offers() -> dict[str, list[NodeOffer]]:
    """By partition, what its nodes have, whether they are up at the moment or not."""
    found: dict[str, list[NodeOffer]] = {}
    for line in _ask(["sinfo", "--noheader", "--Node", "--all", "--format=%R|%N|%c|%m|%G"]).splitlines():
        partition, node, cpus, memory, gres = line.strip().split("|", 4)
        offer = NodeOffer(node, int(cpus.rstrip("+")), int(memory.rstrip("+")), gpus_of(gres))
        found.setdefault(partition, []).append(offer)
    return found


def _nodes() -> str:
    return _ask(["scontrol", "show", "node", "--oneliner"])


def gpus_of(gres: str) -> int:
    """GPUs of ``gpu:a100:4(S:0-1),gpu:v100:2,shard:8`` in all."""
    parts = re.sub(r"\([^)]*\)", "", gres).split(",")
    counts = [part.split(":") for part in parts if part.split(":")[0] == "gpu"]
    return sum(int(words[-1]) if words[-1].isdigit() else 1 for words in counts)


def _too_large(name: str, resources: Resources, where: str, offers: Sequence[NodeOffer]) -> str | None:
    """Why no (or not enough) nodes of a partition are large enough."""
    if not offers:
        return f"{where} has no nodes ({name}); expected another launcher.partition"
    ranks = resources.ranks_per_node
    cpus, memory_mb = ranks * resources.cpus_per_task, resources.mem_gib * GIB_MB
    cpu_setting = f"launcher.cpus_per_task {resources.cpus_per_task} x {ranks} ranks"
    needs = (
        (cpus, max(o.cpus for o in offers), "CPUs", cpu_setting),
        (resources.mem_gib, max(o.memory_mb for o in offers) // GIB_MB, "GiB", "launcher.mem_gib"),
        (resources.gpus_per_node, max(o.gpus for o in offers), "GPUs", "launcher.gpus_per_node"),
    )
    for need, most, unit, setting in needs:
        if need > most:
            return (
                f"{need} {unit} a node are asked for {name} ({setting}), the largest node of {where} has "
                f"{most}; lower it, or set another launcher.partition"
            )
    fit = [
        o for o in offers if o.cpus >= cpus and o.memory_mb >= memory_mb and o.gpus >= resources.gpus_per_node
    ]
    if len(fit) < resources.nodes:
        return (
            f"{resources.nodes} nodes of {cpus} CPUs, {resources.mem_gib} GiB and {resources.gpus_per_node} "
            f"GPUs are asked for {name} (launcher.nodes), {where} has {len(fit)} such; set fewer "
            "launcher.nodes or another launcher.partition"
        )
    return None


# -- accounts --------------------------------------------------------------------------------------------


def _check_accounts(asked: Sequence[Resources]) -> None:
    """Accounts and qualities of service against the user's associations, where the cluster keeps any."""
    wanted = [r for r in asked if r.account or r.qos]
    rows = _associations() if wanted else []
    if rows and (reason := _unentitled(wanted, rows)) and _enforced():
        raise ConfigError(reason)


def _associations() -> list[tuple[str, str, set[str]]]:
    """(account, partition, qualities of service) of this user; none where there is no slurmdbd to ask."""
    user = pwd.getpwuid(os.getuid()).pw_name
    command = ["sacctmgr", "--noheader", "--parsable2", "show", "associations", f"user={user}"]
    try:
        text = _ask([*command, "format=account,partition,qos"])
    except ConfigError:
        return []
    rows = (line.split("|") for line in text.splitlines() if line.count("|") == 2)
    return [(account, partition, set(filter(None, qos.split(",")))) for account, partition, qos in rows]


def _unentitled(wanted: Sequence[Resources], rows: Sequence[tuple[str, str, set[str]]]) -> str:
    """The first account or quality of service without rights, as a line; nothing where all have."""
    accounts = sorted({account for account, _, _ in rows})
    for r in wanted:
        if r.account and r.account not in accounts:
            return (
                f"launcher.account={r.account}: you have no rights to it; expected one of "
                f"{', '.join(accounts)} (`sacctmgr show associations user=$USER`)"
            )
        own = [row for row in rows if r.account in ("", row[0])]
        if r.partition and not any(partition in ("", *r.partition.split(",")) for _, partition, _ in own):
            of = f"launcher.account={r.account}" if r.account else "none of your accounts"
            parts = ", ".join(sorted({partition for _, partition, _ in own}))
            return f"{of}: no rights to launcher.partition={r.partition}; expected one of {parts}"
        known = sorted({qos for _, _, found in own for qos in found})
        if r.qos and known and r.qos not in known:
            return f"launcher.qos={r.qos}: you have no rights to it; expected one of {', '.join(known)}"
    return ""


def _enforced() -> bool:
    """Whether SLURM refuses jobs for their account; elsewhere any word is allowed."""
    found = re.search(r"^AccountingStorageEnforce\s*=\s*(.*)$", _ask(["scontrol", "show", "config"]), re.M)
    return found is not None and "associations" in found[1]


# -- folders ---------------------------------------------------------------------------------------------


def _check_writable(folder: Path) -> None:
    """By writing: quotas, read-only mounts and rights all show."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(b"a study begins\n")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise ConfigError(
            f"runs: {folder}: cannot be written ({error.strerror}); set runs=FOLDER to one that can"
        ) from error


def _check_disk(folder: Path, disk_bytes: float) -> None:
    free = shutil.disk_usage(folder).free
    if disk_bytes > free:
        raise ConfigError(
            f"runs: the study will write about {size_text(int(disk_bytes))}, {folder} has {size_text(free)} "
            "free; free some, set runs=FOLDER, or lower diffusion.keep_checkpoints"
        )


def _ask(command: list[str]) -> str:
    """What one of SLURM's programs prints. Raises ConfigError where it fails or does not answer."""
    cure = "is the SLURM controller up (scontrol ping), and is this a login node (SLURM_CONF)?"
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=ANSWER_S)
    except subprocess.TimeoutExpired as late:
        said = late.stderr.decode(errors="replace") if isinstance(late.stderr, bytes) else late.stderr or ""
        raise ConfigError(f"{command[0]}: no answer in {ANSWER_S:g} s{_last(said)}; {cure}") from late
    except FileNotFoundError:
        raise ConfigError(f"{command[0]}: no such program; {cure}") from None
    if done.returncode != 0:
        raise ConfigError(f"{' '.join(command[:3])} failed{_last(done.stderr)}; {cure}")
    return done.stdout


def _last(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return f" ({lines[-1]})" if lines else ""

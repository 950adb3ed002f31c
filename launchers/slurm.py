"""The SLURM launcher: a graph's missing nodes as arrays of jobs, submitted once with their dependencies.

The only importer of submitit, whose job scripts and sbatch call are used; what runs in a job is our own
supervisor (adit_scale/jobs/batch.py), so that nothing is pickled and signals reach it first. A launch returns
when everything is queued, and can be repeated at any time: what is in the queue is not submitted again.
"""

from __future__ import annotations

import getpass
import json
import os
import shlex
import subprocess
import sys
import time
import uuid
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import submitit
from submitit.slurm.slurm import _make_sbatch_string

from adit_scale.errors import AditError, ConfigError
from adit_scale.jobs.attempts import LEDGER
from adit_scale.jobs.batch import SUBMISSION
from adit_scale.tracking.config import URI_VARIABLE, TrackingConfig, absolute_uri
from launchers.config import LauncherConfig, Resources
from launchers.graph import Graph, Node
from launchers.queue import COMMENT, SUBMISSIONS, Queued

MAX_ARRAY = 1000  # SLURM's own default limit is 1001
CALL_S = 60.0


@dataclass
class Array:
    """One call of sbatch: jobs with the same resources that wait for the same.

    before: nodes that all of them wait for. partner: the array whose element i the element i of this one
    follows (aftercorr); None for those that wait for no array of this launch.
    """

    kind: str
    resources: Resources
    before: tuple[Node, ...] = ()
    partner: Array | None = None
    nodes: list[Node] = field(default_factory=list)
    job_id: str = ""


def plan_arrays(graph: Graph, todo: Sequence[Node], queued: dict[str, str]) -> list[Array]:
    """Group what is left to do into arrays, in an order in which dependencies come first.

    queued: job ids by node id of what waits or runs already.
    """
    left = {node.id for node in todo}
    arrays: list[Array] = []
    filling: dict[Hashable, Array] = {}
    place: dict[str, tuple[Array, int]] = {}  # of training runs, for their evaluations
    followers: dict[str, int] = {}
    for node in todo:
        before = tuple(n for n in node.inputs.values() if n.id in left or n.id in queued)
        run = node.inputs.get("diffusion") if node.kind == "evaluation" else None
        partner = place[run.id][0] if run is not None and run.id in place else None
        key: Hashable
        if partner is not None and run is not None:
            nth = followers[run.id] = followers.get(run.id, 0) + 1
            key, before = (id(partner), nth, node.resources), ()
        else:
            key = (node.kind, node.resources, frozenset(n.id for n in before))
        if key not in filling or len(filling[key].nodes) == MAX_ARRAY:
            filling[key] = Array(node.kind, node.resources, before, partner)
            arrays.append(filling[key])
        place[node.id] = filling[key], len(filling[key].nodes)
        filling[key].nodes.append(node)
    return [part for array in arrays for part in _paired(array, place)]


def _paired(array: Array, place: dict[str, tuple[Array, int]]) -> list[Array]:
    """The array itself where its elements answer its partner's one to one; else an array an element."""
    if array.partner is None:
        return [array]
    runs = [node.inputs["diffusion"] for node in array.nodes]
    if [place[run.id][1] for run in runs] == list(range(len(array.partner.nodes))):
        return [array]
    return [
        Array(array.kind, array.resources, (run,), None, [node])
        for run, node in zip(runs, array.nodes, strict=True)
    ]


class Submitter:
    """Hands arrays to SLURM. code: folder of the snapshot that the jobs run."""

    def __init__(self, graph: Graph, launcher: LauncherConfig, code: Path, tracking: TrackingConfig) -> None:
        self.graph, self.launcher, self.code, self.tracking = graph, launcher, code, tracking

    def check(self, arrays: Sequence[Array]) -> None:
        """Have SLURM itself say whether it would take jobs with these resources; nothing is queued.

        Raises ConfigError with its reason.
        """
        for resources in dict.fromkeys(array.resources for array in arrays):
            array = next(a for a in arrays if a.resources == resources)
            options = self.options(array, {}, self.graph.folder)
            text = _make_sbatch_string("true", self.graph.folder, **options)
            done = _run(["sbatch", "--test-only"], text)
            if done.returncode != 0:
                raise ConfigError(f"{array.kind} jobs: SLURM would refuse them: {_reason(done)}; {_CURE}")

    def submit(self, arrays: Sequence[Array], queued: dict[str, str]) -> dict[str, str]:
        """Queue the arrays. Returns job ids by node id, with those of ``queued``.

        A node's ledger is written as soon as its job is queued; the jobs' comment names the submission, so
        that they are known even where this process is killed in between. Raises AditError where SLURM refuses
        one: those before it are queued, and launching again goes on behind them.
        """
        jobs = dict(queued)
        # sbatch hands this process's environment to the jobs: a password is then in no file of the study.
        os.environ[URI_VARIABLE] = absolute_uri(self.tracking.uri)
        for array in arrays:
            name = uuid.uuid4().hex
            folder = self.graph.folder / SUBMISSIONS / name
            folder.mkdir(parents=True)
            self._write_orders(array, folder)
            executor = submitit.SlurmExecutor(folder)
            executor.update_parameters(**self.options(array, jobs, folder))
            executor.parameters["map_count"] = len(array.nodes)
            try:
                array.job_id = str(executor._submit_command(self._command(folder)).job_id)
            except submitit.core.utils.FailedJobError as error:
                reason = (str(error).strip().splitlines() or ["no reason given"])[-1]
                raise AditError(f"{array.kind} jobs: SLURM refused them: {reason}; {_CURE}") from error
            for i, node in enumerate(array.nodes):
                jobs[node.id] = f"{array.job_id}_{i}"
                _write_ledger(node, jobs[node.id], name)
        return jobs

    def _write_orders(self, array: Array, folder: Path) -> None:
        """What the supervisor reads: which element of the array is which node, and how to treat them."""
        settings = {
            "retries": self.launcher.retries,
            "backoff_s": self.launcher.backoff_s,
            "container": self.launcher.container,
            "experiment": self.tracking.experiment,
        }
        nodes = {str(i): node.folder.name for i, node in enumerate(array.nodes)}
        text = json.dumps({"nodes": nodes, "settings": settings}, indent=1)
        (folder / SUBMISSION).write_text(text + "\n")

    def _command(self, folder: Path) -> str:
        """`exec`: SLURM's signal to the batch script then reaches the supervisor."""
        return shlex.join(["exec", sys.executable, "-m", "adit_scale.jobs.batch", str(folder)])

    def options(self, array: Array, jobs: dict[str, str], folder: Path) -> dict[str, Any]:
        """sbatch's options, as submitit names them. jobs: job ids by node id, for the dependencies."""
        asked, launcher = array.resources, self.launcher
        report = array.kind == "report"
        more: dict[str, Any] = {
            # Job scripts run by themselves: the supervisor starts steps.
            "signal": f"B:USR2@{launcher.signal_before_s}",
            "output": f"{folder}/%A_%a.out",
            "comment": f"{COMMENT}{folder.name}",
            "requeue": True,
            "kill_on_invalid_dep": "no" if report else "yes",
        }
        if launcher.mail_user:
            more |= {
                "mail_user": launcher.mail_user,
                "mail_type": "END,FAIL" if report else "FAIL,ARRAY_TASKS",
            }
        options: dict[str, Any] = {
            "job_name": f"adit-{self.graph.study}-{array.kind}",
            "time": asked.time_min,
            "nodes": asked.nodes,
            "ntasks_per_node": asked.ranks_per_node,
            "cpus_per_task": asked.cpus_per_task,
            "array_parallelism": launcher.parallel or len(array.nodes) or 1,
            "setup": self._setup(),
            "stderr_to_stdout": True,
            "use_srun": False,
            "wckey": None,
            "additional_parameters": more,
        }
        optional = {
            "gpus_per_node": asked.gpus_per_node,
            "mem": f"{asked.mem_gib}G" if asked.mem_gib else "",
            "partition": asked.partition,
            "account": asked.account,
            "qos": asked.qos,
            "constraint": asked.constraint,
            "gres": asked.gres,
            "dependency": dependency(array, jobs),
        }
        return options | {key: value for key, value in optional.items() if value}

    def _setup(self) -> list[str]:
        """Lines of the job script before the command. Modules and variables are data, `setup` is the user's
        own shell."""
        environment = {
            "PYTHONPATH": str(self.code),  # the code as it was at submission, before any that is installed
            **self.launcher.environment,
        }
        return [
            *(f"module load {shlex.quote(module)}" for module in self.launcher.modules),
            *(f"export {name}={shlex.quote(value)}" for name, value in environment.items()),
            *self.launcher.setup,
            f"cd {shlex.quote(str(self.code))}",
        ]


def dependency(array: Array, jobs: dict[str, str]) -> str:
    """sbatch's --dependency. A report waits for the end of everything, however it ends."""
    ids = [jobs[node.id] for node in array.before if node.id in jobs]
    if array.kind == "report":
        whole = dict.fromkeys(job.partition("_")[0] for job in ids)
        return f"afterany:{':'.join(whole)}" if whole else ""
    terms = (
        [f"aftercorr:{array.partner.job_id}"] if array.partner is not None and array.partner.job_id else []
    )
    if ids:
        terms.append(f"afterok:{':'.join(dict.fromkeys(ids))}")
    return ",".join(terms)


def cancel(jobs: Sequence[str]) -> None:
    """End these jobs in one call. Raises AditError with scancel's own line."""
    if jobs:
        done = _run(["scancel", *jobs])
        if done.returncode != 0:
            raise AditError(f"scancel: {_reason(done)}")


def jobs_of(graph: Graph, queue: dict[str, Queued]) -> dict[str, Queued]:
    """What is in the queue, by node id."""
    by_folder = {job.node: job for job in queue.values()}
    return {node.id: by_folder[node.folder.name] for node in graph.nodes if node.folder.name in by_folder}


_CURE = (
    "see launcher.partition (sinfo tells whether its nodes are up), account, qos, constraint, gres, "
    "gpus_per_node, time_min, nodes and mem_gib"
)


def _write_ledger(node: Node, job: str, submission: str) -> None:
    record = {
        "job": job,
        "submission": submission,
        "submitted": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "user": getpass.getuser(),
    }
    part = node.folder / f".{LEDGER}.{submission}"
    part.write_text(json.dumps(record) + "\n")
    part.replace(node.folder / LEDGER)


def _run(command: list[str], text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Raises AditError where the program does not answer."""
    try:
        return subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=CALL_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise AditError(f"{command[0]} did not answer in {CALL_S:.0f} s; try again later") from error


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in done.stderr.strip().splitlines() if line.strip()]
    line = lines[-1] if lines else f"status {done.returncode}"
    return line.removeprefix("allocation failure: ").removeprefix("sbatch: error: ")

"""The SLURM launcher: the same nodes as the local one, submitted once with their dependencies.

The only importer of submitit. A launch submits what is left and returns; it can be repeated at any time: a
node whose job is still queued or running is not submitted again.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import submitit

from adit_scale.errors import AditError, ConfigError
from adit_scale.jobs.node import FAILED
from launchers.config import LauncherConfig
from launchers.graph import Graph, Node, is_done

LEDGER = "slurm_job.json"
SIGNAL_BEFORE_LIMIT_S = 120  # USR2 this long before the time limit: a run saves its state and leaves
LIVE = "PENDING,RUNNING,REQUEUED,SUSPENDED,COMPLETING"
TRAINING = ("autoencoder", "diffusion")


def submit_graph(graph: Graph, launcher: LauncherConfig) -> dict[str, str]:
    """Submit every node that is neither done nor in the queue. Returns job ids by node id.

    Points follow the autoencoder with ``afterok``; the report follows everything with ``afterany``, so that
    it reports the points there are. Raises ConfigError where there is no sbatch, AditError where SLURM
    refuses a job.
    """
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "launcher=slurm: no sbatch on this machine; use launcher=local or go to the cluster"
        )
    ledger = {node.id: job for node in graph.nodes if (job := _recorded_job(node))}
    queued = _in_queue(ledger.values())
    jobs = {id_: job for id_, job in ledger.items() if job in queued}
    for node in graph.nodes:
        if node.id not in jobs and not is_done(node):
            (node.folder / FAILED).unlink(missing_ok=True)
            jobs[node.id] = _submit(node, launcher, jobs)
            (node.folder / LEDGER).write_text(json.dumps({"job_id": jobs[node.id]}) + "\n")
    return jobs


def _submit(node: Node, launcher: LauncherConfig, jobs: dict[str, str]) -> str:
    executor = submitit.SlurmExecutor(folder=node.folder / "slurm")
    executor.update_parameters(**job_parameters(node, launcher, jobs))
    run = submitit.helpers.CommandFunction([sys.executable, "-m", "adit_scale.jobs", str(node.folder)])
    try:
        return str(executor.submit(run).job_id)
    except submitit.core.utils.FailedJobError as error:
        reason = str(error).strip().splitlines()[-1]
        raise AditError(
            f"{node.name}: SLURM refused the job: {reason}; see launcher.partition, account, qos, time_min"
        ) from error


def job_parameters(node: Node, launcher: LauncherConfig, jobs: dict[str, str]) -> dict[str, Any]:
    """sbatch's options of one node, as submitit names them. jobs: job ids of other nodes, by node id.

    A training node is one task that starts its own ranks by torchrun, on one machine.
    Raises ConfigError for more ranks than GPUs.
    """
    training = node.kind in TRAINING
    if training and launcher.gpus_per_node and node.processes > launcher.gpus_per_node:
        raise ConfigError(
            f"parallel.world_size is {node.processes}, launcher.gpus_per_node is {launcher.gpus_per_node}; "
            f"expected at most as many processes as one machine has GPUs"
        )
    needs_gpu = training or node.kind in ("evaluation", "reference")
    before = [jobs[source.id] for source in node.inputs.values() if source.id in jobs]
    condition = "afterany" if node.optional_inputs else "afterok"
    parameters: dict[str, Any] = {
        "job_name": f"{node.kind}-{node.label or node.id[:8]}",
        "time": launcher.time_min,
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": launcher.cpus_per_task * node.processes,
        "signal_delay_s": SIGNAL_BEFORE_LIMIT_S,
        "additional_parameters": {"kill_on_invalid_dep": "no" if node.optional_inputs else "yes"},
    }
    optional = {
        "gpus_per_node": min(launcher.gpus_per_node, node.processes) if needs_gpu else 0,
        "mem": f"{launcher.mem_gib}G" if launcher.mem_gib else "",
        "partition": launcher.partition,
        "account": launcher.account,
        "qos": launcher.qos,
        "setup": launcher.setup,
        "dependency": f"{condition}:{':'.join(dict.fromkeys(before))}" if before else "",
    }
    return parameters | {key: value for key, value in optional.items() if value}


def _recorded_job(node: Node) -> str:
    path = node.folder / LEDGER
    return str(json.loads(path.read_text())["job_id"]) if path.is_file() else ""


def _in_queue(jobs: Iterable[str]) -> set[str]:
    """Which of these jobs are pending or running, by one call of squeue."""
    asked = sorted(set(jobs))
    if not asked:
        return set()
    found = subprocess.run(
        [
            "squeue",
            "--noheader",
            "--format=%A",
            "--me",
            "--states=PENDING,RUNNING,REQUEUED,SUSPENDED,COMPLETING",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode != 0:
        raise AditError(f"squeue failed: {found.stderr.strip().splitlines()[-1:] or found.returncode}")
    return set(asked) & set(found.stdout.split())

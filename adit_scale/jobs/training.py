"""Autoencoder and diffusion runs: one worker a rank, by torchrun here or by srun on a SLURM job's nodes."""

from __future__ import annotations

import logging
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import FrameType

from adit_scale.config import StudyConfig
from adit_scale.errors import TrainingError, WorkerLost
from adit_scale.jobs.finals import final_metrics
from adit_scale.jobs.node import ATTEMPT, LOG, NodeFolder, Result
from adit_scale.jobs.worker import BY_SRUN, ERROR, STOPPED
from adit_scale.training.config import CONFIG_FILE, WEIGHTS_FILE
from adit_scale.training.exit_codes import EXIT_REQUEUE

SAVE_GRACE_S = 120  # how long ranks may take to save when asked to stop
# Once a rank has left, how long srun lets the others follow.
LEAVE_S = 60
# SLURM's warning ahead of a time limit (USR2) has to reach the ranks like any other request to stop.
HANDED_ON = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2"
# Set by the supervisor of a SLURM job (batch.py): ranks are srun's tasks; words before `python` in each.
BY_SRUN_VARIABLE, CONTAINER_VARIABLE = "ADIT_BY_SRUN", "ADIT_CONTAINER"


def run(node: NodeFolder, config: StudyConfig) -> Result:
    """Train to the end, from the newest checkpoint where there is one.

    Exits with EXIT_REQUEUE when it was asked to stop and saved its state. Raises TrainingError with a
    worker's own line when one failed, WorkerLost when one ended without a word.
    """
    for marker in (ERROR, STOPPED):
        (node.path / marker).unlink(missing_ok=True)
    start = _srun if os.environ.get(BY_SRUN_VARIABLE) else _torchrun
    codes = start(node.path, config.parallel.world_size)
    if EXIT_REQUEUE in codes or (node.path / STOPPED).is_file():  # others then lost the peer that left
        sys.exit(EXIT_REQUEUE)
    if any(codes):
        raise _failure(node.path, codes)
    metrics = final_metrics(node.path) if node.kind == "diffusion" else {}
    files = node.path / "weights" / WEIGHTS_FILE, node.path / "weights" / CONFIG_FILE
    return Result(files, {"metrics": metrics})


def _torchrun(folder: Path, world_size: int) -> set[int]:
    """The ranks as processes of this machine under torchrun's agent, in this process. Returns exit codes."""
    from torch.distributed.elastic.multiprocessing.api import SignalException  # seconds: not on a SLURM job
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    # torch 2.11 has no argument for it; it ignores this too, and gives the ranks 30 s.
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(SAVE_GRACE_S)
    # How a rank ended is said by what is raised in one line; the agent's own lines beside it help nobody.
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    try:
        torchrun(worker_command(folder, world_size))
    except SignalException:
        return {EXIT_REQUEUE}
    except ChildFailedError as error:
        return {failure.exitcode for failure in error.failures.values()}
    return set()


def worker_command(folder: Path, world_size: int) -> list[str]:
    """Arguments of torchrun: one node, a rendezvous on a port that the system chooses."""
    return [
        *("--nnodes", "1", "--nproc-per-node", str(world_size)),
        *("--signals-to-handle", HANDED_ON),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"),
        *("-m", "adit_scale.jobs.worker", str(folder)),
    ]


def _srun(folder: Path, world_size: int) -> set[int]:
    """The ranks as tasks of a step over all nodes of this SLURM job; rank 0 is on this one.

    SLURM itself signals the tasks when it ends or moves the job, and srun then aborts the step: TERM must not
    be handed on. USR2, from the supervisor, is.
    """
    environment = os.environ | {"MASTER_ADDR": os.environ["SLURMD_NODENAME"], "MASTER_PORT": _free_port()}
    process = subprocess.Popen(srun_command(folder, world_size), stdin=subprocess.DEVNULL, env=environment)

    def hand_on(number: int, frame: FrameType | None) -> None:
        if process.poll() is None:
            process.send_signal(signal.SIGUSR2)

    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, hand_on)
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    code = process.wait()
    return {code} if code else set()


def srun_command(folder: Path, world_size: int) -> list[str]:
    """One task a rank, as the job was allocated; a rank that is lost ends the step, so that none waits for it
    until the watchdog's time is up."""
    words = shlex.split(os.environ.get(CONTAINER_VARIABLE, ""))
    return [
        "srun",
        *("--nodes", os.environ["SLURM_JOB_NUM_NODES"], "--ntasks", str(world_size)),
        *("--cpus-per-task", os.environ.get("SLURM_CPUS_PER_TASK", "1")),
        *("--kill-on-bad-exit=1", f"--wait={LEAVE_S}", "--mpi=none"),
        *words,
        "python3" if words else sys.executable,
        *("-m", "adit_scale.jobs.worker", str(folder), BY_SRUN),
    ]


def _free_port() -> str:
    """Free on this machine, where rank 0 will listen, on every interface."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return str(probe.getsockname()[1])


def _failure(folder: Path, exit_codes: set[int]) -> TrainingError:
    """The line a worker left, else the last exception in the log, else the exit status."""
    if (folder / ERROR).is_file():
        return TrainingError((folder / ERROR).read_text().strip())
    log = folder / LOG
    text = log.read_text(errors="replace").rpartition(ATTEMPT)[2] if log.is_file() else ""
    raised = re.findall(r"^(?:\[rank\d+\]: )?([\w.]+(?:Error|Exception): .*)$", text, re.MULTILINE)
    own = [line for line in raised if "ChildFailedError" not in line]
    killed = re.findall(r"^srun: error: .*: (.*(?:Killed|Out Of Memory).*)$", text, re.MULTILINE)
    if killed:
        return WorkerLost(f"{killed[0]} (out of memory? a larger launcher.mem_gib; or someone killed it)")
    return WorkerLost(own[-1] if own else f"a worker ended with status {sorted(exit_codes)}; see {log}")

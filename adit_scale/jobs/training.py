"""Autoencoder and diffusion runs: torchrun's agent in this process, one worker a rank."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from adit_scale.config import StudyConfig
from adit_scale.errors import TrainingError
from adit_scale.jobs.node import ATTEMPT, LOG, NodeFolder, Result
from adit_scale.jobs.worker import ERROR
from adit_scale.training.interrupts import EXIT_REQUEUE
from adit_scale.training.weights import CONFIG_FILE, WEIGHTS_FILE

SAVE_GRACE_S = 120  # how long ranks may take to save when asked to stop
# SLURM's warning ahead of a time limit (USR2) has to reach the ranks like any other request to stop.
HANDED_ON = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2"


def run(node: NodeFolder, config: StudyConfig) -> Result:
    """Train to the end, from the newest checkpoint where there is one.

    Exits with EXIT_REQUEUE when it was asked to stop and saved its state. Raises TrainingError with a
    worker's own line when one failed.
    """
    error_file = node.path / ERROR
    error_file.unlink(missing_ok=True)
    outputs = (node.path / "weights" / WEIGHTS_FILE, node.path / "weights" / CONFIG_FILE)
    try:
        torchrun(worker_command(node.path, config.parallel.world_size))
    except SignalException:
        sys.exit(EXIT_REQUEUE)
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        if EXIT_REQUEUE in codes:  # others then lost the peer that left
            sys.exit(EXIT_REQUEUE)
        raise TrainingError(_reason(node.path, codes)) from error
    return Result(outputs)


def worker_command(folder: Path, world_size: int) -> list[str]:
    """Arguments of torchrun: one node, a rendezvous on a port that the system chooses."""
    return [
        *("--nnodes", "1", "--nproc-per-node", str(world_size)),
        *("--signals-to-handle", HANDED_ON),
        *("--shutdown-timeout", str(SAVE_GRACE_S)),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"),
        *("-m", "adit_scale.jobs.worker", str(folder)),
    ]


def _reason(folder: Path, exit_codes: set[int]) -> str:
    """The line a worker left, else the last exception in the log, else the exit status."""
    if (folder / ERROR).is_file():
        return (folder / ERROR).read_text().strip()
    log = folder / LOG
    text = log.read_text(errors="replace").rpartition(ATTEMPT)[2] if log.is_file() else ""
    raised = re.findall(r"^(?:\[rank\d+\]: )?([\w.]+(?:Error|Exception): .*)$", text, re.MULTILINE)
    own = [line for line in raised if "ChildFailedError" not in line]
    return own[-1] if own else f"a worker ended with status {sorted(exit_codes)}; see {log}"

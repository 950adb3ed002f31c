"""One rank of a training node: ``-m adit_scale.jobs.worker NODE_FOLDER [srun]``, under torchrun or srun."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

from adit_scale import config as settings
from adit_scale.errors import AditError
from adit_scale.jobs.node import CONFIG, NodeFolder

ERROR = ".error.txt"
STOPPED = ".stopped"  # all ranks of a step left with the state saved
PR_SET_PDEATHSIG = 1
BY_SRUN = "srun"


def main(folder: Path) -> int:
    """Returns how it ended, as training/interrupts.py lists it."""
    _die_with_parent()
    node = NodeFolder.load(folder)
    config = settings.load(folder / CONFIG)
    from adit_scale.jobs.curves import make_scorer
    from adit_scale.training.branches import branch_of_input
    from adit_scale.training.exit_codes import EXIT_DONE, EXIT_FAILED, EXIT_REQUEUE
    from adit_scale.training.run import train

    autoencoder, start_from = node.inputs.get("autoencoder"), node.start_from
    try:
        if trunk := node.inputs.get("trunk"):
            config, start_from = branch_of_input(config, node.kind, trunk)
        finished = train(
            folder,
            config,
            node.kind,
            autoencoder_weights=autoencoder / "weights" if autoencoder else None,
            make_scorer=make_scorer if node.kind == "diffusion" else None,
            start_from=start_from,
        )
    except AditError as error:
        line = str(error).strip().splitlines()[0]
        (folder / ERROR).write_text(line + "\n")
        print(line, file=sys.stderr)
        return EXIT_FAILED
    if finished:
        return EXIT_DONE
    if BY_SRUN in sys.argv[2:]:  # srun would end the other ranks at the first that leaves with a status
        (folder / STOPPED).touch()
        return EXIT_DONE
    return EXIT_REQUEUE


def _join_step() -> None:
    """Tell torch.distributed which of the step's tasks this is; srun was given the meeting point."""
    for name, of_slurm in (
        ("RANK", "SLURM_PROCID"),
        ("WORLD_SIZE", "SLURM_NTASKS"),
        ("LOCAL_RANK", "SLURM_LOCALID"),
    ):
        os.environ[name] = os.environ[of_slurm]
    os.environ["LOCAL_WORLD_SIZE"] = os.environ["SLURM_TASKS_PER_NODE"].partition("(")[0]


def _die_with_parent() -> None:
    """On Linux, stop as if asked to when the agent is killed: an orphan must not go on writing the run."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    if BY_SRUN in sys.argv[2:]:
        _join_step()
    sys.exit(main(Path(sys.argv[1])))

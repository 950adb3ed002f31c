"""Two ranks that save through every trouble, without a model: ``python -m tests.training.saving FOLDER``.

Each rank prints one line of JSON: what each scenario raised, or null.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist

from adit_scale.errors import AditError
from adit_scale.training.checkpoint import TrainState
from adit_scale.training.lock import RunLock
from adit_scale.training.retention import Policy
from adit_scale.training.writer import CheckpointWriter

MIB = 2**18  # fp32 values


def main(folder: Path, rank: int, world_size: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    root = folder / "checkpoints"
    found: dict[str, str | None] = {}

    def attempt(name: str, action: Callable[[], object]) -> None:
        try:
            action()
            found[name] = None
        except AditError as error:
            found[name] = str(error)

    def save(step: int, root: Path = root, values: float = 1.0) -> None:
        writer = CheckpointWriter(root, torch.device("cpu"), Policy(last=9))
        writer.save(
            TrainState(step=step, world_size=world_size),
            {f"master|w|{rank * MIB}": torch.full((MIB,), values)},
        )
        writer.wait()

    attempt("good", lambda: save(1))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    if rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, limit[1]))  # half of what it has to write
    attempt("a full disk on one rank", lambda: save(2))
    if rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    full = type(shutil.disk_usage(folder))(2**40, 2**40, 2**20)
    with mock.patch("shutil.disk_usage", return_value=full):
        attempt("no room", lambda: save(3))

    if rank == 0:
        (folder / "file").write_text("")
    dist.barrier()
    attempt("no folder", lambda: save(4, folder / "file" / "checkpoints"))
    attempt("good again", lambda: save(5, values=5.0))

    with RunLock(folder):
        attempt("a second run", lambda: RunLock(folder))
    dist.barrier()
    attempt("a run after it", lambda: RunLock(folder))
    print(json.dumps(found), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))

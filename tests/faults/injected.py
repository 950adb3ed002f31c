"""Training runs with faults put in from outside: what a rank of a test runs.

A run's folder holds config.yaml and, where something is to go wrong, faults.json. Steps count from 1.

    nan_steps, nan_rank   an atom at NaN in the data of these steps on this rank
    inf_loss_steps        the loss is infinite, its gradient is not
    far_steps             molecules blown up: a finite loss far from the others
    clock_jumps           by step, seconds that the wall clock jumps
    slow_rank, slow_s     every step's data come this much later to this rank
    stall_step, stall_rank   the data of this step do not come to this rank
    seize_step            this step's data take 8 s in a call that keeps the interpreter to itself
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from adit_scale import config as settings
from adit_scale.data.loader import BatchLoader
from adit_scale.errors import AditError
from adit_scale.training import run
from adit_scale.training.exit_codes import EXIT_DONE, EXIT_FAILED, EXIT_REQUEUE
from adit_scale.training.stages import AutoencoderStage

FAULTS: dict[str, Any] = {}  # of the run at hand
REAL_TIME = time.time


class FaultyLoader(BatchLoader):
    def step(self, step: int) -> Any:
        found, now = super().step(step), step + 1
        if now == FAULTS.get("stall_step") and dist.get_rank() == FAULTS.get("stall_rank", 0):
            time.sleep(600)
        if now == FAULTS.get("seize_step"):
            ctypes.PyDLL(None).sleep(8)
        if dist.get_rank() == FAULTS.get("slow_rank"):
            time.sleep(FAULTS["slow_s"])
        jumps = [s for at, s in FAULTS.get("clock_jumps", {}).items() if int(at) <= now]
        time.time = lambda: REAL_TIME() + sum(jumps)
        if now in FAULTS.get("nan_steps", ()) and dist.get_rank() == FAULTS.get("nan_rank", 0):
            return self._changed(found, 0, math.nan)
        if now in FAULTS.get("far_steps", ()):
            return self._changed(found, slice(None), 30.0)
        return found

    def _changed(self, found: Any, atoms: Any, factor: float) -> Any:
        first, *others = found.batches
        moved = {}
        for name in ("positions_t3", "fractional_t3"):
            moved[name] = getattr(first, name).clone()
            moved[name][atoms] *= factor
        return dataclasses.replace(found, batches=[first.replace(**moved), *others])


def infinite_at_times(loss: Callable) -> Callable:
    def patched(self: AutoencoderStage, forward: Callable, batch: Any, totals: Any) -> Any:
        part, sums = loss(self, forward, batch, totals)
        infinite = totals.step + 1 in FAULTS.get("inf_loss_steps", ())
        return part + (math.inf if infinite else 0.0), sums

    return patched


def train(*folders: str) -> int:
    """Autoencoder runs, one after the other; the last one's exit code."""
    run.BatchLoader = FaultyLoader  # type: ignore[misc]
    AutoencoderStage.loss = infinite_at_times(AutoencoderStage.loss)  # type: ignore[method-assign]
    run.init_process_group(torch.device("cpu"))
    code = EXIT_FAILED
    for name in folders:
        folder = Path(name)
        FAULTS.clear()
        if (folder / "faults.json").is_file():
            FAULTS.update(json.loads((folder / "faults.json").read_text()))
        try:
            finished = run.train(folder, settings.load(folder / "config.yaml"), "autoencoder")
        except AditError as error:
            print(f"{folder.name}: {error}", file=sys.stderr, flush=True)
            code = EXIT_FAILED
        else:
            code = EXIT_DONE if finished else EXIT_REQUEUE
    return code

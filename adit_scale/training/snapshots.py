"""What a run and the process that scores its samples say to each other: files, each renamed into place.

    RUN/scoring/config.yaml                       what is drawn, and how it is judged
    RUN/scoring/step_00001000/weights.safetensors EMA weights of the denoiser, with config.json: the snapshot
    RUN/scoring/step_00001000/snapshot.json       what the run says of that step (cumulative FLOPs)
    RUN/scoring/step_00001000/result.json         values and clock, or event and reason; the weights are gone
    RUN/scoring/progress                          touched by the process as it comes along
    RUN/scoring/log.txt                           its output

A step's folder appears whole, so the folders without a result are the queue: it outlives both processes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adit_scale.models.config import DenoiserConfig
from adit_scale.training.config import CONFIG_FILE, WEIGHTS_FILE

SNAPSHOT, RESULT, PROGRESS, LOG, SETTINGS = (
    "snapshot.json",
    "result.json",
    "progress",
    "log.txt",
    "config.yaml",
)
FAILED, SKIPPED = "samples_failed", "samples_skipped"  # events in place of values
_STEP, _PART = "step_", ".part"


def step_folder(root: Path, step: int) -> Path:
    return root / f"{_STEP}{step:08d}"


def steps(root: Path) -> list[int]:
    """Steps with a whole folder, ascending."""
    names = (path.name for path in root.glob(f"{_STEP}*") if path.suffix != _PART)
    return sorted(int(name.removeprefix(_STEP)) for name in names)


def waiting(root: Path) -> list[int]:
    """Steps whose snapshots are to be scored, the oldest first."""
    return [step for step in steps(root) if not (step_folder(root, step) / RESULT).is_file()]


def write(
    root: Path, step: int, weights: Iterable[memoryview], network: DenoiserConfig, values: dict[str, float]
) -> None:
    """A whole snapshot. weights: the bytes of a safetensors file. Raises OSError."""
    part = step_folder(root, step).with_suffix(_PART)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    with (part / WEIGHTS_FILE).open("wb") as stream:
        for piece in weights:
            stream.write(piece)
        stream.flush()
        os.fsync(stream.fileno())
    record = {"network": type(network).__name__, "settings": asdict(network)}
    (part / CONFIG_FILE).write_text(json.dumps(record, indent=1))
    (part / SNAPSHOT).write_text(json.dumps({"step": step, "values": values}))
    part.rename(step_folder(root, step))


def read_values(root: Path, step: int) -> dict[str, float]:
    """What the run said of a snapshot's step."""
    values: dict[str, float] = json.loads((step_folder(root, step) / SNAPSHOT).read_text())["values"]
    return values


def write_result(root: Path, step: int, result: dict[str, Any]) -> None:
    """End a step: its result stands, its weights go. Raises OSError.

    result: ``values`` and ``clock``, or ``event`` and ``reason``.
    """
    folder = step_folder(root, step)
    folder.mkdir(exist_ok=True)
    part = folder / f".{RESULT}{_PART}"
    part.write_text(json.dumps(result, allow_nan=False))
    part.rename(folder / RESULT)
    (folder / WEIGHTS_FILE).unlink(missing_ok=True)


def read_result(root: Path, step: int) -> dict[str, Any] | None:
    """How a step ended; None while it has not."""
    try:
        result: dict[str, Any] = json.loads((step_folder(root, step) / RESULT).read_text())
    except FileNotFoundError:
        return None
    return result


def forget(root: Path, after: int) -> None:
    """Remove what was cut short, and every step behind ``after``: the run will come there again."""
    for path in root.glob(f"{_STEP}*{_PART}"):
        shutil.rmtree(path)
    for step in steps(root):
        if step > after:
            shutil.rmtree(step_folder(root, step))

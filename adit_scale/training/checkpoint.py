"""Sharded checkpoints that count only once every file has been checked.

    checkpoints/step-00000200/
        rank-00000.safetensors   this rank's fragments: "KEY|parameter|start" -> flat fp32, and its counters
        state.json               step counters, journal offset, data fingerprint, shapes, world size, config
        COMMITTED                sizes and sha256 of the files above; written last, renamed into place

A save that is killed leaves a folder without COMMITTED, which resume passes over. Fragments carry their own
addresses, so any ZeRO stage and world size can load them. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from adit_scale.errors import CheckpointError

FORMAT_VERSION = 1
MARKER = "COMMITTED"
STATE_FILE = "state.json"


@dataclass
class TrainState:
    """Everything of a run that is not a tensor. ``step``: steps done, skipped ones included."""

    step: int = 0
    applied_steps: int = 0
    skipped_in_a_row: int = 0
    atoms_seen: int = 0
    sets_seen: int = 0
    flops: float = 0.0
    flops_total: float = 0.0
    journal_offset: int = 0
    fingerprint: str = ""
    world_size: int = 1
    shapes: dict[str, list[int]] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


def step_folder(root: Path, step: int) -> Path:
    return root / f"step-{step:08d}"


def save(root: Path, state: TrainState, tensors: dict[str, Tensor]) -> Path:
    """Write one checkpoint; every rank calls with its own tensors, and the same state. A collective call.

    Raises CheckpointError on every rank when any rank could not write.
    """
    rank = dist.get_rank()
    folder = step_folder(root, state.step)
    if rank == 0:
        shutil.rmtree(folder, ignore_errors=True)  # an uncommitted attempt, or the same step of before
        folder.mkdir(parents=True)
    dist.barrier()
    entry: dict[str, Any]
    try:
        path = folder / f"rank-{rank:05d}.safetensors"
        save_file({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, path)
        entry = {path.name: _file_entry(path)}
        if rank == 0:
            (folder / STATE_FILE).write_text(json.dumps(asdict(state), indent=1))
            entry[STATE_FILE] = _file_entry(folder / STATE_FILE)
    except (OSError, SafetensorError) as error:  # safetensors has a type of its own for a full disk
        entry = {"error": f"rank {rank}: {error}"}
    entries: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(entries, entry)
    errors = [e["error"] for e in entries if "error" in e]
    if errors:
        raise CheckpointError(f"{folder}: the checkpoint could not be written: {errors[0]}")
    if rank == 0:
        files = {name: file_entry for e in entries for name, file_entry in e.items()}
        _check_files(folder, files)
        _commit(folder, files)
    dist.barrier()
    return folder


def committed(root: Path) -> list[Path]:
    """Folders of committed checkpoints, newest first."""
    folders = [p for p in root.glob("step-*") if (p / MARKER).is_file()]
    return sorted(folders, key=lambda p: p.name, reverse=True)


def prune(root: Path, keep: int) -> None:
    """Delete all but the newest ``keep`` committed checkpoints, and what killed saves left. Rank 0 calls."""
    kept = committed(root)[:keep]
    for folder in root.glob("step-*"):
        if folder not in kept:
            (folder / MARKER).unlink(missing_ok=True)  # first: half a folder must not count
            shutil.rmtree(folder)


class Checkpoint:
    """A committed checkpoint, verified file by file when opened. Raises CheckpointError naming the file."""

    def __init__(self, folder: Path):
        self.folder = folder
        _check_files(folder, _read_marker(folder / MARKER))
        state = _read_json(folder / STATE_FILE)
        if state.get("format_version") != FORMAT_VERSION:
            raise CheckpointError(
                f"{folder / STATE_FILE}: format version {state.get('format_version')}, expected "
                f"{FORMAT_VERSION}; resume with the version of adit_scale that wrote it"
            )
        self.state = TrainState(**state)
        self._files = [
            safe_open(str(folder / f"rank-{rank:05d}.safetensors"), "pt")
            for rank in range(self.state.world_size)
        ]
        # (key, parameter) -> [(start, length, tensor name, file)]
        self._ranges: dict[tuple[str, str], list[tuple[int, int, str, Any]]] = {}
        for file in self._files:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                key, parameter, start = name.split("|")
                if key != "counter":
                    length = file.get_slice(name).get_shape()[0]
                    self._ranges.setdefault((key, parameter), []).append((int(start), length, name, file))

    def check_model(self, shapes: dict[str, torch.Size]) -> None:
        """Raises CheckpointError naming the first parameter whose shape differs."""
        saved = self.state.shapes
        for name in sorted(saved.keys() | shapes.keys()):
            found = tuple(saved[name]) if name in saved else None
            expected = tuple(shapes[name]) if name in shapes else None
            if found != expected:
                raise CheckpointError(
                    f"{self.folder}: parameter {name} has shape {found or 'none'} in the checkpoint, "
                    f"{expected or 'none'} in the model; expected a checkpoint of the same model size "
                    "(check model.* or start a new run folder)"
                )

    def check_data(self, fingerprint: str) -> None:
        """Raises CheckpointError naming both data sets when they differ."""
        if self.state.fingerprint != fingerprint:
            raise CheckpointError(
                f"{self.folder}: trained on data set {self.state.fingerprint[:16]}, but the shards given are "
                f"{fingerprint[:16]}; resume needs the same data (check data.shards, or use a new run folder)"
            )

    def check_precision(self, precision: str) -> None:
        """Raises CheckpointError when matrix products would be of another precision than before."""
        saved = self.state.config["parallel"]["precision"]
        if saved != precision:
            raise CheckpointError(
                f"{self.folder}: trained in {saved}, to be resumed in {precision}; one run keeps one "
                f"precision: set parallel.precision={saved} or use a new run folder"
            )

    def read(self, parameter: str, start: int, length: int, key: str) -> Tensor:
        """Elements ``start`` to ``start + length`` of a flattened parameter's ``key``, fp32."""
        out = torch.empty(length)
        filled = 0
        for begin, n, name, file in self._ranges.get((key, parameter), ()):
            lo, hi = max(begin, start), min(begin + n, start + length)
            if lo < hi:
                out[lo - start : hi - start] = file.get_slice(name)[lo - begin : hi - begin]
                filled += hi - lo
        if filled != length:
            raise CheckpointError(
                f"{self.folder}: {key} of {parameter} covers {filled} of {length} elements from {start}"
            )
        return out

    def counters(self, rank: int, world_size: int) -> dict[str, Tensor]:
        """The running sums this rank saved; on another world size rank 0 takes the sum of all."""
        prefix = "counter|"

        def of(file) -> dict[str, Tensor]:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
            return {name.split("|")[1]: file.get_tensor(name) for name in names}

        if world_size == self.state.world_size:
            return of(self._files[rank])
        saved = [of(file) for file in self._files]
        totals = {name: torch.stack([s[name] for s in saved]).sum(0) for name in saved[0]}
        return totals if rank == 0 else {name: torch.zeros_like(total) for name, total in totals.items()}


def open_newest(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest committed checkpoint that passes its check, and what was wrong with newer ones.

    None only where no checkpoint was ever committed. Raises CheckpointError when all of them are damaged:
    a run never starts over in silence.
    """
    problems: list[str] = []
    for folder in committed(root):
        try:
            return Checkpoint(folder), problems
        except CheckpointError as error:
            problems.append(str(error))
    if problems:
        raise CheckpointError(
            f"{root}: no committed checkpoint passes its check; {problems[0]}; "
            "restore the file, or delete the checkpoints folder to start over"
        )
    return None, problems


def _file_entry(path: Path) -> dict[str, Any]:
    """Size and digest of a file, after forcing it to disk."""
    with path.open("rb") as handle:
        os.fsync(handle.fileno())
        digest = hashlib.sha256()
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _check_files(folder: Path, files: dict[str, Any]) -> None:
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path}: missing, expected {expected['bytes']} bytes")
        found = _file_entry(path)
        if found != expected:
            raise CheckpointError(
                f"{path}: {found['bytes']} bytes with digest {found['sha256'][:16]}, expected "
                f"{expected['bytes']} bytes with digest {expected['sha256'][:16]}"
            )


def _commit(folder: Path, files: dict[str, Any]) -> None:
    """Write the marker: its own digest, then sizes and digests of the files, renamed into place."""
    body = json.dumps(files, indent=1)
    pending = folder / (MARKER + ".tmp")
    with pending.open("w") as handle:
        handle.write(hashlib.sha256(body.encode()).hexdigest() + "\n" + body)
        handle.flush()
        os.fsync(handle.fileno())
    pending.rename(folder / MARKER)


def _read_marker(path: Path) -> dict[str, Any]:
    digest, _, body = path.read_bytes().partition(b"\n")
    if digest.decode(errors="replace") != hashlib.sha256(body).hexdigest():
        raise CheckpointError(f"{path}: damaged (its digest does not fit its text)")
    return json.loads(body)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from error

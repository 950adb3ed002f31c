"""Sharded checkpoints that count only once every file has been checked.

    checkpoints/step-00000200/
        rank-00000.safetensors   this rank's fragments: "KEY|parameter|start" -> flat fp32, and its counters
        state.json               step counters, journal offset, data fingerprint, shapes, world size, config
        COMMITTED                sizes and sha256 of the files above; written last, renamed into place

A save that is killed leaves a folder without COMMITTED, which resume passes over and says so. Fragments carry
their own addresses, so any ZeRO stage and world size can load them. Nothing is unpickled. writer.py writes
them, retention.py says which of them stay.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch import Tensor

from adit_scale.errors import CheckpointError

FORMAT_VERSION = 1
MARKER = "COMMITTED"
STATE_FILE = "state.json"
FOLDERS = "step-*"
# Events of a resumed run's journal that an uninterrupted run's does not have.
REJECTED, PASSED_OVER, RESUMED_WITH = "checkpoint_rejected", "checkpoint_passed_over", "settings_changed"
RESUME_EVENTS = (REJECTED, PASSED_OVER, RESUMED_WITH)


@dataclass
class TrainState:
    """Everything of a run that is not a tensor. ``step``: steps done, skipped ones included.

    validation: values of the validation made at this very step, if there was one. tags: what the step is kept
    for. time_s: when it was saved, seconds since 1970. data: what an exported model says of its data.
    autoencoder: digest of the frozen autoencoder's weights. recent_losses: of the last logged intervals,
    against which spikes show; spikes: how many did.
    cursor: where the next step begins in the order of the data; without it a resumed run walks there.
    """

    step: int = 0
    applied_steps: int = 0
    skipped_in_a_row: int = 0
    atoms_seen: int = 0
    sets_seen: int = 0
    flops: float = 0.0
    flops_total: float = 0.0
    recent_losses: list[float] = field(default_factory=list)
    spikes: int = 0
    journal_offset: int = 0
    cursor: dict[str, int] = field(default_factory=dict)
    fingerprint: str = ""
    world_size: int = 1
    stage: str = ""
    autoencoder: str = ""
    time_s: float = 0.0
    tags: list[str] = field(default_factory=list)
    validation: dict[str, float] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    shapes: dict[str, list[int]] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def taken_up_by(self, now: TrainState) -> TrainState:
        """This state for a run that describes itself as ``now`` does."""
        return replace(
            self, config=now.config, world_size=now.world_size, data=now.data, autoencoder=now.autoencoder
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)


def step_folder(root: Path, step: int) -> Path:
    return root / f"step-{step:08d}"


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def rank_file(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"


def folders(root: Path) -> list[Path]:
    """Folders of all attempts to save, newest first."""
    found = [p for p in root.glob(FOLDERS) if p.name.removeprefix("step-").isdigit()]
    return sorted(found, key=step_of, reverse=True)


def is_committed(folder: Path) -> bool:
    return (folder / MARKER).is_file()


def committed(root: Path) -> list[Path]:
    """Folders of committed checkpoints, newest first."""
    return [folder for folder in folders(root) if is_committed(folder)]


def read_state(folder: Path) -> TrainState:
    """The state of a checkpoint, its other files unread. Raises CheckpointError."""
    path = folder / STATE_FILE
    record = _read_json(path)
    version = record.get("format_version") if isinstance(record, dict) else None
    unknown = sorted(set(record) - {f.name for f in fields(TrainState)}) if version == FORMAT_VERSION else []
    if version != FORMAT_VERSION or unknown:
        found = f"unknown field {unknown[0]!r}" if unknown else f"format version {version}"
        raise CheckpointError(
            f"{path}: {found}, expected format version {FORMAT_VERSION}; resume with the version of "
            "adit_scale that wrote it"
        )
    return TrainState(**record)


def verify(folder: Path, share: int = 0, shares: int = 1) -> int:
    """Check every file of a committed checkpoint against the marker's digests; returns their bytes.

    share: of the files, dealt out over so many ``shares``. Raises CheckpointError naming the first file that
    is missing or differs.
    """
    if not is_committed(folder):
        raise CheckpointError(
            f"{folder / MARKER}: missing: the save was cut short; expected a committed checkpoint, so take "
            "the one before"
        )
    files = read_marker(folder / MARKER)
    _check_files(folder, dict(list(files.items())[share::shares]))
    return sum(entry["bytes"] for entry in files.values())


class Checkpoint:
    """A committed checkpoint, verified file by file when opened. Raises CheckpointError naming the file.

    share, shares: as in ``verify``, where several ranks open it.
    """

    def __init__(self, folder: Path, share: int = 0, shares: int = 1):
        self.folder = folder
        verify(folder, share, shares)
        self.state = read_state(folder)
        self._files = [_open_tensors(folder / rank_file(rank)) for rank in range(self.state.world_size)]
        # (key, parameter) -> [(start, length, tensor name, file)]
        self._ranges: dict[tuple[str, str], list[tuple[int, int, str, Any]]] = {}
        for file in self._files:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                key, parameter, start = name.split("|")
                if key != "counter":
                    length = file.get_slice(name).get_shape()[0]
                    self._ranges.setdefault((key, parameter), []).append((int(start), length, name, file))

    def check_fits(self, now: TrainState) -> None:
        """Raises CheckpointError unless a run of this fresh state may go on from here."""
        self.check_model({name: torch.Size(shape) for name, shape in now.shapes.items()})
        self.check_data(now.fingerprint)
        self.check_precision(now.config["parallel"]["precision"])
        self.check_autoencoder(now.autoencoder)
        self.check_order(now.config, now.stage)

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

    def check_autoencoder(self, digest: str) -> None:
        """Raises CheckpointError when the frozen autoencoder is another one than before."""
        saved = self.state.autoencoder
        if saved and saved != digest:
            raise CheckpointError(
                f"{self.folder}: trained on latents of autoencoder {saved[:16]}, to be resumed with "
                f"{digest[:16] or 'none'}; expected the same weights (restore them, or use a new run folder)"
            )

    def check_order(self, config: dict[str, Any], stage: str) -> None:
        """Raises CheckpointError when a setting differs that decides which sets a step holds."""
        for key in ("seed", f"{stage}.atom_budget", "data.repeat", "data.domain", "data.domain_match"):
            saved, given = _at(self.state.config, key), _at(config, key)
            if saved is not None and saved != given:
                raise CheckpointError(
                    f"{self.folder}: {key} was {saved} and is {given} now; the order of the data would "
                    f"change: set {key}={saved} or use a new run folder"
                )

    def changed_settings(self, config: dict[str, Any], group: str) -> dict[str, str]:
        """Settings of a group that differ from those of the checkpoint: key -> "before -> now"."""
        saved, given = (_flat(c.get(group, {}), f"{group}.") for c in (self.state.config, config))
        return {
            key: f"{saved[key]} -> {given[key]}"
            for key in sorted(saved.keys() & given.keys())
            if saved[key] != given[key]
        }

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


class Problem(NamedTuple):
    """A checkpoint that is not taken up: the name of its event, and why."""

    event: str
    text: str


def open_newest(root: Path) -> tuple[Checkpoint | None, list[Problem]]:
    """The newest committed checkpoint that passes its check, and what was wrong with newer ones.

    None only where no checkpoint was ever committed; saves that were cut short are among the problems then
    too. Raises CheckpointError when all committed ones are damaged: a run never starts over in silence.
    A collective call where there are several ranks: they check the files together and take the same one.
    """
    problems: list[Problem] = []
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    for folder, marked in _from_rank_0([(folder, is_committed(folder)) for folder in folders(root)]):
        if not marked:
            text = f"{folder}: no {MARKER} marker, its save was cut short: passed over"
            problems.append(Problem(PASSED_OVER, text))
            continue
        found, problem = None, None
        try:
            found = Checkpoint(folder, rank, world_size)
        except CheckpointError as error:
            problem = str(error)
        problem = _first_problem(problem)
        if problem is None:
            return found, problems
        problems.append(Problem(REJECTED, problem))
    damaged = [problem.text for problem in problems if problem.event == REJECTED]
    if damaged:
        raise CheckpointError(
            f"{root}: no committed checkpoint passes its check; {damaged[0]}; "
            "restore the file, or delete the checkpoints folder to start over"
        )
    return None, problems


def commit(folder: Path, files: dict[str, Any]) -> None:
    """Write the marker: its own digest, then sizes and digests of the files, renamed into place."""
    body = json.dumps(files, indent=1)
    replace_synced(folder / MARKER, f"{hashlib.sha256(body.encode()).hexdigest()}\n{body}".encode())


def replace_synced(path: Path, content: bytes) -> dict[str, Any]:
    """Write a small file that is whole when it is there, even after a power cut. Returns its entry."""
    pending = path.with_name(path.name + ".part")
    with pending.open("wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())
    pending.rename(path)
    sync_folder(path.parent)
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to disk: a rename counts only then."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _from_rank_0(value: Any) -> Any:
    if not dist.is_initialized():
        return value
    parts = [value]
    dist.broadcast_object_list(parts, src=0)
    return parts[0]


def _first_problem(problem: str | None) -> str | None:
    """The first rank's that has one. A collective call where there are several ranks."""
    if not dist.is_initialized():
        return problem
    problems: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(problems, problem)
    return next((p for p in problems if p is not None), None)


def _open_tensors(path: Path) -> Any:
    try:
        return safe_open(str(path), "pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors: {error}") from error


def _file_entry(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
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


def read_marker(path: Path) -> dict[str, Any]:
    """The files of a checkpoint, each with its bytes and sha256. Raises CheckpointError."""
    digest, _, body = path.read_bytes().partition(b"\n")
    if digest.decode(errors="replace") != hashlib.sha256(body).hexdigest():
        raise CheckpointError(f"{path}: damaged (its digest does not fit its text)")
    return json.loads(body)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from error


def _at(tree: dict[str, Any], key: str) -> Any:
    """The value at a dotted key, None where there is none."""
    value: Any = tree
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _flat(tree: dict[str, Any], above: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value}
    return flat

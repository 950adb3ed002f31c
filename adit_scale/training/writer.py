"""Writing checkpoints behind the training steps.

A save is a snapshot and a background write. The snapshot copies this rank's tensors into one buffer of host
memory, kept from save to save, laid out as the safetensors file it will become. The background thread writes
the file, reads it back, and leaves ``rank-XXXXX.json`` with its size and digest; rank 0's thread waits for
these entries, commits, and prunes. It uses no collectives: they belong to the main threads, which agree on
the outcome of a save when the next one begins, or when the run ends. So at most one save is in flight.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from adit_scale.errors import CheckpointError, one_line, size_text
from adit_scale.training import checkpoint
from adit_scale.training.checkpoint import STATE_FILE, TrainState
from adit_scale.training.retention import Policy, clear_uncommitted, prune, remove

DTYPES = {torch.float64: "F64", torch.int64: "I64", torch.float32: "F32"}
CHUNK_BYTES = 16 << 20
POLL_S = 0.02
LAST_WORDS_S = 60.0  # how long a run that fails lets its last save finish


class CheckpointWriter:
    """Saves checkpoints under ``root``. ``background=False``: a save returns when it is committed.

    As a context manager it ends with the commit of the last save.
    """

    def __init__(
        self, root: Path, device: torch.device, policy: Policy | None = None, background: bool = True
    ) -> None:
        self.root, self.policy, self.background = root, policy or Policy(), background
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.stalled_s = 0.0  # of the training thread, in all saves
        self.n_saves = 0
        self._snapshot = Snapshot(device)
        self._save: _Save | None = None

    def save(self, state: TrainState, tensors: dict[str, Tensor]) -> None:
        """Take a snapshot of this rank's tensors and begin to write it. A collective call.

        Raises CheckpointError on every rank when the save before failed, or when the disk has no room for
        this one.
        """
        begin = time.monotonic()
        self.wait()
        folder = checkpoint.step_folder(self.root, state.step)
        n_bytes = self._snapshot.plan(tensors)
        self._make_room(folder, n_bytes)
        self._snapshot.take(tensors)
        save = _Save(folder, state.to_json().encode() if self.rank == 0 else b"", state.step)
        self._save = save
        threading.Thread(target=self._run, args=(save,), name="checkpoint", daemon=True).start()
        self.n_saves += 1
        self.stalled_s += time.monotonic() - begin
        if not self.background:
            self.wait()

    def before_update(self) -> None:
        """Call before weights or moments change: they may still be on their way into the snapshot."""
        self._snapshot.hold_back()

    def wait(self) -> None:
        """Until the save in flight is committed. A collective call.

        Raises CheckpointError on every rank where any rank could not write; the checkpoint before stands.
        """
        save, self._save = self._save, None
        if save is None:
            return
        begin = time.monotonic()
        save.written.wait()
        self._agree(save)  # before rank 0 is waited for: it may be waiting for a file that will never come
        save.committed.wait()
        self._agree(save)
        self.stalled_s += time.monotonic() - begin

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.wait()
        elif self._save is not None:  # ranks may have failed apart, so no collective
            self._save.committed.wait(LAST_WORDS_S)

    # -- on the main thread --------------------------------------------------------------------------------

    def _make_room(self, folder: Path, n_bytes: int) -> None:
        """Remove what killed saves left, make the folder, and check that all ranks' files will fit."""
        problem: str | None = None
        free_bytes = 0
        if self.rank == 0:
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                clear_uncommitted(self.root)
                remove(folder)  # the same step of before
                free_bytes = shutil.disk_usage(self.root).free
                folder.mkdir()
            except OSError as error:
                problem = one_line(error)
        parts: list[Any] = [None] * self.world_size
        dist.all_gather_object(parts, (n_bytes, free_bytes, problem))
        needed, (_, free, problem) = sum(part[0] for part in parts), parts[0]
        if problem is None and needed <= free:
            return
        if problem is None:
            if self.rank == 0:
                folder.rmdir()
            sizes = f"it needs {size_text(needed)}, {size_text(free)} are free"
            problem = f"{sizes}; free some space, or lower keep_checkpoints"
        raise CheckpointError(f"{folder}: the checkpoint was not written: {problem}")

    def _agree(self, save: _Save) -> None:
        problems: list[Any] = [None] * self.world_size
        dist.all_gather_object(problems, save.problem)
        problem = next((p for p in problems if p is not None), None)
        if problem is not None:
            save.given_up.set()
            raise CheckpointError(
                f"{save.folder}: the checkpoint could not be written: {problem}; the one before stands"
            )

    # -- in the background ---------------------------------------------------------------------------------

    def _run(self, save: _Save) -> None:
        try:
            save.problem = f"rank {self.rank}: its writing thread broke off"  # unless it comes further
            try:
                path = save.folder / checkpoint.rank_file(self.rank)
                entry = {path.name: write_checked(path, self._snapshot.content())}
                checkpoint.replace_synced(_entry_path(save.folder, self.rank), json.dumps(entry).encode())
            except OSError as error:
                save.problem = f"rank {self.rank}: {one_line(error)}"
                return
            save.problem = None
            save.written.set()
            if self.rank == 0:
                self._commit(save)
        finally:
            save.written.set()
            save.committed.set()

    def _commit(self, save: _Save) -> None:
        """Rank 0: wait for every rank's entry, look at every file, mark the folder, prune."""
        try:
            files: dict[str, Any] = {}
            for rank in range(self.world_size):
                path = _entry_path(save.folder, rank)
                while not path.is_file():
                    if save.given_up.wait(POLL_S):
                        return
                files |= json.loads(path.read_bytes())
            for name, entry in files.items():
                found = (save.folder / name).stat().st_size
                if found != entry["bytes"]:
                    save.problem = f"{name} has {found} bytes, expected {entry['bytes']}"
                    return
            files[STATE_FILE] = checkpoint.replace_synced(save.folder / STATE_FILE, save.state_json)
            checkpoint.commit(save.folder, files)
            checkpoint.sync_folder(self.root)
        except OSError as error:
            save.problem = f"rank 0: {one_line(error)}"
            return
        for rank in range(self.world_size):  # the marker holds them all
            _entry_path(save.folder, rank).unlink(missing_ok=True)
        prune(self.root, save.step, self.policy)


class _Save:
    """One save in flight. problem: why it failed; valid once ``written`` (rank 0: ``committed``) is set."""

    def __init__(self, folder: Path, state_json: bytes, step: int) -> None:
        self.folder, self.state_json, self.step = folder, state_json, step
        self.problem: str | None = None
        self.written, self.committed, self.given_up = threading.Event(), threading.Event(), threading.Event()


class Snapshot:
    """A rank's tensors as the bytes of a safetensors file, in host memory that is kept for the next one."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pinned = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._pinned else None
        self._copied: torch.cuda.Event | None = None
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._header = b""
        self._places: dict[str, tuple[int, int]] = {}
        self._n_bytes = 0

    def plan(self, tensors: dict[str, Tensor]) -> int:
        """Lay the file out; returns its bytes."""
        # Wide types first, so that every tensor is aligned; the format allows no gaps.
        order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
        self._places, end = {}, 0
        table: dict[str, Any] = {}
        for name in order:
            t = tensors[name]
            begin, end = end, end + t.numel() * t.element_size()
            self._places[name] = (begin, end)
            table[name] = {"dtype": DTYPES[t.dtype], "shape": list(t.shape), "data_offsets": [begin, end]}
        text = json.dumps(table, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._header = len(text).to_bytes(8, "little") + text
        self._n_bytes = end
        return len(self._header) + end

    def take(self, tensors: dict[str, Tensor]) -> None:
        """Copy the tensors. On CUDA the copies run on a stream of their own behind the work so far."""
        if self._buffer.numel() < self._n_bytes:
            room = self._n_bytes + (1 << 20)  # running sums come and go between saves
            self._buffer = torch.empty(room, dtype=torch.uint8, pin_memory=self._pinned)
        if self._stream is None:
            self._copy(tensors)
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            self._copy(tensors)
            self._copied = torch.cuda.Event()
            self._copied.record()
        for tensor in tensors.values():
            tensor.record_stream(self._stream)  # its memory is not handed out before the copy is done

    def hold_back(self) -> None:
        """Make the device wait with what comes next until the copies are done; the host does not wait."""
        if self._copied is not None:
            torch.cuda.current_stream(self._device).wait_event(self._copied)

    def content(self) -> list[memoryview]:
        """The file's bytes in order, once the copies are done."""
        if self._copied is not None:
            self._copied.synchronize()
        return [memoryview(self._header), self._buffer.numpy().data[: self._n_bytes]]

    def _copy(self, tensors: dict[str, Tensor]) -> None:
        for name, (begin, end) in self._places.items():
            source = tensors[name].detach()
            target = self._buffer[begin:end].view(source.dtype).view(source.shape)
            target.copy_(source, non_blocking=self._pinned)


def write_checked(path: Path, parts: list[memoryview]) -> dict[str, Any]:
    """Write a file, force it to disk, read it back, rename it into place. Returns its size and digest."""
    pending = path.with_name(path.name + ".part")
    digest, n_bytes = hashlib.sha256(), 0
    with pending.open("w+b", buffering=0) as handle:
        for chunk in _chunks(parts):
            done = 0
            while done < len(chunk):
                done += handle.write(chunk[done:]) or 0
            digest.update(chunk)
            n_bytes += len(chunk)
        os.fsync(handle.fileno())
        if hasattr(os, "posix_fadvise"):  # else the check would read memory, not the disk
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with pending.open("rb") as handle:
        for chunk in _chunks(parts):
            found = handle.read(len(chunk))
            if not np.array_equal(np.frombuffer(found, np.uint8), np.asarray(chunk)):
                raise OSError(None, "reads back other bytes than were written", str(path))
    pending.rename(path)
    return {"bytes": n_bytes, "sha256": digest.hexdigest()}


def _chunks(parts: list[memoryview]) -> list[memoryview]:
    return [part[i : i + CHUNK_BYTES] for part in parts for i in range(0, len(part), CHUNK_BYTES)]


def _entry_path(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank:05d}.json"

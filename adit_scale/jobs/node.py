"""A node's folder: what it is to do (node.json, config.yaml), and how it ended (DONE.json or FAILED.json).

The folder is the only link between a launcher and its jobs, so that a job can run on another machine and a
study can be taken up again after anything. Markers are renamed into place: a marker that exists is whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adit_scale.errors import AditError, DataError

RUNNING = ".running"
LOOK_S = 1.0  # longer than anybody who only looks (``is_running``) holds the lock
ATTEMPT = "-- started "  # begins the line in a log where a new attempt starts
NODE, CONFIG, DONE, FAILED, LOG = "node.json", "config.yaml", "DONE.json", "FAILED.json", "log.txt"


class NodeBusy(AditError):
    """The node is being run by another process."""


@dataclass(frozen=True)
class Result:
    """What a job leaves behind: files others will read, and values for DONE.json."""

    outputs: tuple[Path, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class NodeFolder:
    """``inputs``: name -> folder of the node it comes from, in the order they were given.

    start_from: of a decay branch outside a study, the trunk's checkpoint (training/branches.py).
    tags: of its run in MLflow. points: of a report, its points' places on the axes: label -> axis -> value.
    """

    path: Path
    kind: str
    id: str
    label: str
    study: str
    inputs: Mapping[str, Path]
    optional_inputs: bool = False
    start_from: Path | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    points: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.kind} {self.label}".strip()

    @staticmethod
    def load(path: Path) -> NodeFolder:
        """Raises DataError where ``path`` is not a node's folder."""
        keys = ("kind", "id", "label", "study", "inputs", "optional_inputs")
        record = _read_json(path / NODE, "a folder that launch.py made", keys)
        return NodeFolder(
            path=path,
            kind=record["kind"],
            id=record["id"],
            label=record["label"],
            study=record["study"],
            inputs={name: Path(folder) for name, folder in record["inputs"].items()},
            optional_inputs=record["optional_inputs"],
            start_from=Path(record["start_from"]) if record.get("start_from") else None,
            tags=record.get("tags", {}),
            points=record.get("points", {}),
        )

    def save(self) -> None:
        """Write node.json into an existing folder."""
        record = {
            "kind": self.kind,
            "id": self.id,
            "label": self.label,
            "study": self.study,
            "inputs": {name: str(folder) for name, folder in self.inputs.items()},
            "optional_inputs": self.optional_inputs,
        }
        if self.start_from is not None:
            record["start_from"] = str(self.start_from)
        if self.tags:
            record["tags"] = dict(self.tags)
        if self.points:
            record["points"] = {label: dict(axes) for label, axes in self.points.items()}
        _replace_json(self.path / NODE, record)

    def finished_inputs(self) -> dict[str, Path]:
        return {name: folder for name, folder in self.inputs.items() if (folder / DONE).is_file()}

    def verify_inputs(self) -> None:
        """Check every output of every input against the digest its DONE.json holds.

        Optional inputs are passed over: a report reads their journals and DONE.json, not their outputs, and
        one point's damaged weights must not cost the report of the others. Raises DataError naming the file,
        the expected and the found digest.
        """
        if self.optional_inputs:
            return
        for name, folder in self.inputs.items():
            for output, expected in read_done(folder)["outputs"].items():
                path = folder / output
                found = file_digest(path) if path.is_file() else "no file"
                if found != expected:
                    raise DataError(
                        f"{path}: input {name!r} of {self.path.name} has digest {found}; expected {expected} "
                        f"as {folder / DONE} recorded it; remove that DONE.json to make it again"
                    )

    def succeed(self, result: Result, wall_s: float) -> None:
        """Write DONE.json: digests of the outputs, the inputs that were used, and the result's values."""
        record = {
            "kind": self.kind,
            "id": self.id,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "wall_s": round(wall_s, 3),
            "inputs": {name: result_digest(folder) for name, folder in self.finished_inputs().items()},
            "outputs": {self._relative(path): file_digest(path) for path in result.outputs},
            **result.values,
        }
        (self.path / FAILED).unlink(missing_ok=True)
        _replace_json(self.path / DONE, record)

    def fail(self, reason: str, wall_s: float, final: bool = False) -> None:
        """Write FAILED.json with one line that says why. final: another try would meet the same."""
        record = {"kind": self.kind, "id": self.id, "reason": reason, "wall_s": round(wall_s, 3)}
        _replace_json(self.path / FAILED, {**record, "final": final})

    def is_done(self) -> bool:
        return is_done(self.path, self.id, self.inputs, self.optional_inputs)

    def _relative(self, path: Path) -> str:
        """Relative to the node's folder where inside it; outside it an absolute path."""
        absolute, root = path.absolute(), self.path.absolute()
        return str(absolute.relative_to(root)) if absolute.is_relative_to(root) else str(absolute)


def read_done(folder: Path) -> dict[str, Any]:
    """DONE.json of a finished node. Raises DataError."""
    return _read_json(folder / DONE, "the marker of a finished node", ("id", "inputs", "outputs"))


def result_digest(folder: Path) -> str:
    """sha256 over the outputs of a finished node: what its consumers were made from."""
    record = read_done(folder)
    text = json.dumps([record["id"], record["outputs"]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def is_done(folder: Path, id_: str, inputs: Mapping[str, Path], optional_inputs: bool) -> bool:
    """Finished, with its outputs still there, from the results its inputs have now.

    An input that is being made again does not undo its consumers unless its result then differs; a report is
    done only while every input that finished is in it.
    """
    if not (folder / DONE).is_file():
        return False
    record = read_done(folder)
    if record["id"] != id_ or not all((folder / output).exists() for output in record["outputs"]):
        return False
    now = {name: result_digest(source) for name, source in inputs.items() if (source / DONE).is_file()}
    if optional_inputs:
        return bool(record["inputs"] == now)
    return all(record["inputs"].get(name) == digest for name, digest in now.items())


def failed_for_good(folder: Path) -> bool:
    """Whether the node said why it failed, and that another try would meet the same."""
    path = folder / FAILED
    return path.is_file() and bool(_read_json(path, "the marker of a failed node").get("final"))


def failure_reason(folder: Path) -> str | None:
    """Why the node failed, or None where it did not."""
    path = folder / FAILED
    if not path.is_file():
        return None
    return str(_read_json(path, "the marker of a failed node", ("reason",))["reason"])


@contextmanager
def running_lock(folder: Path) -> Iterator[None]:
    """Held while a node runs, so that it never runs twice at once. Raises NodeBusy.

    The operating system drops it when the process ends, however it ends.
    """
    with (folder / RUNNING).open("a") as stream:
        deadline_s = time.monotonic() + LOOK_S
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline_s:
                    message = f"{folder}: another process runs this node; wait for it or stop it"
                    raise NodeBusy(message) from error
                time.sleep(0.05)
        yield


def is_running(folder: Path) -> bool:
    """Whether a process on a machine that shares the folder runs this node now."""
    if not (folder / RUNNING).is_file():
        return False
    with (folder / RUNNING).open("rb") as stream:  # also of somebody else's study
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def file_digest(path: Path) -> str:
    """sha256 of a file, as hex."""
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _read_json(path: Path, what: str, keys: Collection[str] = ()) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected {what}")
    try:
        record = json.loads(path.read_text())
    except ValueError as error:  # no JSON, or not even text
        raise DataError(f"{path}: not JSON ({error}); remove it and launch again") from error
    if not isinstance(record, dict):
        raise DataError(f"{path}: got a {type(record).__name__}; expected {what}")
    if missing := [key for key in keys if key not in record]:
        raise DataError(f"{path}: has no {missing[0]}; expected {what}: remove it and launch again")
    return record


def _replace_json(path: Path, record: dict[str, Any]) -> None:
    """Write and rename, so that no reader ever sees half a file."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(record, indent=1) + "\n")
    part.replace(path)

"""The study as it was last submitted (study.json): what status, logs, retry, cancel, fit and sync go by.

It says which nodes there are and where, so that these verbs need not compose every point of the study again,
and so that settings edited since change nothing.
"""

from __future__ import annotations

import difflib
import getpass
import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from adit_scale.errors import ConfigError, DataError

STUDY = "study.json"


@dataclass(frozen=True)
class NodeRecord:
    """A node of a submitted study. inputs: name -> id. steps: of a training run. size: of a point.

    folder: in another study's folder where that one had finished the node.
    """

    id: str
    kind: str
    label: str
    folder: Path
    inputs: Mapping[str, str]
    optional_inputs: bool = False
    steps: int | None = None
    size: str = ""
    resources: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.kind} {self.label}".strip()


@dataclass(frozen=True)
class StudyRecord:
    """folder: of the study. nodes: in an order in which every node follows its inputs; the report is last.

    words: as launch.py was given them. launcher: local or slurm. tracking: uri (without credentials)
    and experiment. code: tree, git_sha, dirty of what the jobs run.
    """

    folder: Path
    study: str
    hypothesis: str
    words: Sequence[str]
    launcher: str
    tracking: Mapping[str, str]
    nodes: Sequence[NodeRecord]
    code: Mapping[str, Any] = field(default_factory=dict)
    submitted: str = ""
    user: str = ""
    host: str = ""

    @staticmethod
    def load(folder: Path) -> StudyRecord:
        """Raises ConfigError where no study was submitted, DataError where study.json is damaged."""
        path = folder / STUDY
        if not path.is_file():
            raise ConfigError(
                f"{folder}: no study was submitted here (no {STUDY}); submit it, or set runs or sweep"
            )
        cure = "launch the study again with its own words, which writes it anew"
        try:
            record = json.loads(path.read_text())
        except ValueError as error:  # no JSON, or not even text
            raise DataError(f"{path}: not JSON ({error}); {cure}") from error
        try:
            nodes = [
                NodeRecord(**{**node, "folder": Path(os.path.normpath(folder / node["folder"]))})
                for node in record.pop("nodes")
            ]
            found = StudyRecord(folder, nodes=tuple(nodes), **record)
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not of this version ({error}); {cure}") from error
        if not found.nodes:
            raise DataError(f"{path}: has no nodes; {cure}")
        return found

    def save(self) -> None:
        """Write study.json, signed with user, machine and time, and rename it into place."""
        record = asdict(self)
        record.pop("folder")
        for node in record["nodes"]:
            node["folder"] = os.path.relpath(node["folder"], self.folder)
        record |= {
            "submitted": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "user": getpass.getuser(),
            "host": socket.gethostname(),
        }
        part = self.folder / f".{STUDY}.{os.getpid()}"
        part.write_text(json.dumps(record, indent=1) + "\n")
        part.replace(self.folder / STUDY)

    def find(self, name: str) -> list[NodeRecord]:
        """The nodes that a person means by ``name``: a point (all its nodes), a kind, a kind with a label, or
        a folder. Raises ConfigError, with what is close."""
        found = [
            node
            for node in self.nodes
            if name
            in (node.label, node.kind, node.name, node.folder.name, f"{node.kind}-{node.label}", node.id[:8])
        ]
        if not found:
            known = list(
                dict.fromkeys([n.label for n in self.nodes if n.label] + [n.kind for n in self.nodes])
            )
            close = difflib.get_close_matches(name, known, n=3) or known[:8]
            raise ConfigError(
                f"{name}: no such point or job in study {self.study}; expected such as {', '.join(close)}"
            )
        return found

    def descendants(self, ids: set[str]) -> set[str]:
        """ids, and all nodes made from any of them."""
        found = set(ids)
        for node in self.nodes:
            if found & set(node.inputs.values()):
                found.add(node.id)
        return found

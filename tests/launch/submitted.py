"""Submitted studies in folders: nodes with the markers, ledgers and journals that jobs leave."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from adit_scale.jobs.attempts import ATTEMPTS
from adit_scale.jobs.node import NodeFolder, Result
from launchers.record import NodeRecord, StudyRecord
from launchers.survey import JobRow, survey

SUBMISSION = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"


class Submitted:
    """shards -> autoencoder -> two points, a and b, of 100 steps -> report; nothing has run yet."""

    def __init__(self, folder: Path, launcher: str = "local", gpus: int = 0, labels: str = "ab") -> None:
        self.folder = folder
        resources = {"nodes": 1, "tasks_per_node": 2, "gpus_per_node": gpus}
        self.nodes: dict[str, NodeRecord] = {}

        def add(kind: str, label: str, inputs: list[str], steps: int | None = None) -> None:
            name = f"{kind} {label}".strip()
            place = folder / name.replace(" ", "-")
            place.mkdir(parents=True)
            sources = {i.replace(" ", "/"): self.nodes[i].id for i in inputs}
            more = {"optional_inputs": kind == "report", "steps": steps, "resources": resources}
            self.nodes[name] = NodeRecord(f"id-{name}", kind, label, place, sources, **more)

        add("shards", "", [])
        add("autoencoder", "", ["shards"], 50)
        for label in labels:
            add("diffusion", label, ["shards", "autoencoder"], 100)
            add("evaluation", label, ["autoencoder", f"diffusion {label}"])
        add("report", "", [name for name in self.nodes if name not in ("shards", "autoencoder")])
        nodes = tuple(self.nodes.values())
        StudyRecord(folder, "demo", "", (), launcher, {"uri": "", "experiment": ""}, nodes).save()

    def node(self, name: str) -> NodeFolder:
        record = self.nodes[name]
        inputs = {source: self.nodes[source.replace("/", " ")].folder for source in record.inputs}
        return NodeFolder(
            record.folder, record.kind, record.id, record.label, "demo", inputs, record.optional_inputs
        )

    def finish(self, *names: str, **values: Any) -> None:
        for name in names:
            node = self.node(name)
            (node.path / "out.txt").write_text(name)
            node.succeed(Result((node.path / "out.txt",), values), 10.0)

    def ledger(self, name: str, job: str, user: str, submission: str = SUBMISSION) -> None:
        record = {"job": job, "submission": submission, "submitted": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        (self.nodes[name].folder / "slurm_job.json").write_text(json.dumps({**record, "user": user}))

    def attempt(
        self,
        name: str,
        start_s: float,
        end_s: float | None = None,
        outcome: str = "",
        reason: str = "",
        **more: Any,
    ) -> None:
        start = {"event": "start", "time": start_s, "job": "", "host": "h", "nodes": "", "tasks": 1, **more}
        end = {"event": "end", "time": end_s, "code": 1, "outcome": outcome, "reason": reason, "saved": 0}
        with (self.nodes[name].folder / ATTEMPTS).open("a") as stream:
            stream.writelines(json.dumps(record) + "\n" for record in ([start, end] if end_s else [start]))

    def row(self, name: str) -> JobRow:
        return self.rows()[name]

    def rows(self) -> dict[str, JobRow]:
        return {row.record.name: row for row in survey(StudyRecord.load(self.folder)).rows}

    def states(self) -> dict[str, str]:
        return {name: row.state for name, row in self.rows().items()}

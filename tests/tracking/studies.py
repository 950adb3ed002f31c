"""Folders of a study as the launcher and its jobs write them, and a store's contents beside them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from adit_scale.tracking.journal import FILE_NAME, Journal, read_run

KEYS = tuple(f"train/m{i}" for i in range(8))
GIT_SHA = "4112f70"


def make_study(folder: Path, labels: Sequence[str]) -> list[Path]:
    """Folders of a diffusion node a label and of the report, with study.json; returns the diffusion nodes."""
    nodes = {label: folder / f"diffusion-{label}-1a2b3c4d" for label in labels}
    report = folder / "report-1a2b3c4d"
    for label, node in nodes.items():
        _write_node(node, "diffusion", label, {})
    inputs = {f"diffusion/{label}": str(node) for label, node in nodes.items()}
    _write_node(report, "report", "", inputs, optional_inputs=True)
    record = {
        "study": folder.name,
        "hypothesis": "larger is better",
        "launcher": "slurm",
        "submitted": "2026-11-22T12:00:00+0000",
        "user": "ana",
        "code": {"git_sha": GIT_SHA, "dirty": False},
        "nodes": [{"folder": node.name} for node in (*nodes.values(), report)],
    }
    (folder / "study.json").write_text(json.dumps(record))
    return list(nodes.values())


def _write_node(node: Path, kind: str, label: str, inputs: dict[str, str], **more: object) -> None:
    node.mkdir(parents=True)
    tags = {"adit.kind": kind, "adit.size": label, "adit.seed": "0", "adit.git_sha": GIT_SHA}
    record = {"kind": kind, "label": label, "id": f"1a2b3c4d{label}", "study": node.parent.name}
    (node / "node.json").write_text(json.dumps(record | {"inputs": inputs, "tags": tags} | more))


def attempt(node: Path, **record: object) -> None:
    with (node / "attempts.jsonl").open("a") as stream:
        stream.write(json.dumps({"time": 1.0, **record}) + "\n")


def log_steps(journal: Journal, steps: range, time_s: float = 1000.0) -> None:
    for step in steps:
        values = {key: (i + 1) / (step + 3) for i, key in enumerate(KEYS)}
        journal.log_metrics(step, values, {"time_s": time_s + step, "atoms_per_s": 5.0})
    journal.flush()


def runs_of(client: MlflowClient, experiment: str) -> dict[str, list[Run]]:
    """Active runs of an experiment by name."""
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    runs: dict[str, list[Run]] = {}
    for run in client.search_runs([found.experiment_id], max_results=1000):
        runs.setdefault(run.info.run_name, []).append(run)
    return runs


def lost_and_doubled(client: MlflowClient, run: Run, folder: Path) -> tuple[int, int]:
    """Values of the journals in ``folder`` that the run lacks, and those it has more than once or wrongly."""
    expected: Counter[tuple[str, int, float]] = Counter()
    for record in read_run(folder / FILE_NAME):
        if record["kind"] == "metrics":
            clock = {f"clock/{key}": value for key, value in record["clock"].items() if key != "time_s"}
            expected.update((key, record["step"], v) for key, v in {**record["values"], **clock}.items())
    found: Counter[tuple[str, int, float]] = Counter()
    for key in {key for key, _, _ in expected} | set(run.data.metrics):
        found.update((key, p.step, p.value) for p in client.get_metric_history(run.info.run_id, key))
    return sum((expected - found).values()), sum((found - expected).values())

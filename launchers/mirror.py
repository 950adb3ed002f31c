"""A study in MLflow: one parent run, every job's journal nested below it."""

from __future__ import annotations

from pathlib import Path

from adit_scale.jobs.node import read_done
from adit_scale.tracking.config import without_credentials
from launchers.compose import Study
from launchers.graph import Graph, Node

TRAINING = ("autoencoder", "diffusion")
PICTURES = "pictures"  # folder of an evaluation node
MLFLOW_STATUS = {"done": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


class Mirror:
    """``start`` first, ``add`` and ``end`` with each node, ``finish`` with the report."""

    def __init__(self, study: Study, graph: Graph) -> None:
        # MLflow takes over a second to import: not before something is run.
        from adit_scale.tracking.tailer import Tailer

        tracking = study.config.tracking
        self._graph = graph
        self._tailer = Tailer(tracking.uri, tracking.experiment)
        self._parent = self._tailer.start_parent(
            graph.study,
            {"adit.folder": str(graph.folder), "adit.hypothesis": study.config.sweep.hypothesis},
        )
        self._handles: dict[str, str] = {}

    def start(self, done: list[Node]) -> None:
        """Mirror in the background, what earlier launches finished included."""
        for node in done:
            self.add(node)
            if node.id in self._handles:
                self._copy_pictures(node)
        self._tailer.start()

    def add(self, node: Node) -> None:
        """Nest the node's journal under the study; nodes without a journal have no run."""
        if node.kind not in (*TRAINING, "reference", "evaluation"):
            return
        tags = {
            "adit.kind": node.kind,
            "adit.label": node.label,
            "adit.id": node.id,
            "adit.size": node.config.model.denoiser.name if node.label else "",
            "adit.seed": str(node.config.seed),
            "adit.data": node.config.data.name,
        }
        name = "-".join(part for part in (node.kind, node.label) if part)
        self._handles[node.id] = self._tailer.add(node.folder, name, tags, self._parent)

    def end(self, node: Node, state: str) -> None:
        if node.id in self._handles:
            self._copy_pictures(node)
            self._tailer.finish(self._handles[node.id], MLFLOW_STATUS[state])

    def _copy_pictures(self, node: Node) -> None:
        """Gallery and figures of an evaluation, as artifacts of its run; the same again changes nothing."""
        if (folder := node.folder / PICTURES).is_dir():
            self._tailer.log_artifacts(self._handles[node.id], folder, PICTURES)

    def finish(self, report: Path | None, status: str) -> None:
        """Copy the report's figures and results to the parent run, end it, and mirror a last time."""
        if report is not None:
            self._tailer.log_artifacts(self._parent, report / "report", "report")
            self._tailer.log_final_metrics(self._parent, read_done(report).get("metrics", {}))
        self._tailer.finish(self._parent, status)
        self._tailer.stop()

    def dashboard_hint(self) -> str:
        """Where to look at what was mirrored."""
        uri, experiment = self._tailer.uri, self._tailer.experiment_id
        if not uri:
            return "tracking is off (tracking=none); the journals and the report are in the study's folder"
        page = f"/#/experiments/{experiment}/runs" if experiment else ""
        if uri.startswith("sqlite:///"):
            return f"dashboard: run `make dashboard`, then open http://localhost:5000{page}"
        return f"dashboard: {without_credentials(uri)}{page}"

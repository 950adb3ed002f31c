"""A study in MLflow, from the local launcher: one parent run, every job's journal nested below it."""

from __future__ import annotations

from adit_scale.tracking.config import usable_uri, without_credentials
from launchers.compose import Study
from launchers.graph import Graph, Node


class Mirror:
    """``start`` first, ``add`` and ``end`` with each node, ``finish`` at the end.

    What a run is called, how it ended and what belongs to it is read from its folder
    (adit_scale/tracking/folders.py), as the jobs of a cluster and ``launch.py sync`` do.
    """

    def __init__(self, study: Study, graph: Graph) -> None:
        # MLflow takes over a second to import: not before something is run.
        from adit_scale.tracking.tailer import Tailer

        tracking = study.config.tracking
        uri = usable_uri(tracking.uri) if tracking.uri else ""
        self._tailer = Tailer(uri, tracking.experiment, artifacts=graph.folder.parent / "artifacts")
        self._parent = self._tailer.start_parent(
            graph.study,
            {"adit.folder": str(graph.folder), "adit.hypothesis": study.config.sweep.hypothesis},
            folder=graph.folder,
        )
        self._handles: dict[str, str] = {}

    def start(self, done: list[Node]) -> None:
        """Mirror in the background, what earlier launches finished included."""
        for node in done:
            self.add(node)
        self._tailer.start()

    def add(self, node: Node) -> None:
        self._handles[node.id] = self._tailer.add_folder(node.folder)

    def end(self, node: Node, state: str) -> None:
        """Its folder says how a node ended, but not that this launcher stopped it."""
        if state == "stopped":
            self._tailer.finish(self._handles[node.id], "KILLED")

    def finish(self, status: str) -> None:
        """End the parent run, and mirror a last time."""
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

"""Graphs of tiny real jobs: each is a process that does what its label says and leaves a node's markers."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from rich.console import Console

from adit_scale.config import StudyConfig
from adit_scale.scaling.config import SweepConfig
from launchers.display import Display
from launchers.graph import Graph, Node, freeze
from launchers.identity import node_id
from launchers.local import LocalRun

# What a job does, by the first word of FOLDER/todo.txt; every run is counted in runs.txt.
JOB = """
import os, signal, sys, time
from pathlib import Path
from adit_scale.errors import AditError
from adit_scale.jobs.node import NodeFolder, Result
node = NodeFolder.load(Path(sys.argv[1]))
begin = time.time()
with (node.path / "runs.txt").open("a") as stream:
    stream.write(f"{begin}\\n")
todo = (node.path / "todo.txt").read_text()
node.verify_inputs()
if todo == "fail":
    print("some talk")
    sys.exit("the disk of the moon is full")
if todo == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if todo == "wait":
    signal.signal(signal.SIGTERM, lambda *_: (print("saved"), sys.exit(75)))
    (node.path / "pid.part").write_text(str(os.getpid()))
    (node.path / "pid.part").rename(node.path / "pid.txt")
    time.sleep(60)
time.sleep(0.1)
(node.path / "out.txt").write_text(node.label)
(node.path / "end.txt").write_text(str(time.time()))
node.succeed(Result((node.path / "out.txt",), {"seen": sorted(node.finished_inputs())}), time.time() - begin)
"""


def make_node(root: Path, label: str, inputs: tuple[Node, ...] = (), todo: str = "", **more) -> Node:
    id_ = node_id("test", {"label": label}, {n.label: n.id for n in inputs})
    config = StudyConfig(sweep=SweepConfig(grid={"model/denoiser": ["dit_s"]}))
    folder = root / f"test-{label}"
    command = (sys.executable, "-c", JOB, str(folder))
    named = {n.label: n for n in inputs}
    node = Node("test", label, id_, folder, config, named, command=command, **more)
    freeze([node], "study")
    (folder / "todo.txt").write_text(todo)
    return node


def diamond(root: Path, left: str = "", right: str = "") -> Graph:
    """top -> left, right -> (left: after_left) -> report of everything."""
    top = make_node(root, "top")
    nodes = [top, make_node(root, "left", (top,), left), make_node(root, "right", (top,), right)]
    nodes.append(make_node(root, "after_left", (nodes[1],)))
    nodes.append(make_node(root, "report", tuple(nodes[1:]), optional_inputs=True))
    return Graph("study", root, tuple(nodes))


def run(graph: Graph, parallel: int = 2, **more) -> dict[str, str]:
    """States by label after one launch."""
    local = LocalRun(graph, parallel, Display(Console(file=io.StringIO())), **more)
    states = local.run()
    return {node.label: states[node.id] for node in graph.nodes}


def n_runs(graph: Graph) -> dict[str, int]:
    counts = {}
    for node in graph.nodes:
        path = node.folder / "runs.txt"
        counts[node.label] = len(path.read_text().splitlines()) if path.is_file() else 0
    return counts

"""The verbs of launch.py: each composes a study from its words and does one thing with it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from adit_scale.data.manifest import MANIFEST_FILE
from adit_scale.jobs.node import LOG, failure_reason, read_done
from adit_scale.scaling.points import (
    PLAN_HEADER,
    EpochContents,
    StudyPoint,
    epoch_contents,
    plan_cells,
    plan_row,
    text_table,
)
from adit_scale.tracking.config import without_credentials
from launchers.compose import Study, compose_study
from launchers.display import Display, training_progress
from launchers.graph import Graph, Node, freeze, is_done, states, study_graph
from launchers.local import LocalRun
from launchers.lock import study_lock


def submit(words: Sequence[str]) -> int:
    """Run, or hand to SLURM, what is left of the study. Raises AditError; returns the exit status."""
    study = compose_study(words)
    graph = study_graph(study.config, study.points, study.folder)
    with study_lock(study.folder) as lock:
        todo = [node for node in graph.nodes if not is_done(node)]
        freeze(todo, graph.study)
        if study.launcher.kind == "slurm":
            return _submit_slurm(study, graph)
        return _run_here(study, graph, todo, lock)


def plan(words: Sequence[str]) -> int:
    """Print the table of points; nothing is run or written."""
    study = compose_study(words)
    epochs: dict[str, EpochContents] = {}
    found: dict[str, str] = {}
    if all(_shards_known(point) for point in study.points):
        graph = study_graph(study.config, study.points, study.folder)
        found = _point_states(graph, study.points)
        for point in study.points:
            data = graph.node_of("diffusion", point.label).config.data
            if (Path(data.shards) / MANIFEST_FILE).is_file():
                epochs[point.label] = epoch_contents(data)
    rows = [
        plan_row(point, epochs.get(point.label), found.get(point.label, "not started"))
        for point in study.points
    ]
    print(f"study {study.config.sweep.name} in {study.folder}\n")
    print(text_table(PLAN_HEADER, plan_cells(rows)))
    if any(row.epochs is None for row in rows):
        print("\n? needs the shards: run the study, or build them with python -m adit_scale.data build")
    return 0


def status(words: Sequence[str]) -> int:
    """Print the state of every job, from the folders alone."""
    study = compose_study(words)
    graph = study_graph(study.config, study.points, study.folder)
    found = states(graph)
    rows = [(node.name, found[node.id], _detail(node, found[node.id])) for node in graph.nodes]
    print(f"study {graph.study} in {graph.folder}\n")
    print(text_table(("job", "state", "detail"), rows))
    return 0


def _run_here(study: Study, graph: Graph, todo: list[Node], lock: int) -> int:
    from launchers.mirror import Mirror

    done = len(graph.nodes) - len(todo)
    print(f"study {graph.study}: {len(graph.nodes)} jobs, {done} done, {len(todo)} to do; {graph.folder}")
    mirror = Mirror(study, graph)
    mirror.start([node for node in graph.nodes if is_done(node)])
    run = LocalRun(graph, study.launcher.parallel, Display(), lock, mirror.add, mirror.end)
    found = run.run()
    report = next((node for node in graph.of_kind("report") if found[node.id] == "done"), None)
    failed = [node for node in graph.nodes if found[node.id] not in ("done", "waiting", "stopped")]
    outcome = "KILLED" if run.stop_signal else "FAILED" if failed else "FINISHED"
    mirror.finish(report.folder if report else None, outcome)
    for node in failed:
        reason = failure_reason(node.folder) if found[node.id] == "failed" else found[node.id]
        print(f"{node.name}: {reason}" + (f" ({node.folder / LOG})" if found[node.id] == "failed" else ""))
    if report:
        print("\n" + read_done(report.folder)["table"])
        print(f"report: {report.folder / 'report'}")
    print(mirror.dashboard_hint())
    if run.stop_signal:
        print(f"stopped; to go on: {_again(study)}")
        return 128 + run.stop_signal
    if failed:
        print(f"{len(failed)} of {len(graph.nodes)} jobs did not finish; to try them again: {_again(study)}")
    return 1 if failed else 0


def _submit_slurm(study: Study, graph: Graph) -> int:
    from launchers.slurm import submit_graph

    jobs = submit_graph(graph, study.launcher)
    for node in graph.nodes:
        print(f"{node.name}: " + (f"job {jobs[node.id]}" if node.id in jobs else "done"))
    print(f"watch with squeue and `{_again(study).replace('launch.py', 'launch.py status', 1)}`")
    return 0


def _again(study: Study) -> str:
    return without_credentials(shlex.join(["python", "launch.py", *study.overrides]))


def _shards_known(point: StudyPoint) -> bool:
    """Whether the point's data can be named now: sources to digest, or shards that stand."""
    data = point.config.data
    return bool(data.sources) or (Path(data.shards) / MANIFEST_FILE).is_file()


def _point_states(graph: Graph, points: Sequence[StudyPoint]) -> dict[str, str]:
    """A point is as far as its evaluation; before that, as its diffusion run."""
    found = states(graph)
    point_states = {}
    for point in points:
        trained = found[graph.node_of("diffusion", point.label).id]
        scored = found[graph.node_of("evaluation", point.label).id]
        state = scored if scored == "done" else "trained" if trained == "done" else trained
        point_states[point.label] = "not started" if state == "waiting" else state
    return point_states


def _detail(node: Node, state: str) -> str:
    if state == "failed":
        return failure_reason(node.folder) or ""
    steps = {"autoencoder": node.config.autoencoder.steps, "diffusion": node.config.diffusion.steps}
    if node.kind in steps and state in ("waiting", "running"):
        return training_progress(node.folder / "journal.jsonl", steps[node.kind])
    return ""

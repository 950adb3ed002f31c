"""The verbs of launch.py: each finds or composes a study from its words and does one thing with it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from adit_scale.errors import ConfigError, DataError
from adit_scale.jobs.attempts import forget_crashes
from adit_scale.jobs.node import FAILED, LOG, failure_reason, read_done
from adit_scale.jobs.notify import study_ended
from adit_scale.tracking.config import without_credentials
from launchers.compose import Study, compose_study, study_folder
from launchers.config import TRAINING
from launchers.display import Display
from launchers.graph import Graph, Node, freeze, is_done, study_graph
from launchers.local import LocalRun
from launchers.lock import study_lock
from launchers.record import STUDY, NodeRecord, StudyRecord
from launchers.reuse import check_not_running
from launchers.words import Words


def run(words: Words) -> int:
    """Do what a command line says. Raises AditError; returns the exit status."""
    verb, overrides, names = words.verb, words.overrides, words.names
    if verb == "submit":
        return submit(overrides)
    if verb == "plan":
        from launchers import costs

        return costs.plan(overrides, as_json=words.json)
    if verb == "status":
        from launchers import status

        return status.status(study_folder(overrides), as_json=words.json, watch=words.watch)
    if verb == "logs":
        if len(names) != 1:
            raise ConfigError(f"logs: got {len(names)} names; expected one point or job")
        if words.lines < (0 if words.follow else 1):
            raise ConfigError(f"logs: -n is {words.lines}; expected at least 1 (0 with -f: only what comes)")
        from launchers import logs

        return logs.logs(study_folder(overrides), names[0], follow=words.follow, lines=words.lines)
    named = {"retry": retry, "cancel": cancel}
    return named[verb](overrides, names) if verb in named else {"fit": fit, "sync": sync}[verb](overrides)


def submit(words: Sequence[str]) -> int:
    """Run, or hand to SLURM, what is left of the study. Raises AditError; returns the exit status."""
    return _launch(compose_study(words), None)


def retry(words: Sequence[str], names: Sequence[str]) -> int:
    """Run again what failed, as it was submitted; with names, these points or jobs unless they are done."""
    record = StudyRecord.load(study_folder(words))
    study = compose_study(record.words)
    named = [node for name in names for node in record.find(name)]
    again = named or [node for node in record.nodes if failure_reason(node.folder) is not None]
    if not again:
        print("nothing failed; submit runs whatever is left")
        return 0
    for node in again:
        print(f"again: {node.name} ({failure_reason(node.folder) or 'unless it is done'})")
    return _launch(study, record.descendants({node.id for node in again}))


def cancel(words: Sequence[str], names: Sequence[str]) -> int:
    """Take jobs out of the queue, or stop them: the named points or jobs, or the whole study."""
    from launchers.queue import in_queue
    from launchers.slurm import cancel as scancel

    record = StudyRecord.load(study_folder(words))
    if record.launcher != "slurm":
        raise ConfigError(f"{record.folder}: runs under launcher=local; stop that launcher with Ctrl-C")
    chosen = [node for name in names for node in record.find(name)] or list(record.nodes)
    queued = {job.node: job for job in in_queue(record.folder).values()}
    found = [node for node in chosen if node.folder.name in queued]
    scancel([queued[node.folder.name].job for node in found])
    for node in found:
        print(f"{node.name}: job {queued[node.folder.name].job} cancelled")
    if not found:
        print(f"none of {'these' if names else 'its'} jobs is in the queue: nothing to cancel")
        return 0
    print(f"{len(found)} jobs cancelled; what each saved is kept, submitting again goes on from there")
    return 0


def fit(words: Sequence[str]) -> int:
    """Make the report now, of the points there are, in this process. It is not the study's final one."""
    from adit_scale import config as settings
    from adit_scale.jobs import report
    from adit_scale.jobs.node import CONFIG, NodeFolder

    record = StudyRecord.load(study_folder(words))
    node = NodeFolder.load(record.nodes[-1].folder)
    result = report.run(node, settings.load(node.path / CONFIG))
    print(f"report: {node.path / 'report'} ({len(result.outputs)} files)")
    return 0


def sync(words: Sequence[str]) -> int:
    """Mirror every journal of the study to the tracking store: whatever is missing there."""
    from adit_scale.tracking.sync import sync as sync_runs

    study = compose_study(words)
    uri, experiment = study.config.tracking.uri, study.config.tracking.experiment
    said = any(word.lstrip("+").partition("=")[0].partition(".")[0] == "tracking" for word in words)
    if not said and (study.folder / STUDY).is_file():  # then where the study itself was told to
        tracking = StudyRecord.load(study.folder).tracking
        uri, experiment = tracking["uri"], tracking["experiment"]
    if not uri:
        raise ConfigError(
            "tracking=none has no store; expected tracking=sqlite, tracking=server or tracking.uri=..."
        )
    found = sync_runs(study.folder, uri, experiment)
    print(f"{found.journals} journals, {found.values} new values -> {without_credentials(uri)}")
    for failure in found.failures:
        print(f"error: {failure}")
    return 1 if found.failures else 0


# -- launching --------------------------------------------------------------------------------------------


def _launch(study: Study, only: set[str] | None) -> int:
    """only: ids of the nodes that may run; None is all."""
    if study.launcher.kind == "slurm":
        from launchers.preflight import check_programs

        check_programs()
    from launchers import costs

    graph = study_graph(study.config, study.points, study.folder, study.launcher)
    cost = costs.study_costs(study, graph)
    costs.check_budget(cost)
    with study_lock(study.folder) as lock:
        if study.launcher.kind == "slurm":
            return _submit_slurm(study, graph, only, cost.disk_left_bytes)
        return _run_here(study, graph, lock, only)


def _submit_slurm(study: Study, graph: Graph, only: set[str] | None, disk_bytes: float) -> int:
    from launchers.preflight import Job, input_places, preflight
    from launchers.queue import in_queue
    from launchers.slurm import Submitter, cancel, jobs_of, plan_arrays
    from launchers.snapshot import snapshot_code

    queue = jobs_of(graph, in_queue(study.folder))
    todo = _left(graph, set(queue), only)
    if not todo:
        _mend_record(study, graph)
        print(f"study {graph.study}: nothing to submit: {_count(graph, queue)}; {graph.folder}")
        return 0
    queued = {id_: job.job for id_, job in queue.items()}
    _check_twins(study, [node for node in todo if node.id not in queue])
    report = graph.nodes[-1]
    # A report in the queue waits for what was submitted before, not for this.
    outdated = queued.pop(report.id, "") if report in todo else ""
    arrays = plan_arrays(graph, todo, queued)
    notes = preflight(
        [Job(f"{array.kind} jobs", array.resources, array.kind in TRAINING) for array in arrays],
        study.folder,
        disk_bytes,
        runs_are_shared=study.launcher.runs_are_shared,
        inputs=input_places(graph),
    )
    for note in dict.fromkeys(notes):
        print(note)
    code = snapshot_code(study.folder)
    tracking = study.config.tracking
    submitter = Submitter(graph, study.launcher, code.path, tracking)
    submitter.check(arrays)
    if outdated:
        cancel([outdated])
        del queue[report.id]
    _freeze(study, graph, todo, {"tree": code.tree, "git_sha": code.git_sha, "dirty": code.dirty})
    jobs = submitter.submit(arrays, queued)
    for array in arrays:
        print(f"{array.kind} x {len(array.nodes)}: job {array.job_id}")
    print(f"study {graph.study}: {len(todo)} jobs submitted, {_count(graph, queue)}; {graph.folder}")
    print(f"watch with `{_again(study, 'status')}`, read a log with `{_again(study, 'logs POINT -f')}`")
    return 0 if jobs else 1


def _left(graph: Graph, queue: set[str], only: set[str] | None) -> list[Node]:
    """What has to be submitted: missing nodes, and what is made from them (their jobs look for themselves
    whether their inputs changed). A report is submitted anew with anything it has to wait for."""
    found: set[str] = set()
    for node in graph.nodes:
        again = any(source.id in found for source in node.inputs.values())
        fresh = again or (not is_done(node) and (only is None or node.id in only))
        if fresh and (node.id not in queue or (again and node.optional_inputs)):
            found.add(node.id)
    return [node for node in graph.nodes if node.id in found]


def _freeze(study: Study, graph: Graph, todo: Sequence[Node], code: dict[str, Any]) -> None:
    """Settings of what will run, and the study as a whole, on disk."""
    tags = {"adit.launcher": study.launcher.kind}
    if code.get("git_sha"):
        tags |= {"adit.git_sha": code["git_sha"], "adit.git_dirty": str(code["dirty"]).lower()}
    freeze(todo, graph.study, tags)
    for node in todo:
        if (node.folder / FAILED).is_file():
            (node.folder / FAILED).unlink()
            forget_crashes(node.folder)
    _record(study, graph, code).save()


def _mend_record(study: Study, graph: Graph) -> None:
    """Where nothing is left to submit, study.json is only written if it is damaged or gone."""
    from launchers.snapshot import code_record

    try:
        StudyRecord.load(study.folder)
    except (ConfigError, DataError):
        _record(study, graph, code_record()).save()


def _record(study: Study, graph: Graph, code: dict[str, Any]) -> StudyRecord:
    config = study.config
    return StudyRecord(
        folder=study.folder,
        study=graph.study,
        hypothesis=config.sweep.hypothesis,
        words=[without_credentials(word) for word in study.overrides],
        launcher=study.launcher.kind,
        tracking={"uri": without_credentials(config.tracking.uri), "experiment": config.tracking.experiment},
        nodes=[_node_record(node) for node in graph.nodes],
        code=code,
    )


def _node_record(node: Node) -> NodeRecord:
    return NodeRecord(
        id=node.id,
        kind=node.kind,
        label=node.label,
        folder=node.folder,
        inputs={name: source.id for name, source in node.inputs.items()},
        optional_inputs=node.optional_inputs,
        steps=node.steps,
        size=node.config.model.denoiser.name if node.label else "",
        resources=vars(node.resources),
    )


def _count(graph: Graph, queue: Any) -> str:
    done = sum(is_done(node) for node in graph.nodes)
    return f"{done} of {len(graph.nodes)} done, {len(queue)} in the queue already"


def _run_here(study: Study, graph: Graph, lock: int, only: set[str] | None) -> int:
    from launchers.mirror import Mirror
    from launchers.snapshot import code_record

    _check_not_queued(study)
    todo = [node for node in graph.nodes if not is_done(node)]
    _check_twins(study, todo)
    _freeze(study, graph, todo, code_record())
    done = len(graph.nodes) - len(todo)
    print(f"study {graph.study}: {len(graph.nodes)} jobs, {done} done, {len(todo)} to do; {graph.folder}")
    mirror = Mirror(study, graph)
    mirror.start([node for node in graph.own if is_done(node)])  # another study mirrors its own
    launcher = study.launcher
    run = LocalRun(graph, launcher.parallel, Display(), lock, mirror.add, mirror.end, only=only)
    run.retries, run.backoff_s = launcher.retries, launcher.backoff_s
    found = run.run()
    report = next((node for node in graph.of_kind("report") if found[node.id] == "done"), None)
    failed = [node for node in graph.nodes if found[node.id] not in ("done", "waiting", "stopped")]
    outcome = "KILLED" if run.stop_signal else "FAILED" if failed else "FINISHED"
    mirror.finish(outcome)
    for node in failed:
        reason = failure_reason(node.folder) if found[node.id] == "failed" else found[node.id]
        print(f"{node.name}: {reason}" + (f" ({node.folder / LOG})" if found[node.id] == "failed" else ""))
    if report:
        print("\n" + read_done(report.folder)["table"])
        print(f"report: {report.folder / 'report'}")
        study_ended(graph.study, report.folder)
    print(mirror.dashboard_hint())
    if run.stop_signal:
        print(f"stopped; to go on: {_again(study)}")
        return 128 + run.stop_signal
    if failed:
        print(f"{len(failed)} of {len(graph.nodes)} jobs did not finish; to try them again: {_again(study)}")
    return 1 if failed else 0


def _check_twins(study: Study, todo: Sequence[Node]) -> None:
    """Raises ConfigError where another study runs one of these now."""
    if study.config.sweep.reuse:
        named = [(node.kind, node.id, node.name) for node in todo]
        check_not_running(study.folder.parent, study.folder, named)


def _check_not_queued(study: Study) -> None:
    """Raises ConfigError where SLURM still has jobs of a study that is to run on this machine."""
    from launchers.queue import SlurmSilent, in_queue

    try:
        queued = in_queue(study.folder)
    except SlurmSilent as silent:  # as where the folder was copied from the cluster
        print(f"note: {silent}")
        return
    if queued:
        raise ConfigError(
            f"launcher=local: SLURM has {len(queued)} jobs of this study; name the profile it was submitted "
            f"with (launcher=...), or take them out first: {_again(study, 'cancel')}"
        )


def _again(study: Study, verb: str = "") -> str:
    """The command to go on with; of a verb that finds the study by its name, the words that name it."""
    naming = [w for w in study.overrides if w.partition("=")[0] in ("sweep", "sweep.name", "runs")]
    words = shlex.join(naming if verb else study.overrides)
    return without_credentials(" ".join(part for part in ("python launch.py", verb, words) if part))

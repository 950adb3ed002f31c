"""Studies that share results: what another one finished is taken from there."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from adit_scale.errors import ConfigError
from adit_scale.jobs.node import NodeFolder, Result, running_lock
from launchers.compose import compose_study
from launchers.display import Display
from launchers.graph import Graph, freeze, is_done, states, study_graph
from launchers.local import LocalRun
from launchers.record import StudyRecord
from launchers.reuse import Twins, check_not_running
from launchers.status import as_record, state_text
from launchers.study import _check_twins, _record
from launchers.survey import survey
from tests.launch.test_costs import finish

FINISHED = ("shards demo", "autoencoder", "diffusion dit_32")


def study_of(runs: Path, name: str, *words: str):
    study = compose_study(
        ["sweep=scaling_demo", f"sweep.name={name}", f"runs={runs}", "sweep.evaluate=false", *words]
    )
    return study, study_graph(study.config, study.points, study.folder, study.launcher)


def folders(graph: Graph) -> dict[str, str]:
    return {node.name: node.folder.parent.name for node in graph.nodes}


@pytest.fixture
def runs(tmp_path) -> Path:
    """A study ``one`` of dit_32 and dit_64 with its first run done."""
    study, graph = study_of(tmp_path / "runs", "one", "model/denoiser=dit_32,dit_64")
    finish(graph, *FINISHED)
    _record(study, graph, {}).save()
    return tmp_path / "runs"


def test_what_another_study_finished_is_taken_from_there(runs):
    # Other labels, the same science.
    _, graph = study_of(runs, "two", "seed=0,1", "model/denoiser=dit_32")
    assert folders(graph) == {
        "shards demo": "one",
        "autoencoder": "one",
        "diffusion dit_32-seed0": "one",
        "diffusion dit_32-seed1": "two",
        "report": "two",
    }
    assert [node.name for node in graph.nodes if is_done(node)] == [
        "shards demo", "autoencoder", "diffusion dit_32-seed0",
    ]  # fmt: skip
    assert {node.name for node in graph.own} == {"diffusion dit_32-seed1", "report"}
    assert states(graph)[graph.nodes[2].id] == "done"
    _, alone = study_of(runs, "two", "sweep.reuse=false")
    assert set(folders(alone).values()) == {"two"}


def test_the_record_and_the_status_say_where_it_is(runs):
    study, graph = study_of(runs, "two", "model/denoiser=dit_32")
    study.folder.mkdir()
    _record(study, graph, {}).save()
    record = StudyRecord.load(study.folder)
    assert [node.folder for node in record.nodes] == [node.folder for node in graph.nodes]
    found = survey(record)
    assert {row.record.name: state_text(row) for row in found.rows} == {
        "shards demo": "done (in one)",
        "autoencoder": "done (in one)",
        "diffusion dit_32": "done (in one)",
        "report": "waiting",
    }
    assert found.points == {"done": 1}
    jobs = {job["job"]: job["folder"] for job in as_record(found)["jobs"]}
    assert jobs["autoencoder"].startswith("../one/autoencoder-")
    assert jobs["report"].startswith("report-")


def test_what_was_begun_here_stays_here(runs):
    _, graph = study_of(runs, "two", "sweep.reuse=false", "model/denoiser=dit_32")
    run = next(node for node in graph.nodes if node.kind == "diffusion")
    freeze([run], "two")
    assert folders(study_of(runs, "two", "model/denoiser=dit_32")[1])["diffusion dit_32"] == "one"
    (run.folder / "attempts.jsonl").write_text("")
    assert folders(study_of(runs, "two", "model/denoiser=dit_32")[1])["diffusion dit_32"] == "two"


def test_a_result_of_other_inputs_is_not_taken(runs):
    """An autoencoder that this study trained anew is another one, though its id is the same."""
    _, graph = study_of(runs, "two", "sweep.reuse=false", "model/denoiser=dit_32")
    finish(graph, "shards demo")
    autoencoder = next(node for node in graph.nodes if node.kind == "autoencoder")
    freeze([autoencoder], "two")
    (autoencoder.folder / "out.txt").write_text("other weights")
    NodeFolder.load(autoencoder.folder).succeed(Result((autoencoder.folder / "out.txt",)), 1.0)
    assert folders(study_of(runs, "two", "model/denoiser=dit_32")[1]) == dict.fromkeys(
        ("shards demo", "autoencoder", "diffusion dit_32", "report"), "two"
    )


def test_a_result_that_is_gone_is_not_taken(runs):
    [marker] = (runs / "one").glob("autoencoder-*/out.txt")
    marker.unlink()
    found = folders(study_of(runs, "two", "model/denoiser=dit_32")[1])
    assert found == {
        "shards demo": "one", "autoencoder": "two", "diffusion dit_32": "two", "report": "two",
    }  # fmt: skip


def test_a_node_that_another_study_runs_is_refused(runs):
    _, one = study_of(runs, "one", "model/denoiser=dit_32,dit_64")
    busy = next(node for node in one.nodes if node.name == "diffusion dit_64")
    freeze([busy], "one")
    study, graph = study_of(runs, "two", "model/denoiser=dit_64")
    todo = [node for node in graph.nodes if not is_done(node)]
    _check_twins(study, todo)
    with running_lock(busy.folder):
        with pytest.raises(
            ConfigError, match=r"diffusion dit_64 is being run by study one now .*=false"
        ) as caught:
            _check_twins(study, todo)
        assert len(str(caught.value).splitlines()) == 1
        check_not_running(runs, runs / "one", [(n.kind, n.id, n.name) for n in one.nodes])  # its own
        off = replace(study, config=replace(study.config, sweep=replace(study.config.sweep, reuse=False)))
        _check_twins(off, todo)


def test_a_node_in_slurms_queue_counts_as_running(runs):
    _, one = study_of(runs, "one", "model/denoiser=dit_32,dit_64")
    waiting = next(node for node in one.nodes if node.name == "diffusion dit_64")
    freeze([waiting], "one")
    twins = Twins(runs, runs / "two")

    def found(*names: str) -> Path | None:
        return twins.running("diffusion", waiting.id, lambda study: names)

    assert found(waiting.folder.name) is None  # never submitted: the name is some other job's
    (waiting.folder / "slurm_job.json").write_text("{}")
    assert found(waiting.folder.name) == waiting.folder
    assert found() is None
    assert (
        Twins(runs, runs / "one").running("diffusion", waiting.id, lambda study: [waiting.folder.name])
        is None
    )


def test_damaged_folders_of_others_are_passed_over(runs):
    [folder] = (runs / "one").glob("autoencoder-*")
    (folder / "node.json").write_text("{")
    (runs / "mlflow.db").write_text("no study")
    found = folders(study_of(runs, "two", "model/denoiser=dit_32")[1])
    assert found["shards demo"] == "one"
    assert found["autoencoder"] == "two"
    assert Twins(runs / "none", runs).running("autoencoder", "0" * 64, lambda study: ()) is None


def test_a_launch_runs_only_its_own(runs):
    """The local launcher starts none of the other study's nodes, nor touches their folders."""
    import sys

    _, graph = study_of(runs, "two", "model/denoiser=dit_32")
    script = "import sys; from pathlib import Path; Path(sys.argv[1], 'ran').touch()"
    nodes = tuple(
        replace(node, command=(sys.executable, "-c", script, str(node.folder))) for node in graph.nodes
    )
    before = {path: path.stat().st_mtime_ns for path in (runs / "one").rglob("*") if path.is_file()}
    freeze([node for node in nodes if not is_done(node)], "two")
    run = LocalRun(Graph("two", graph.folder, nodes), 1, Display(Console(file=io.StringIO())))
    found = run.run()
    assert [found[node.id] for node in nodes] == [
        "done",
        "done",
        "done",
        "failed",
    ]  # a report without a marker
    after = {path: path.stat().st_mtime_ns for path in (runs / "one").rglob("*") if path.is_file()}
    assert {p: t for p, t in after.items() if p.name != ".running"} == before

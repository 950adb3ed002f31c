"""Words and files as a tired person leaves them: one line that names what to change, and exit status 2."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

import launch
from adit_scale.errors import ConfigError
from adit_scale.jobs.attempts import attempts
from launchers import queue
from launchers.compose import CONFIGS, compose_study
from launchers.record import STUDY, StudyRecord
from launchers.study import submit
from launchers.survey import survey
from tests.launch.submitted import SUBMISSION, Submitted

WORDS = {
    "stat": "stat: neither a verb (submit, plan, status, logs, retry, cancel, fit, sync; it comes first) "
    "nor an override key=value (did you mean status?)",
    "status --jsn": "unrecognized arguments: --jsn; see python launch.py --help",
    "status -f": "--follow is an option of logs; got it with status",
    "logs dit_64 --json": "--json is an option of plan and status; got it with logs",
    "logs dit_64 -n 0": "logs: -n is 0; expected at least 1 (0 with -f: only what comes)",
    "logs dit_64 -f -n -1": "logs: -n is -1; expected at least 1 (0 with -f: only what comes)",
    "logs dit_64 -n x": "argument -n/--lines: invalid int value: 'x'; see python launch.py --help",
    "logs dit_64 dit_128": "logs: got 2 names; expected one point or job",
    "plan model.denoiser=dit_64": "model.denoiser=dit_64: model.denoiser is a group of settings; "
    "to choose one write model/denoiser=dit_64",
    "plan launcher.partition=${nope}": "launcher.partition: Interpolation key 'nope' not found",
    "status runs=${oc.env:NO_SUCH_VARIABLE}": "runs: KeyError raised while resolving interpolation: "
    "\"Environment variable 'NO_SUCH_VARIABLE' not found\"",
    "plan ~launcher": "launcher has no settings; expected one of dev_cluster, local, slurm",
}
PROFILES = {
    "kind: slurm\nby_size: {dit_64: {\n": "line 3: not YAML (expected the node content, but found",
    "\tkind: slurm\n": "line 1: not YAML (found character",
    "\udcff\udcfe": "mine.yaml: not UTF-8 text; expected YAML",
    "": "launcher has no settings; expected one of ",
    "defaults:\n  - /launcher_schema@_here_\nkind: slurm\npartiton: gpu\n": (
        "configs/launcher/mine.yaml: launcher.partiton: no such setting; launcher has kind, "
    ),
}
SWEEPS = {
    "sweep:\n  name: mine\n": "configs/sweep/mine.yaml: expected '# @package _global_' as its first line",
    "# @package _global_\nsweep:\n  grid: {seed: 0}\n": "configs/sweep/mine.yaml: sweep.grid.seed: Value 0",
    "# @package _global_\nsweep:\n  nam: mine\n": "configs/sweep/mine.yaml: sweep.nam: no such setting; ",
}


@pytest.fixture
def study(tmp_path: Path) -> Submitted:
    return Submitted(tmp_path / "scaling_demo", launcher="slurm")


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that these words are answered with."""
    assert launch.main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err.removeprefix("launch.py: ").strip()


@pytest.mark.parametrize("words", WORDS)
def test_words(words, capsys):
    assert said(capsys, *words.split(" ")).startswith(WORDS[words])


@pytest.mark.parametrize("words", [[""], ["status", " "], ["logs", "", "sweep=scaling"]])
def test_an_empty_word_of_a_variable_that_was_not_set(words, capsys):
    assert said(capsys, *words) == "got an empty word; expected a verb, a name or key=value"


@pytest.mark.parametrize(
    ("group", "text", "says"),
    [("launcher", *found) for found in PROFILES.items()] + [("sweep", *found) for found in SWEEPS.items()],
)
def test_a_file_of_settings_that_is_damaged_or_wrong(tmp_path, group, text, says):
    configs = tmp_path / "configs"
    shutil.copytree(CONFIGS, configs)
    (configs / group / "mine.yaml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError) as caught:
        compose_study([f"{group}=mine"], configs)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("verb", ["status", "logs a", "retry", "cancel", "fit"])
@pytest.mark.parametrize("text", ["", '{"study": "x", "no', "[]", "{}", '{"nodes": []}', "\udcff"])
def test_a_damaged_study(study, tmp_path, verb, text, capsys):
    (study.folder / STUDY).write_bytes(text.encode(errors="surrogateescape"))
    line = said(capsys, *verb.split(), f"runs={tmp_path}")
    assert line.startswith(f"{study.folder / STUDY}: ")
    assert line.endswith("; launch the study again with its own words, which writes it anew")


def test_a_damaged_ledger_costs_a_note(study):
    study.finish("shards")
    for text in ('{"job": "12_', "5"):
        (study.nodes["shards"].folder / "slurm_job.json").write_text(text)
        found = survey(StudyRecord.load(study.folder))
        assert found.rows[0].state == "done"
        assert [note.partition(": ")[0] for note in found.notes] == [f"{study.folder}/shards/slurm_job.json"]


def test_a_damaged_list_of_jobs_hides_no_job(study, tmp_path, monkeypatch):
    """Whoever cannot tell what a job runs must not take its node for free."""
    folder = study.folder / "slurm" / SUBMISSION
    folder.mkdir(parents=True)
    (folder / "nodes.json").write_text('{"nodes": {"0"')
    queued(tmp_path, monkeypatch, "12_0")
    with pytest.raises(queue.SlurmSilent, match=r"nodes\.json: damaged .* scancel 12, then launch again"):
        queue.in_queue(study.folder)
    assert "what job 12 runs is not known" in survey(StudyRecord.load(study.folder)).notes[0]


def test_markers_and_attempts_without_their_keys(study):
    study.finish("shards")
    (study.nodes["shards"].folder / "DONE.json").write_text("{}")
    (study.nodes["autoencoder"].folder / "FAILED.json").write_text("{}")
    attempt = {"time": 1.0, "job": "", "host": "h", "nodes": "", "tasks": 1}
    lines = [{"event": "start"}, {"event": "start", **attempt}, {"event": "end", "time": 2.0}]
    (study.nodes["shards"].folder / "attempts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    rows = survey(StudyRecord.load(study.folder)).rows
    assert [row.state for row in rows[:2]] == ["failed", "blocked"]
    assert rows[0].detail.endswith(
        "DONE.json: has no id; expected the marker of a finished node: remove it and launch again"
    )
    assert [(a.start_s, a.end_s) for a in attempts(study.nodes["shards"].folder)] == [(1.0, None)]


def test_this_machine_does_not_run_what_slurm_has(tmp_path, monkeypatch):
    """As when the profile's word is forgotten at the second launch."""
    folder = tmp_path / "runs" / "scaling_demo" / "slurm" / SUBMISSION
    folder.mkdir(parents=True)
    (folder / "nodes.json").write_text('{"nodes": {"0": "shards-demo-0"}}')
    queued(tmp_path, monkeypatch, "12_0")
    with pytest.raises(
        ConfigError, match=r"^launcher=local: SLURM has 1 jobs of this study; .* cancel runs="
    ):
        submit([f"runs={tmp_path}/runs", "tracking=none"])
    assert not (tmp_path / "runs" / "scaling_demo" / STUDY).exists()


def test_a_study_without_a_store_is_not_synced_to_another(study, tmp_path, capsys):
    line = said(capsys, "sync", f"runs={tmp_path}")
    assert line == "tracking=none has no store; expected tracking=sqlite, tracking=server or tracking.uri=..."


def test_sync_goes_where_the_study_was_told_to(study, tmp_path, capsys):
    record = json.loads((study.folder / STUDY).read_text())
    record["tracking"] = {"uri": f"sqlite:///{tmp_path}/store/own.db", "experiment": "mine"}
    (study.folder / STUDY).write_text(json.dumps(record))
    assert launch.main(["sync", f"runs={tmp_path}"]) == 0
    assert capsys.readouterr().out.endswith(f" -> sqlite:///{tmp_path}/store/own.db\n")
    assert (tmp_path / "store" / "own.db").is_file()


def queued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str) -> None:
    """squeue shows one job, of the study's only submission."""
    program = tmp_path / "bin" / "squeue"
    program.parent.mkdir()
    line = f"{job}|14|RUNNING|None|1795351008|1795351008|1:00|0:57|0|dev1|ana|adit:{SUBMISSION}|"
    program.write_text(f"#!/bin/sh\necho '{line}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

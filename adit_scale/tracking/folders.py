"""What the folder of a job, and of a study, says about its run in a tracking store. Knows no store.

Everything that mirrors (the launcher, the follower beside a job, ``sync``) describes a run by this module
alone, so that they agree, and so that a lost store can be made again from the folders. The folder's format
is the launcher's (node.json, study.json, attempts.jsonl, markers); only what is needed is read here.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from adit_scale.errors import DataError
from adit_scale.tracking.config import without_credentials
from adit_scale.tracking.increments import MAX_TAG_CHARACTERS
from adit_scale.tracking.journal import FILE_NAME

NODE, STUDY, ATTEMPTS, DONE, FAILED = "node.json", "study.json", "attempts.jsonl", "DONE.json", "FAILED.json"
PICTURES = "pictures"  # of a reference or evaluation node: gallery and figures
REPORT = "report"
REPORT_PAGE, REPORT_TEXT = "report.html", "description.md"  # in the report's folder
DESCRIPTION_TAG = "mlflow.note.content"  # MLflow's page shows it, as Markdown
STUDY_TAG = "adit.study"
FAILURE_TAG = "adit.failure"
# Folders of a study, or of a run, that hold no runs; branches are runs inside a run.
NO_RUNS = {"code", "slurm", "checkpoints", "weights", "samples", "scoring", "references", PICTURES, REPORT}
BRANCHES = "branches"


@dataclass(frozen=True)
class RunFolder:
    """A run as its folder describes it.

    study: name of the study it belongs to; "" for a folder without node.json. status: how it ended, RUNNING
    while an attempt is open, "" where the folder does not say. artifacts: subfolders to copy to the run.
    metrics: results without a step, of its DONE.json.
    """

    path: Path
    kind: str
    name: str
    study: str
    tags: dict[str, str]
    status: str
    artifacts: tuple[str, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyFolder:
    """A study as its folder describes it. status: as of a run; end_ms: since 1970, with an end.

    report: the folder of its finished report node; metrics: that node's results. The description among the
    tags is the report's text, before there is one the hypothesis.
    """

    path: Path
    tags: dict[str, str]
    status: str
    start_ms: int | None
    end_ms: int | None
    report: Path | None
    metrics: dict[str, float]


def describe_run(folder: Path) -> RunFolder:
    """Raises DataError where node.json or a marker is damaged."""
    node = read_json(folder / NODE)
    if not node:
        return RunFolder(folder, "", folder.name, "", {}, _ending(folder))
    kind = str(node.get("kind") or "")
    name = "-".join(str(node[key]) for key in ("kind", "label") if node.get(key)) or folder.name
    study = str(node.get("study") or folder.parent.name)
    tags = {f"adit.{key}": str(node[key]) for key in ("kind", "label", "id") if node.get(key)}
    tags |= {str(key): str(value) for key, value in (node.get("tags") or {}).items() if value != ""}
    tags |= {STUDY_TAG: study, **_attempt_tags(folder)}
    if reason := read_json(folder / FAILED).get("reason"):
        tags[FAILURE_TAG] = without_credentials(str(reason))
    tags = {key: value[:MAX_TAG_CHARACTERS] for key, value in tags.items()}
    artifacts = (PICTURES,) if (folder / PICTURES).is_dir() else ()
    metrics = _metrics(folder) if _ending(folder) == "FINISHED" else {}
    return RunFolder(folder, kind, name, study, tags, _ending(folder), artifacts, metrics)


def describe_study(folder: Path, name: str) -> StudyFolder:
    """The study ``name`` in ``folder``: of the jobs that study.json names, else of all that are there.

    It has ended when no job is left that could run: finished, failed, stopped, or behind one that did not
    finish. Raises DataError where a file is damaged.
    """
    record = read_json(folder / STUDY)
    jobs = [folder / str(node["folder"]) for node in record.get("nodes", ())]
    jobs = jobs or sorted(path.parent for path in folder.glob(f"*/{NODE}"))
    states = {job.resolve(): _ending(job) for job in jobs}
    markers = [job / marker for job in states for marker in (DONE, FAILED) if (job / marker).is_file()]
    reports = [job for job in states if states[job] == "FINISHED" and _kind(job) == REPORT]
    report = max(reports, key=lambda job: (job / DONE).stat().st_mtime, default=None)
    return StudyFolder(
        path=folder,
        tags=_study_tags(folder, name, record) | _description(record, report),
        status=_joined(states),
        start_ms=_time_ms(record.get("submitted")),
        end_ms=max((round(marker.stat().st_mtime * 1000) for marker in markers), default=None),
        report=report,
        metrics=_metrics(report) if report else {},
    )


def find_runs(root: Path) -> Iterator[Path]:
    """Folders below ``root`` (itself included) with a journal or a node.json, in the order of their names.

    Checkpoints, samples and snapshots of code, which may be many files, are not looked into.
    """
    for place, folders, files in os.walk(root):
        if FILE_NAME in files or NODE in files:
            yield Path(place)
        if NODE in files:
            folders[:] = [f for f in folders if f == BRANCHES]
        elif FILE_NAME in files or STUDY in files:
            folders[:] = [f for f in folders if f not in NO_RUNS]
        folders.sort()


def watched(folder: Path) -> tuple[int, ...]:
    """Changes whenever a description of the folder may have changed."""
    found: list[int] = []
    for name in (NODE, ATTEMPTS, DONE, FAILED):
        try:
            stat = (folder / name).stat()
        except FileNotFoundError:
            found += (0, 0)
        else:
            found += (stat.st_size, stat.st_mtime_ns)
    return tuple(found)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty where there is no file. Raises DataError."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); expected what the launcher wrote") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: got a {type(found).__name__}; expected the object that the launcher wrote")
    return found


def _ending(folder: Path) -> str:
    if (folder / DONE).exists():
        return "FINISHED"
    if (folder / FAILED).exists():
        return "FAILED"
    events = [record for record in _attempts(folder) if record.get("event") in ("start", "end")]
    if not events:
        return ""
    if events[-1]["event"] == "start":
        return "RUNNING"
    return "KILLED" if events[-1].get("outcome") == "stopped" else ""


def _joined(states: dict[Path, str]) -> str:
    """How a study stands whose jobs stand so."""
    found = set(states.values())
    if "RUNNING" in found:
        return "RUNNING"
    if found == {"FINISHED"}:
        return "FINISHED"
    if not found or not all(_is_over(job, states) for job in states):
        return ""  # jobs wait: for a place, or for another launch
    return "FAILED" if "FAILED" in found else "KILLED"


def _is_over(job: Path, states: dict[Path, str]) -> bool:
    """Whether nothing more happens to a job: it ended, or waits for one that ended without its result."""
    state = states.get(job, "FINISHED")  # an input from outside the study is there
    if state in ("FINISHED", "FAILED", "KILLED"):
        return True
    node = read_json(job / NODE)
    if state == "RUNNING":
        return False
    if node.get("optional_inputs"):  # a report of what there is; nobody waits for it who stopped the rest
        return "KILLED" in states.values()
    inputs = [Path(str(place)).resolve() for place in (node.get("inputs") or {}).values()]
    return any(states.get(i, "FINISHED") != "FINISHED" and _is_over(i, states) for i in inputs)


def _kind(job: Path) -> str:
    return str(read_json(job / NODE).get("kind") or "")


def _attempt_tags(folder: Path) -> dict[str, str]:
    starts = [attempt for attempt in _attempts(folder) if attempt.get("event") == "start"]
    if not starts:
        return {}
    last = starts[-1]
    tags = {"adit.slurm_job": last.get("job"), "adit.host": last.get("nodes") or last.get("host")}
    return {key: str(value) for key, value in tags.items() if value} | {"adit.restarts": str(len(starts) - 1)}


def _attempts(folder: Path) -> list[dict[str, Any]]:
    """Records of attempts.jsonl; lines torn by a crash are passed over."""
    found = []
    try:
        lines = (folder / ATTEMPTS).read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            found.append(record)
    return found


def _study_tags(folder: Path, name: str, record: dict[str, Any]) -> dict[str, str]:
    code = record.get("code") or {}
    hypothesis = str(record.get("hypothesis") or "")
    tags = {
        STUDY_TAG: name,
        "adit.kind": "study",
        "adit.folder": str(folder),
        "adit.hypothesis": hypothesis,
        "adit.launcher": str(record.get("launcher") or ""),
        "adit.git_sha": str(code.get("git_sha") or ""),
        "adit.git_dirty": str(code.get("dirty", "")).lower(),
        "mlflow.user": str(record.get("user") or ""),
    }
    return {key: value[:MAX_TAG_CHARACTERS] for key, value in tags.items() if value}


def _description(record: dict[str, Any], report: Path | None) -> dict[str, str]:
    """What MLflow shows on the study's page, with the words that launch the study again."""
    parts = [str(record.get("hypothesis") or "")]
    if report is not None and (report / REPORT / REPORT_TEXT).is_file():
        parts = [(report / REPORT / REPORT_TEXT).read_text()]
    if record.get("words"):
        command = shlex.join(["python", "launch.py", *map(str, record["words"])])
        parts.append(f"Made by:\n\n    {command}")
    text = "\n\n".join(part.strip() for part in parts if part)
    return {DESCRIPTION_TAG: text[:MAX_TAG_CHARACTERS]} if text else {}


def _metrics(node: Path) -> dict[str, float]:
    return dict(read_json(node / DONE).get("metrics") or {})


def _time_ms(text: object) -> int | None:
    try:
        return round(datetime.strptime(str(text), "%Y-%m-%dT%H:%M:%S%z").timestamp() * 1000)
    except ValueError:
        return None

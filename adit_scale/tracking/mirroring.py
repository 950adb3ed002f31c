"""One run of a tracking store brought up to its journal and folder. The same again changes nothing."""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path

from adit_scale.tracking.folders import (
    DESCRIPTION_TAG,
    FAILURE_TAG,
    REPORT,
    REPORT_PAGE,
    STUDY_TAG,
    StudyFolder,
    describe_run,
    describe_study,
    watched,
)
from adit_scale.tracking.increments import MAX_TAG_CHARACTERS, Mark, first_time_ms, read_increment
from adit_scale.tracking.journal import journal_id, side_journal
from adit_scale.tracking.locks import LOCK, locked, record_run, recorded_run
from adit_scale.tracking.mlflow_sink import (
    JOURNAL_TAG,
    MARK_TAG,
    PARENT_TAG,
    SIDE_MARK_TAG,
    MlflowStore,
    Run,
    latest_metrics,
)

LINKED = (REPORT_PAGE, "points.csv", "fit.json")  # files of a report that a description leads to
ENDINGS = ("FINISHED", "FAILED", "KILLED")

log = logging.getLogger(__name__)


@dataclass
class Mirrored:
    """A run of the store: of a journal, or (no journal) the parent run of a study.

    described: the folder says what it is called, how it ended and what belongs to it. folder: where its lock
    is; None for a parent without a folder.
    """

    handle: str
    name: str
    tags: dict[str, str]
    parent: str | None = None
    journal: Path | None = None
    start_ms: int | None = None
    reopen: bool = False
    folder: Path | None = None
    described: bool = False
    journal_id: str = ""
    run_id: str | None = None
    end_ms: int | None = None
    deleted: bool = False  # by somebody, in the store: not written again
    due: bool = True  # of a parent: one of its runs may have ended since it was last looked at
    seen: tuple[int, ...] = ()  # the journals' sizes and modification times when last mirrored
    seen_folder: tuple[int, ...] = ()  # those of the files that describe it
    error: str = ""

    def end_or_now_ms(self) -> int:
        return round(time.time() * 1000) if self.end_ms is None else self.end_ms


def mirror_run(store: MlflowStore, run: Mirrored, parent: Mirrored | None, parent_id: str | None) -> int:
    """Write what a journal's run lacks; returns the number of values. Raises AditError.

    Marks the parent as due where the folder says something new.
    """
    path = run.journal
    assert path is not None
    if run.deleted:
        return 0
    side = side_journal(path)
    seen, seen_folder = _sizes_and_times(path, side), watched(path.parent) if run.described else ()
    if (seen, seen_folder) == (run.seen, run.seen_folder):
        return 0
    written = 0
    if path.is_file():
        with locked(path.parent / LOCK):
            written = _mirror_journal(store, run, path, side, parent_id)
        if run.run_id is None and not run.deleted:
            return 0  # nothing in the journal yet
    if parent is not None and seen_folder != run.seen_folder:
        parent.due = True
    run.seen, run.seen_folder = seen, seen_folder
    return written


def find_parent(store: MlflowStore, run: Mirrored) -> None:
    """Find or make the parent run of a study."""
    if run.run_id is not None or run.deleted:
        return
    if run.folder is None:
        _find_or_create(store, run, STUDY_TAG, run.tags[STUDY_TAG], None)
        return
    with locked(run.folder / LOCK):
        _find_or_create(store, run, STUDY_TAG, run.tags[STUDY_TAG], None)


def settle_parent(store: MlflowStore, run: Mirrored) -> None:
    """Tags, report, results and ending of a study, as its folder tells them."""
    assert run.folder is not None
    assert run.run_id is not None
    run.due = False
    with locked(run.folder / LOCK):
        there = store.get_run(run.run_id)
        if _is_deleted(run, there):
            return
        study = describe_study(run.folder, run.tags[STUDY_TAG])
        store.set_tags(there, {**study.tags, **_linked(store, study, run.run_id), MARK_TAG: "{}"})
        if study.report is not None:
            _copy_once(store, there, study.report / REPORT, REPORT)
            store.write_final_metrics(run.run_id, study.metrics, study.end_ms or run.end_or_now_ms())
        if study.status and study.status != there.info.status:
            store.set_status(run.run_id, study.status, study.end_ms)


def _linked(store: MlflowStore, study: StudyFolder, run_id: str) -> dict[str, str]:
    """The study's description under links to its report, which only the store's ids make."""
    if study.report is None or not (study.report / REPORT / REPORT_PAGE).is_file():
        return {}
    place = f"#/experiments/{store.experiment_id}/runs/{run_id}/artifacts/{REPORT}"
    names = [name for name in LINKED if (study.report / REPORT / name).is_file()]
    links = " · ".join(f"[{name}]({place}/{name})" for name in names)
    text = f"{links}\n\n{study.tags.get(DESCRIPTION_TAG, '')}"
    return {DESCRIPTION_TAG: text[:MAX_TAG_CHARACTERS]}


def _mirror_journal(
    store: MlflowStore, run: Mirrored, path: Path, side: Path | None, parent_id: str | None
) -> int:
    if journal_id(path) != run.journal_id:  # new, or the run's folder was removed and made again
        run.journal_id, run.run_id = journal_id(path), None
    if run.run_id is None:
        run.start_ms = first_time_ms(path)
        if run.start_ms is None:
            return 0
        _find_or_create(store, run, JOURNAL_TAG, run.journal_id, parent_id)
        if run.run_id is None:
            return 0
    # The store is asked each time: its own latest steps are what keeps values single.
    there = store.get_run(run.run_id)
    if _is_deleted(run, there):
        return 0
    steps = {key: metric.step for key, metric in latest_metrics(there).items()}
    increment = read_increment(path, Mark.from_json(there.data.tags.get(MARK_TAG)), steps)
    store.write(there, increment)
    run.end_ms = increment.end_ms
    written = len(increment.points)
    if side is not None:  # its keys are its own
        more = read_increment(side, Mark.from_json(there.data.tags.get(SIDE_MARK_TAG)), steps)
        store.write(there, more, SIDE_MARK_TAG)
        run.end_ms = max(run.end_ms or 0, more.end_ms or 0) or None
        written += len(more.points)
    if run.described:
        _settle_run(store, run, there, "RUNNING" if written else there.info.status, parent_id)
    return written


def _settle_run(store: MlflowStore, run: Mirrored, there: Run, status: str, parent_id: str | None) -> None:
    assert run.journal is not None
    told = describe_run(run.journal.parent)
    store.set_tags(there, told.tags | ({PARENT_TAG: parent_id} if parent_id else {}))
    if FAILURE_TAG not in told.tags:
        store.drop_tag(there, FAILURE_TAG)
    if told.status in ENDINGS:
        for name in told.artifacts:
            _copy_once(store, there, told.path / name, name)
        store.write_final_metrics(there.info.run_id, told.metrics, run.end_or_now_ms())
    if told.status and told.status != status:
        store.set_status(there.info.run_id, told.status, run.end_or_now_ms())


def _find_or_create(store: MlflowStore, run: Mirrored, tag: str, value: str, parent_id: str | None) -> None:
    """Set the run's id; the caller holds the folder's lock."""
    known = recorded_run(run.folder, store.uri, run.journal_id) if run.folder else None
    found = store.find_run(tag, value, known)
    if found is None:
        assert run.start_ms is not None
        tags = {**run.tags, tag: value, **({PARENT_TAG: parent_id} if parent_id else {})}
        run.run_id = store.create_run(run.name, tags, run.start_ms)
        store.find_run(tag, value, run.run_id)  # a request that was repeated on its way made a twin
    elif not _is_deleted(run, found):
        if run.reopen and found.info.status != "RUNNING":
            store.set_status(found.info.run_id, "RUNNING")
        run.run_id = found.info.run_id
    if run.run_id is not None and run.folder is not None and run.run_id != known:
        record_run(run.folder, store.uri, run.journal_id, run.run_id)


def _copy_once(store: MlflowStore, run: Run, folder: Path, name: str) -> None:
    """Copy a folder to the run's artifacts; its digest, kept as a tag, spares doing it again."""
    if not folder.is_dir():
        return
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    mark = {f"{MARK_TAG}.{name}": digest.hexdigest()[:16]}
    if any(run.data.tags.get(key) != value for key, value in mark.items()):
        store.write_artifacts(run.info.run_id, folder, name)
        store.set_tags(run, mark)


def _is_deleted(run: Mirrored, there: Run) -> bool:
    """Whether somebody deleted the run in the store; it is then left alone."""
    if there.info.lifecycle_stage != "active" and not run.deleted:
        run.deleted = True
        log.info("%s was deleted in the tracking store and is not mirrored again", run.name)
    return run.deleted


def _sizes_and_times(*paths: Path | None) -> tuple[int, ...]:
    stats = [path.stat() for path in paths if path is not None and path.is_file()]
    return tuple(number for stat in stats for number in (stat.st_size, stat.st_mtime_ns))

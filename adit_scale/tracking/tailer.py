"""The tailer: mirrors the journals of many runs to one tracking store.

It runs in the launcher's process and is the store's only writer, which is what SQLite wants. Whatever cannot
be written now (the store is down or slow) stays in the journals and in this object's queue and is tried
again: by the next poll, by the next launch, or by ``python -m adit_scale.tracking sync``. A run in the store
is known by its journal's id, so none of these writes a value twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from adit_scale.errors import AditError, ConfigError, DataError
from adit_scale.tracking.config import without_credentials
from adit_scale.tracking.increments import Mark, first_time_ms, read_increment
from adit_scale.tracking.journal import FILE_NAME, journal_id, side_journal
from adit_scale.tracking.mlflow_sink import (
    JOURNAL_TAG,
    MARK_TAG,
    PARENT_TAG,
    SIDE_MARK_TAG,
    STUDY_TAG,
    MlflowStore,
    StoreUnavailable,
    latest_metrics,
)

STATUSES = ("RUNNING", "FINISHED", "FAILED", "KILLED")
MAX_WAIT_S = 60.0

log = logging.getLogger(__name__)


@dataclass
class _Mirrored:
    """A run of the store: of a journal, or (no journal) the parent run of a study."""

    handle: str
    name: str
    tags: dict[str, str]
    parent: str | None = None
    journal: Path | None = None
    start_ms: int | None = None
    reopen: bool = False
    journal_id: str = ""
    run_id: str | None = None
    end_ms: int | None = None
    deleted: bool = False  # by somebody, in the store: not written again
    seen: tuple[int, ...] = ()  # the journals' sizes and modification times when last mirrored
    error: str = ""


@dataclass(eq=False)
class _Operation:
    """Something to do once, after the journals' values, when the store can be reached."""

    handle: str
    apply: Callable[[MlflowStore, str], None] = field(repr=False)


class Tailer:
    """Mirrors journals to the experiment of a tracking store. An empty ``uri`` mirrors nowhere.

    ``add``, ``start_parent``, ``finish``, ``log_artifacts`` and ``log_final_metrics`` only take note, return
    at once and never raise because of the store; ``poll`` (called by the thread between ``start`` and
    ``stop``) does the work. The strings returned by ``add`` and ``start_parent`` stand for runs that may not
    exist yet; where they are expected, the id of an MLflow run does as well.
    """

    def __init__(self, uri: str, experiment: str, *, interval_s: float = 5.0) -> None:
        self.uri = uri
        self.experiment = experiment
        self.interval_s = interval_s
        self.last_error = ""
        self._store: MlflowStore | None = None
        self._runs: dict[str, _Mirrored] = {}
        self._queue: list[_Operation] = []
        self._poll_lock = threading.Lock()
        self._notes_lock = threading.Lock()  # of _runs and _queue, which other threads add to
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start_parent(
        self,
        name: str,
        tags: Mapping[str, str] | None = None,
        *,
        start_time_s: float | None = None,
        reopen: bool = True,
    ) -> str:
        """The parent run of a study: the one whose tag ``adit.study`` equals this one's, else a new one.

        The tag is ``name`` unless ``tags`` has it. ``reopen`` sets a finished parent to RUNNING again.
        """
        all_tags = {STUDY_TAG: name, **(tags or {})}
        handle = f"study:{all_tags[STUDY_TAG]}"
        start_ms = round((time.time() if start_time_s is None else start_time_s) * 1000)
        return self._note(_Mirrored(handle, name, all_tags, start_ms=start_ms, reopen=reopen))

    def add(
        self,
        journal_path: Path | str,
        run_name: str,
        tags: Mapping[str, str] | None = None,
        parent_run_id: str | None = None,
    ) -> str:
        """Mirror a journal (its file or run folder) from now on. The file may not exist yet."""
        path = Path(journal_path)
        path = (path if path.name == FILE_NAME else path / FILE_NAME).resolve()
        return self._note(_Mirrored(str(path), run_name, dict(tags or {}), parent_run_id, path))

    def finish(self, handle: str, status: str = "FINISHED") -> None:
        """End a run (FINISHED, FAILED or KILLED) at its journal's last time stamp, a parent now."""
        assert status in STATUSES, status
        self._enqueue(handle, lambda store, run_id: store.set_status(run_id, status, self._end_ms(handle)))

    def log_artifacts(self, handle: str, folder: Path | str, artifact_path: str | None = None) -> None:
        """Copy the files of a folder to the run. Raises DataError if there is no such folder."""
        source = Path(folder).resolve()
        if not source.is_dir():
            raise DataError(f"{source}: no such folder; expected the folder of artifacts to log")
        self._enqueue(handle, lambda store, run_id: store.write_artifacts(run_id, source, artifact_path))

    def log_final_metrics(self, handle: str, values: Mapping[str, float]) -> None:
        """Write results that have no step, for example a fit's; equal values are not written again."""
        final = dict(values)
        self._enqueue(
            handle, lambda store, run_id: store.write_final_metrics(run_id, final, self._end_ms(handle))
        )

    @property
    def experiment_id(self) -> str | None:
        """The experiment's id in the store; None as long as the store could not be reached."""
        return self._store.experiment_id if self._store else None

    def run_id(self, handle: str) -> str | None:
        """The id of the MLflow run; None as long as it could not be created."""
        run = self._runs.get(handle)
        return handle if run is None else run.run_id

    def poll(self) -> int:
        """Mirror what is new. Returns the number of metric values written.

        Never raises because of the store or a journal: see ``last_error`` and ``failures``. A store that
        cannot be reached ends the poll, a single run that cannot be mirrored does not.
        """
        if not self.uri:
            return 0
        with self._poll_lock:
            try:
                if self._store is None:
                    self._store = MlflowStore(self.uri, self.experiment)
                # Only what was asked before the journals are read: a run must not end before its last values.
                with self._notes_lock:
                    queue = list(self._queue)
                with self._store.sole_writer():
                    written = self._mirror_all(self._store)
                    self._apply(queue, self._store)
            except (StoreUnavailable, ConfigError) as error:  # the latter: an experiment that was deleted
                self._note_error(str(error))
                return 0
            self._note_error("")
            return written

    @property
    def pending(self) -> bool:
        """Whether the last poll left something to do; a job that never wrote a journal leaves nothing."""
        waiting = (self.run_id(operation.handle) for operation in list(self._queue))
        return bool(self.uri) and (bool(self.last_error or self.failures()) or any(waiting))

    def failures(self) -> list[str]:
        """One line a run that could not be mirrored at the last poll."""
        return [run.error for run in self._parents_first() if run.error]

    def start(self) -> None:
        """Poll every ``interval_s`` in the background; ever more seldom while the store is down."""
        if self.uri and self._thread is None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._work, name="tracking-tailer", daemon=True)
            self._thread.start()

    def stop(self) -> bool:
        """End the thread and poll a last time. Returns False, with a log line, if something is left."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.poll()
        if self.pending:
            log.warning(
                "not everything is in %s; the journals hold it: run `python -m adit_scale.tracking sync RUNS "
                "--uri %s` once the store is back",
                without_credentials(self.uri),
                without_credentials(self.uri),
            )
        return not self.pending

    def __enter__(self) -> Tailer:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _work(self) -> None:
        wait_s = self.interval_s
        while not self._stopping.wait(wait_s):
            self.poll()
            wait_s = min(2 * wait_s, MAX_WAIT_S) if self.last_error else self.interval_s

    def _mirror_all(self, store: MlflowStore) -> int:
        written = 0
        for run in self._parents_first():
            try:
                written += self._mirror(store, run)
            except StoreUnavailable as error:
                store.ping()  # raises, and so ends the poll, if it is not this run's own trouble
                self._note_run_error(run, str(error))
            except AditError as error:  # a damaged journal: the others go on
                self._note_run_error(run, str(error))
            else:
                run.error = ""
        return written

    def _mirror(self, store: MlflowStore, run: _Mirrored) -> int:
        path = run.journal
        if path is None:
            self._find_or_create(store, run, STUDY_TAG, run.tags[STUDY_TAG])
            return 0
        if run.deleted or not path.is_file():
            return 0
        side = side_journal(path)
        if (seen := _sizes_and_times(path, side)) == run.seen:
            return 0
        if journal_id(path) != run.journal_id:  # new, or the run's folder was removed and made again
            run.journal_id, run.run_id = journal_id(path), None
        if run.run_id is None:
            run.start_ms = first_time_ms(path)
            if run.start_ms is None:
                return 0
            self._find_or_create(store, run, JOURNAL_TAG, run.journal_id)
            if run.run_id is None:
                return 0
        # The store is asked each time: its own latest steps are what keeps values single.
        there = store.get_run(run.run_id)
        if _is_deleted(run, there.info.lifecycle_stage):
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
        run.seen = seen
        return written

    def _find_or_create(self, store: MlflowStore, run: _Mirrored, tag: str, value: str) -> None:
        if run.run_id is not None or run.deleted:
            return
        found = store.find_run(tag, value)
        if found is None:
            tags = {**run.tags, tag: value}
            parent = self.run_id(run.parent) if run.parent else None
            if parent:
                tags[PARENT_TAG] = parent
            assert run.start_ms is not None
            run.run_id = store.create_run(run.name, tags, run.start_ms)
        elif not _is_deleted(run, found.info.lifecycle_stage):
            if run.reopen and found.info.status != "RUNNING":
                store.set_status(found.info.run_id, "RUNNING")
            run.run_id = found.info.run_id

    def _note(self, run: _Mirrored) -> str:
        with self._notes_lock:
            self._runs.setdefault(run.handle, run)
        return run.handle

    def _enqueue(self, handle: str, apply: Callable[[MlflowStore, str], None]) -> None:
        if self.uri:
            with self._notes_lock:
                self._queue.append(_Operation(handle, apply))

    def _parents_first(self) -> list[_Mirrored]:
        with self._notes_lock:
            return sorted(self._runs.values(), key=lambda run: run.journal is not None)

    def _apply(self, queue: list[_Operation], store: MlflowStore) -> None:
        """Do these in order; those of runs that are not there or not up to date, or that fail, wait."""
        for operation in queue:
            run, run_id = self._runs.get(operation.handle), self.run_id(operation.handle)
            if run_id is None or (run is not None and run.error):
                continue
            try:
                operation.apply(store, run_id)
            except StoreUnavailable as error:
                store.ping()  # raises, and so ends the poll, if it is not this operation's own trouble
                log.warning("%s", error)
            else:
                with self._notes_lock:
                    self._queue.remove(operation)

    def _end_ms(self, handle: str) -> int:
        run = self._runs.get(handle)
        return run.end_ms if run is not None and run.end_ms is not None else round(time.time() * 1000)

    def _note_error(self, message: str) -> None:
        """Say once when the store is lost, once when it is back."""
        if message and not self.last_error:
            log.warning("%s; the journals keep everything, trying again", message)
        elif self.last_error and not message:
            log.info("tracking store %s: reachable again", without_credentials(self.uri))
        self.last_error = message

    @staticmethod
    def _note_run_error(run: _Mirrored, message: str) -> None:
        if message != run.error:
            log.warning("%s is not mirrored: %s", run.name, message)
        run.error = message


def mirror(
    journal_path: Path | str,
    uri: str,
    experiment: str,
    run_name: str,
    parent_run_id: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> str | None:
    """Mirror one journal once; returns its MLflow run's id (None while the journal has no record).

    Raises StoreUnavailable, or DataError for a damaged journal.
    """
    tailer = Tailer(uri, experiment)
    handle = tailer.add(journal_path, run_name, tags, parent_run_id)
    _poll_once(tailer)
    return tailer.run_id(handle)


def log_study(
    uri: str,
    experiment: str,
    study: str,
    *,
    metrics: Mapping[str, float],
    artifacts: Path | str | None = None,
    tags: Mapping[str, str] | None = None,
    status: str = "FINISHED",
) -> str:
    """Write a study's results (fit, figures, tables) to its parent run and end it; returns the run's id.

    Raises StoreUnavailable.
    """
    tailer = Tailer(uri, experiment)
    parent = tailer.start_parent(study, tags, reopen=False)
    tailer.log_final_metrics(parent, metrics)
    if artifacts is not None:
        tailer.log_artifacts(parent, artifacts)
    tailer.finish(parent, status)
    _poll_once(tailer)
    run_id = tailer.run_id(parent)
    assert run_id is not None
    return run_id


def _poll_once(tailer: Tailer) -> None:
    tailer.poll()
    if tailer.last_error:
        raise StoreUnavailable(tailer.last_error)
    if failures := tailer.failures():
        raise DataError(failures[0])


def _is_deleted(run: _Mirrored, lifecycle_stage: str) -> bool:
    """Whether somebody deleted the run in the store; it is then left alone."""
    if lifecycle_stage != "active" and not run.deleted:
        run.deleted = True
        log.info("%s was deleted in the tracking store and is not mirrored again", run.name)
    return run.deleted


def _sizes_and_times(*paths: Path | None) -> tuple[int, ...]:
    stats = [path.stat() for path in paths if path is not None]
    return tuple(number for stat in stats for number in (stat.st_size, stat.st_mtime_ns))

"""The tailer: mirrors the journals of one or many runs to one tracking store.

It runs in a launcher's process, where it is the only writer of a SQLite store, or beside each job of a study
(``follower.py``) with a server. Whatever cannot be written now (the store is down or slow) stays in the
journals and is tried again: by the next poll, by the next launch, or by ``sync``. A run in the store is known
by its journal's id, and processes take turns by the folder's lock, so none of them writes a value twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from adit_scale.errors import AditError, ConfigError
from adit_scale.tracking.config import StoreUnavailable, without_credentials
from adit_scale.tracking.folders import STUDY_TAG, describe_run, describe_study
from adit_scale.tracking.increments import first_time_ms
from adit_scale.tracking.journal import FILE_NAME
from adit_scale.tracking.mirroring import Mirrored, find_parent, mirror_run, settle_parent
from adit_scale.tracking.mlflow_sink import MlflowStore

STATUSES = ("RUNNING", "FINISHED", "FAILED", "KILLED")
MAX_WAIT_S = 60.0

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Operation:
    """Something to do once, after the journals' values, when the store can be reached."""

    handle: str
    apply: Callable[[MlflowStore, str], None] = field(repr=False)


class Tailer:
    """Mirrors journals to the experiment of a tracking store. An empty ``uri`` mirrors nowhere.

    ``add``, ``add_folder``, ``start_parent`` and ``finish`` only take note, return at once and never raise
    because of the store; ``poll`` (called by the thread between ``start`` and ``stop``) does the work. The
    strings returned by the first three stand for runs that may not exist yet; where they are expected, the id
    of an MLflow run does as well. ``artifacts``: where a database that is no server keeps them.
    """

    def __init__(
        self, uri: str, experiment: str, *, interval_s: float = 5.0, artifacts: Path | None = None
    ) -> None:
        self.uri = uri
        self.experiment = experiment
        self.interval_s = interval_s
        self.artifacts = artifacts
        self.last_error = ""
        self._store: MlflowStore | None = None
        self._runs: dict[str, Mirrored] = {}
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
        folder: Path | None = None,
    ) -> str:
        """The parent run of a study: the one whose tag ``adit.study`` equals this one's, else a new one.

        The tag is ``name`` unless ``tags`` has it. ``reopen`` sets a finished parent to RUNNING again.
        ``folder``: the study's, which tells its tags, its report and how it ended.
        """
        all_tags = {STUDY_TAG: name, **(tags or {})}
        handle = f"study:{all_tags[STUDY_TAG]}"
        start_ms = round((time.time() if start_time_s is None else start_time_s) * 1000)
        parent = Mirrored(handle, name, all_tags, start_ms=start_ms, reopen=reopen)
        parent.folder, parent.described = folder, folder is not None
        return self._note(parent)

    def add_folder(self, folder: Path, *, reopen: bool = True) -> str:
        """Mirror the job in ``folder`` from now on, as the folder itself describes it, below its study.

        The journal may not exist yet; a job without one only has its study looked at when it ended. Raises
        DataError where the folder's description is damaged.
        """
        folder = folder.resolve()
        told = describe_run(folder)
        journal = folder / FILE_NAME
        parent = f"study:{told.study}" if told.study else None
        if parent and parent not in self._runs:
            study = describe_study(folder.parent, told.study)
            began_ms = study.start_ms or (first_time_ms(journal) if journal.is_file() else None)
            began_s = began_ms / 1000 if began_ms else None
            self.start_parent(
                told.study, study.tags, start_time_s=began_s, reopen=reopen, folder=folder.parent
            )
        run = Mirrored(str(journal), told.name, told.tags, parent, journal, folder=folder, described=True)
        return self._note(run)

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
        run = Mirrored(str(path), run_name, dict(tags or {}), parent_run_id, path, folder=path.parent)
        return self._note(run)

    def finish(self, handle: str, status: str = "FINISHED") -> None:
        """End a run (FINISHED, FAILED or KILLED) at its journal's last time stamp, a parent now."""
        assert status in STATUSES, status
        self._enqueue(handle, lambda store, run_id: store.set_status(run_id, status, self._end_ms(handle)))

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
                    self._store = MlflowStore(self.uri, self.experiment, self.artifacts)
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
        """Parents that are missing are made first, and looked at again last: their runs may end them."""
        runs, written = self._parents_first(), 0
        for run in runs:
            written += self._guarded(store, run, self._mirror)
        for run in runs:
            if (
                run.journal is None
                and run.described
                and run.due
                and run.run_id is not None
                and not run.deleted
            ):
                self._guarded(store, run, self._settle)
        return written

    def _guarded(
        self, store: MlflowStore, run: Mirrored, work: Callable[[MlflowStore, Mirrored], int]
    ) -> int:
        """One run's trouble does not hold up the others."""
        try:
            written = work(store, run)
        except StoreUnavailable as error:
            store.ping()  # raises, and so ends the poll, if it is not this run's own trouble
            self._note_run_error(run, str(error))
            return 0
        except AditError as error:  # a damaged journal: the others go on
            self._note_run_error(run, str(error))
            return 0
        run.error = ""
        return written

    def _mirror(self, store: MlflowStore, run: Mirrored) -> int:
        if run.journal is None:
            find_parent(store, run)
            return 0
        parent = self._runs.get(run.parent or "")
        return mirror_run(store, run, parent, self.run_id(run.parent) if run.parent else None)

    def _settle(self, store: MlflowStore, run: Mirrored) -> int:
        try:
            settle_parent(store, run)
        except AditError:
            run.due = True  # try again
            raise
        return 0

    def _note(self, run: Mirrored) -> str:
        with self._notes_lock:
            self._runs.setdefault(run.handle, run)
        return run.handle

    def _enqueue(self, handle: str, apply: Callable[[MlflowStore, str], None]) -> None:
        if self.uri:
            with self._notes_lock:
                self._queue.append(_Operation(handle, apply))

    def _parents_first(self) -> list[Mirrored]:
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
        return run.end_or_now_ms() if run is not None else round(time.time() * 1000)

    def _note_error(self, message: str) -> None:
        """Say once when the store is lost, once when it is back."""
        if message and not self.last_error:
            log.warning("%s; the journals keep everything, trying again", message)
        elif self.last_error and not message:
            log.info("tracking store %s: reachable again", without_credentials(self.uri))
        self.last_error = message

    @staticmethod
    def _note_run_error(run: Mirrored, message: str) -> None:
        if message != run.error:
            log.warning("%s is not mirrored: %s", run.name, message)
        run.error = message

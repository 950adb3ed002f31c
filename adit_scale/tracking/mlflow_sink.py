"""MLflow as a mirror of journals: it may be absent, slow or down without costing a step or a value.

``tracking/tailer.py`` reads the journals of all runs every few seconds and writes through ``MlflowStore``;
jobs never talk to MLflow. This is the only module that imports mlflow.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from adit_scale.errors import AditError, ConfigError
from adit_scale.tracking.config import check_uri, without_credentials
from adit_scale.tracking.increments import Increment, Point

JOURNAL_TAG = "adit.journal"  # the journal's id: one MLflow run a journal
STUDY_TAG = "adit.study"  # one parent run a study
MARK_TAG = "adit.mirrored"
SIDE_MARK_TAG = "adit.mirrored.scoring"  # of the run's second journal
PARENT_TAG = "mlflow.parentRunId"
MAX_METRICS_PER_BATCH = 1000
MAX_PARAMS_PER_BATCH = 100
LOCK_TIMEOUT_S = 60.0


class StoreUnavailable(AditError):
    """The tracking store cannot be reached or refused a request; what was to be written can wait."""


# Without this tag MLflow shows a new experiment as one of language-model applications.
MODEL_TRAINING = {"mlflow.experimentKind": "custom_model_development"}


class MlflowStore:
    """One experiment of a tracking store. Every method may raise StoreUnavailable.

    ``with store.sole_writer():`` around writes keeps processes that share a SQLite file apart.
    """

    def __init__(self, uri: str, experiment: str) -> None:
        self.uri = _absolute(uri)
        self.experiment_id = ensure_store(uri, experiment)
        self._client = MlflowClient(self.uri)

    @contextmanager
    def sole_writer(self) -> Iterator[None]:
        with _locked(_sqlite_file(self.uri)):
            yield

    def ping(self) -> None:
        with _store_errors(self.uri):
            self._client.get_experiment(self.experiment_id)

    def find_run(self, tag: str, value: str) -> Run | None:
        """The oldest run of the experiment with this tag, deleted ones included."""
        with _store_errors(self.uri):
            found = self._client.search_runs(
                [self.experiment_id],
                filter_string=f"tags.`{tag}` = '{value}'",
                run_view_type=ViewType.ALL,
                max_results=1,
                order_by=["attributes.start_time ASC"],
            )
        return found[0] if found else None

    def create_run(self, name: str, tags: Mapping[str, str], start_ms: int) -> str:
        with _store_errors(self.uri):
            run = self._client.create_run(
                self.experiment_id, start_time=start_ms, tags=dict(tags), run_name=name
            )
        return run.info.run_id

    def get_run(self, run_id: str) -> Run:
        with _store_errors(self.uri):
            return self._client.get_run(run_id)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        with _store_errors(self.uri):
            for key, value in tags.items():
                self._client.set_tag(run_id, key, value)

    def set_status(self, run_id: str, status: str, end_ms: int | None = None) -> None:
        """Status RUNNING, FINISHED, FAILED or KILLED; ``end_ms`` with all but RUNNING."""
        with _store_errors(self.uri):
            if status == "RUNNING":
                self._client.update_run(run_id, status=status)
            else:
                self._client.set_terminated(run_id, status=status, end_time=end_ms)

    def write(self, run: Run, increment: Increment, mark_tag: str = MARK_TAG) -> None:
        """Write an increment in batches the store accepts, then its mark: a crash between loses nothing."""
        run_id = run.info.run_id
        # A parameter cannot change in MLflow: the first value stands.
        params = [Param(k, v) for k, v in increment.params.items() if k not in run.data.params]
        tags = {k: v for k, v in increment.tags.items() if run.data.tags.get(k) != v}
        with _store_errors(self.uri):
            for part in _chunks(params, MAX_PARAMS_PER_BATCH):
                self._client.log_batch(run_id, params=part)
            for part in _chunks([RunTag(k, v) for k, v in tags.items()], MAX_PARAMS_PER_BATCH):
                self._client.log_batch(run_id, tags=part)
        self.write_points(run_id, increment.points)
        if run.info.status != "RUNNING" and increment.points:
            self.set_status(run_id, "RUNNING")  # the run was resumed
        if run.data.tags.get(mark_tag) != increment.mark.to_json():
            self.set_tags(run_id, {mark_tag: increment.mark.to_json()})

    def write_points(self, run_id: str, points: list[Point]) -> None:
        metrics = [Metric(p.key, p.value, p.time_ms, p.step) for p in points]
        with _store_errors(self.uri):
            for part in _chunks(metrics, MAX_METRICS_PER_BATCH):
                self._client.log_batch(run_id, metrics=part)

    def write_final_metrics(self, run_id: str, values: Mapping[str, float], at_ms: int) -> None:
        """Write results that have no step. An equal value is not written again; a new one gets a new step."""
        latest = latest_metrics(self.get_run(run_id))
        points = []
        for key, value in values.items():
            seen = latest.get(key)
            if seen is None or not _same(seen.value, value):
                points.append(Point(key, value, at_ms, 0 if seen is None else seen.step + 1))
        self.write_points(run_id, points)

    def write_artifacts(self, run_id: str, folder: Path, artifact_path: str | None) -> None:
        with _store_errors(self.uri):
            self._client.log_artifacts(run_id, str(folder), artifact_path)


def ensure_store(uri: str, experiment: str) -> str:
    """Create folder, database and experiment where missing; returns the experiment's id.

    Safe to call from several processes at once: the creation of a SQLite store is locked. Artifacts of a
    SQLite store go to ``artifacts/`` beside the database; a server decides on its own.

    Raises ConfigError for a URI or experiment that cannot be used, StoreUnavailable if the store is down.
    """
    _configure_mlflow()
    check_uri(uri)
    uri, database = _absolute(uri), _sqlite_file(uri)
    with _store_errors(uri), _locked(database):
        client = MlflowClient(uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            location = (database.parent / "artifacts" / experiment).resolve().as_uri() if database else None
            return _create_experiment(client, experiment, location)
    if found.lifecycle_stage != "active":
        raise ConfigError(
            f"tracking.experiment: {experiment!r} was deleted in {without_credentials(uri)}; "
            "restore it there or name another"
        )
    return found.experiment_id


def latest_metrics(run: Run) -> dict[str, Metric]:
    """The value with the highest step of each key, with its step (which ``run.data.metrics`` leaves out)."""
    return {m.key: Metric(m.key, m.value, m.timestamp, m.step) for m in run.data.to_proto().metrics}


def _create_experiment(client: MlflowClient, name: str, location: str | None) -> str:
    try:
        return client.create_experiment(name, location, MODEL_TRAINING)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        found = client.get_experiment_by_name(name)  # another process of a shared server was faster
        assert found is not None
        return found.experiment_id


def _configure_mlflow() -> None:
    """Quiet, no pickles, and short waits: MLflow's own seven retries would block for minutes."""
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)


def _sqlite_file(uri: str) -> Path | None:
    """The file of ``sqlite:///relative`` or ``sqlite:////absolute``; None for other stores."""
    prefix = "sqlite:///"
    return Path(uri[len(prefix) :].partition("?")[0]) if uri.startswith(prefix) else None


def _absolute(uri: str) -> str:
    """A relative SQLite file resolved now, so that a later change of directory cannot split the store."""
    file = _sqlite_file(uri)
    return uri if file is None else uri.replace(str(file), str(file.resolve()), 1)


@contextmanager
def _locked(database: Path | None) -> Iterator[None]:
    """Hold the lock file beside a SQLite database; creates the folder. No lock for servers (None)."""
    if database is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(database.name + ".lock").open("w") as file:
        deadline_s = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline_s:
                    raise StoreUnavailable(f"{database}: locked by another process") from error
                time.sleep(0.05)
        yield


@contextmanager
def _store_errors(uri: str) -> Iterator[None]:
    """Turn what MLflow, its database and the network raise into one line."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:  # the last: a database's driver
        reason = without_credentials((str(error).strip() or type(error).__name__).splitlines()[0])
        # From None: the chained message may hold the address with its password.
        raise StoreUnavailable(f"tracking store {without_credentials(uri)}: {reason[:200]}") from None


def _chunks(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def _same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))

"""MLflow as a mirror of journals: it may be absent, slow or down without costing a step or a value.

``tracking/tailer.py`` reads the journals of all runs every few seconds and writes through ``MlflowStore``;
jobs never talk to MLflow. This is the only module that imports mlflow.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.db import upgrade as mlflow_db_upgrade
from mlflow.entities import Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from sqlalchemy import create_engine
from sqlalchemy.exc import SQLAlchemyError

from adit_scale.errors import ConfigError
from adit_scale.tracking.config import (
    SERVERS,
    StoreUnavailable,
    absolute_uri,
    check_uri,
    sqlite_file,
    without_credentials,
)
from adit_scale.tracking.folders import STUDY_TAG
from adit_scale.tracking.increments import Increment, Point
from adit_scale.tracking.locks import LOCK, locked

JOURNAL_TAG = "adit.journal"  # the journal's id: one MLflow run a journal
MARK_TAG = "adit.mirrored"
SIDE_MARK_TAG = "adit.mirrored.scoring"  # of the run's second journal
PARENT_TAG = "mlflow.parentRunId"
# Of the 1,000 entries that a server takes at once, tags may be 100: the last batch carries the mark.
MAX_METRICS_PER_BATCH = 900
MAX_PARAMS_PER_BATCH = 100
MAX_TWINS = 100

# Without this tag MLflow shows a new experiment as one of language-model applications.
MODEL_TRAINING = {"mlflow.experimentKind": "custom_model_development"}


class MlflowStore:
    """One experiment of a tracking store. Every method may raise StoreUnavailable.

    ``with store.sole_writer():`` around writes keeps processes that share a SQLite file apart.
    """

    def __init__(self, uri: str, experiment: str, artifacts: Path | None = None) -> None:
        self.uri = absolute_uri(uri)
        self.experiment_id = ensure_store(uri, experiment, artifacts)
        self._client = MlflowClient(_with_driver(self.uri))

    @contextmanager
    def sole_writer(self) -> Iterator[None]:
        with _locked(sqlite_file(self.uri), self.uri):
            yield

    def ping(self) -> None:
        with _store_errors(self.uri):
            self._client.get_experiment(self.experiment_id)

    def find_run(self, tag: str, value: str, known: str | None = None) -> Run | None:
        """The run with this tag, deleted ones included; a study's tag finds only its parent run.

        A request that was lost on its way may have made the run and a later one made it again. ``known`` is
        the one to keep, else the oldest; others that nothing was written to are deleted.
        """
        quote = '"' if "'" in value else "'"
        parents = f" and tags.`{PARENT_TAG}` IS NULL" if tag == STUDY_TAG else ""
        with _store_errors(self.uri):
            runs = self._client.search_runs(
                [self.experiment_id],
                filter_string=f"tags.`{tag}` = {quote}{value}{quote}{parents}",
                run_view_type=ViewType.ALL,
                max_results=MAX_TWINS,
                order_by=["attributes.start_time ASC"],
            )
            found = sorted(runs, key=lambda run: (run.info.run_id != known, _is_empty(run), _is_deleted(run)))
            for twin in found[1:]:
                if _is_empty(twin) and not _is_deleted(twin):
                    self._client.delete_run(twin.info.run_id)
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

    def set_tags(self, run: Run, tags: Mapping[str, str]) -> None:
        """Write those that the run does not have."""
        changed = [RunTag(k, v) for k, v in tags.items() if run.data.tags.get(k) != v]
        with _store_errors(self.uri):
            for part in _chunks(changed, MAX_PARAMS_PER_BATCH):
                self._client.log_batch(run.info.run_id, tags=part)

    def drop_tag(self, run: Run, key: str) -> None:
        if key in run.data.tags:
            with _store_errors(self.uri):
                self._client.delete_tag(run.info.run_id, key)

    def set_status(self, run_id: str, status: str, end_ms: int | None = None) -> None:
        """Status RUNNING, FINISHED, FAILED or KILLED; ``end_ms`` with all but RUNNING."""
        with _store_errors(self.uri):
            if status == "RUNNING":
                self._client.update_run(run_id, status=status)
            else:
                self._client.set_terminated(run_id, status=status, end_time=end_ms)

    def write(self, run: Run, increment: Increment, mark_tag: str = MARK_TAG) -> None:
        """Write an increment in batches the store accepts, its mark last: a crash between loses nothing."""
        run_id = run.info.run_id
        # A parameter cannot change in MLflow: the first value stands.
        params = [Param(k, v) for k, v in increment.params.items() if k not in run.data.params]
        tags = {k: v for k, v in increment.tags.items() if run.data.tags.get(k) != v}
        mark = {mark_tag: increment.mark.to_json()}
        metrics = [Metric(p.key, p.value, p.time_ms, p.step) for p in increment.points]
        *firsts, last = list(_chunks(metrics, MAX_METRICS_PER_BATCH)) or [[]]
        with _store_errors(self.uri):
            for part in _chunks(params, MAX_PARAMS_PER_BATCH):
                self._client.log_batch(run_id, params=part)
            for part in _chunks([RunTag(k, v) for k, v in tags.items()], MAX_PARAMS_PER_BATCH):
                self._client.log_batch(run_id, tags=part)
            for part in firsts:
                self._client.log_batch(run_id, metrics=part)
            # The store writes a batch's metrics before its tags.
            if run.data.tags.get(mark_tag) != mark[mark_tag]:
                self._client.log_batch(run_id, metrics=last, tags=[RunTag(k, v) for k, v in mark.items()])
            elif last:
                self._client.log_batch(run_id, metrics=last)
        if run.info.status != "RUNNING" and increment.points:
            self.set_status(run_id, "RUNNING")  # the run was resumed

    def write_final_metrics(self, run_id: str, values: Mapping[str, float], at_ms: int) -> None:
        """Write results that have no step. An equal value is not written again; a new one gets a new step."""
        latest = latest_metrics(self.get_run(run_id))
        points = []
        for key, value in values.items():
            seen = latest.get(key)
            if seen is None or not _same(seen.value, value):
                points.append(Point(key, value, at_ms, 0 if seen is None else seen.step + 1))
        metrics = [Metric(p.key, p.value, p.time_ms, p.step) for p in points]
        with _store_errors(self.uri):
            for part in _chunks(metrics, MAX_METRICS_PER_BATCH):
                self._client.log_batch(run_id, metrics=part)

    def write_artifacts(self, run_id: str, folder: Path, artifact_path: str | None) -> None:
        with _store_errors(self.uri):
            self._client.log_artifacts(run_id, str(folder), artifact_path)


def ensure_store(uri: str, experiment: str, artifacts: Path | None = None) -> str:
    """Create folder, database and experiment where missing; returns the experiment's id.

    Safe to call from several processes at once: the creation of a database is locked. Artifacts of a SQLite
    store go to ``artifacts/`` beside the database, of another database to ``artifacts``; a server decides on
    its own.

    Raises ConfigError for a URI or experiment that cannot be used, StoreUnavailable if the store is down.
    """
    configure_mlflow()
    check_uri(uri)
    uri = absolute_uri(uri)
    database = sqlite_file(uri)  # absolute too: the lock's place is known by it
    if database is not None:
        artifacts = database.parent / "artifacts"
    elif uri.partition("://")[0] in SERVERS:
        artifacts = None
    with _store_errors(uri), _locked(database, uri) if database else _locked(artifacts, uri):
        client = MlflowClient(_with_driver(uri))
        found = client.get_experiment_by_name(experiment)
        if found is None:
            location = (artifacts / experiment).resolve().as_uri() if artifacts else None
            return _create_experiment(client, experiment, location)
    if found.lifecycle_stage != "active":
        raise ConfigError(
            f"tracking.experiment: {experiment!r} was deleted in {without_credentials(uri)}; "
            "restore it there or name another"
        )
    return found.experiment_id


def upgrade_database(uri: str) -> None:
    """Create MLflow's tables, or bring those of an older MLflow up to this one's.

    Raises StoreUnavailable where the database cannot be reached or altered.
    """
    configure_mlflow()
    assert mlflow_db_upgrade.callback is not None
    address = _with_driver(absolute_uri(uri))
    with _store_errors(uri):
        if sqlite_file(uri) is None:  # MLflow itself would try for minutes before it says what is wrong
            engine = create_engine(address)
            engine.connect().close()
            engine.dispose()
        # The command itself would show the address, and so its password, to every user of the machine.
        mlflow_db_upgrade.callback(address)


def server_settings(backend: str, artifacts: Path, allowed_hosts: str) -> dict[str, str]:
    """The environment of an ``mlflow server``: its stores, who may call it, and nothing that runs code."""
    return {
        "MLFLOW_BACKEND_STORE_URI": _with_driver(absolute_uri(backend)),
        "MLFLOW_ARTIFACTS_DESTINATION": artifacts.absolute().as_uri(),
        "MLFLOW_SERVER_ALLOWED_HOSTS": allowed_hosts,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


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


def _with_driver(uri: str) -> str:
    """SQLAlchemy's choice of a driver for PostgreSQL changes with its version; ours is psycopg2."""
    scheme, separator, place = uri.partition("://")
    return f"postgresql+psycopg2{separator}{place}" if scheme == "postgresql" else uri


def configure_mlflow() -> None:
    """Quiet, no pickles, and short waits: MLflow's own seven retries would block for minutes."""
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)


@contextmanager
def _locked(place: Path | None, uri: str) -> Iterator[None]:
    """Hold the lock beside a SQLite database, or in the folder of another's artifacts. None: no lock."""
    if place is None:
        yield
        return
    with locked(place.with_name(place.name + ".lock") if place == sqlite_file(uri) else place / LOCK):
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


def _is_empty(run: Run) -> bool:
    """Whether nothing was written to a run since it was made."""
    return MARK_TAG not in run.data.tags and not run.data.metrics


def _is_deleted(run: Run) -> bool:
    return bool(run.info.lifecycle_stage != "active")


def _chunks(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def _same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))

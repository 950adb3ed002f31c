"""Mirror every run below a folder once: for stores that were down or lost, and for runs of other machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from adit_scale.errors import ConfigError, DataError
from adit_scale.tracking.config import StoreUnavailable, check_uri, usable_uri
from adit_scale.tracking.folders import NODE, STUDY, find_runs
from adit_scale.tracking.journal import FILE_NAME
from adit_scale.tracking.tailer import Tailer


@dataclass
class SyncReport:
    """Journals found, metric values written, and one line for each run that could not be mirrored."""

    journals: int = 0
    values: int = 0
    failures: list[str] = field(default_factory=list)


def sync(runs: Path | str, uri: str, experiment: str) -> SyncReport:
    """Bring a store up to all runs in ``runs``: a folder of studies, a study's, or a run's.

    Values, tags, endings, pictures, reports and results, whatever of them is missing. Doing it again, or
    beside a running launcher or its jobs, adds nothing twice. A folder with ``node.json`` is a job of a
    study: its run is nested under the study's, named there or else after the folder above. Runs that did
    not end are left as they are.

    Raises ConfigError if there is no folder or no URI, StoreUnavailable if the store cannot be reached.
    """
    root = Path(runs)
    if not root.is_dir():
        raise ConfigError(f"{root}: no such folder; expected a folder that holds run folders")
    uri = usable_uri(uri)
    if not uri:
        raise ConfigError("tracking.uri: got an empty address; name the store with --uri")
    check_uri(uri)
    root = root.resolve()
    folders = list(find_runs(root))
    report = SyncReport(sum((folder / FILE_NAME).is_file() for folder in folders))
    tailer = Tailer(uri, experiment, artifacts=artifacts_folder(root))
    for folder in folders:
        try:
            tailer.add_folder(folder, reopen=False)
        except DataError as error:
            report.failures.append(str(error))
    report.values = tailer.poll()
    if tailer.last_error:
        raise StoreUnavailable(tailer.last_error)
    report.failures += tailer.failures()
    return report


def artifacts_folder(root: Path) -> Path:
    """Where a database that is no server keeps artifacts: beside the studies, given any folder of them."""
    if (root / NODE).is_file():
        root = root.parent
    return (root.parent if (root / STUDY).is_file() else root) / "artifacts"


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
    tailer.poll()
    if tailer.last_error:
        raise StoreUnavailable(tailer.last_error)
    if failures := tailer.failures():
        raise DataError(failures[0])
    return tailer.run_id(handle)

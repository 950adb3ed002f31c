"""Mirror every journal below a folder once: for stores that were down, and for runs of other machines."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adit_scale.errors import ConfigError, DataError
from adit_scale.tracking.config import check_uri
from adit_scale.tracking.increments import first_time_ms
from adit_scale.tracking.journal import FILE_NAME, side_journal
from adit_scale.tracking.mlflow_sink import StoreUnavailable
from adit_scale.tracking.tailer import Tailer


@dataclass
class SyncReport:
    """Journals found, metric values written, and one line for each journal that could not be mirrored."""

    journals: int = 0
    values: int = 0
    failures: list[str] = field(default_factory=list)


def sync(runs: Path | str, uri: str, experiment: str) -> SyncReport:
    """Mirror all journals below ``runs``. Doing it again, or beside a running launcher, adds nothing twice.

    A folder with ``node.json`` is a node of a study: its run is nested under the study's, named there or else
    after the folder above. ``DONE.json`` and ``FAILED.json`` end a run; others are left as they are.

    Raises ConfigError if there is no folder or no URI, StoreUnavailable if the store cannot be reached.
    """
    root = Path(runs)
    if not root.is_dir():
        raise ConfigError(f"{root}: no such folder; expected a folder that holds run folders")
    if not uri:
        raise ConfigError("tracking.uri: got an empty address; name the store with --uri")
    check_uri(uri)
    found = sorted(root.resolve().rglob(FILE_NAME))
    sides = {side_journal(path) for path in found}  # mirrored with the journals they belong to
    journals = [path for path in found if path not in sides]
    report = SyncReport(len(journals))
    tailer = Tailer(uri, experiment)
    endings: dict[str, str] = {}
    for journal in journals:
        try:
            _add(tailer, journal, endings)
        except DataError as error:
            report.failures.append(str(error))
    for handle, status in endings.items():
        if status:
            tailer.finish(handle, status)
    report.values = tailer.poll()
    if tailer.last_error:
        raise StoreUnavailable(tailer.last_error)
    report.failures += tailer.failures()
    return report


def _add(tailer: Tailer, journal: Path, endings: dict[str, str]) -> None:
    """Note a journal and how its run ended; the parent ends with the last of its nodes."""
    folder = journal.parent
    node = _read_node(folder)
    started_ms = first_time_ms(journal)
    if started_ms is None:
        return
    ending = _ending(folder)
    parent = None
    name = folder.name
    if node:
        name = "-".join(str(node[key]) for key in ("kind", "label") if node.get(key)) or name
        study = str(node.get("study") or folder.parent.name)
        parent = tailer.start_parent(study, start_time_s=started_ms / 1000, reopen=False)
        endings[parent] = _joined(endings.get(parent, ending), ending)
    tags = {f"adit.{key}": str(node[key]) for key in ("kind", "label", "id") if node.get(key)}
    endings[tailer.add(journal, name, tags, parent)] = ending


def _ending(folder: Path) -> str:
    if (folder / "DONE.json").exists():
        return "FINISHED"
    return "FAILED" if (folder / "FAILED.json").exists() else ""


def _joined(a: str, b: str) -> str:
    """How a study ended whose parts ended so: open parts leave it open, failed ones fail it."""
    if not a or not b:
        return ""
    return "FAILED" if "FAILED" in (a, b) else "FINISHED"


def _read_node(folder: Path) -> dict[str, Any]:
    path = folder / "node.json"
    if not path.is_file():
        return {}
    try:
        node = json.loads(path.read_text())
    except ValueError as error:
        raise DataError(
            f"{path}: not JSON ({error}); expected the node.json that the launcher wrote"
        ) from error
    if not isinstance(node, dict):
        raise DataError(f"{path}: got a {type(node).__name__}; expected the object that the launcher wrote")
    return node

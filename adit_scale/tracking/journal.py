"""The journal: one file of JSON lines a run, the only truth about what the run measured.

The first line names the journal; each further line is one record::

    {"kind": "metrics", "step": 40, "values": {"train/loss": 1.25}, "clock": {"time_s": 1760000000.0}}

``values`` are a pure function of the run's settings, data and seed: a resumed run writes them equal, bit for
bit, to the uninterrupted run's. ``clock`` holds whatever wall-clock time decides (the time stamp, speeds,
memory). A checkpoint stores ``Journal.offset``; a resumed run cuts the journal there with ``truncate`` and
writes the rest again. The journal's id outlives every cut, so that a mirror knows the run again.
"""

from __future__ import annotations

import json
import math
import numbers
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from adit_scale.errors import DataError

FILE_NAME = "journal.jsonl"
# In it a run may keep a second journal, of scores that arrive when they arrive (training/side_scoring.py).
SIDE_FOLDER = "scoring"
SCHEMA_VERSION = 1
KINDS = ("params", "metrics", "tags", "event")
# JSON has no numbers for these; ``repr`` of any other float reads back bit for bit.
NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class Journal:
    """Appends records to ``folder/journal.jsonl``. One writer a journal: rank 0 of the run.

    Opening an existing journal goes on behind its last complete line; a torn last line (the writer was
    killed) is cut away. Nothing but the first line is parsed on opening, so a journal damaged behind the
    checkpoint can still be opened and cut back.

    Raises DataError if the file exists but does not start as a journal.
    """

    def __init__(self, folder: Path | str) -> None:
        self.path = Path(folder) / FILE_NAME
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._header_bytes = _header_length(self.path) if self.path.exists() else 0
        if self._header_bytes == 0:
            _write_header(self.path)
            self._header_bytes = self.path.stat().st_size
        self._file = self.path.open("r+b")
        self._cut(_end_of_last_line(self.path))

    @property
    def offset(self) -> int:
        """Bytes up to and including the last record logged (whether or not it is on disk yet)."""
        return self._offset

    def log_metrics(
        self, step: int, values: Mapping[str, float], clock: Mapping[str, float] | None = None
    ) -> None:
        """Record numbers at ``step`` (optimiser steps taken). Integers stay integers, NaN and inf are kept.

        The steps of one key must not fall: a mirror skips what lies at or below a step it has already seen.
        ``clock`` receives ``time_s`` (seconds since 1970) unless it has one.
        """
        self._write("metrics", step, {key: _number(value) for key, value in values.items()}, clock)

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Record settings (nested mappings are kept nested); the first value of a key stands in a mirror."""
        self._write("params", 0, values)

    def log_tags(self, values: Mapping[str, str]) -> None:
        """Record labels of the run; a later value of a key replaces the earlier one."""
        self._write("tags", 0, values)

    def log_event(
        self,
        name: str,
        step: int = 0,
        values: Mapping[str, Any] | None = None,
        clock: Mapping[str, Any] | None = None,
    ) -> None:
        """Record an occurrence (``finished``, ``skipped_step``, ...); its name is ``values["event"]``."""
        assert not values or "event" not in values
        self._write("event", step, {"event": name, **(values or {})}, clock)

    def flush(self) -> None:
        """Hand all records to the operating system: readers see them, a killed process loses none."""
        self._file.flush()

    def sync(self) -> None:
        """Flush and wait until the records are on the disk. Call before a checkpoint stores ``offset``."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def truncate(self, offset: int) -> None:
        """Cut everything behind ``offset``, a value of ``.offset`` stored earlier; 0 empties the journal.

        Raises DataError if the journal is shorter than ``offset`` or has no line end there: it is not the
        journal that the checkpoint was written with.
        """
        self._file.flush()
        offset = max(offset, self._header_bytes)  # the id stays, whatever is cut
        size = self.path.stat().st_size
        if offset > size:
            raise DataError(
                f"{self.path}: has {size} bytes, but the checkpoint was written at byte {offset}; "
                "resume with the journal of the same run folder, or start the run in a new folder"
            )
        self._file.seek(offset - 1)
        at_line_end = self._file.read(1) == b"\n"
        self._file.seek(self._offset)
        if not at_line_end:
            raise DataError(
                f"{self.path}: byte {offset}, where the checkpoint was written, is not the end of a line; "
                "resume with the journal of the same run folder, or start the run in a new folder"
            )
        self._cut(offset)

    def close(self) -> None:
        """Sync and close. Closing twice does nothing."""
        if not self._file.closed:
            self.sync()
            self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _cut(self, offset: int) -> None:
        self._file.truncate(offset)
        self._file.seek(offset)
        self._offset = offset

    def _write(
        self, kind: str, step: int, values: Mapping[str, Any], clock: Mapping[str, Any] | None = None
    ) -> None:
        record = {
            "kind": kind,
            "step": int(step),
            "values": _encode(values),
            "clock": _encode({"time_s": time.time(), **(clock or {})}),
        }
        line = json.dumps(record, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        self._file.write(line)
        self._offset += len(line)


class Line(NamedTuple):
    """One record of a journal and the bytes [start, end) of its line."""

    record: dict[str, Any]
    start: int
    end: int


def read_journal(path: Path | str) -> list[dict[str, Any]]:
    """All records of a journal (a file, or the run folder that holds it), oldest first.

    A last line without its line end is still being written, or its writer was killed: it is left out.
    Raises DataError naming file and line if any other line is damaged, or if there is no such file.
    """
    return [line.record for line in scan(path)]


def side_journal(path: Path | str) -> Path | None:
    """The second journal of the run whose journal ``path`` is; None where it has none."""
    side = Path(path).parent / SIDE_FOLDER / FILE_NAME
    return side if side.is_file() else None


def read_run(folder: Path | str) -> list[dict[str, Any]]:
    """All records of a run: its journal's, then those of the second one. Raises DataError."""
    path = journal_file(folder)
    side = side_journal(path)
    return read_journal(path) + (read_journal(side) if side else [])


def scan(path: Path | str, start: int = 0) -> Iterator[Line]:
    """Records from byte ``start`` (0, or the ``end`` of a line read earlier) with their places.

    Raises DataError as ``read_journal`` does.
    """
    path = journal_file(path)
    begin = max(start, _header_length(path))
    with path.open("rb") as file:
        file.seek(begin)
        for raw in file:
            if not raw.endswith(b"\n"):
                return
            end = begin + len(raw)
            yield Line(_parse(raw, path, begin), begin, end)
            begin = end


def journal_id(path: Path | str) -> str:
    """The id in a journal's first line; the same for copies of a journal and across resumes.

    Returns "" while the first line is not complete. Raises DataError if the file is not a journal.
    """
    path = journal_file(path)
    header = _header(path)
    return "" if header is None else header["id"]


def series(records: Iterable[Mapping[str, Any]], key: str) -> tuple[list[int], list[float]]:
    """(steps, values) of one metric, looked up in ``values``, then in ``clock``, in the journal's order."""
    steps: list[int] = []
    values: list[float] = []
    for record in records:
        if record["kind"] != "metrics":
            continue
        for part in (record["values"], record["clock"]):
            if key in part:
                steps.append(record["step"])
                values.append(part[key])
                break
    return steps, values


def events(records: Iterable[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    """The event records of one name, oldest first."""
    return [r for r in records if r["kind"] == "event" and r["values"].get("event") == name]


def journal_file(path: Path | str) -> Path:
    """The journal's file, given the file itself or its run folder. Raises DataError if there is none."""
    path = Path(path)
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"{file}: no such journal; expected the {FILE_NAME} of a run folder")
    return file


def _header(path: Path) -> dict[str, Any] | None:
    """The parsed first line; None while it is empty or torn."""
    with path.open("rb") as file:
        raw = file.readline()
    if not raw.endswith(b"\n"):
        return None
    try:
        header = json.loads(raw)
    except ValueError as error:
        raise DataError(f"{path}, line 1: not a journal (its first line is not JSON)") from error
    if not isinstance(header, dict) or header.get("kind") != "journal" or "id" not in header:
        raise DataError(f"{path}, line 1: not a journal (its first line does not name one)")
    if header.get("version") != SCHEMA_VERSION:
        raise DataError(
            f"{path}, line 1: journal version {header.get('version')}, expected {SCHEMA_VERSION}; "
            "read it with the release that wrote it"
        )
    return header


def _header_length(path: Path) -> int:
    """Bytes of the first line; 0 while it is empty or torn."""
    if _header(path) is None:
        return 0
    with path.open("rb") as file:
        return len(file.readline())


def _write_header(path: Path) -> None:
    header = {"kind": "journal", "version": SCHEMA_VERSION, "id": uuid.uuid4().hex}
    path.write_bytes(json.dumps(header, separators=(",", ":")).encode() + b"\n")


def _end_of_last_line(path: Path, chunk_bytes: int = 65536) -> int:
    """Offset just behind the last line end of a file that has at least one."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            begin = max(0, end - chunk_bytes)
            file.seek(begin)
            found = file.read(end - begin).rfind(b"\n")
            if found >= 0:
                return begin + found + 1
            end = begin
    raise AssertionError(f"{path} has no line end")


def _parse(raw: bytes, path: Path, begin: int) -> dict[str, Any]:
    try:
        record = json.loads(raw)
        valid = (
            record["kind"] in KINDS
            and isinstance(record["step"], int)
            and isinstance(record["values"], dict)
            and isinstance(record["clock"], dict)
        )
    except (ValueError, KeyError, TypeError):
        valid = False
    if not valid:
        with path.open("rb") as file:
            number = file.read(begin).count(b"\n") + 1
        raise DataError(
            f"{path}, line {number}: damaged record {raw[:60]!r}; expected a JSON object with kind, step, "
            "values and clock; resume the run from a checkpoint written before it, or restore the file"
        )
    if record["kind"] in ("metrics", "event"):  # settings and labels may well be the word "nan"
        record["values"] = {key: _decode(value) for key, value in record["values"].items()}
    record["clock"] = {key: _decode(value) for key, value in record["clock"].items()}
    return record


def _number(value: Any) -> int | float:
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def _encode(value: Any) -> Any:
    """What JSON can hold: numpy scalars become numbers, non-finite floats words, paths strings."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _encode(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_encode(item) for item in value]
    if isinstance(value, numbers.Real):
        number = _number(value)
        return number if isinstance(number, int) or math.isfinite(number) else repr(number)
    return str(value)


def _decode(value: Any) -> Any:
    if isinstance(value, str):
        return NON_FINITE.get(value, value)
    if isinstance(value, dict):
        return {key: _decode(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decode(item) for item in value]
    return value

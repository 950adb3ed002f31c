"""ASE databases in SQLite (.db), read by their documented tables; nothing stored in them is unpickled."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

import numpy as np

from adit_scale.atoms import AtomSet
from adit_scale.data.config import DataConfig
from adit_scale.data.sources.source import (
    COMPRESSED,
    MAX_RECORD_BYTES,
    Format,
    Record,
    Rejected,
    Source,
    UnusableFile,
    UnusableStructure,
)

_HEAD = struct.Struct("<iIII")  # pbc, and the bytes of numbers, positions and cell
_VERSIONS = ("5", "6", "7", "8", "9")
_COLUMNS = {
    "id", "unique_id", "numbers", "positions", "cell", "pbc", "initial_magmoms", "initial_charges", "masses",
    "tags", "momenta", "constraints", "calculator", "energy", "forces", "stress", "key_value_pairs", "data",
    "natoms",
}  # fmt: skip
_MAGIC = b"SQLite format 3\0"


def records(source: Source, config: DataConfig) -> Iterator[Record]:
    """The rows of table ``systems`` in the order of their ids.

    A row is named by its key ``name`` where each has one of its own, else by its id.
    Raises UnusableFile for what is no ASE database.
    """
    _refuse_other_files(source.path)
    address = f"file:{quote(str(source.path.resolve()))}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(address, uri=True)) as database:
            database.execute("PRAGMA trusted_schema = OFF")
            database.execute("PRAGMA cell_size_check = ON")
            database.text_factory = lambda data: data.decode("utf-8", "replace")
            (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise UnusableFile(f"a damaged database ({str(found)[:100]}); copy the file again")
            yield from _rows(database)
    except (sqlite3.Error, sqlite3.Warning, OverflowError) as error:
        raise UnusableFile(f"not a whole ASE database ({error})") from error


def _refuse_other_files(path: Path) -> None:
    if path.suffix.lower() in COMPRESSED:
        raise UnusableFile("a database is not read compressed; decompress the file")
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise UnusableFile("not an SQLite database; expected ASE's .db")


def _rows(database: sqlite3.Connection) -> Iterator[Record]:
    _check_schema(database)
    named = _has_names(database)
    name = (
        "(SELECT value FROM text_key_values AS k WHERE k.id = s.id AND k.key = 'name')" if named else "NULL"
    )
    blobs = [
        f"CASE WHEN length(s.{c}) <= {MAX_RECORD_BYTES} THEN s.{c} END"
        for c in ("numbers", "positions", "cell")
    ]
    query = f"SELECT s.id, {name}, s.natoms, s.pbc, {', '.join(blobs)} FROM systems AS s ORDER BY s.id"
    index = -1
    for index, (row_id, text, natoms, pbc, *parts) in enumerate(database.execute(query)):
        found = text if isinstance(text, str) and text else str(row_id)
        whole = isinstance(pbc, int) and 0 <= pbc < 8 and all(isinstance(part, bytes) for part in parts)
        if whole and natoms == len(parts[0]) / 4:
            payload = _HEAD.pack(pbc, *map(len, parts)) + b"".join(parts)
            yield Record(index, found, payload)
        else:
            reason = "numbers, positions, cell or pbc are not as ASE writes them"
            yield Record.unusable(index, found, reason)
    if index < 0:
        raise UnusableFile("a database without rows")


def _check_schema(database: sqlite3.Connection) -> None:
    columns = {row[1] for row in database.execute("PRAGMA table_info(systems)")}
    kinds = [row[0] for row in database.execute("SELECT type FROM sqlite_master WHERE name = 'systems'")]
    if kinds != ["table"] or not columns >= _COLUMNS:
        missing = ", ".join(sorted(_COLUMNS - columns)[:3])
        raise UnusableFile(f"no table 'systems' as ASE makes it (without {missing}); expected ASE's .db")
    found = database.execute("SELECT value FROM information WHERE name = 'version'").fetchone()
    if found is None or str(found[0]) not in _VERSIONS:
        raise UnusableFile(
            f"ASE database of version {found and found[0]}; expected {' to '.join(_VERSIONS[::4])}"
        )


def _has_names(database: sqlite3.Connection) -> bool:
    tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "text_key_values" not in tables:
        return False
    count, distinct = database.execute(
        "SELECT count(*), count(DISTINCT value) FROM text_key_values WHERE key = 'name'"
    ).fetchone()
    (n_rows,) = database.execute("SELECT count(*) FROM systems").fetchone()
    return bool(n_rows and count == distinct == n_rows)


def parse(record: Record, dataset: str, config: DataConfig) -> list[AtomSet | Rejected]:
    """The structure of a row: a crystal where it is periodic in three directions, a molecule where in none.

    Raises UnusableStructure.
    """
    pbc, *sizes = _HEAD.unpack_from(record.payload)
    bounds = _HEAD.size + np.cumsum([0, *sizes])
    parts = [record.payload[start:stop] for start, stop in pairwise(bounds)]
    n_atoms = sizes[0] // 4
    if sizes != [4 * n_atoms, 24 * n_atoms, 72]:
        raise UnusableStructure(f"{n_atoms} atoms with {sizes[1]} bytes of positions and {sizes[2]} of cell")
    n_periodic = int(pbc).bit_count()
    if n_periodic not in (0, 3):
        raise UnusableStructure(f"periodic in {n_periodic} of 3 directions; expected none or all")
    numbers = np.frombuffer(parts[0], "<i4").astype(np.int64)
    positions = np.frombuffer(parts[1], "<f8").reshape(-1, 3)
    cell = np.frombuffer(parts[2], "<f8").reshape(3, 3)
    return [
        AtomSet(
            numbers=numbers,
            positions=positions.astype(np.float64),
            cell=cell.astype(np.float64) if pbc else np.zeros((3, 3)),
            periodic=n_periodic == 3,
            dataset=dataset,
            id=record.name,
        )
    ]


FORMAT = Format("ase_db", records, parse)

"""SDF: molecules as V2000 or V3000 molblocks, ended by ``$$$$``. Of bonds only the number is checked.

Columns and keywords: CTfile formats (BIOVIA 2020). Two-dimensional drawings are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from adit_scale.atoms import AtomSet
from adit_scale.data.config import DataConfig
from adit_scale.data.sources.qm9 import Uncharacterized
from adit_scale.data.sources.source import (
    MAX_RECORD_BYTES,
    Format,
    Record,
    Rejected,
    Source,
    UnusableStructure,
    bare_name,
    lines_of,
    open_binary,
    text_of,
)
from adit_scale.data.sources.structures import floats, numbers_of

_END = b"$$$$"
_QM9_NAME = "gdb9"
_QM9_TITLE = re.compile(rb"\s*gdb_(\d{1,9})\s*\n")
_ID_FIELD = re.compile(rb"^>[^<\n]*<(?:ID|id|Id)>[^\n]*\n([^\n]*)", re.MULTILINE)
_LINE_OVERHEAD = 64  # bytes that a line takes in memory beside its own
_HYDROGENS = {"D": "H", "T": "H"}
_V30 = "M  V30 "
_MAX_LINE = 1000  # the format's own limit is 80 or 200; the time of a match grows with the length
# By columns: what is shifted or overwritten by damage does not match.
_FIELD = r"(?: [ -]\d|[ -]\d\d|\d{3}|   )"
_ATOM_ROW = re.compile(rf"[ \d.+-]{{30}} [A-Za-z][A-Za-z ]{{0,2}}(?:(?:[ -]\d|  ){_FIELD}*)? *", re.ASCII)
_STEREO, _TOPOLOGY = r"(?:  [01346]|   )", r"(?:  [0-2]|   )"
_BOND_ROW = re.compile(
    rf"(?:  [1-9]| \d\d|\d{{3}}){{2}}  [1-9](?:{_STEREO}(?:{_FIELD}(?:{_TOPOLOGY}{_FIELD}*)?)?)? *", re.ASCII
)
# Keys of V3000 with a number, with a list, and with a word behind them.
_PAIRS = (
    r"(?:\s+(?:(?:CHG|RAD|CFG|MASS|VAL|HCOUNT|STBOX|INVRET|EXACHG|SUBST|UNSAT|RBCNT|ATTCHPT|AAMAP|RGROUPS|TOPO|"
    r"RXCTR|SEQID)=-?\d{1,7}|[A-Z]+=\([^()]*\)|(?:CLASS|ATTCHORD|DISP|ATTACH|ENDPTS)=[^\s()]+))*"
)
_COUNTS_LINE = re.compile(
    r"COUNTS\s+(\d{1,7})\s+(\d{1,7})\s+(\d{1,7})\s+(\d{1,7})\s+[01](?:\s+REGNO=\S+)?", re.ASCII
)
_ATOM_LINE = re.compile(rf"(\d{{1,7}})\s+(\S+)\s+(\S+)\s+(\S+)\s+(\S+)\s+\d{{1,7}}{_PAIRS}", re.ASCII)
_BOND_LINE = re.compile(rf"\d{{1,7}}\s+[1-9]\s+(\d{{1,7}})\s+(\d{{1,7}}){_PAIRS}", re.ASCII)
_NO_CELL = np.zeros((3, 3))


def _records(source: Source, config: DataConfig) -> Iterator[Record]:
    with open_binary(source.path) as stream:
        yield from cut(stream, source, config)


def cut(stream: BinaryIO, source: Source, config: DataConfig) -> Iterator[Record]:
    """The molecules of an open file, which may be a member of the source."""
    listed = Uncharacterized(source, config) if bare_name(source.path)[0] == _QM9_NAME else None
    for index, payload in enumerate(_molecules(stream)):
        title = _QM9_TITLE.match(payload) if listed else None
        if not payload:
            yield Record.unusable(index, "", f"more than {MAX_RECORD_BYTES >> 20} MiB without $$$$")
        elif listed and title:
            yield listed.sift(index, int(title[1]), payload)
        else:
            yield Record(index, "", payload)


def _molecules(stream: BinaryIO) -> Iterator[bytes]:
    """The bytes of each molecule, less the ``$$$$``; none for one that is too large."""
    lines: list[bytes] = []
    size = 0
    for line in lines_of(stream):
        if line.startswith(_END):
            yield b"".join(lines) if size <= MAX_RECORD_BYTES else b""
            lines, size = [], 0
            continue
        size += len(line) + _LINE_OVERHEAD
        if size <= MAX_RECORD_BYTES:
            lines.append(line)
    if size > MAX_RECORD_BYTES:
        yield b""
    elif any(line.strip() for line in lines):
        yield b"".join(lines)


def _parse(record: Record, dataset: str, config: DataConfig) -> list[AtomSet | Rejected]:
    """Named by the title, else by a data field ``ID``, else by its place in the file."""
    block, _, fields = record.payload.partition(b"M  END")
    found = _ID_FIELD.search(fields)
    name = record.name or _word(block.split(b"\n", 1)[0]) or (_word(found[1]) if found else "")
    name = name or str(record.index)
    try:
        if len(block) == len(record.payload):
            raise UnusableStructure("no line 'M  END'")
        if b"M  END" in fields:
            raise UnusableStructure("two molblocks without $$$$ between them")
        lines = text_of(block).replace("\r\n", "\n").split("\n")
        if "\r" in "".join(lines):
            raise UnusableStructure("a line ends in a lone carriage return")
        numbers, positions = _atoms(lines)
    except UnusableStructure as error:
        return [Rejected(dataset, record.index, name, str(error))]
    return [AtomSet(numbers, positions, _NO_CELL, periodic=False, dataset=dataset, id=name)]


def _word(line: bytes) -> str:
    return line.decode("utf-8", "replace").strip()


def _atoms(lines: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers ``(n,)`` and positions ``(n, 3)`` of a molblock up to its ``M  END``."""
    if any(len(line) > _MAX_LINE for line in lines):
        raise UnusableStructure(f"a line of more than {_MAX_LINE} characters in a molblock")
    if len(lines) < 5 or lines.pop():
        raise UnusableStructure("no molblock: expected three lines of header and a line of counts")
    if lines[1][20:22] == "2D":
        raise UnusableStructure("a drawing in two dimensions, by its header; expected a geometry")
    counts, rows = lines[3], lines[4:]
    version = counts[34:39]
    n, n_bonds = _count(counts[0:3]), _count(counts[3:6])
    if version == "V2000":
        return _atoms_v2000(n, n_bonds, rows)
    if version == "V3000" and n == n_bonds == 0:
        return _atoms_v3000(rows)
    raise UnusableStructure(f"counts line is {counts[:40]!r}; expected it to end in V2000 or V3000")


def _atoms_v2000(n: int, n_bonds: int, rows: list[str]) -> tuple[np.ndarray, np.ndarray]:
    if len(rows) < n + n_bonds:
        raise UnusableStructure(f"{n} atoms and {n_bonds} bonds announced, {len(rows)} rows found")
    atoms, bonds = rows[:n], rows[n : n + n_bonds]
    for i, row in enumerate(atoms):
        if not _ATOM_ROW.fullmatch(row):
            raise UnusableStructure(
                f"the row of atom {i} is {row[:40]!r}; expected x, y, z, element by columns"
            )
    for row in bonds:
        if not _BOND_ROW.fullmatch(row):
            raise UnusableStructure(
                f"a row of a bond is {row[:40]!r}; expected two atoms and an order by columns"
            )
    for row in rows[n + n_bonds :]:
        if row[:3] not in ("M  ", "A  ", "V  ", "G  ", "S  "):
            raise UnusableStructure(f"{n} atoms and {n_bonds} bonds announced, but then comes {row[:40]!r}")
    _check_bonds([(int(row[0:3]), int(row[3:6])) for row in bonds], n)
    words = [row[i : i + 10] for row in atoms for i in (0, 10, 20)]
    return _numbers([row[31:34].strip() for row in atoms]), floats(words).reshape(-1, 3)


def _atoms_v3000(rows: list[str]) -> tuple[np.ndarray, np.ndarray]:
    lines = _joined(rows)
    if lines[:1] != ["BEGIN CTAB"] or "END CTAB" not in lines[3:] or "END CTAB" in lines[:-1]:
        raise UnusableStructure("the table of a V3000 molblock is not whole")
    counts = _COUNTS_LINE.fullmatch(lines[1])
    if counts is None:
        raise UnusableStructure(f"expected COUNTS and five numbers, found {lines[1][:40]!r}")
    n, n_bonds = int(counts[1]), int(counts[2])
    rest = lines[2:-1]
    atoms = [_ATOM_LINE.fullmatch(line) for line in _section(rest, "ATOM", n)]
    rest = rest[n + 2 :]
    bonds = [_BOND_LINE.fullmatch(line) for line in _section(rest, "BOND", n_bonds)] if n_bonds else []
    rest = rest[n_bonds + 2 :] if n_bonds else rest
    if rest and not rest[0].startswith(("BEGIN ", "LINKNODE ")):
        raise UnusableStructure(f"more lines in the V3000 table than announced: {rest[0][:40]!r}")
    for number, kind in ((counts[3], "SGROUP"), (counts[4], "OBJ3D")):
        if (int(number) > 0) != (f"BEGIN {kind}" in rest):
            raise UnusableStructure(f"{number} lines of {kind} announced; its section says otherwise")
    if None in atoms or len({match[1] for match in atoms if match}) != n:
        raise UnusableStructure("an atom of the V3000 table is not index, type, x, y, z, map")
    if None in bonds:
        raise UnusableStructure("a bond of the V3000 table is not index, type, atom, atom")
    words = [match.group(2, 3, 4, 5) for match in atoms if match]
    index = {match[1]: i + 1 for i, match in enumerate(atoms) if match}
    _check_bonds([(index.get(match[1], 0), index.get(match[2], 0)) for match in bonds if match], n)
    return _numbers([row[0] for row in words]), floats([x for row in words for x in row[1:]]).reshape(-1, 3)


def _joined(rows: list[str]) -> list[str]:
    """The contents of ``M  V30`` lines, with those that end in a hyphen joined to the next."""
    lines: list[str] = []
    carried = ""
    for row in rows:
        if not row.startswith(_V30) or not row.isprintable():
            raise UnusableStructure(f"expected 'M  V30', found {row[:40]!r}")
        carried += row[len(_V30) :].rstrip()
        if len(carried) > _MAX_LINE:
            raise UnusableStructure(f"a line of more than {_MAX_LINE} characters in the V3000 table")
        if carried.endswith("-"):
            carried = carried[:-1]
        else:
            lines.append(carried)
            carried = ""
    if carried:
        raise UnusableStructure("the last line of the V3000 table is to go on")
    return lines


def _section(lines: list[str], kind: str, n: int) -> list[str]:
    """The n lines of the section that the lines begin with."""
    if lines[:1] != [f"BEGIN {kind}"] or lines[n + 1 : n + 2] != [f"END {kind}"]:
        raise UnusableStructure(f"expected a section {kind} of {n} lines in the V3000 table")
    return lines[1 : n + 1]


def _count(word: str) -> int:
    word = word.strip()
    if not re.fullmatch(r"[0-9]{1,7}", word):
        raise UnusableStructure(f"a count is {word[:40]!r}; expected a number")
    return int(word)


def _check_bonds(bonds: list[tuple[int, int]], n: int) -> None:
    for first, second in bonds:
        if not (1 <= first <= n and 1 <= second <= n and first != second):
            raise UnusableStructure(f"a bond from atom {first} to {second} of {n}")
    if len({frozenset(bond) for bond in bonds}) < len(bonds):
        raise UnusableStructure("a bond is given twice")


def _numbers(symbols: list[str]) -> np.ndarray:
    """Element symbols only: other names stand for queries and groups."""
    if any(symbol.isdigit() for symbol in symbols):
        raise UnusableStructure("an element is given as a number; expected its symbol")
    return numbers_of([_HYDROGENS.get(symbol, symbol) for symbol in symbols])


FORMAT = Format("SDF", _records, _parse)

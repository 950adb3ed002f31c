"""Plain and extended xyz: a line with the number of atoms, a comment line, a line an atom.

QM9's own form of it, with the lines that follow the atoms, is recognised by its comment ``gdb N``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from adit_scale.atoms import AtomSet
from adit_scale.data.config import DataConfig
from adit_scale.data.sources import qm9
from adit_scale.data.sources.source import (
    MAX_RECORD_BYTES,
    Format,
    Record,
    Rejected,
    Source,
    UnusableStructure,
    lines_of,
    open_binary,
    text_of,
)
from adit_scale.data.sources.structures import floats, numbers_of

# A key alone, or key=value with the value in quotes, in brackets or bare.
_TOKEN = re.compile(
    r"""\s*([A-Za-z_][\w.-]*)
        (?:=(?:"((?:[^"\\]|\\.)*)"|'([^'\\]*)'|\{([^{}"'\\]*)\}|(\[(?:[^][\\]|\[[^][\\]*\])*\])
            |([^\s="'{}\[\]\\]+)))?
        (?=\s|$)""",
    re.VERBOSE | re.ASCII,
)
_ESCAPED = re.compile(r"\\(.)")
# Comments without these may say what they like.
_DECIDING = ("Lattice", "Properties", "pbc")
_LOOSE_PAIR = re.compile(r'(?:^|\s)(id|spacegroup)=(?:"([^"]*)"|(\S+))')
_TRUE = {"T", "True", "true", "1"}
_FALSE = {"F", "False", "false", "0"}
_PLAIN = "species:S:1:pos:R:3"
_PROPERTIES = re.compile("[^:]+:[SRIL]:[1-9][0-9]{0,3}(?::[^:]+:[SRIL]:[1-9][0-9]{0,3})*")
_QM9, _TOO_LARGE = "qm9", "too large"
_QM9_TAG = re.compile(rb"gdb[ \t]+\d")
_MAX_COUNT_DIGITS = 9
_MAX_COLUMNS = 1000
_LINE_OVERHEAD = 64  # bytes that a line takes in memory beside its own
_NO_CELL = np.zeros((3, 3))


def _records(source: Source, config: DataConfig) -> Iterator[Record]:
    """Cut into frames. One whose count disagrees with its rows becomes a record that parsing refuses, and
    cutting goes on at the next line that holds nothing but a number."""
    with open_binary(source.path) as stream:
        yield from cut(stream, source, config)


def cut(stream: BinaryIO, source: Source, config: DataConfig) -> Iterator[Record]:
    """The frames of an open file, which may be a member of the source."""
    listed = qm9.Uncharacterized(source, config)
    for index, (payload, kind) in enumerate(_frames(stream)):
        number = qm9.number_of(payload) if kind == _QM9 else None
        if number is None:
            yield Record(index, "", payload, kind)
        else:
            yield listed.sift(index, number, payload, kind)


def _frames(stream: BinaryIO) -> Iterator[tuple[bytes, str]]:
    """The bytes of each frame and its kind; those of a broken one show the fault."""
    lines = lines_of(stream)
    ahead = next(lines, None)
    while ahead is not None:
        header = ahead.strip()
        if not header:
            ahead = next(lines, None)
            continue
        frame, kind, whole = [ahead], "", False
        ahead = next(lines, None)
        if header.isdigit() and len(header) <= _MAX_COUNT_DIGITS:
            left, size = int(header), len(header)
            if ahead is not None:
                frame.append(ahead)
                kind = _QM9 if _QM9_TAG.match(ahead) else ""
                ahead = next(lines, None)
            while left and ahead is not None and size <= MAX_RECORD_BYTES and len(ahead.split(None, 1)) > 1:
                frame.append(ahead)
                size += len(ahead) + _LINE_OVERHEAD
                left -= 1
                ahead = next(lines, None)
            if size > MAX_RECORD_BYTES:
                frame, kind = frame[:2], _TOO_LARGE
            elif kind == _QM9 and not left:  # frequencies, SMILES, InChI
                while ahead is not None and len(frame) < int(header) + 5 and not ahead.strip().isdigit():
                    frame.append(ahead)
                    ahead = next(lines, None)
                whole = True
            elif not left and ahead is not None and len(ahead.split(None, 1)) > 1:
                frame.append(ahead)  # a row too many, for parsing to see
            else:
                whole = not left
        yield b"".join(frame), kind
        while not whole and ahead is not None and not ahead.strip().isdigit():
            ahead = next(lines, None)


def _parse(record: Record, dataset: str, config: DataConfig) -> list[AtomSet | Rejected]:
    """``Lattice`` and ``pbc`` say whether it is a crystal, ``id`` names it (else its place in the file),
    ``spacegroup`` may be given."""
    if record.kind == _QM9:
        return [qm9.parse_frame(record, dataset)]
    text = text_of(record.payload)
    if "\r" in text:
        text = text.replace("\r\n", "\n")
    header, comment, *body = [*text.split("\n", 2), "", ""][:3]
    name = str(record.index)
    try:
        if "\r" in text:  # a line end to some readers, a space to others
            raise UnusableStructure("holds a lone carriage return")
        keys = _keys(comment)
        name = keys.get("id") or name
        return [_convert(header.strip(), keys, body[0], dataset, name, record.kind)]
    except UnusableStructure as error:
        found = _loose_keys(comment).get("id", name)
        return [Rejected(dataset, record.index, found, str(error))]


def _convert(header: str, keys: dict[str, str], body: str, dataset: str, name: str, kind: str) -> AtomSet:
    rows = [line.split() for line in body.rstrip("\n").split("\n")] if body else []
    _check_count(header, len(rows), kind)
    species, position, width, numeric = _columns(keys.get("Properties", _PLAIN))
    plain = "Properties" not in keys  # plain xyz may carry columns of its own behind the position
    if not all(len(row) == width or (plain and len(row) > width) for row in rows):
        atom = next(i for i, row in enumerate(rows) if len(row) < width or not (plain or len(row) == width))
        raise UnusableStructure(f"atom {atom} has {len(rows[atom])} columns; expected {width}")
    floats([row[column] for row in rows for column in numeric])  # damage there would be damage elsewhere too
    periodic, cell = _cell(keys)
    return AtomSet(
        numbers=numbers_of([row[species] for row in rows]),
        positions=floats([x for row in rows for x in row[position : position + 3]]).reshape(-1, 3),
        cell=cell,
        periodic=periodic,
        dataset=dataset,
        spacegroup=int(keys["spacegroup"]) if periodic and keys.get("spacegroup", "").isdecimal() else 0,
        id=name,
    )


def _check_count(header: str, n_rows: int, kind: str) -> None:
    if not (header.isascii() and header.isdecimal() and len(header) <= _MAX_COUNT_DIGITS):
        raise UnusableStructure(f"expected a number of atoms, found {header[:40]!r}")
    if kind == _TOO_LARGE:
        raise UnusableStructure(
            f"{header} atoms announced, and more than {MAX_RECORD_BYTES >> 20} MiB of rows"
        )
    if n_rows < int(header):
        raise UnusableStructure(f"{header} atoms announced, {n_rows} rows found")
    if n_rows > int(header):
        raise UnusableStructure(f"{header} atoms announced, more rows found")


def _keys(comment: str) -> dict[str, str]:
    """The pairs of a comment line. Raises UnusableStructure where it decides something and is not clear."""
    if not any(word in comment for word in _DECIDING):
        return _loose_keys(comment)
    keys: dict[str, str] = {}
    comment, at = comment.strip(), 0
    while at < len(comment):
        match = _TOKEN.match(comment, at)
        if match is None:
            raise UnusableStructure(f"comment line is not key=value pairs at {comment[at : at + 40]!r}")
        key, at = match[1], match.end()
        if key in keys and key in _DECIDING:
            raise UnusableStructure(f"comment line gives {key} twice")
        keys[key] = next((value for value in match.groups()[1:] if value is not None), "T")
        if match[2] is not None:
            keys[key] = _ESCAPED.sub(r"\1", match[2])
    return keys


def _loose_keys(comment: str) -> dict[str, str]:
    return {key: quoted or bare for key, quoted, bare in _LOOSE_PAIR.findall(comment)}


def _columns(properties: str) -> tuple[int, int, int, list[int]]:
    """First column of the species and of the position, the number of columns, other columns of numbers."""
    if properties == _PLAIN:
        return 0, 1, 4, []
    fields = properties.split(":")
    if not _PROPERTIES.fullmatch(properties):
        raise UnusableStructure(f"Properties is {properties[:80]!r}; expected name:type:columns triples")
    if sum(map(int, fields[2::3])) > _MAX_COLUMNS:
        raise UnusableStructure(f"Properties announces more than {_MAX_COLUMNS} columns")
    if len(set(fields[0::3])) < len(fields[0::3]):
        raise UnusableStructure(f"Properties is {properties[:80]!r}; it gives a name twice")
    first: dict[str, int] = {}
    numeric: list[int] = []
    width = 0
    for key, kind, count in zip(fields[0::3], fields[1::3], map(int, fields[2::3]), strict=True):
        first[f"{key}:{kind}:{count}"] = width
        numeric += range(width, width + count) if kind in "RI" and key != "pos" else ()
        width += count
    species = first.get("species:S:1", first.get("Z:I:1"))
    position = first.get("pos:R:3")
    if species is None or position is None or ("species:S:1" in first and "Z:I:1" in first):
        raise UnusableStructure(
            f"Properties is {properties[:80]!r}; expected species:S:1 (or Z:I:1) and pos:R:3"
        )
    return species, position, width, numeric


def _cell(keys: dict[str, str]) -> tuple[bool, np.ndarray]:
    lattice = keys.get("Lattice", "")
    flags = keys.get("pbc", "T T T" if lattice else "F F F").split()
    if len(flags) != 3 or not set(flags) <= _TRUE | _FALSE:
        raise UnusableStructure(f"pbc is {' '.join(flags)!r}; expected three of T and F")
    n_periodic = sum(flag in _TRUE for flag in flags)
    if n_periodic == 0:
        return False, _NO_CELL
    if n_periodic < 3:
        raise UnusableStructure(f"periodic in {n_periodic} of 3 directions; expected none or all")
    vectors = floats(lattice.split())
    if len(vectors) != 9:
        raise UnusableStructure(f"Lattice holds {len(vectors)} numbers; expected 9")
    return True, vectors.reshape(3, 3)


FORMAT = Format("extended xyz", _records, _parse)

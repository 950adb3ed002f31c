"""Extended xyz: a line with the number of atoms, a comment line of key=value pairs, a line an atom."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TextIO

import numpy as np

from adit_scale.atoms import AtomSet
from adit_scale.data.sources.structures import Rejected, UnusableStructure, atomic_number, standardise

_PAIR = re.compile(r'([A-Za-z_][\w.-]*)=(?:"([^"]*)"|(\S+))')
_TRUE = {"T", "True", "true", "1"}
_FALSE = {"F", "False", "false", "0"}
_PLAIN = "species:S:1:pos:R:3"


def read(lines: TextIO, dataset: str) -> Iterator[AtomSet | Rejected]:
    """Structures of an open file.

    ``Lattice`` and ``pbc`` say whether it is a crystal, ``id`` names it (else its place in the file),
    ``spacegroup`` may be given. A frame whose count disagrees with its rows is rejected, and reading goes
    on at the next line that holds nothing but a number.
    """
    for index, frame in enumerate(_frames(lines)):
        keys = {key: quoted or bare for key, quoted, bare in _PAIR.findall(frame.comment)}
        name = keys.get("id", str(index))
        try:
            yield standardise(_convert(frame, keys, dataset, name))
        except UnusableStructure as error:
            yield Rejected(dataset, index, name, str(error))


@dataclass(frozen=True)
class _Frame:
    comment: str
    rows: list[list[str]]
    fault: str = ""


def _frames(stream: TextIO) -> Iterator[_Frame]:
    """Cut lines into frames. After a broken one, go on at the next line that is a number alone."""
    lines = iter(stream)
    ahead = next(lines, None)
    while ahead is not None:
        header = ahead.strip()
        if not header:
            ahead = next(lines, None)
            continue
        comment, fault = "", ""
        rows: list[list[str]] = []
        if header.isdecimal():
            comment = next(lines, "").strip()
            ahead = next(lines, None)
            while ahead is not None and len(ahead.split()) > 1 and len(rows) < int(header):
                rows.append(ahead.split())
                ahead = next(lines, None)
            if len(rows) < int(header):
                fault = f"{header} atoms announced, {len(rows)} rows found"
            elif ahead is not None and len(ahead.split()) > 1:
                fault = f"{header} atoms announced, more rows found"
        else:
            fault = f"expected a number of atoms, found {header[:40]!r}"
        yield _Frame(comment, rows, fault)
        while fault and ahead is not None and not ahead.strip().isdecimal():
            ahead = next(lines, None)


def _convert(frame: _Frame, keys: dict[str, str], dataset: str, name: str) -> AtomSet:
    if frame.fault:
        raise UnusableStructure(frame.fault)
    species, position, width = _columns(keys.get("Properties", _PLAIN))
    plain = "Properties" not in keys  # plain xyz may carry columns of its own behind the position
    for i, row in enumerate(frame.rows):
        if len(row) < width or (len(row) > width and not plain):
            raise UnusableStructure(f"atom {i} has {len(row)} columns; expected {width}")
    periodic, cell = _cell(keys)
    return AtomSet(
        numbers=np.array([atomic_number(row[species]) for row in frame.rows], dtype=np.int64),
        positions=_floats([x for row in frame.rows for x in row[position : position + 3]]).reshape(-1, 3),
        cell=cell,
        periodic=periodic,
        dataset=dataset,
        spacegroup=int(keys["spacegroup"]) if periodic and keys.get("spacegroup", "").isdecimal() else 0,
        id=name,
    )


def _columns(properties: str) -> tuple[int, int, int]:
    """First column of the species and of the position, and the number of columns."""
    fields = properties.split(":")
    if len(fields) % 3 or not all(count.isdecimal() for count in fields[2::3]):
        raise UnusableStructure(f"Properties is {properties!r}; expected name:type:columns triples")
    first: dict[tuple[str, int], int] = {}
    width = 0
    for key, count in zip(fields[0::3], fields[2::3], strict=True):
        first[key, int(count)] = width
        width += int(count)
    species = first.get(("species", 1), first.get(("Z", 1)))
    position = first.get(("pos", 3))
    if species is None or position is None:
        raise UnusableStructure(f"Properties is {properties!r}; expected species:S:1 (or Z:I:1) and pos:R:3")
    return species, position, width


def _cell(keys: dict[str, str]) -> tuple[bool, np.ndarray]:
    lattice = keys.get("Lattice", "")
    flags = keys.get("pbc", "T T T" if lattice else "F F F").split()
    if len(flags) != 3 or not set(flags) <= _TRUE | _FALSE:
        raise UnusableStructure(f"pbc is {' '.join(flags)!r}; expected three of T and F")
    n_periodic = sum(flag in _TRUE for flag in flags)
    if n_periodic == 0:
        return False, np.zeros((3, 3))
    if n_periodic < 3:
        raise UnusableStructure(f"periodic in {n_periodic} of 3 directions; expected none or all")
    vectors = _floats(lattice.split())
    if len(vectors) != 9:
        raise UnusableStructure(f"Lattice holds {len(vectors)} numbers; expected 9")
    return True, vectors.reshape(3, 3)


def _floats(words: list[str]) -> np.ndarray:
    try:
        return np.array([float(word) for word in words])
    except ValueError as error:
        raise UnusableStructure(str(error)) from error

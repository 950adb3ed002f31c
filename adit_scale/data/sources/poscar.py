"""VASP's POSCAR and CONTCAR, and .vasp files: one crystal, with its element symbols (VASP 5)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from adit_scale.atoms import AtomSet
from adit_scale.data.config import DataConfig
from adit_scale.data.sources.source import (
    MAX_RECORD_BYTES,
    Format,
    Record,
    Rejected,
    Source,
    UnusableFile,
    UnusableStructure,
    bare_name,
    open_binary,
    text_of,
)
from adit_scale.data.sources.structures import ATOMIC_NUMBERS, cartesian

_DECIMAL = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)
_MAX_ATOMS = 1_000_000
_GENERIC = ("POSCAR", "CONTCAR")


def records(source: Source, config: DataConfig) -> Iterator[Record]:
    """The file whole, named by its name. Raises UnusableFile when it is larger than a structure can be."""
    name = bare_name(source.path)[0]
    with open_binary(source.path) as stream:
        for record in cut(stream, source, config):
            yield Record(0, record.name or name, record.payload)


def cut(stream: BinaryIO, source: Source, config: DataConfig) -> Iterator[Record]:
    """The only structure of an open file."""
    payload = stream.read(MAX_RECORD_BYTES + 1)
    if len(payload) > MAX_RECORD_BYTES:
        raise UnusableFile(f"larger than {MAX_RECORD_BYTES >> 20} MiB; expected one structure")
    yield Record(0, "", payload)


def parse(record: Record, dataset: str, config: DataConfig) -> list[AtomSet | Rejected]:
    """The crystal of a file. Raises UnusableStructure."""
    lines = text_of(record.payload).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if len(lines) < 8:
        raise UnusableStructure(f"{len(lines)} lines; expected a POSCAR of at least 8")
    cell, scale_3 = _scaled_cell(lines[1:5])
    numbers = _numbers(lines[5], lines[6])
    at = 7
    selective = lines[at].strip()[:1] in ("s", "S")
    at += selective
    mode = lines[at].strip()[:1].lower() if at < len(lines) else ""
    if mode not in ("d", "c", "k"):
        found = lines[at].strip()[:40] if at < len(lines) else ""
        raise UnusableStructure(f"line {at + 1} is {found!r}; expected Direct or Cartesian")
    rows = lines[at + 1 : at + 1 + len(numbers)]
    if len(rows) < len(numbers) or not all(row.strip() for row in rows):
        found_rows = next((i for i, row in enumerate(rows) if not row.strip()), len(rows))
        raise UnusableStructure(f"{len(numbers)} atoms announced, {found_rows} rows found")
    if any(line.strip() for line in lines[at + 1 + len(numbers) :][:1]):
        raise UnusableStructure(f"{len(numbers)} atoms announced, more rows found")
    given = np.array(
        [_row(row, number, selective, i) for i, (row, number) in enumerate(zip(rows, numbers, strict=True))]
    )
    positions = cartesian(given, cell) if mode == "d" else given * scale_3
    return [
        AtomSet(
            numbers=np.array(numbers),
            positions=positions,
            cell=cell,
            periodic=True,
            dataset=dataset,
            id=record.name or str(record.index),
        )
    ]


def _scaled_cell(lines: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The cell in angstrom, and what Cartesian coordinates are multiplied by; a scale below 0 is a volume."""
    scale = [_decimal(word, "scale") for word in lines[0].split()]
    if len(scale) not in (1, 3) or 0 in scale or (len(scale) == 3 and min(scale) < 0):
        raise UnusableStructure(f"line 2 is {lines[0].strip()[:40]!r}; expected a scale other than 0")
    rows = [[_decimal(word, "lattice vector") for word in line.split()] for line in lines[1:4]]
    if any(len(row) != 3 for row in rows):
        raise UnusableStructure("a lattice vector is not 3 numbers")
    cell = np.array(rows)
    if len(scale) == 3:
        scale_3 = np.array(scale)
    elif scale[0] > 0:
        scale_3 = np.full(3, scale[0])
    else:
        volume = abs(np.linalg.det(cell))
        if volume == 0:
            raise UnusableStructure("cell volume is 0 cubic angstrom; expected more than 0")
        scale_3 = np.full(3, (-scale[0] / volume) ** (1 / 3))
    return cell * scale_3, scale_3


def _numbers(symbols_line: str, counts_line: str) -> list[int]:
    symbols = [re.split(r"[_/]", word)[0] for word in symbols_line.split()]
    if symbols and all(word.isdecimal() for word in symbols):
        raise UnusableStructure("no line of element symbols (VASP 4); put them above the numbers of atoms")
    unknown = next((symbol for symbol in symbols if symbol not in ATOMIC_NUMBERS), None)
    if unknown is not None or not symbols:
        raise UnusableStructure(f"unknown element {unknown or ''!r} on line 6; expected symbols")
    counts = counts_line.split()
    if len(counts) < len(symbols) or not all(re.fullmatch(r"\d{1,7}", c, re.ASCII) for c in counts):
        raise UnusableStructure(
            f"line 7 is {counts_line.strip()[:40]!r}; expected {len(symbols)} numbers of atoms"
        )
    if len(counts) != len(symbols) or not 0 < sum(map(int, counts)) <= _MAX_ATOMS:
        raise UnusableStructure(f"{len(symbols)} elements with numbers of atoms {counts_line.strip()[:40]!r}")
    return [ATOMIC_NUMBERS[s] for s, n in zip(symbols, counts, strict=True) for _ in range(int(n))]


def _row(line: str, number: int, selective: bool, index: int) -> list[float]:
    """Three coordinates. Flags may follow them, and the atom's symbol, which must be the right one."""
    words = line.split()
    if len(words) < 3 + 3 * selective:
        raise UnusableStructure(f"atom {index} has {len(words)} columns; expected {3 + 3 * selective}")
    if selective and not all(word.strip(".")[:1].lower() in ("t", "f") for word in words[3:6]):
        raise UnusableStructure(f"atom {index} has flags {' '.join(words[3:6])[:40]!r}; expected T or F")
    for word in words[3 + 3 * selective :][:1]:
        letters = re.match(r"[A-Z][a-z]?(?![a-z])", word)
        named = ATOMIC_NUMBERS.get(letters[0]) if letters else None
        if named not in (None, number):
            raise UnusableStructure(f"atom {index} is called {word[:20]!r}, against the order of line 6")
    return [_decimal(word, f"coordinate of atom {index}") for word in words[:3]]


def _decimal(word: str, what: str) -> float:
    if not _DECIMAL.fullmatch(word):
        raise UnusableStructure(f"{what} is {word[:40]!r}; expected a number")
    return float(word)


FORMAT = Format("poscar", records, parse)

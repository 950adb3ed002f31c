"""QM9 as published: a tar of one file a molecule (Ramakrishnan et al., Sci. Data 1, 140022, table 2).

A molecule's lines: number of atoms; ``gdb N`` and its properties; an atom a line (symbol, position, Mulliken
charge; exponents written ``*^``); frequencies; SMILES; InChI.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

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
    lines_of,
    open_binary,
    text_of,
)
from adit_scale.data.sources.structures import floats, numbers_of
from adit_scale.data.sources.tar import members

LIST_FILE = "uncharacterized.txt"
LIST_LENGTH = 3054
_REASON = "uncharacterized: its geometry is not that of its formula (QM9's own list)"
_WHOLE_BYTES = 16 << 20  # a file of this size is no excerpt
_TAG = re.compile(rb"[^\n]*\n\s*gdb[ \t]+(\d{1,9})\s")
_MEMBER = re.compile(r"dsgdb9nsd_(\d+)\.xyz")
_NO_CELL = np.zeros((3, 3))


class Uncharacterized:
    """QM9's list of molecules that relaxed into another one; read when first needed, beside the source."""

    def __init__(self, source: Source, config: DataConfig):
        self._source, self._keep = source, config.qm9_uncharacterized
        self._listed: frozenset[int] | None = None

    def sift(self, index: int, number: int, payload: bytes, kind: str = "") -> Record:
        """The record of molecule ``number``, or one that says why it is left out. Raises UnusableFile."""
        name = f"gdb_{number}"
        if not self._keep:
            if self._listed is None:
                self._listed = _read_list(self._source)
            if number in self._listed:
                return Record.unusable(index, name, _REASON)
        return Record(index, name, payload, kind)


def number_of(payload: bytes) -> int | None:
    """N of the ``gdb N`` that begins the second line; None where there is none."""
    match = _TAG.match(payload)
    return int(match[1]) if match else None


def parse_frame(record: Record, dataset: str) -> AtomSet:
    """A molecule of the form above. Raises UnusableStructure."""
    text = text_of(record.payload)
    lines = text.replace("\r\n", "\n").rstrip().split("\n")
    head, tag = lines[0].strip(" \t"), lines[1].split(None, 2) if len(lines) > 1 else []
    if not (head.isascii() and head.isdecimal() and len(head) < 8):
        raise UnusableStructure(f"expected a number of atoms, found {head[:40]!r}")
    n = int(head)
    number = number_of(record.payload)
    if tag[:1] != ["gdb"] or number is None:
        raise UnusableStructure(f"line 2 is {' '.join(tag)[:40]!r}; expected 'gdb', a number and properties")
    if len(lines) != n + 5:
        raise UnusableStructure(f"{n} atoms announced, so {n + 5} lines expected; {len(lines)} found")
    n_frequencies = len(lines[n + 2].split())
    if n_frequencies not in (max(0, 3 * n - 6), max(0, 3 * n - 5)):
        raise UnusableStructure(
            f"{n} atoms but {n_frequencies} frequencies; expected {3 * n - 6} or {3 * n - 5}"
        )
    if not lines[n + 4].startswith("InChI="):
        raise UnusableStructure(f"the last line is {lines[n + 4][:40]!r}; expected an InChI")
    rows = [line.split() for line in lines[2 : n + 2]]
    if not all(len(row) == 5 for row in rows):
        atom = next(i for i, row in enumerate(rows) if len(row) != 5)
        raise UnusableStructure(f"atom {atom} has {len(rows[atom])} columns; expected 5")
    words = [word for row in rows for word in row[1:4]]
    return AtomSet(
        numbers=numbers_of([row[0] for row in rows]),
        positions=floats([word.replace("*^", "e") for word in words] if "*^" in text else words).reshape(
            -1, 3
        ),
        cell=_NO_CELL,
        periodic=False,
        dataset=dataset,
        id=f"gdb_{number}",
    )


def _records(source: Source, config: DataConfig) -> Iterator[Record]:
    listed = Uncharacterized(source, config)
    with open_binary(source.path) as stream:
        for index, member in enumerate(members(stream)):
            if member.fault:
                yield Record.unusable(index, member.name[:80], member.fault)
                continue
            if member.n_bytes > MAX_RECORD_BYTES:
                raise UnusableFile(
                    f"its member {member.name[:80]!r} announces {member.n_bytes} bytes; expected one molecule"
                )
            payload = member.read()
            number, named = number_of(payload), _MEMBER.search(member.name)
            if number is None:
                yield Record(index, member.name[:80], payload)
            elif named and int(named[1]) != number:
                yield Record.unusable(index, member.name[:80], f"the molecule in it is gdb_{number}")
            else:
                yield listed.sift(index, number, payload)


def _parse(record: Record, dataset: str, config: DataConfig) -> list[AtomSet | Rejected]:
    return [parse_frame(record, dataset)]


def _read_list(source: Source) -> frozenset[int]:
    """The list beside a source, or in it where that is a folder."""
    cure = "get it with `adit data fetch qm9`, or keep such molecules with data.qm9_uncharacterized=true"
    path = source.path / LIST_FILE
    if not (source.path.is_dir() and path.is_file()):
        path = source.path.parent / LIST_FILE
    if not path.is_file():
        raise UnusableFile(f"needs QM9's list of uncharacterized molecules beside it, {path}; {cure}")
    status = path.stat()
    found = _numbers_of_list(path, status.st_size, status.st_mtime_ns)
    whole = source.path.stat().st_size > _WHOLE_BYTES
    if not found or (whole and len(found) != LIST_LENGTH):
        raise UnusableFile(f"{path} lists {len(found)} molecules; expected {LIST_LENGTH}; {cure}")
    return found


@lru_cache(maxsize=4)
def _numbers_of_list(path: Path, size: int, changed_ns: int) -> frozenset[int]:
    """The numbers that begin lines of a list; its other lines are a table's head and foot. Kept, since an
    archive asks once a member; size and time tell a list that was replaced."""
    with open_binary(path) as stream:
        first = [line.split(None, 1)[:1] for line in lines_of(stream)]
    return frozenset(int(word[0]) for word in first if word and word[0].isdigit() and len(word[0]) <= 9)


FORMAT = Format("qm9", _records, _parse)

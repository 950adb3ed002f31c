"""Crystals in CDVAE's CSV form (MP20, MPTS-52, Perov-5, Carbon-24): a column ``cif``, and where present
``material_id`` and ``spacegroup.number``."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from adit_scale.atoms import AtomSet
from adit_scale.data.config import DataConfig
from adit_scale.data.sources.cif import parse_block
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
from adit_scale.data.sources.structures import cartesian


def records(source: Source, config: DataConfig) -> Iterator[Record]:
    """The rows of a file. Raises UnusableFile when it is not CSV or has no ``cif`` column."""
    with open_binary(source.path) as stream:
        yield from cut(stream, source, config)


def cut(stream: BinaryIO, source: Source, config: DataConfig) -> Iterator[Record]:
    """The rows of an open file; a record holds the stated spacegroup, a line's end, and the CIF text."""
    csv.field_size_limit(MAX_RECORD_BYTES)
    table = csv.reader(_decoded(stream), strict=True)
    try:
        header = next(table, [])
        cif, name, spacegroup = (
            header.index(column) if column in header else None
            for column in ("cif", "material_id", "spacegroup.number")
        )
        if cif is None:
            raise UnusableFile(f"no column 'cif'; found {', '.join(header)[:200] or 'nothing'}")
        index = -1
        for index, row in enumerate(row for row in table if row):
            if len(row) != len(header):
                reason = f"row of {len(row)} columns; the header has {len(header)}"
                yield Record.unusable(index, str(index), reason)
                continue
            stated = row[spacegroup] if spacegroup is not None else ""
            if "\n" in stated:
                stated = repr(stated)
            payload = f"{stated}\n{row[cif]}".encode()
            yield Record(index, (row[name] if name is not None else "") or str(index), payload)
        if index < 0:
            raise UnusableFile("no rows below the header")
    except csv.Error as error:
        raise UnusableFile(f"line {table.line_num} is not CSV ({error})") from error


def header(source: Source) -> list[str]:
    """The names of the columns. Raises UnusableFile."""
    with open_binary(source.path) as stream:
        try:
            return next(csv.reader(_decoded(stream), strict=True), [])
        except csv.Error as error:
            raise UnusableFile(f"line 1 is not CSV ({error})") from error


def columns(source: Source, names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Of each row, as ``records`` counts them, the text of these columns; "" where the row has another length
    than the header. Raises UnusableFile where a column is missing."""
    csv.field_size_limit(MAX_RECORD_BYTES)
    with open_binary(source.path) as stream:
        table = csv.reader(_decoded(stream), strict=True)
        try:
            header = next(table, [])
            for name in names:
                if name not in header:
                    found = ", ".join(header)[:200] or "nothing"
                    raise UnusableFile(f"no column {name!r}; found {found}")
            places = [header.index(name) for name in names]
            for row in (row for row in table if row):
                yield tuple(row[i] if len(row) == len(header) else "" for i in places)
        except csv.Error as error:
            raise UnusableFile(f"line {table.line_num} is not CSV ({error})") from error


def parse(record: Record, dataset: str, config: DataConfig) -> list[AtomSet | Rejected]:
    """The crystal of a row. Raises UnusableStructure."""
    stated, _, text = text_of(record.payload).partition("\n")
    spacegroup = _spacegroup(stated)
    block = parse_block(text)
    return [
        AtomSet(
            numbers=block.numbers,
            positions=cartesian(block.fractional, block.cell),
            cell=block.cell,
            periodic=True,
            dataset=dataset,
            spacegroup=spacegroup,
            id=record.name or str(record.index),
        )
    ]


def _decoded(stream: BinaryIO) -> Iterator[str]:
    for number, line in enumerate(lines_of(stream), start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UnusableFile(
                f"line {number} is not UTF-8 text (byte {line[error.start]:#04x}); save it as UTF-8"
            ) from error


def _spacegroup(text: str) -> int:
    if not text:
        return 0
    try:
        number = float(text)
        if number != int(number):
            raise ValueError
    except (ValueError, OverflowError) as error:
        raise UnusableStructure(f"spacegroup.number is {text[:40]!r}; expected a whole number") from error
    return int(number)


FORMAT = Format("cdvae_csv", records, parse)

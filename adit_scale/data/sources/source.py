"""What a source is, and how its bytes are opened: streaming, decompressed, bounded.

Reading has two halves. ``records`` of a format cuts a source into raw records: cheap, in order, one process,
a few records in memory at a time. ``parse`` turns one record into structures: costly, and done by any number
of processes, since it depends on nothing but the record.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from adit_scale.atoms import AtomSet
from adit_scale.data.config import DataConfig
from adit_scale.errors import DataError

COMPRESSED = (".gz", ".bz2", ".xz")
# A record larger than this is no structure but a damaged or a hostile file.
MAX_RECORD_BYTES = 64 << 20
MAX_REASON = 250
UNUSABLE = "unusable"
_WORD = re.compile(r"([A-Za-z0-9][\w.+-]*)(?::(train|val|test))?=(.+)", re.DOTALL)


@dataclass(frozen=True)
class Source:
    """One input of a data set.

    path: a file or a folder. dataset: the data set its structures belong to. split: the split its publisher
    gave all of it, or "" where ours decides.
    """

    path: Path
    dataset: str
    split: str = ""

    @staticmethod
    def from_word(word: str) -> Source:
        """From ``PATH``, ``NAME=PATH`` or ``NAME:SPLIT=PATH``; without a name the file's, less its endings.

        Several sources of one name make one data set only where the name is written out.
        """
        match = _WORD.fullmatch(word)
        if match:
            name, split, path = match.groups()
            return Source(Path(path), name, split or "")
        path = Path(word)
        return Source(path, bare_name(path)[0])


@dataclass(frozen=True)
class Record:
    """One raw structure, cut out but not yet understood.

    index: its place in the source, from 0. name: its id where the cutting knows it, else "".
    payload: the bytes that ``parse`` reads. kind: for formats of several kinds of record, such as an archive;
    UNUSABLE for one that the cutting refused already, with the reason as its payload.
    """

    index: int
    name: str
    payload: bytes
    kind: str = ""

    @staticmethod
    def unusable(index: int, name: str, reason: str) -> Record:
        """What ``convert`` turns into a Rejected without parsing."""
        return Record(index, name, reason.encode("utf-8", "replace"), UNUSABLE)


@dataclass(frozen=True)
class Rejected:
    """A structure left out, and why. source: the data set's name. index: its place there, from 0."""

    source: str
    index: int
    id: str
    reason: str


class UnusableFile(ValueError):
    """A whole file cannot be used; the caller adds its path."""


class UnusableStructure(ValueError):
    """A single structure cannot be used; it is reported as Rejected and reading goes on.

    The reason is cut to MAX_REASON characters: it may quote what a damaged file holds.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason if len(reason) <= MAX_REASON else f"{reason[: MAX_REASON - 1]}…")


class Format(NamedTuple):
    """A format: what its files are called, how they are cut, how a record is parsed.

    records: raises UnusableFile. parse: (record, dataset, config) to the structures as they stand in the file
    (standard form comes later), with the Rejected among them; raises UnusableStructure for the whole record.
    """

    name: str
    records: Callable[[Source, DataConfig], Iterator[Record]]
    parse: Callable[[Record, str, DataConfig], list[AtomSet | Rejected]]


def bare_name(path: Path) -> tuple[str, str]:
    """A file's name without its endings, and its ending in lower case without that of compression."""
    name = path.name
    while name.lower().endswith(COMPRESSED):
        name = name[: name.rindex(".")]
    bare = Path(name)
    return bare.stem, bare.suffix.lower()


def open_binary(path: Path) -> BinaryIO:
    """The file's bytes, decompressed as they are read. Raises OSError, DataError where it is missing."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; check data.sources")
    openers: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    return cast(BinaryIO, openers.get(path.suffix.lower(), open)(path, "rb"))


def lines_of(stream: BinaryIO) -> Iterator[bytes]:
    """Lines with their ends; bounded, whatever the stream holds. Raises UnusableFile."""
    number = 0
    while line := stream.readline(MAX_RECORD_BYTES + 1):
        number += 1
        if len(line) > MAX_RECORD_BYTES:
            raise UnusableFile(f"line {number} is longer than {MAX_RECORD_BYTES >> 20} MiB")
        yield line


def text_of(payload: bytes) -> str:
    """The text of a record. Raises UnusableStructure where it is not UTF-8."""
    try:
        return payload.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnusableStructure(
            f"not UTF-8 text: byte {payload[error.start]:#04x} at {error.start}"
        ) from error

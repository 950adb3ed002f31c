"""Sources into pieces on disk, by any number of processes; the pieces do not depend on how many."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Protocol

from adit_scale.atoms import AtomSet
from adit_scale.data.building.processes import run_all
from adit_scale.data.building.staging import Piece, write_whole
from adit_scale.data.config import DataConfig
from adit_scale.data.manifest import MAX_SET_ATOMS
from adit_scale.data.sources import Format, Record, Rejected, Source, convert, format_of, records_of
from adit_scale.data.sources.source import UnusableFile, UnusableStructure, bare_name
from adit_scale.data.sources.structures import standardise
from adit_scale.errors import DataError

# A piece is this many records or, if that is less, this much of the source.
PIECE_RECORDS, PIECE_BYTES = 512, 1 << 20


class Progress(Protocol):
    """Told how far the work is. stage: what is being done. total: None where it is not known, and an
    estimate, which may change, while structures are converted."""

    def __call__(self, stage: str, done: int, total: int | None) -> None: ...


@dataclass(frozen=True)
class Chunk:
    """The records of one piece. label: goes before ids that are only places in one of several files."""

    source: Source
    label: str
    records: list[Record]
    path: Path


def convert_sources(
    sources: Sequence[Source], folder: Path, config: DataConfig, progress: Progress | None
) -> list[Path]:
    """Convert all sources into pieces in ``folder``, but for those that stand there already.

    Returns the pieces in the order of the sources. Raises DataError for a source that cannot be read to its
    end, OSError where the folder cannot be written.
    """
    work = _Work(sources, folder, config, progress)
    run_all(partial(_convert_chunk, config=config), work.chunks(), config.build_workers, work.done)
    return work.pieces()


def piece_path(folder: Path, source: int, number: int) -> Path:
    return folder / f"{source:04d}-{number:07d}.piece"


class _Work:
    """The chunks that have no piece yet, and how far the work is.

    A source whose pieces all stand is not even read. Of the others those records are cut, not converted.
    """

    def __init__(
        self, sources: Sequence[Source], folder: Path, config: DataConfig, progress: Progress | None
    ) -> None:
        self._sources, self._folder, self._config, self._progress = sources, folder, config, progress
        self._labels = labels(sources)
        self._n_pieces: dict[int, int] = {}
        self._extent = _Extent(sources)
        self._n_structures = self._n_records = self._n_cut = 0

    def chunks(self) -> Iterator[Chunk]:
        for number, source in enumerate(self._sources):
            self._extent.begin(number)
            if not self._stands(number):
                yield from self._missing(number, source)

    def pieces(self) -> list[Path]:
        """All pieces, in the order of the sources."""
        return [self._path(i, k) for i in range(len(self._sources)) for k in range(self._n_pieces[i])]

    def done(self, counts: tuple[int, int]) -> None:
        """One more piece, of so many records and structures."""
        self._n_records += counts[0]
        self._n_structures += counts[1]
        if self._progress is not None:
            fraction = self._extent.fraction()
            total = None
            if fraction and self._n_records:
                a_record = self._n_structures / self._n_records
                left = max(self._n_cut / fraction - self._n_records, 0)
                total = self._n_structures + round(left * a_record)
            self._progress("converting", self._n_structures, total)

    def _path(self, number: int, piece: int) -> Path:
        return piece_path(self._folder, number, piece)

    def _stands(self, number: int) -> bool:
        mark = self._folder / f"{number:04d}.cut"
        if not mark.is_file():
            return False
        self._n_pieces[number] = int(mark.read_text())
        found = (Piece.load(self._path(number, k)) for k in range(self._n_pieces[number]))
        counts = [(piece.n_records, piece.n_structures) if piece else None for piece in found]
        if None in counts:
            return False
        for count in counts:
            assert count is not None
            self._n_cut += count[0]
            self.done(count)
        return True

    def _missing(self, number: int, source: Source) -> Iterator[Chunk]:
        count = 0
        for count, records in enumerate(_cut(records_of(source, self._config)), start=1):
            self._n_cut += len(records)
            piece = Piece.load(self._path(number, count - 1))
            if piece is None:
                yield Chunk(source, self._labels[number], records, self._path(number, count - 1))
            else:
                self.done((piece.n_records, piece.n_structures))
        self._n_pieces[number] = count
        write_whole(self._folder / f"{number:04d}.cut", str(count).encode())


class _Extent:
    """How much of the sources' bytes has been read, as far as it can be known."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._paths = [source.path for source in sources]
        self._sizes = [path.stat().st_size if path.is_file() else 0 for path in self._paths]
        self._number = 0

    def begin(self, number: int) -> None:
        self._number = number

    def fraction(self) -> float | None:
        """None where it is not known, as for a folder."""
        position = open_position(self._paths[self._number])
        if position is None or not all(self._sizes):
            return None
        return (sum(self._sizes[: self._number]) + position) / sum(self._sizes)


def open_position(path: Path) -> int | None:
    """How far this process has read a file that it has open, in raw bytes; None where it cannot be told."""
    try:
        for entry in os.scandir("/proc/self/fd"):
            if os.path.realpath(entry.path) == str(path.resolve()):
                return os.lseek(int(entry.name), 0, os.SEEK_CUR)
    except OSError:
        return None
    return None


def labels(sources: Sequence[Source]) -> list[str]:
    """For each source that shares its data set with others a word of its own, else ""."""
    shared = Counter(source.dataset for source in sources)
    bare = [bare_name(source.path)[0] for source in sources]
    alike = Counter((source.dataset, name) for source, name in zip(sources, bare, strict=True))
    return [
        ""
        if shared[source.dataset] == 1
        else name
        if alike[source.dataset, name] == 1
        else f"{source.path.absolute().parent.name}/{name}"
        for source, name in zip(sources, bare, strict=True)
    ]


def _cut(records: Iterable[Record]) -> Iterator[list[Record]]:
    lot: list[Record] = []
    n_bytes = 0
    for record in records:
        lot.append(record)
        n_bytes += len(record.payload)
        if len(lot) == PIECE_RECORDS or n_bytes >= PIECE_BYTES:
            yield lot
            lot, n_bytes = [], 0
    if lot:
        yield lot


def _convert_chunk(chunk: Chunk, config: DataConfig) -> tuple[int, int]:
    """Write the piece of a chunk; returns the numbers of its records and structures."""
    form = _format_of(chunk.source)
    items: list[tuple[int, AtomSet | Rejected]] = []
    for record in chunk.records:
        try:
            found = convert(record, chunk.source, form, config)
        except UnusableFile as error:
            raise DataError(f"{chunk.source.path}: {error}") from error
        items += [(record.index, _named(item, record, chunk.label)) for item in found]
    items = [(index, _within(item, index)) for index, item in items]
    Piece.of(items, chunk.source.split, config.split_salt, len(chunk.records)).save(chunk.path)
    return len(chunk.records), len(items)


@lru_cache(maxsize=64)
def _format_of(source: Source) -> Format:
    return format_of(source)


def _named(item: AtomSet | Rejected, record: Record, label: str) -> AtomSet | Rejected:
    """Where several files make a data set, an id that is a mere place in its file gets the file's name."""
    if label and item.id == str(record.index):
        return replace(item, id=f"{label}/{item.id}")
    return item


def _within(item: AtomSet | Rejected, index: int) -> AtomSet | Rejected:
    if isinstance(item, Rejected) or len(item) <= MAX_SET_ATOMS:
        return item
    return Rejected(item.dataset, index, item.id, f"{len(item)} atoms; at most {MAX_SET_ATOMS} can be stored")


def convert_sets(
    sets: Iterable[AtomSet], folder: Path, config: DataConfig, progress: Progress | None
) -> list[Path]:
    """The same for structures made in memory."""
    paths: list[Path] = []
    items: list[tuple[int, AtomSet | Rejected]] = []

    def save() -> None:
        paths.append(piece_path(folder, 0, len(paths)))
        Piece.of(items, "", config.split_salt, len(items)).save(paths[-1])
        items.clear()

    for index, atom_set in enumerate(sets):
        items.append((index, _standardised(atom_set, index, config)))
        if progress is not None:
            progress("converting", index + 1, None)
        if len(items) == PIECE_RECORDS:
            save()
    if items:
        save()
    return paths


def _standardised(atom_set: AtomSet, index: int, config: DataConfig) -> AtomSet | Rejected:
    try:
        atom_set = standardise(atom_set)
    except UnusableStructure as error:
        return Rejected(atom_set.dataset, index, atom_set.id, str(error))
    if config.max_atoms and len(atom_set) > config.max_atoms:
        reason = f"{len(atom_set)} atoms; data.max_atoms is {config.max_atoms}"
        return Rejected(atom_set.dataset, index, atom_set.id, reason)
    return _within(atom_set, index)

"""Structures of a data set written back out: any range, any ids, one file; read a block at a time."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, cast

import numpy as np

from adit_scale.atoms import AtomSet
from adit_scale.data.building.conversion import Progress
from adit_scale.data.formats import WRITERS, one_line_id
from adit_scale.data.manifest import Manifest
from adit_scale.data.shards import ShardReader
from adit_scale.errors import ConfigError, DataError


@dataclass(frozen=True)
class Selection:
    """Sets of one split: those at places start to stop (None: the last), of one data set ("": any), with one
    of these (data set or "", id) names (empty: any)."""

    split: str
    start: int = 0
    stop: int | None = None
    dataset: str = ""
    names: frozenset[tuple[str, str]] = frozenset()

    @staticmethod
    def from_words(
        split: str, places: str = "", ids: str = "", ids_from: Path | None = None, dataset: str = ""
    ) -> Selection:
        """From the words of the command line. Raises ConfigError, DataError."""
        first, colon, last = places.partition(":")
        if places and (not colon or not all(part == "" or part.isdecimal() for part in (first, last))):
            raise ConfigError(f"--range is {places!r}; expected A:B, places from 0, such as 0:100")
        names = {("", name) for name in ids.split(",") if name}
        if ids_from is not None:
            lines = ids_from.read_text(encoding="utf-8").split("\n")
            found = (line.removesuffix("\r").rpartition("\t") for line in lines if line.strip())
            names |= {(name, own) for name, _, own in found}
            if not names:
                raise DataError(f"{ids_from}: holds no ids; expected one a line")
        return Selection(split, int(first or 0), int(last) if last else None, dataset, frozenset(names))


def export(manifest: Manifest, chosen: Selection, to: Path, progress: Progress | None = None) -> str:
    """Write the chosen sets, in the order of the shards, into ``to``, whose ending says how.

    Returns what was written, in words. Raises DataError: nothing chosen, an id that is not there, a structure
    that the format cannot hold; then there is no file.
    """
    endings = [ending.lower() for ending in to.suffixes]
    plain = endings[-2] if endings[-1:] == [".gz"] and len(endings) > 1 else (endings or [""])[-1]
    if plain not in WRITERS:
        raise DataError(f"{to}: unknown kind of file; expected {', '.join(WRITERS)} (.gz may follow)")
    write = WRITERS[plain]
    n_sets = n_bare = 0
    with _whole_file(to) as file:
        for atom_set in selected(manifest, chosen, progress):
            text = write(atom_set)
            file.write(text)
            n_sets += 1
            n_bare += plain == ".sdf" and text.splitlines()[3][3:6] == "  0" and len(atom_set) > 1
    if plain == ".sdf":
        return f"{n_sets:,} structures, {n_bare:,} of them without bonds; positions have 4 decimals"
    return f"{n_sets:,} structures"


def export_list(manifest: Manifest, chosen: Selection, to: Path, progress: Progress | None = None) -> int:
    """Write ``data set<tab>id`` of the chosen sets, a line each, as data.split_lists reads it.

    Returns how many. Raises DataError.
    """
    n_ids = 0
    with _whole_file(to) as file:
        for atom_set in selected(manifest, chosen, progress):
            file.write(f"{atom_set.dataset}\t{one_line_id(atom_set)}\n")
            n_ids += 1
    return n_ids


def selected(manifest: Manifest, chosen: Selection, progress: Progress | None = None) -> Iterator[AtomSet]:
    """The chosen sets in the order of the shards, a block in memory at a time. Raises DataError."""
    if chosen.dataset and chosen.dataset not in manifest.datasets:
        raise DataError(
            f"no data set {chosen.dataset!r} there; expected one of {', '.join(manifest.datasets)}"
        )
    reader = ShardReader(manifest, chosen.split, cache_bytes=0)
    index = reader.index
    stop = len(index) if chosen.stop is None else min(chosen.stop, len(index))
    ends = index.block_of(np.array([chosen.start, stop - 1])) if chosen.start < stop else (0, -1)
    missing, n_given = set(chosen.names), 0
    for block in range(int(ends[0]), int(ends[1]) + 1):
        first, last = max(chosen.start, index.first_set[block]), min(stop, index.first_set[block + 1])
        inside = np.arange(first, last)
        if chosen.dataset:
            wanted = manifest.datasets.index(chosen.dataset)
            inside = inside[index.rows(int(first), int(last))["dataset"] == wanted]
        for atom_set in reader.read_sets(inside):
            names = {("", atom_set.id), (atom_set.dataset, atom_set.id)}
            if chosen.names and not names & chosen.names:
                continue
            missing -= names
            n_given += 1
            yield atom_set
        if progress is not None:
            progress(f"reading {chosen.split}", int(last) - chosen.start, stop - chosen.start)
        if chosen.names and not missing and all(name for name, _ in chosen.names):
            break
    if missing:
        name, own = min(missing)
        more = f" (and {len(missing) - 1:,} more)" if len(missing) > 1 else ""
        raise DataError(
            f"no {own!r}{f' of {name}' if name else ''} in {chosen.split}{more}; it may be in another split"
        )
    if not n_given:
        raise DataError(
            f"no structure chosen: {chosen.split} has {len(index):,}; check --range and --dataset"
        )


@contextmanager
def _whole_file(path: Path) -> Iterator[TextIO]:
    """A text file that is only there once it is whole."""
    part = path.with_name(path.name + ".part")
    open_text = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with open_text(part, "wt", encoding="utf-8", newline="\n") as file:
            yield cast(TextIO, file)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)

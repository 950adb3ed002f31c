"""Crystals with published formation energies, from CSV such as MP20's: the columns beside ``cif``."""

from __future__ import annotations

import hashlib
import lzma
import math
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adit_scale.atoms import AtomSet
from adit_scale.data.config import DataConfig
from adit_scale.data.sources import Rejected, Source, cdvae_csv, convert, format_of, records_of
from adit_scale.data.sources.source import UnusableFile
from adit_scale.errors import DataError

# The publisher's own, eV/atom, by the names of MP20 and MPTS-52; used where a file has one.
ABOVE_HULL = ("e_above_hull", "energy_above_hull")
# Nothing published lies outside: fluorides of the alkaline earths have -4.5. kJ/mol and meV do.
_LIMIT_EV_PER_ATOM = 10.0


@dataclass(frozen=True)
class Published:
    """crystals: of all files. formation, above_hull ``(n,)``: eV/atom, as published; above_hull is NaN in
    files without that column. left_out: rows that are no structure, by reason. column: of ``formation``.
    files: names and digests."""

    crystals: list[AtomSet]
    formation: np.ndarray
    above_hull: np.ndarray
    left_out: Counter[str]
    column: str
    files: list[dict[str, str]]

    @property
    def names(self) -> list[str]:
        """Data set and id of each."""
        return [f"{crystal.dataset}/{crystal.id}" for crystal in self.crystals]


def read_published(words: Sequence[str], column: str, limit: int = 0) -> Published:
    """Of files as ``adit data build`` takes them (PATH or NAME=PATH); limit: the first rows of each, 0 all.

    Raises DataError for a file that is no CSV, a missing column, and a value that is no energy in eV/atom.
    """
    found = Published([], np.zeros(0), np.zeros(0), Counter(), column, [])
    energies: list[tuple[float, float]] = []
    for source in map(Source.from_word, words):
        texts = _columns(source, column, limit)
        form, config = format_of(source), DataConfig(spacegroups="stated")
        for record, row in zip(records_of(source, config), texts, strict=False):  # limit cuts the texts
            [item] = convert(record, source, form, config)
            if isinstance(item, Rejected):
                found.left_out["cannot be read"] += 1
                continue
            where = f"{source.path}: {item.id}"
            above = _number(row[1], ABOVE_HULL[0], where) if row[1] else math.nan
            energies.append((_number(row[0], column, where), above))
            found.crystals.append(item)
        digest = hashlib.sha256(source.path.read_bytes()).hexdigest()[:12]
        found.files.append({"name": source.path.name, "sha256": digest})
    if not found.crystals:
        raise DataError(f"{words[0]}: no structure can be read; expected crystals in a column cif")
    formation, above = np.array(energies).T
    return Published(found.crystals, formation, above, found.left_out, column, found.files)


def _columns(source: Source, column: str, limit: int) -> list[tuple[str, ...]]:
    """The texts of formation energy and energy above hull, the latter "" where there is none."""
    if format_of(source) is not cdvae_csv.FORMAT:
        raise DataError(f"{source.path}: formation_energies={column} needs CSV; expected a .csv or .csv.gz")
    try:
        names = cdvae_csv.header(source)
        above = [name for name in ABOVE_HULL if name in names][:1]
        rows = [(*row, "")[:2] for row in cdvae_csv.columns(source, [column, *above])]
    except UnusableFile as error:
        raise DataError(f"{source.path}: {error}; see formation_energies=COLUMN") from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{source.path}: cannot be read to its end ({error}); copy the file again") from error
    return rows[:limit] if limit else rows


def _number(text: str, column: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.inf
    if not math.isfinite(value) or abs(value) > _LIMIT_EV_PER_ATOM:
        raise DataError(
            f"{where}: {column} is {text[:30]!r}; expected eV/atom, "
            f"{-_LIMIT_EV_PER_ATOM:g} to {_LIMIT_EV_PER_ATOM:g}"
        )
    return value

"""Readers of raw files: one module a format, all yielding standardised atom sets or the reason why not."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from adit_scale.atoms import AtomSet
from adit_scale.data.sources import cdvae_csv, extxyz
from adit_scale.data.sources.structures import Rejected, UnusableFile
from adit_scale.errors import DataError

__all__ = ["Rejected", "dataset_name", "read_source"]

READERS = {".xyz": extxyz.read, ".extxyz": extxyz.read, ".csv": cdvae_csv.read}


def read_source(path: Path) -> Iterator[AtomSet | Rejected]:
    """Stream the structures of one file, in its order, in standard form.

    The name chooses the reader: .xyz or .extxyz (extended xyz), .csv (a ``cif`` column); .gz may follow.
    A structure that cannot be used is yielded as Rejected and reading goes on.
    Raises DataError when the file is missing, unreadable or of another kind.
    """
    stem, suffix = _split_name(path)
    reader = READERS.get(suffix)
    if reader is None:
        raise DataError(f"{path}: unknown kind of file; expected {', '.join(READERS)}, each also with .gz")
    if not path.is_file():
        raise DataError(f"{path}: no such file; check data.sources")
    try:
        with _open(path) as lines:
            yield from reader(lines, stem)
    except UnusableFile as error:
        raise DataError(f"{path}: {error}") from error
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read to its end ({error}); copy the file again") from error


def dataset_name(path: Path) -> str:
    """The data set's name: the file's name without its endings."""
    return _split_name(path)[0]


def _split_name(path: Path) -> tuple[str, str]:
    name = Path(path.name.removesuffix(".gz"))
    return name.stem, name.suffix.lower()


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")

"""Readers of raw data, one module a format: all lead to atom sets in standard form or the reason why not."""

from __future__ import annotations

import importlib
import lzma
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from adit_scale.atoms import AtomSet
from adit_scale.data.config import DataConfig
from adit_scale.data.sources.source import (
    UNUSABLE,
    Format,
    Record,
    Rejected,
    Source,
    UnusableFile,
    UnusableStructure,
    bare_name,
)
from adit_scale.data.sources.structures import standardise
from adit_scale.errors import DataError

__all__ = ["Format", "Record", "Rejected", "Source", "convert", "format_of", "read_source", "records_of"]

# The module of this package that reads a kind of file, by its ending less that of compression.
READERS = {
    ".xyz": "extxyz",
    ".extxyz": "extxyz",
    ".csv": "cdvae_csv",
    ".sdf": "sdf",
    ".cif": "cif",
    ".vasp": "poscar",
    ".poscar": "poscar",
    ".db": "ase_db",
    ".json": "pymatgen_json",
    ".msgpack": "geom",
    ".tar": "archive",
    ".tgz": "archive",
    ".zip": "archive",
}
# What says the format by itself, whatever the ending.
_NAMED = {"POSCAR": "poscar", "CONTCAR": "poscar"}


def format_of(source: Source) -> Format:
    """The format of a source, by its name; a folder is read like an archive of its files.

    Raises DataError when the source is missing or of no known kind.
    """
    path = source.path
    if path.is_dir():
        module = "archive"
    else:
        name, suffix = bare_name(path)
        found = READERS.get(suffix) or _NAMED.get(name.split(".")[0].split("_")[0])
        if name.startswith("dsgdb9nsd") and suffix in (".tar", ".tgz"):
            found = "qm9"
        if suffix == ".tar" and name.endswith(".msgpack"):
            found = "geom"
        if found is None and not path.suffix and not path.exists():
            raise DataError(f"{path}: no such file or folder")
        if found is None:
            endings = ", ".join(READERS)
            raise DataError(f"{path}: unknown kind of file; expected {endings} (also compressed) or a folder")
        module = found
    if not path.exists():
        raise DataError(f"{path}: no such file; check data.sources")
    form = importlib.import_module(f"{__name__}.{module}").FORMAT
    assert isinstance(form, Format)
    return form


def records_of(source: Source, config: DataConfig) -> Iterator[Record]:
    """The raw records of a source, in its order. Raises DataError with the source's path."""
    try:
        yield from format_of(source).records(source, config)
    except UnusableFile as error:
        raise DataError(f"{source.path}: {error}") from error
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{source.path}: cannot be read to its end ({error}); copy the file again") from error


def convert(record: Record, source: Source, form: Format, config: DataConfig) -> list[AtomSet | Rejected]:
    """The structures of a record in standard form, or why not."""
    try:
        if record.kind == UNUSABLE:
            raise UnusableStructure(record.payload.decode())
        items = form.parse(record, source.dataset, config)
    except UnusableStructure as error:
        return [_rejected(record, source, record.name or str(record.index), error)]
    return [item if isinstance(item, Rejected) else _finish(item, record, source, config) for item in items]


def read_source(source: Source | Path, config: DataConfig | None = None) -> Iterator[AtomSet | Rejected]:
    """Stream the structures of one source, in its order, in standard form.

    A structure that cannot be used is yielded as Rejected and reading goes on.
    Raises DataError when the source is missing, unreadable or of another kind.
    """
    source = source if isinstance(source, Source) else Source(source, bare_name(source)[0])
    config = config or DataConfig()
    form = format_of(source)
    for record in records_of(source, config):
        yield from convert(record, source, form, config)


def _finish(atom_set: AtomSet, record: Record, source: Source, config: DataConfig) -> AtomSet | Rejected:
    try:
        if config.remove_hydrogens and not atom_set.periodic:
            heavy = np.asarray(atom_set.numbers) != 1
            atom_set = replace(atom_set, numbers=atom_set.numbers[heavy], positions=atom_set.positions[heavy])
        if config.max_atoms and len(atom_set) > config.max_atoms:
            raise UnusableStructure(f"{len(atom_set)} atoms; data.max_atoms is {config.max_atoms}")
        atom_set = standardise(atom_set)
        unstated = config.spacegroups == "auto" and atom_set.spacegroup == 0
        if atom_set.periodic and (config.spacegroups == "found" or unstated):
            from adit_scale.data.sources.symmetry import find_spacegroup  # heavy

            atom_set = replace(atom_set, spacegroup=find_spacegroup(atom_set, config.symprec_angstrom))
    except UnusableStructure as error:
        return _rejected(record, source, atom_set.id, error)
    return atom_set


def _rejected(record: Record, source: Source, name: str, error: UnusableStructure) -> Rejected:
    return Rejected(source.dataset, record.index, name, str(error))

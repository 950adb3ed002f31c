"""Crystals in CDVAE's CSV form: ``cif``, and where present ``material_id`` and ``spacegroup.number``."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator
from typing import TextIO

import numpy as np

from adit_scale.atoms import AtomSet
from adit_scale.data.sources.structures import (
    ATOMIC_NUMBERS,
    Rejected,
    UnusableFile,
    UnusableStructure,
    atomic_number,
    cell_from_parameters,
    standardise,
)

# What pymatgen's writer puts before the atoms of a P1 file, and so what every file of this form holds.
_IDENTITY_ONLY = "loop_\n _symmetry_equiv_pos_site_id\n _symmetry_equiv_pos_as_xyz\n  1  'x, y, z'\nloop_\n"
_ATOM_COLUMNS = (
    " _atom_site_type_symbol\n _atom_site_label\n _atom_site_symmetry_multiplicity\n"
    " _atom_site_fract_x\n _atom_site_fract_y\n _atom_site_fract_z\n _atom_site_occupancy\n"
)
_CELL_KEYS = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
_MAX_FIELD_CHARACTERS = 1 << 26
# What pymatgen's parser was seen to raise on damaged files (they were cut and altered at random).
_PYMATGEN_ERRORS = (
    ValueError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError, StopIteration,
)  # fmt: skip


def read(lines: TextIO, dataset: str) -> Iterator[AtomSet | Rejected]:
    """Crystals of an open file, in its order. Raises UnusableFile when it has no ``cif`` column."""
    csv.field_size_limit(_MAX_FIELD_CHARACTERS)
    table = csv.DictReader(lines)
    if "cif" not in (table.fieldnames or ()):
        found = ", ".join(table.fieldnames or ()) or "nothing"
        raise UnusableFile(f"no column 'cif'; found {found[:200]}")
    rows = iter(table)
    index = 0
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            raise UnusableFile(f"line {table.line_num} is not CSV ({error})") from error
        name = row.get("material_id") or str(index)
        try:
            yield standardise(_convert(row, dataset, name))
        except UnusableStructure as error:
            yield Rejected(dataset, index, name, str(error))
        index += 1


def _convert(row: dict[str, str], dataset: str, name: str) -> AtomSet:
    text = row["cif"] or ""
    numbers, cell, fractional = _parse_p1(text) or _parse_any(text)
    return AtomSet(
        numbers=numbers,
        positions=fractional @ cell,
        cell=cell,
        periodic=True,
        dataset=dataset,
        spacegroup=_spacegroup(row.get("spacegroup.number") or "0"),
        id=name,
    )


def _spacegroup(text: str) -> int:
    try:
        return int(float(text))
    except (ValueError, OverflowError) as error:
        raise UnusableStructure(f"spacegroup.number is {text!r}; expected a whole number") from error


def _parse_p1(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Numbers, cell and fractional coordinates of a fully occupied P1 file as pymatgen writes them.

    None for any other form. It only splits words, and so is about a hundred times as fast as a CIF parser.
    """
    head, found, atoms = text.partition(_IDENTITY_ONLY + _ATOM_COLUMNS)
    words = atoms.split()
    parameters = {key: value for key, _, value in (line.partition(" ") for line in head.split("\n"))}
    if not found or not words or len(words) % 7 or not set(words[0::7]) <= ATOMIC_NUMBERS.keys():
        return None
    try:
        values = [float(parameters[f"_cell_{key}"]) for key in _CELL_KEYS]
        site = np.array([[float(x) for x in words[k::7]] for k in (3, 4, 5, 2, 6)])
    except (KeyError, ValueError):
        return None
    if (site[3:] != 1).any():
        return None
    numbers = np.array([atomic_number(symbol) for symbol in words[0::7]])
    return numbers, cell_from_parameters(values[:3], values[3:]), site[:3].T


def _parse_any(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same from any CIF file, by pymatgen. Raises UnusableStructure."""
    from pymatgen.core import Structure  # heavy, and rarely needed

    if not text.strip():
        raise UnusableStructure("empty CIF")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of them is in the reason of a rejection
            structure = Structure.from_str(text, fmt="cif")
    except _PYMATGEN_ERRORS as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UnusableStructure(f"unreadable CIF: {reason}") from error
    if not structure.is_ordered:
        raise UnusableStructure("sites of partial or mixed occupancy")
    numbers = np.array([site.specie.Z for site in structure])
    return numbers, np.array(structure.lattice.matrix), np.array(structure.frac_coords)

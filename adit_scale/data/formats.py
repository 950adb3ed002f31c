"""Structures as text: extended xyz, CIF and SDF, an entry at a time.

Every writer takes a set and its name and gives the text of one entry, or raises DataError that names the set,
why the format cannot hold it, and what can.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from urllib.parse import quote

import numpy as np

from adit_scale.atoms import AtomSet
from adit_scale.data.sources.structures import ELEMENT_SYMBOLS
from adit_scale.errors import DataError

V2000_MAX_ATOMS = V2000_MAX_BONDS = 999
V2000_MAX_COORDINATE = 9999.9999
MAX_ATOMS_FOR_BONDS = 150  # finding bonds takes time that grows fast; beyond it atoms are written alone
_CIF_NAME_SAFE = "-_.+()[]@=,:~!*/|^"
Bonds = tuple[list[tuple[int, int, int]], list[tuple[int, int]]]  # as find_bonds gives them
_BREAKS = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")


def extended_xyz(atom_set: AtomSet) -> str:
    """A frame of extended xyz: cell, pbc, id, data set, spacegroup in the comment; angstrom, 8 decimals."""
    one_line_id(atom_set)
    facts = []
    if atom_set.periodic:
        facts.append('Lattice="' + " ".join(f"{x:.8f}" for x in atom_set.cell.ravel()) + '"')
    facts.append("Properties=species:S:1:pos:R:3")
    facts.append('pbc="T T T"' if atom_set.periodic else 'pbc="F F F"')
    facts.append(f"id={_quoted(atom_set)} dataset={_quoted(atom_set, atom_set.dataset)}")
    if atom_set.spacegroup:
        facts.append(f"spacegroup={atom_set.spacegroup}")
    rows = [
        f"{ELEMENT_SYMBOLS[z]:<2} {x:16.8f} {y:16.8f} {w:16.8f}\n"
        for z, (x, y, w) in zip(atom_set.numbers, atom_set.positions, strict=True)
    ]
    return f"{len(atom_set)}\n{' '.join(facts)}\n{''.join(rows)}"


def cif(atom_set: AtomSet) -> str:
    """A CIF data block in P1, every atom written out; the block is named by the id, percent-encoded.

    Only cell parameters and fractional coordinates are written: how the cell lies in space is lost.
    """
    if not atom_set.periodic:
        raise _unfit(atom_set, "is a molecule, which CIF cannot hold", "--to FILE.sdf or FILE.extxyz")
    lengths, angles = _cell_parameters(atom_set.cell)
    block = quote(atom_set.id, safe=_CIF_NAME_SAFE) or "unnamed"
    lines = [f"data_{block}"]
    lines += [f"_cell_length_{name} {value:.8f}" for name, value in zip("abc", lengths, strict=True)]
    lines += [
        f"_cell_angle_{name} {value:.8f}"
        for name, value in zip(("alpha", "beta", "gamma"), angles, strict=True)
    ]
    lines += ["_symmetry_space_group_name_H-M 'P 1'", "_symmetry_Int_Tables_number 1"]
    lines += ["loop_", "_symmetry_equiv_pos_as_xyz", "'x, y, z'"]
    lines += ["loop_", "_atom_site_label", "_atom_site_type_symbol"]
    lines += [f"_atom_site_fract_{axis}" for axis in "xyz"] + ["_atom_site_occupancy"]
    seen: dict[int, int] = {}
    for z, (u, v, w) in zip(atom_set.numbers.tolist(), atom_set.fractional, strict=True):
        seen[z] = seen.get(z, 0) + 1
        symbol = ELEMENT_SYMBOLS[z]
        lines.append(f"{symbol}{seen[z]} {symbol} {u:.10f} {v:.10f} {w:.10f} 1")
    return "\n".join(lines) + "\n\n"


def sdf(atom_set: AtomSet, bonds_and_charges: Bonds | None = None) -> str:
    """A V2000 record, angstrom with 4 decimals; bonds as given, by default where RDKit finds them for the
    neutral molecule.
    """
    one_line_id(atom_set)
    if atom_set.periodic:
        raise _unfit(atom_set, "is a crystal, which SDF cannot hold", "--to FILE.cif or FILE.extxyz")
    if len(atom_set) > V2000_MAX_ATOMS:
        raise _unfit(
            atom_set, f"has {len(atom_set)} atoms; SDF (V2000) holds {V2000_MAX_ATOMS}", "--to FILE.extxyz"
        )
    if np.abs(atom_set.positions).max() > V2000_MAX_COORDINATE:
        raise _unfit(atom_set, f"reaches beyond {V2000_MAX_COORDINATE} angstrom", "--to FILE.extxyz")
    if any(mark in atom_set.id for mark in ("$$$$", "M  END")):
        raise _unfit(atom_set, "has an id that ends a record of SDF", "--to FILE.extxyz")
    bonds, charges = find_bonds(atom_set) if bonds_and_charges is None else bonds_and_charges
    if len(bonds) > V2000_MAX_BONDS:
        why = f"has {len(bonds)} bonds; SDF (V2000) holds {V2000_MAX_BONDS}"
        raise _unfit(atom_set, why, "--to FILE.extxyz")
    lines = [
        atom_set.id,
        "  adit_scale        3D",
        "",
        f"{len(atom_set):3d}{len(bonds):3d}  0  0  0  0  0  0  0  0999 V2000",
    ]
    lines += [
        f"{x:10.4f}{y:10.4f}{w:10.4f} {ELEMENT_SYMBOLS[z]:<3} 0  0  0  0  0  0  0  0  0  0  0  0"
        for z, (x, y, w) in zip(atom_set.numbers, atom_set.positions, strict=True)
    ]
    lines += [f"{first:3d}{second:3d}{order:3d}  0" for first, second, order in bonds]
    for start in range(0, len(charges), 8):
        some = charges[start : start + 8]
        lines.append(f"M  CHG{len(some):3d}" + "".join(f"{atom:4d}{charge:4d}" for atom, charge in some))
    lines += ["M  END", ">  <dataset>", atom_set.dataset, "", "$$$$"]
    return "\n".join(lines) + "\n"


WRITERS: dict[str, Callable[[AtomSet], str]] = {
    ".extxyz": extended_xyz,
    ".xyz": extended_xyz,
    ".cif": cif,
    ".sdf": sdf,
}


def find_bonds(atom_set: AtomSet) -> Bonds:
    """Bonds (two atoms from 1, order 1 to 3) and formal charges (atom, charge) as RDKit's
    DetermineBonds sees them for a neutral molecule; nothing where it finds none or the molecule is large.
    """
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdDetermineBonds
    from rdkit.Geometry import Point3D

    if len(atom_set) > MAX_ATOMS_FOR_BONDS:
        return [], []
    mol = Chem.RWMol()
    conformer = Chem.Conformer(len(atom_set))
    for i, (z, place) in enumerate(zip(atom_set.numbers.tolist(), atom_set.positions.tolist(), strict=True)):
        mol.AddAtom(Chem.Atom(z))
        conformer.SetAtomPosition(i, Point3D(*place))
    mol.AddConformer(conformer)
    try:
        with rdBase.BlockLogs():  # it writes to stderr what it also raises
            rdDetermineBonds.DetermineBonds(mol, charge=0, maxIterations=10_000)
            Chem.Kekulize(mol, clearAromaticFlags=True)
    except (ValueError, RuntimeError):  # what RDKit raises of a geometry it makes no sense of
        return [], []
    bonds = [
        (b.GetBeginAtomIdx() + 1, b.GetEndAtomIdx() + 1, int(b.GetBondTypeAsDouble())) for b in mol.GetBonds()
    ]
    charges = [(a.GetIdx() + 1, a.GetFormalCharge()) for a in mol.GetAtoms() if a.GetFormalCharge()]
    return bonds, charges


def one_line_id(atom_set: AtomSet) -> str:
    """The id, if a line of text can hold it and give it back. Raises DataError."""
    found = _BREAKS.search(atom_set.id)
    if found or atom_set.id != atom_set.id.strip():
        what = f"has {found[0]!r} in" if found else "has spaces around"
        raise _unfit(
            atom_set, f"{what} its id, which a line of text does not keep", "--to FILE.cif for crystals"
        )
    return atom_set.id


def _unfit(atom_set: AtomSet, why: str, instead: str) -> DataError:
    return DataError(f"{atom_set.dataset} {atom_set.id!r} {why}; use {instead}, or leave it out")


def _quoted(atom_set: AtomSet, text: str | None = None) -> str:
    """A value in double quotes, in which a backslash stands before a quote or a backslash."""
    text = atom_set.id if text is None else text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _cell_parameters(cell_33: np.ndarray) -> tuple[list[float], list[float]]:
    """Lengths (angstrom) and angles (degrees) of a cell."""
    lengths = np.linalg.norm(cell_33, axis=1)
    angles = []
    for i, j in ((1, 2), (0, 2), (0, 1)):
        cosine = float(cell_33[i] @ cell_33[j] / (lengths[i] * lengths[j]))
        angles.append(math.degrees(math.acos(max(-1.0, min(1.0, cosine)))))
    return lengths.tolist(), angles

"""Crystals in each file format, written by pymatgen and ASE, and what those read back from given bytes."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from pathlib import Path

import ase.db
import ase.io
import numpy as np
from ase import Atoms
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifParser, CifWriter
from pymatgen.io.vasp import Poscar

from adit_scale.atoms import AtomSet

Crystal = tuple[np.ndarray, np.ndarray, np.ndarray]  # numbers (n,), cell (3, 3), fractional (n, 3)


def structures() -> list[Structure]:
    """Rock salt with all its symmetry, a quartz, a low one, an atom alone."""
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])
    quartz = Structure.from_spacegroup(
        "P3_121", Lattice.hexagonal(4.913, 5.405), ["Si", "O"], [[0.4697, 0, 1 / 3], [0.4135, 0.2669, 0.7858]]
    )
    low = Structure(
        Lattice.from_parameters(4.1, 5.2, 6.3, 81, 95, 107),
        ["Ti", "O", "O", "N"],
        [[0.01, 0.02, 0.97], [0.3, 0.61, 0.5], [0.75, 0.13, 0.24], [0.52, 0.88, 0.71]],
    )
    return [salt, quartz, low, Structure(Lattice.hexagonal(3.2, 5.2), ["Mg"], [[0.1, 0.2, 0.3]])]


def p1_cif(structure: Structure) -> str:
    return str(CifWriter(structure))


def symmetric_cif(structure: Structure) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return str(CifWriter(structure, symprec=0.01))


def poscar(structure: Structure) -> str:
    return Poscar(structure).get_str()


def json_text(structure: Structure) -> str:
    return json.dumps(structure.as_dict())


def write_ase_db(path: Path, found: list[Structure], names: bool = False) -> Path:
    with ase.db.connect(path, append=False) as database:
        for i, structure in enumerate(found):
            atoms = Atoms(
                numbers=[site.specie.Z for site in structure],
                cell=structure.lattice.matrix,
                scaled_positions=structure.frac_coords,
                pbc=True,
            )
            database.write(atoms, **({"name": f"row-{i}"} if names else {}))
    return path


def zipped(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def read_cif(text: str) -> list[Crystal]:
    """What pymatgen or, where it finds nothing, ASE reads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = CifParser.from_str(text).parse_structures(primitive=False, on_error="ignore")
            return [_of(structure) for structure in found]
        except (ValueError, KeyError):
            atoms = ase.io.read(io.StringIO(text), format="cif", index=":", fractional_occupancies=True)
            return [(a.numbers, a.cell.array, a.get_scaled_positions()) for a in atoms]


def read_poscar(text: str) -> list[Crystal]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [_of(Poscar.from_str(text, read_velocities=False).structure)]


def read_structure(found: dict) -> Crystal:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _of(Structure.from_dict(found))


def _of(structure: Structure) -> Crystal:
    numbers = np.array([site.specie.Z for site in structure])
    return numbers, np.array(structure.lattice.matrix), np.array(structure.frac_coords)


def same(atom_set: AtomSet, other: Crystal, tolerance: float = 1e-5) -> bool:
    """The same atoms at the same places of the same cell, in any order and whole cells apart.

    The cell may be turned, so edges and angles are compared; lengths in angstrom.
    """
    numbers, cell, fractional = other
    if len(numbers) != len(atom_set):
        return False
    metric, other_metric = atom_set.cell @ atom_set.cell.T, cell @ cell.T
    scale = max(1.0, float(np.sqrt(metric.diagonal().max())))
    if not np.allclose(metric, other_metric, atol=tolerance * scale, rtol=1e-6):
        return False
    ours = atom_set.positions @ np.linalg.inv(atom_set.cell)
    difference = ours[:, None] - fractional
    difference -= np.rint(difference)
    near = (np.linalg.norm(difference @ cell, axis=-1) < tolerance * scale) & (
        np.asarray(atom_set.numbers)[:, None] == numbers
    )
    return bool((near.sum(axis=0) == 1).all() and (near.sum(axis=1) == 1).all())

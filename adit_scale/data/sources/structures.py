"""What every reader does with a structure before it may enter a data set: check and standardise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.spatial import cKDTree

from adit_scale.atoms import MAX_ATOMIC_NUMBER, AtomSet, wrap
from adit_scale.data.columns import snap
from adit_scale.data.sources.source import UnusableStructure

# fmt: off
ELEMENT_SYMBOLS = (
    "X",
    "H", "He", "Li", "Be", "B", "C", "N", "O", "F", "Ne", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "Ar",
    "K", "Ca", "Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As", "Se", "Br", "Kr",
    "Rb", "Sr", "Y", "Zr", "Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Ag", "Cd", "In", "Sn", "Sb", "Te", "I", "Xe",
    "Cs", "Ba", "La", "Ce", "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Yb", "Lu",
    "Hf", "Ta", "W", "Re", "Os", "Ir", "Pt", "Au", "Hg", "Tl", "Pb", "Bi", "Po", "At", "Rn",
    "Fr", "Ra", "Ac", "Th", "Pa", "U", "Np", "Pu", "Am", "Cm", "Bk", "Cf", "Es", "Fm", "Md", "No", "Lr",
    "Rf", "Db", "Sg", "Bh", "Hs", "Mt", "Ds", "Rg", "Cn", "Nh", "Fl", "Mc", "Lv", "Ts", "Og",
)
# fmt: on
ATOMIC_NUMBERS = {symbol: z for z, symbol in enumerate(ELEMENT_SYMBOLS) if z}
MAX_SPACEGROUP = 230
# Crystal sites that differ by less in each fractional coordinate are one place, as in pymatgen.
SITE_TOLERANCE = 1e-4
# Further out, float32 resolves less than the standard of positions; no structure is that large.
MAX_EXTENT_ANGSTROM = 1e4


def standardise(atom_set: AtomSet) -> AtomSet:
    """The same structure in standard form.

    A molecule is centred on its mean position. A crystal's cell is Niggli-reduced and turned so that a
    lies along x and b in the xy plane (a proper rotation: handedness is kept); its fractional coordinates
    are wrapped to [0, 1) and its positions are ``fractional @ cell``.

    Raises UnusableStructure with the reason.
    """
    _check(atom_set)
    numbers = np.asarray(atom_set.numbers, dtype=np.int64)
    positions = np.asarray(atom_set.positions, dtype=np.float64)
    if not atom_set.periodic:
        if len(set(map(tuple, positions.tolist()))) < len(positions):  # all at 0, where none were known
            raise UnusableStructure("two atoms stand at the same place")
        positions = positions - positions.mean(axis=0)
        return replace(atom_set, numbers=numbers, positions=positions, cell=np.zeros((3, 3)), spacegroup=0)
    cell = np.asarray(atom_set.cell, dtype=np.float64)
    fractional = positions @ np.linalg.inv(cell)
    _refuse_shared_places(fractional)
    if np.linalg.det(cell) < 0:  # the reduction below would mirror a structure given in left-handed axes
        cell, fractional = -cell, -fractional
    reduced, fractional = niggli_reduce(cell, fractional)
    return replace(atom_set, numbers=numbers, positions=fractional @ reduced, cell=reduced)


def _check(atom_set: AtomSet) -> None:
    numbers, positions, cell = atom_set.numbers, atom_set.positions, atom_set.cell
    if len(numbers) == 0:
        raise UnusableStructure("no atoms")
    if positions.shape != (len(numbers), 3):
        raise UnusableStructure(f"{len(numbers)} atoms but positions of shape {positions.shape}")
    near = np.abs(positions).max(axis=1) <= MAX_EXTENT_ANGSTROM  # False too where not a number
    if not near.all():
        atom = int(np.argmin(near))
        raise UnusableStructure(f"position of atom {atom} is {positions[atom].tolist()}")
    low, high = int(numbers.min()), int(numbers.max())
    if low < 1 or high > MAX_ATOMIC_NUMBER:
        found = low if low < 1 else high
        raise UnusableStructure(f"atomic number {found}; expected 1 to {MAX_ATOMIC_NUMBER}")
    if not 0 <= atom_set.spacegroup <= MAX_SPACEGROUP:
        raise UnusableStructure(f"spacegroup {atom_set.spacegroup}; expected 1 to {MAX_SPACEGROUP}")
    if atom_set.periodic:
        assert cell.shape == (3, 3)
        _check_extent(cell)
        volume, box = abs(np.linalg.det(cell)), np.prod(np.linalg.norm(cell, axis=1))
        if volume <= 1e-6 * box:
            raise UnusableStructure(f"cell volume is {volume:.3g} cubic angstrom; expected more than 0")


def cartesian(fractional: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Positions ``(n, 3)`` in angstrom. Raises UnusableStructure for numbers that no crystal has."""
    near = (np.abs(fractional) <= MAX_EXTENT_ANGSTROM).all(axis=1)  # False too where not a number
    if not near.all():
        atom = int(np.argmin(near))
        raise UnusableStructure(
            f"position of atom {atom} is {fractional[atom].tolist()} in parts of the cell"
        )
    _check_extent(cell)
    return fractional @ cell


def _check_extent(cell: np.ndarray) -> None:
    if not (np.abs(cell) <= MAX_EXTENT_ANGSTROM).all():
        raise UnusableStructure(f"cell is not nine numbers up to {MAX_EXTENT_ANGSTROM:.0f} angstrom")


def coincide(fractional: np.ndarray) -> np.ndarray:
    """Which of the sites ``(n, 3)`` are one place of a crystal, whole cells apart; ``(n, n)`` bool."""
    difference = fractional[:, None] - fractional
    difference -= np.rint(difference)
    return (np.abs(difference) < SITE_TOLERANCE).all(axis=-1)


def _refuse_shared_places(fractional: np.ndarray) -> None:
    """Two atoms in one place are a mixed occupancy, or damage."""
    if len(fractional) <= 64:
        pairs = np.argwhere(np.triu(coincide(fractional), 1))
    else:
        tree = cKDTree(wrap(fractional), boxsize=1.0)
        pairs = tree.query_pairs(SITE_TOLERANCE, p=np.inf, output_type="ndarray")
    if len(pairs):
        i, j = sorted(pairs[0].tolist())
        raise UnusableStructure(f"atoms {i} and {j} are at one place")


def atomic_number(symbol: str) -> int:
    """Atomic number of an element symbol or of digits. Raises UnusableStructure for anything else."""
    number = int(symbol) if symbol.isdecimal() and len(symbol) <= 3 else ATOMIC_NUMBERS.get(symbol)
    if number is None:
        raise UnusableStructure(f"unknown element {symbol[:40]!r}")
    return number


def numbers_of(symbols: Sequence[str]) -> np.ndarray:
    """Atomic numbers ``(n,)`` of element symbols or digits. Raises UnusableStructure."""
    try:
        return np.array([ATOMIC_NUMBERS[symbol] for symbol in symbols], dtype=np.int64)
    except KeyError:
        return np.array([atomic_number(symbol) for symbol in symbols], dtype=np.int64)


def floats(words: Sequence[str]) -> np.ndarray:
    """The numbers that words spell, ``(n,)`` float64, which may be infinite or NaN.

    Raises UnusableStructure for a word that is none, also for ``1_000`` and foreign digits, which ``float``
    takes.
    """
    joined = "".join(words)
    if "_" in joined or not joined.isascii():
        odd = next(word for word in words if "_" in word or not word.isascii())
        raise UnusableStructure(f"could not convert string to float: {odd[:40]!r}")
    try:
        return np.array(list(map(float, words)))
    except ValueError as error:
        raise UnusableStructure(str(error)[:100]) from error


def cell_from_metric(metric: np.ndarray) -> np.ndarray:
    """Right-handed rows a along x, b in the xy plane, c, with the given products ``(3, 3)``.

    Square roots and the four operations only, so the bits do not depend on a mathematics library.
    """
    (aa, ab, ac), (_, bb, bc), (_, _, cc) = metric.tolist()
    ax = math.sqrt(aa)
    bx = ab / ax
    by = math.sqrt(max(bb - bx * bx, 0.0))
    cx = ac / ax
    cy = (bc - bx * cx) / by if by > 0 else 0.0
    cz = math.sqrt(max(cc - cx * cx - cy * cy, 0.0))
    return np.array([[ax, 0.0, 0.0], [bx, by, 0.0], [cx, cy, cz]])


def cell_from_parameters(lengths: list[float], angles_degrees: list[float]) -> np.ndarray:
    """The cell of edge lengths (angstrom) and angles alpha, beta, gamma (degrees)."""
    if not all(0 < length <= MAX_EXTENT_ANGSTROM for length in lengths):
        raise UnusableStructure(
            f"cell lengths {lengths}; expected more than 0, up to {MAX_EXTENT_ANGSTROM:.0f}"
        )
    if not all(0 < angle < 180 for angle in angles_degrees):
        raise UnusableStructure(f"cell angles {angles_degrees}; expected between 0 and 180 degrees")
    cosines = [math.cos(math.radians(angle)) for angle in angles_degrees]
    bc, ac, ab = (0.0 if abs(cosine) < 1e-15 else cosine for cosine in cosines)
    scale = np.array(lengths)
    return cell_from_metric(np.outer(scale, scale) * [[1, ab, ac], [ab, 1, bc], [ac, bc, 1]])


def niggli_reduce(cell: np.ndarray, fractional: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The Niggli cell of a right-handed cell, turned as ``cell_from_metric`` says, and the wrapped
    fractional coordinates ``(n, 3)`` in it."""
    rows = _niggli_rows(cell)
    basis = rows @ cell
    fractional = snap(wrap(fractional @ np.rint(np.linalg.inv(rows))))
    return cell_from_metric(basis @ basis.T), fractional


def _niggli_rows(cell: np.ndarray) -> np.ndarray:
    """Integer combinations of the old lattice vectors, a row for each new one; determinant 1.

    Krivy and Gruber, Acta Cryst. A32 (1976) 297, with the tolerances of Grosse-Kunstleve, Sauter and
    Adams, Acta Cryst. A60 (2004) 1. The metric is taken anew from the integers at each turn, so that
    rounding errors do not add up. A cell whose symmetry is off by about the tolerance can send the
    reduction in circles; a smaller tolerance then ends it.
    """
    for relative in (1e-5, 1e-7, 1e-9):
        tolerance = relative * abs(np.linalg.det(cell)) ** (1 / 3)
        rows = np.eye(3)
        for _ in range(100):
            basis = rows @ cell
            change = _niggli_step((basis @ basis.T).tolist(), tolerance)
            if change is None:
                return rows
            rows = np.array(change, dtype=float) @ rows
    raise UnusableStructure("Niggli reduction of the cell does not end")


def _niggli_step(metric: list[list[float]], e: float) -> list[list[int]] | None:
    """The next change of basis, or None for a reduced cell. Numbers are the steps of the 1976 paper."""
    (a, ab, ac), (_, b, bc), (_, _, c) = metric
    xi, eta, zeta = 2 * bc, 2 * ac, 2 * ab

    def equal(x: float, y: float) -> bool:
        return abs(x - y) <= e

    if a > b + e or (equal(a, b) and abs(xi) > abs(eta) + e):  # 1
        return [[0, -1, 0], [-1, 0, 0], [0, 0, -1]]
    if b > c + e or (equal(b, c) and abs(eta) > abs(zeta) + e):  # 2
        return [[-1, 0, 0], [0, 0, -1], [0, -1, 0]]
    signs = _niggli_signs(xi, eta, zeta, e)  # 3 and 4
    if signs != [1, 1, 1]:
        return [[signs[0], 0, 0], [0, signs[1], 0], [0, 0, signs[2]]]
    if abs(xi) > b + e or (equal(b, xi) and 2 * eta < zeta - e) or (equal(b, -xi) and zeta < -e):  # 5
        return [[1, 0, 0], [0, 1, 0], [0, -1 if xi > 0 else 1, 1]]
    if abs(eta) > a + e or (equal(a, eta) and 2 * xi < zeta - e) or (equal(a, -eta) and zeta < -e):  # 6
        return [[1, 0, 0], [0, 1, 0], [-1 if eta > 0 else 1, 0, 1]]
    if abs(zeta) > a + e or (equal(a, zeta) and 2 * xi < eta - e) or (equal(a, -zeta) and eta < -e):  # 7
        return [[1, 0, 0], [-1 if zeta > 0 else 1, 1, 0], [0, 0, 1]]
    total = xi + eta + zeta + a + b
    if total < -e or (equal(total, 0) and 2 * (a + eta) + zeta > e):  # 8
        return [[1, 0, 0], [0, 1, 0], [1, 1, 1]]
    return None


def _niggli_signs(xi: float, eta: float, zeta: float, e: float) -> list[int]:
    """Signs of the three vectors that make all angles acute (step 3) or none (step 4)."""
    products = (xi, eta, zeta)
    n_positive = sum(x > e for x in products)
    n_zero = sum(abs(x) <= e for x in products)
    if n_positive == 3 or (n_zero == 0 and n_positive == 1):
        return [-1 if x < -e else 1 for x in products]
    if n_positive == 0:
        return [1, 1, 1]
    signs = [-1 if x > e else 1 for x in products]
    if math.prod(signs) < 0:  # a zero product exists then, and its vector's sign is free
        signs[max(i for i, x in enumerate(products) if abs(x) <= e)] *= -1
    return signs

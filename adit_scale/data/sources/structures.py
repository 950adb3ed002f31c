"""What every reader does with a structure before it may enter a data set: check and standardise."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from adit_scale.atoms import MAX_ATOMIC_NUMBER, AtomSet, wrap
from adit_scale.data.columns import snap

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


@dataclass(frozen=True)
class Rejected:
    """A structure left out, and why. source: the data set's name. index: its place there, from 0."""

    source: str
    index: int
    id: str
    reason: str


class UnusableFile(ValueError):
    """A whole file cannot be used; ``read_source`` adds its path."""


class UnusableStructure(ValueError):
    """A single structure cannot be used; the reader reports it as Rejected and goes on."""


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
        positions = positions - positions.mean(axis=0)
        return replace(atom_set, numbers=numbers, positions=positions, cell=np.zeros((3, 3)), spacegroup=0)
    cell = np.asarray(atom_set.cell, dtype=np.float64)
    fractional = positions @ np.linalg.inv(cell)
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
    finite = np.isfinite(positions).all(axis=1)
    if not finite.all():
        atom = int(np.argmin(finite))
        raise UnusableStructure(f"position of atom {atom} is {positions[atom].tolist()}")
    low, high = int(numbers.min()), int(numbers.max())
    if low < 1 or high > MAX_ATOMIC_NUMBER:
        found = low if low < 1 else high
        raise UnusableStructure(f"atomic number {found}; expected 1 to {MAX_ATOMIC_NUMBER}")
    if not 0 <= atom_set.spacegroup <= MAX_SPACEGROUP:
        raise UnusableStructure(f"spacegroup {atom_set.spacegroup}; expected 1 to {MAX_SPACEGROUP}")
    if atom_set.periodic:
        if cell.shape != (3, 3) or not np.isfinite(cell).all():
            raise UnusableStructure("cell is not nine finite numbers")
        volume, box = abs(np.linalg.det(cell)), np.prod(np.linalg.norm(cell, axis=1))
        if volume <= 1e-6 * box:
            raise UnusableStructure(f"cell volume is {volume:.3g} cubic angstrom; expected more than 0")


def atomic_number(symbol: str) -> int:
    """Atomic number of an element symbol or of digits. Raises UnusableStructure for anything else."""
    number = int(symbol) if symbol.isdecimal() and len(symbol) <= 3 else ATOMIC_NUMBERS.get(symbol)
    if number is None:
        raise UnusableStructure(f"unknown element {symbol!r}")
    return number


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
    (a, b, c), cosines = lengths, [math.cos(math.radians(angle)) for angle in angles_degrees]
    if not all(length > 0 for length in lengths):
        raise UnusableStructure(f"cell lengths {lengths}; expected more than 0")
    bc, ac, ab = (0.0 if abs(cosine) < 1e-15 else cosine for cosine in cosines)
    scale = np.array([a, b, c])
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

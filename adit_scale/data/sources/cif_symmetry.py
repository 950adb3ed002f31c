"""Symmetry operations of CIF files: read, checked to be a group that keeps the cell, applied."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import spglib

from adit_scale.data.sources.source import UnusableStructure
from adit_scale.data.sources.structures import coincide

# How well an operation must keep the cell, relative to its largest squared edge.
_METRIC_TOLERANCE = 1e-2
_MAX_OPERATIONS = 192 * 4
_MAX_IMAGES = 1_000_000
_HALL_NUMBERS = range(1, 531)
_TERM = re.compile(r"([+-]?)(?:(\d{1,9}(?:\.\d{0,9})?|\.\d{1,9})(?:/(\d{1,9}))?\*?)?([xyz]?)", re.ASCII)
_IDENTITY = ("x,y,z",)


class Operations(NamedTuple):
    """Operations f → rotation·f + shift on fractional coordinates: ``(k, 3, 3)`` and ``(k, 3)``."""

    rotations: np.ndarray
    shifts: np.ndarray


@lru_cache(maxsize=4096)
def operations_of(words: tuple[str, ...]) -> Operations:
    """Operations given as ``-x,y+1/2,z``, no blanks. Raises UnusableStructure unless they are a group."""
    if len(words) > _MAX_OPERATIONS:
        raise UnusableStructure(f"{len(words)} symmetry operations; expected {_MAX_OPERATIONS} at most")
    parsed = [_operation(word) for word in words]
    operations = Operations(np.array([w for w, _ in parsed]), np.array([t for _, t in parsed]))
    if len(words) > 1 or words != _IDENTITY:
        _check_group(operations)
    return operations


def _operation(word: str) -> tuple[list[list[int]], list[float]]:
    parts = word.split(",")
    if len(parts) != 3:
        raise UnusableStructure(f"symmetry operation {word[:40]!r}; expected three terms")
    rotation, shift = [], []
    for part in parts:
        row, constant, end = [Fraction(0)] * 3, Fraction(0), 0
        for match in _TERM.finditer(part):
            sign, number, divisor, axis = match.groups()
            if match.start() != end or not (number or axis) or (end and not sign) or divisor == "0":
                break
            end = match.end()
            value = Fraction(number or 1) / int(divisor or 1) * (-1 if sign == "-" else 1)
            if axis:
                row["xyz".index(axis)] += value
            else:
                constant += value
        if not part or end != len(part) or any(x not in (-1, 0, 1) for x in row):
            raise UnusableStructure(f"symmetry operation {word[:40]!r} is not understood")
        rotation.append([int(x) for x in row])
        shift.append(float(constant))
    return rotation, shift


def _check_group(operations: Operations) -> None:
    """Each product of two is one of them, up to lattice translations; and each stands once."""
    rotations, shifts = operations
    determinants = np.rint(np.linalg.det(rotations)).astype(int)
    if (np.abs(determinants) != 1).any():
        raise UnusableStructure("a symmetry operation is not invertible")
    known = _codes(rotations, shifts)
    if len(set(known.tolist())) < len(known):
        raise UnusableStructure("a symmetry operation is given twice")
    products = np.einsum("aij,bjk->abik", rotations, rotations)
    if np.abs(products).max() > 1:
        raise UnusableStructure("the symmetry operations are not a group")
    moved = np.einsum("aij,bj->abi", rotations, shifts) + shifts[:, None]
    if not np.isin(_codes(products.reshape(-1, 3, 3), moved.reshape(-1, 3)), known).all():
        raise UnusableStructure("the symmetry operations are not a group")


def _codes(rotations: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """One whole number an operation; shifts are told apart to 1/144 of a period."""
    digits = (rotations.reshape(-1, 9) + 1) @ 3 ** np.arange(9)
    places = np.rint(shifts * 144).astype(np.int64) % 144
    return digits * 144**3 + places @ 144 ** np.arange(3)


def expand(
    numbers: np.ndarray, fractional: np.ndarray, cell: np.ndarray, operations: Operations
) -> tuple[np.ndarray, np.ndarray]:
    """All atoms of the cell: numbers ``(n,)`` and fractional coordinates ``(n, 3)``, from those listed.

    The images of a listed atom stand together. Raises UnusableStructure where the operations do not keep the
    cell or where two listed atoms share a place.
    """
    rotations, shifts = operations
    if len(numbers) * len(rotations) > _MAX_IMAGES:
        raise UnusableStructure(
            f"{len(numbers)} atoms times {len(rotations)} symmetry operations are too many"
        )
    metric = cell @ cell.T
    turned = np.einsum("aji,jk,akl->ail", rotations, metric, rotations)
    if np.abs(turned - metric).max() > _METRIC_TOLERANCE * metric.diagonal().max():
        raise UnusableStructure("a symmetry operation does not keep the cell")
    images = np.einsum("aij,nj->nai", rotations, fractional) + shifts
    kept = [_distinct(image - np.floor(image)) for image in images]
    counts = [len(sites) for sites in kept]
    return np.repeat(numbers, counts), np.concatenate(kept)


def _distinct(sites: np.ndarray) -> np.ndarray:
    """Sites ``(k, 3)`` without those that repeat an earlier one, around the cell's edge too."""
    if len(sites) == 1:
        return sites
    same = coincide(sites)
    return sites[~np.tril(same, -1).any(axis=1)]


class _Setting(NamedTuple):
    hall: int
    number: int


@lru_cache(maxsize=1)
def _tables() -> dict[str, set[_Setting]]:
    """The settings of the spacegroups by what may be stated: a number, or a symbol without blanks."""
    found: dict[str, set[_Setting]] = {}
    for hall in _HALL_NUMBERS:
        kind: Any = spglib.get_spacegroup_type(hall)
        names = [str(kind.number), kind.international_full, *kind.international.split("=")]
        if kind.choice in ("", "b", "b1"):  # a short symbol of a monoclinic group means its axis b
            names.append(kind.international_short)
        for name in names:
            found.setdefault(_plain(name), set()).add(_Setting(hall, kind.number))
    return found


def _plain(symbol: str) -> str:
    return re.sub(r"[\s_]", "", symbol).lower()


def spacegroup_number(symbol: str) -> int:
    """The number of a Hermann-Mauguin symbol, in any setting; 0 for one that is not known."""
    numbers = {setting.number for setting in _tables().get(_plain(symbol.split(":")[0]), ())}
    return numbers.pop() if len(numbers) == 1 else 0


def operations_by_name(name: str) -> Operations:
    """The operations of a spacegroup given by symbol or number only.

    Raises UnusableStructure where it is unknown or leaves the choice of axes or origin open.
    """
    settings = _tables().get(_plain(name), set())
    if len(settings) != 1:
        what = "is not known" if not settings else f"has {len(settings)} settings"
        raise UnusableStructure(f"spacegroup {name[:40]!r} {what}; list its symmetry operations in the file")
    symmetry: Any = spglib.get_symmetry_from_database(next(iter(settings)).hall)
    return Operations(symmetry["rotations"].astype(int), symmetry["translations"])

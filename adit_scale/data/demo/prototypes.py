"""The vocabulary of the demo's crystals: prototypes and the compositions that fit them.

A prototype is a generator of ``Candidate``: elements in the order of the prototype's roles, cell edges and
the sites of one primitive cell in coordinates of the conventional cell. Coordinates follow Wyckoff, Crystal
Structures (1963), in the settings of the International Tables (origin choice 2 where there are two).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

Point = tuple[float, float, float]


class Ion(NamedTuple):
    """charge: 0 for an atom of a metal. radius: angstrom."""

    symbol: str
    charge: int
    radius: float


class Candidate(NamedTuple):
    """a, c: edges of the conventional cell, angstrom. sites: for each role the fractional coordinates."""

    atoms: tuple[Ion, ...]
    a: float
    c: float
    sites: tuple[Sequence[Point], ...]


@dataclass(frozen=True)
class Prototype:
    """centring: P, F, I or R (obverse, hexagonal axes) of the conventional cell."""

    name: str
    spacegroup: int
    centring: str
    hexagonal: bool
    candidates: Callable[[], Iterator[Candidate]]


def distinct(atoms: Sequence[Ion]) -> bool:
    return len({a.symbol for a in atoms}) == len(atoms)


ORIGIN: Point = (0.0, 0.0, 0.0)
BODY: Point = (0.5, 0.5, 0.5)
QUARTER: Point = (0.25, 0.25, 0.25)
THREE_QUARTERS: Point = (0.75, 0.75, 0.75)
THIRD, TWO_THIRDS = 1 / 3, 2 / 3


def cubic(atoms: tuple[Ion, ...], a: float, *sites: Sequence[Point]) -> Candidate:
    return Candidate(atoms, a, a, sites)

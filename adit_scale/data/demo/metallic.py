"""Metallic and covalent prototypes: ordered alloys, Heusler and Laves phases, hcp metals, diamond."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import sqrt

from adit_scale.data.demo.prototypes import (
    BODY,
    ORIGIN,
    QUARTER,
    THIRD,
    THREE_QUARTERS,
    TWO_THIRDS,
    Candidate,
    Ion,
    Point,
    Prototype,
    cubic,
    distinct,
)
from adit_scale.data.demo.radii import (
    BODY_CENTRED_METALS,
    DIAMOND_BONDS,
    FACE_CENTRED_METALS,
    HEXAGONAL_METALS,
    METALS,
)

FACES: tuple[Point, ...] = ((0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5))


def metals(symbols: str) -> list[Ion]:
    return [Ion(s, 0, METALS[s]) for s in symbols.split()]


VALENCE_ELECTRONS = {
    "Sc": 3, "Y": 3, "La": 3, "Lu": 3, "Er": 3, "Ti": 4, "Zr": 4, "Hf": 4, "V": 5, "Nb": 5, "Ta": 5,
    "Fe": 8, "Ru": 8, "Co": 9, "Rh": 9, "Ir": 9, "Ni": 10, "Pd": 10, "Pt": 10, "Cu": 11, "Au": 11,
    "Al": 3, "Ga": 3, "In": 3, "Ge": 4, "Sn": 4, "Pb": 4, "Sb": 5, "Bi": 5,
}  # fmt: skip


def half_heusler() -> Iterator[Candidate]:
    """Metals XYZ with 18 valence electrons (TiNiSn): Y in the tetrahedra of both others."""
    early = metals("Sc Y La Lu Er Ti Zr Hf V Nb Ta")
    for atoms in product(early, metals("Fe Co Ni Cu Ru Rh Pd Ir Pt Au"), metals("Al Ga In Ge Sn Pb Sb Bi")):
        if sum(VALENCE_ELECTRONS[m.symbol] for m in atoms) == 18:
            x, y, z = atoms
            a = 4 / sqrt(3) * (y.radius + (x.radius + z.radius) / 2) * 0.955
            yield cubic(atoms, a, [BODY], [QUARTER], [ORIGIN])


def full_heusler() -> Iterator[Candidate]:
    """Metals X2YZ (Cu2MnAl), an ordered bcc packing, 1.5% shorter than the sum of radii."""
    middle = metals("Sc Ti V Cr Mn Fe Y Zr Nb Hf Ta")
    last = metals("Al Ga In Ge Sn Sb")
    for atoms in product(metals("Mn Fe Co Ni Cu Ru Rh Pd Ir Pt Au"), middle, last):
        if distinct(atoms):
            x, y, z = atoms
            a = 4 / sqrt(3) * (x.radius + (y.radius + z.radius) / 2) * 0.985
            yield cubic(atoms, a, [QUARTER, THREE_QUARTERS], [BODY], [ORIGIN])


def copper_gold_l1_2() -> Iterator[Candidate]:
    """Ordered fcc A3B (Cu3Au)."""
    minority = metals("Al Ga In Sn Ti Zr Hf V Nb Ta Cr Mn Zn Mg Sc Ge Pb Y Er Lu Au")
    for atoms in product(metals("Al Fe Co Ni Cu Rh Pd Ag Ir Pt Au Pb In"), minority):
        a, b = atoms
        if distinct(atoms) and 0.85 <= b.radius / a.radius <= 1.30:
            edge = 2 * sqrt(2) * (3 * a.radius + b.radius) / 4
            yield cubic(atoms, edge, list(FACES), [ORIGIN])


def copper_gold_l1_0() -> Iterator[Candidate]:
    """Ordered tetragonal AB (CuAu) in its primitive cell; c is 4% short of the cubic value."""
    for atoms in product(metals("Ti V Mn Fe Co Ni Cu Zn Cd Al Ga Mg In Pb"), metals("Rh Pd Pt Au Ag Ir")):
        if 0.85 <= atoms[0].radius / atoms[1].radius <= 1.2:
            edge = atoms[0].radius + atoms[1].radius
            yield Candidate(atoms, edge, 0.96 * sqrt(2) * edge, ([ORIGIN], [BODY]))


def ordered_bcc() -> Iterator[Candidate]:
    """Alloys AB of the CsCl (B2) type; 3% off the sum of radii for eight neighbours instead of twelve."""
    first = metals("Mg Al Ga In Zn Be Sc Ti Zr Hf Mn Y La Ce Nd Gd Er Lu")
    for atoms in product(first, metals("Fe Co Ni Cu Zn Ru Rh Pd Ag Cd Ir Pt Au")):
        if distinct(atoms) and atoms[0].radius / atoms[1].radius <= 1.45:
            a = 2 / sqrt(3) * (atoms[0].radius + atoms[1].radius) * 0.97
            yield cubic(atoms, a, [ORIGIN], [BODY])


def laves() -> Iterator[Candidate]:
    """AB2 (MgCu2, C15): the mean of the A-A and B-B contacts, 4% compressed."""
    a_sites = [(0.125, 0.125, 0.125), (0.875, 0.875, 0.875)]
    b_sites = [BODY, (0.5, 0.25, 0.25), (0.25, 0.5, 0.25), (0.25, 0.25, 0.5)]
    large = metals("Mg Ca Sc Ti Zr Hf Nb Ta Y La Ce Nd Gd Er Lu")
    for atoms in product(large, metals("Al Cr Mn Fe Co Ni Cu Zn Mo W Ru Rh Ir Pt V Be")):
        a, b = atoms
        if 1.10 <= a.radius / b.radius <= 1.40:
            yield cubic(atoms, 0.48 * (8 * b.radius / sqrt(2) + 8 * a.radius / sqrt(3)), a_sites, b_sites)


def chromium_silicide() -> Iterator[Candidate]:
    """A3B (Cr3Si, A15): chains of A along the faces of a bcc lattice of B."""
    chains = [(0.25, 0, 0.5), (0.75, 0, 0.5), (0.5, 0.25, 0), (0.5, 0.75, 0), (0, 0.5, 0.25), (0, 0.5, 0.75)]
    for atoms in product(metals("Ti V Cr Zr Nb Mo Ta"), metals("Al Ga Ge In Sn Sb Rh Ir Pt Au Pb")):
        if 0.85 <= atoms[1].radius / atoms[0].radius <= 1.15:
            yield cubic(atoms, 4 / sqrt(5) * (atoms[0].radius + atoms[1].radius), chains, [ORIGIN, BODY])


def face_centred_cubic() -> Iterator[Candidate]:
    for m in metals(" ".join(FACE_CENTRED_METALS)):
        yield cubic((m,), 2 * sqrt(2) * m.radius, [ORIGIN])


def body_centred_cubic() -> Iterator[Candidate]:
    """3% off the radius for eight neighbours instead of twelve."""
    for m in metals(" ".join(BODY_CENTRED_METALS)):
        yield cubic((m,), 4 / sqrt(3) * 0.97 * m.radius, [ORIGIN])


def hexagonal_close_packed() -> Iterator[Candidate]:
    for m in metals(" ".join(HEXAGONAL_METALS)):
        sites = [(THIRD, TWO_THIRDS, 0.25), (TWO_THIRDS, THIRD, 0.75)]
        yield Candidate((m,), 2 * m.radius, 2 * m.radius * sqrt(8 / 3), (sites,))


def diamond() -> Iterator[Candidate]:
    for symbol, length in DIAMOND_BONDS.items():
        yield cubic((Ion(symbol, 0, length / 2),), 4 / sqrt(3) * length, [ORIGIN, QUARTER])


METALLIC_PROTOTYPES = (
    Prototype("half_heusler", 216, "F", False, half_heusler),
    Prototype("full_heusler", 225, "F", False, full_heusler),
    Prototype("copper_gold_l1_2", 221, "P", False, copper_gold_l1_2),
    Prototype("copper_gold_l1_0", 123, "P", False, copper_gold_l1_0),
    Prototype("ordered_bcc", 221, "P", False, ordered_bcc),
    Prototype("laves", 227, "F", False, laves),
    Prototype("chromium_silicide", 223, "P", False, chromium_silicide),
    Prototype("face_centred_cubic", 225, "F", False, face_centred_cubic),
    Prototype("body_centred_cubic", 229, "I", False, body_centred_cubic),
    Prototype("hexagonal_close_packed", 194, "P", True, hexagonal_close_packed),
    Prototype("diamond", 227, "F", False, diamond),
)

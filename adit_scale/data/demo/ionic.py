"""Ionic prototypes: charge-balanced compositions whose radii fit; bond lengths are sums of ionic radii."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from adit_scale.data.demo.radii import ANIONS, BOND_FACTOR, CATIONS, TWELVE_FOLD_CATION

AB = ((1, 1), (2, 2), (3, 3))


def cations(charge: int) -> list[Ion]:
    return [Ion(s, charge, r) for s, r in CATIONS[charge].items()]


def anions(charge: int) -> list[Ion]:
    return [Ion(s, -charge, r) for s, r in ANIONS[charge].items()]


def bond(first: Ion, second: Ion, neighbours: int = 6) -> float:
    """Cation-anion distance at the cation's coordination number, angstrom."""
    return (first.radius + second.radius) * BOND_FACTOR[neighbours]


def _pairs(charges: Sequence[tuple[int, int]], low: float, high: float) -> Iterator[tuple[Ion, Ion]]:
    """Cation and anion whose radius ratio lies in [low, high]."""
    for cation_charge, anion_charge in charges:
        for m, x in product(cations(cation_charge), anions(anion_charge)):
            if low <= m.radius / x.radius <= high:
                yield m, x


def _octahedron(u: float) -> list[Point]:
    return [(u, 0, 0), (-u, 0, 0), (0, u, 0), (0, -u, 0), (0, 0, u), (0, 0, -u)]


def rock_salt() -> Iterator[Candidate]:
    for m, x in _pairs(AB, 0.38, 0.90):
        yield cubic((m, x), 2 * bond(m, x), [ORIGIN], [BODY])


def caesium_chloride() -> Iterator[Candidate]:
    for m, x in _pairs(AB, 0.62, 1.3):
        yield cubic((m, x), 2 / sqrt(3) * bond(m, x, 8), [ORIGIN], [BODY])


def zinc_blende() -> Iterator[Candidate]:
    for m, x in _pairs(AB, 0.20, 0.45):
        yield cubic((m, x), 4 / sqrt(3) * bond(m, x, 4), [ORIGIN], [QUARTER])


def wurtzite() -> Iterator[Candidate]:
    """Ideal tetrahedra: u = 3/8 and c/a = sqrt(8/3)."""
    for m, x in _pairs(AB, 0.20, 0.55):
        c = 8 / 3 * bond(m, x, 4)
        m_sites = [(THIRD, TWO_THIRDS, 0.0), (TWO_THIRDS, THIRD, 0.5)]
        x_sites = [(THIRD, TWO_THIRDS, 0.375), (TWO_THIRDS, THIRD, 0.875)]
        yield Candidate((m, x), c / sqrt(8 / 3), c, (m_sites, x_sites))


def nickel_arsenide() -> Iterator[Candidate]:
    """c/a = 1.5, between the compressed tellurides and the ideal 1.63."""
    for m, x in _pairs(((2, 2), (3, 3)), 0.28, 0.48):
        if m.symbol in ("Fe", "Co", "Ni") and x.symbol not in ("O", "N"):
            a = bond(m, x) / sqrt(1 / 3 + 1.5**2 / 16)
            x_sites = [(THIRD, TWO_THIRDS, 0.25), (TWO_THIRDS, THIRD, 0.75)]
            yield Candidate((m, x), a, 1.5 * a, ([ORIGIN, (0, 0, 0.5)], x_sites))


def fluorite() -> Iterator[Candidate]:
    for m, x in _pairs(((2, 1), (4, 2)), 0.50, 1.1):
        yield cubic((m, x), 4 / sqrt(3) * bond(m, x, 8), [ORIGIN], [QUARTER, THREE_QUARTERS])


def antifluorite() -> Iterator[Candidate]:
    for m, x in _pairs(((1, 2),), 0.25, 1.0):
        yield cubic((m, x), 4 / sqrt(3) * bond(m, x, 4), [QUARTER, THREE_QUARTERS], [ORIGIN])


def bismuth_fluoride() -> Iterator[Candidate]:
    """Alkali pnictides M3X of the BiF3 (Li3Bi) type: two cations tetrahedral, one octahedral."""
    for m, x in _pairs(((1, 3),), 0.30, 0.95):
        yield cubic((m, x), 4 / sqrt(3) * bond(m, x, 4), [QUARTER, THREE_QUARTERS, BODY], [ORIGIN])


def rutile() -> Iterator[Candidate]:
    """c/a = 0.66 and six equal bonds: u = (1 + (c/a)^2 / 2) / 4."""
    ratio = 0.66
    u = (1 + ratio**2 / 2) / 4
    x_sites = [(u, u, 0), (-u, -u, 0), (0.5 + u, 0.5 - u, 0.5), (0.5 - u, 0.5 + u, 0.5)]
    for m, x in _pairs(((2, 1), (4, 2)), 0.37, 0.62):
        a = bond(m, x) / (sqrt(2) * u)
        yield Candidate((m, x), a, ratio * a, ([ORIGIN, BODY], x_sites))


def cadmium_iodide() -> Iterator[Candidate]:
    """Layers of edge-sharing regular octahedra, the anions of neighbouring layers in contact."""
    for m, x in _pairs(((2, 1), (4, 2)), 0.28, 0.60):
        if x.symbol in ("F", "O"):
            continue
        a = sqrt(2) * bond(m, x)
        height = a / sqrt(6)
        gap = sqrt((1.92 * x.radius) ** 2 - a**2 / 3)
        c = 2 * height + gap
        z = height / c
        yield Candidate((m, x), a, c, ([ORIGIN], [(THIRD, TWO_THIRDS, z), (TWO_THIRDS, THIRD, -z)]))


def rhenium_trioxide() -> Iterator[Candidate]:
    for m, x in _pairs(((3, 1),), 0.36, 0.70):
        if x.symbol == "F":
            yield cubic((m, x), 2 * bond(m, x), [ORIGIN], [(0.5, 0, 0), (0, 0.5, 0), (0, 0, 0.5)])


def lanthanum_sesquioxide() -> Iterator[Candidate]:
    """A-type M2O3, scaled from La2O3 (a = 3.94, c = 6.13, seven bonds of 2.55 on average)."""
    for m, x in _pairs(((3, 2),), 0.45, 0.80):
        a = 3.94 * (m.radius + x.radius) / (1.032 + 1.40)
        m_sites = [(THIRD, TWO_THIRDS, 0.2454), (TWO_THIRDS, THIRD, -0.2454)]
        x_sites = [ORIGIN, (THIRD, TWO_THIRDS, 0.6471), (TWO_THIRDS, THIRD, -0.6471)]
        yield Candidate((m, x), a, a * 6.13 / 3.94, (m_sites, x_sites))


def _goldschmidt(a_site: Ion, b_radius: float, x: Ion, low: float = 0.84, high: float = 1.04) -> bool:
    tolerance = (TWELVE_FOLD_CATION * a_site.radius + x.radius) / (sqrt(2) * (b_radius + x.radius))
    return low <= tolerance <= high and 0.37 <= b_radius / x.radius <= 0.75


def perovskite() -> Iterator[Candidate]:
    for charges in ((1, 2, 1), (2, 4, 2), (1, 5, 2), (3, 3, 2)):
        for atoms in product(cations(charges[0]), cations(charges[1]), anions(charges[2])):
            a_site, b_site, x = atoms
            if distinct(atoms) and x.symbol not in ("Se", "Te") and _goldschmidt(a_site, b_site.radius, x):
                yield cubic(atoms, 2 * bond(b_site, x), [BODY], [ORIGIN], _octahedron(0.5)[::2])


def antiperovskite() -> Iterator[Candidate]:
    """A3BX with the small anion B in the octahedra: Li3OCl, Ca3NP and their like."""
    for a_charge, b_symbols, x_charge in ((1, "O S", 1), (2, "N", 3)):
        for m, b, x in product(cations(a_charge), anions(a_charge + 1), anions(x_charge)):
            if b.symbol in b_symbols.split() and x.radius > b.radius:
                a = 2 * bond(m, b, 2)
                yield cubic((m, b, x), a, [(0.5, 0, 0), (0, 0.5, 0), (0, 0, 0.5)], [ORIGIN], [BODY])


def elpasolite() -> Iterator[Candidate]:
    """Ordered double perovskites A2BB'X6."""
    for charges in ((1, 1, 3, 1), (2, 3, 5, 2)):
        x_ions = [x for x in anions(charges[3]) if x.symbol in ("F", "Cl", "Br", "O")]
        for atoms in product(*(cations(q) for q in charges[:3]), x_ions):
            a_site, b_1, b_2, x = atoms
            if distinct(atoms) and _goldschmidt(a_site, (b_1.radius + b_2.radius) / 2, x, 0.86, 1.03):
                a = 2 * (bond(b_1, x) + bond(b_2, x))
                sites = ([QUARTER, THREE_QUARTERS], [BODY], [ORIGIN], _octahedron(bond(b_2, x) / a))
                yield cubic(atoms, a, *sites)


def potassium_hexachloroplatinate() -> Iterator[Candidate]:
    """A2BX6: the cell follows from the twelve A-X contacts of length a / sqrt(8)."""
    for atoms in product(cations(1), cations(4), anions(1)):
        a_site, b_site, x = atoms
        a = sqrt(8) * (TWELVE_FOLD_CATION * a_site.radius + x.radius)
        u = bond(b_site, x) / a
        if a_site.radius >= 1.3 and 0.21 <= u <= 0.26 and b_site.radius / x.radius <= 0.55:
            yield cubic(atoms, a, [QUARTER, THREE_QUARTERS], [ORIGIN], _octahedron(u))


def spinel() -> Iterator[Candidate]:
    """A2+ in tetrahedra, B3+ in octahedra; a and u from both bonds (Hill, Craig and Gibbs 1979)."""
    for atoms in product(cations(2), cations(3), anions(2)):
        a_site, b_site, x = atoms
        if not (distinct(atoms) and x.symbol != "Te"):
            continue
        if not (0.30 <= a_site.radius / x.radius <= 0.62 and 0.32 <= b_site.radius / x.radius <= 0.55):
            continue
        t, o = bond(a_site, x, 4), bond(b_site, x)
        a = (40 * t + 8 * sqrt(33 * o**2 - 8 * t**2)) / (11 * sqrt(3))
        u = 0.125 + t / (sqrt(3) * a)
        v = 0.25 - u
        corners = [(u, u, u), (u, v, v), (v, u, v), (v, v, u)]
        x_sites = corners + [(-p, -q, -r) for p, q, r in corners]
        b_sites = [BODY, (0.5, 0.25, 0.25), (0.25, 0.5, 0.25), (0.25, 0.25, 0.5)]
        yield cubic(atoms, a, [(0.125, 0.125, 0.125), (0.875, 0.875, 0.875)], b_sites, x_sites)


def potassium_nickel_fluoride() -> Iterator[Candidate]:
    """Layered perovskites A2BX4 with c/a = 3.27 and regular octahedra."""
    for charges in ((1, 2, 1), (2, 4, 2)):
        for atoms in product(cations(charges[0]), cations(charges[1]), anions(charges[2])):
            a_site, b_site, x = atoms
            if not (distinct(atoms) and x.symbol in ("F", "Cl", "O")):
                continue
            if _goldschmidt(a_site, b_site.radius, x, 0.84, 1.05):
                a = 2 * bond(b_site, x)
                z = 0.5 / 3.27
                x_sites = [(0.5, 0, 0), (0, 0.5, 0), (0, 0, z), (0, 0, -z)]
                yield Candidate(atoms, a, 3.27 * a, ([(0, 0, 0.353), (0, 0, -0.353)], [ORIGIN], x_sites))


def sodium_ferrite() -> Iterator[Candidate]:
    """Layered ABX2 (alpha-NaFeO2): sheets of octahedra whose edge leans to the stronger B-X bonds."""
    for atoms in product(cations(1), cations(3), anions(2)):
        a_site, b_site, x = atoms
        ratios = (a_site.radius / x.radius, b_site.radius / x.radius)
        if not (distinct(atoms) and 0.38 <= ratios[0] <= 1.0 and 0.32 <= ratios[1] <= 0.66):
            continue
        a = sqrt(2) * (0.7 * bond(b_site, x) + 0.3 * bond(a_site, x))
        if bond(b_site, x) > 1.05 * a / sqrt(3) and ratios[0] > ratios[1]:
            a_height = sqrt(bond(a_site, x) ** 2 - a**2 / 3)
            b_height = sqrt(bond(b_site, x) ** 2 - a**2 / 3)
            c = 6 * (a_height + b_height)
            z = 1 / 3 - b_height / c
            yield Candidate(atoms, a, c, ([(0, 0, 0.5)], [ORIGIN], [(0, 0, z), (0, 0, -z)]))


def matlockite() -> Iterator[Candidate]:
    """PbFCl: M2+ F- X- and M3+ O2- X-; square nets of the small anion, a double layer of the large one."""
    for m_charge, y_symbol in ((2, "F"), (3, "O")):
        small = next(i for i in anions(m_charge - 1) if i.symbol == y_symbol)
        for m, x in product(cations(m_charge), anions(1)):
            if m.radius < 0.85 or x.symbol == "F":
                continue
            m_y, m_x = bond(m, small), bond(m, x) * 1.04
            a = 1.62 * m_y
            height = sqrt(m_y**2 - a**2 / 4)
            if m_x**2 <= a**2 / 2:
                continue
            lateral = sqrt(m_x**2 - a**2 / 2)
            c = 2 * height + m_x + lateral
            m_z, x_z = height / c, (height + m_x) / c
            y_sites = [(0.75, 0.25, 0.0), (0.25, 0.75, 0.0)]
            m_sites = [(0.25, 0.25, m_z), (0.75, 0.75, -m_z)]
            x_sites = [(0.25, 0.25, x_z), (0.75, 0.75, -x_z)]
            yield Candidate((m, small, x), a, c, (m_sites, y_sites, x_sites))


def calcium_dialuminium_disilicide() -> Iterator[Candidate]:
    """CaAl2Si2 type: A2+ octahedra between corrugated sheets of B2+ tetrahedra, X3- pnictides."""
    for atoms in product(cations(2), cations(2), anions(3)):
        a_site, b_site, x = atoms
        if not (distinct(atoms) and a_site.radius >= 0.9 and b_site.radius <= 0.85 and x.symbol != "N"):
            continue
        a_x, b_x = bond(a_site, x), bond(b_site, x, 4)
        a = 1.38 * a_x
        if b_x <= 1.03 * a / sqrt(3):
            continue
        height = sqrt(a_x**2 - a**2 / 3)
        c = 2 * height + b_x + sqrt(b_x**2 - a**2 / 3)
        b_z, x_z = (height + b_x) / c, height / c
        b_sites = [(THIRD, TWO_THIRDS, b_z), (TWO_THIRDS, THIRD, -b_z)]
        x_sites = [(THIRD, TWO_THIRDS, x_z), (TWO_THIRDS, THIRD, -x_z)]
        yield Candidate(atoms, a, c, ([ORIGIN], b_sites, x_sites))


def chalcopyrite() -> Iterator[Candidate]:
    """ABX2 with c/a = 2; the anion leans so that both tetrahedra keep their bond length."""
    for charges in ((1, 3, 2), (2, 4, 3)):
        for atoms in product(cations(charges[0]), cations(charges[1]), anions(charges[2])):
            a_site, b_site, x = atoms
            ratios = [i.radius / x.radius for i in (a_site, b_site)]
            if not distinct(atoms) or x.symbol in ("O", "N") or min(ratios) < 0.2 or max(ratios) > 0.5:
                continue
            a_x, b_x = bond(a_site, x, 4), bond(b_site, x, 4)
            u = 0.25
            for _ in range(20):  # a fixed point: a from the sum of squared bonds, u from their difference
                a = sqrt((a_x**2 + b_x**2) / (u**2 + (0.5 - u) ** 2 + 0.25))
                u = 0.25 + (a_x**2 - b_x**2) / a**2
            x_sites = [(u, 0.25, 0.125), (-u, 0.75, 0.125), (0.75, u, 0.875), (0.25, -u, 0.875)]
            b_sites = [(0, 0, 0.5), (0, 0.5, 0.75)]
            yield Candidate(atoms, a, 2 * a, ([ORIGIN, (0, 0.5, 0.25)], b_sites, x_sites))


def filled_zinc_blende() -> Iterator[Candidate]:
    """Nowotny-Juza phases A+ B2+ X3- (LiZnP): zinc blende BX with A in half of the free tetrahedra."""
    for atoms in product(cations(1), cations(2), anions(3)):
        a_site, b_site, x = atoms
        if distinct(atoms) and all(0.2 <= i.radius / x.radius <= 0.6 for i in (a_site, b_site)):
            a = 2 / sqrt(3) * (bond(a_site, x, 4) + bond(b_site, x, 4))
            yield cubic(atoms, a, [BODY], [ORIGIN], [QUARTER])


IONIC_PROTOTYPES = (
    Prototype("rock_salt", 225, "F", False, rock_salt),
    Prototype("caesium_chloride", 221, "P", False, caesium_chloride),
    Prototype("zinc_blende", 216, "F", False, zinc_blende),
    Prototype("wurtzite", 186, "P", True, wurtzite),
    Prototype("nickel_arsenide", 194, "P", True, nickel_arsenide),
    Prototype("fluorite", 225, "F", False, fluorite),
    Prototype("antifluorite", 225, "F", False, antifluorite),
    Prototype("bismuth_fluoride", 225, "F", False, bismuth_fluoride),
    Prototype("rutile", 136, "P", False, rutile),
    Prototype("cadmium_iodide", 164, "P", True, cadmium_iodide),
    Prototype("rhenium_trioxide", 221, "P", False, rhenium_trioxide),
    Prototype("lanthanum_sesquioxide", 164, "P", True, lanthanum_sesquioxide),
    Prototype("perovskite", 221, "P", False, perovskite),
    Prototype("antiperovskite", 221, "P", False, antiperovskite),
    Prototype("elpasolite", 225, "F", False, elpasolite),
    Prototype("potassium_hexachloroplatinate", 225, "F", False, potassium_hexachloroplatinate),
    Prototype("spinel", 227, "F", False, spinel),
    Prototype("potassium_nickel_fluoride", 139, "I", False, potassium_nickel_fluoride),
    Prototype("sodium_ferrite", 166, "R", True, sodium_ferrite),
    Prototype("matlockite", 129, "P", False, matlockite),
    Prototype("calcium_dialuminium_disilicide", 164, "P", True, calcium_dialuminium_disilicide),
    Prototype("chalcopyrite", 122, "I", False, chalcopyrite),
    Prototype("filled_zinc_blende", 216, "F", False, filled_zinc_blende),
)

"""Whether two crystals are one structure, by the algorithm of pymatgen's StructureMatcher on arrays.

The verdicts are those of ``StructureMatcher(...).fit`` on reduced structures. Volumes are scaled to be equal.
A basis of the first lattice is sought whose lengths and angles agree with the second cell's; in the mean of
both cells, one atom is laid on another of its element and every atom must have one of its element near; then
the best assignment and shift must bring every pair within ``stol``. StructureMatcher builds Python objects on
each of these steps; here a step that can rule a pair out costs little, and each is the matcher's own
condition, so that no match is lost:

- primitive cells of unequal size or counts cannot match;
- successive minima: a basis within ``ltol`` of the second cell's edges bounds those of the first lattice;
- no basis with such lengths and angles, no match;
- the same arrangement, reached by a symmetry of the first crystal, is not assigned twice.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from pymatgen.core import Lattice
from pymatgen.util.coord_cython import is_coord_subset_pbc, pbc_shortest_vectors
from scipy.optimize import linear_sum_assignment

from adit_scale.evaluation.crystals.reduction import ReducedCell

_ROUNDING = 1e-9
_BASES_AT_ONCE = 1_000_000


@dataclass(frozen=True)
class Tolerances:
    """Of StructureMatcher: lengths (relative), sites (of (V/n)^(1/3)), angles in degrees."""

    ltol: float
    stol: float
    angle_tol: float

    def __str__(self) -> str:
        return f"ltol {self.ltol:g}, stol {self.stol:g}, angle_tol {self.angle_tol:g}°"


# The matcher's defaults, with which MatterGen's and FlowMM's novelty is quoted; and those of the match rates
# of CDVAE, DiffCSP and FlowMM.
TOLERANCES = {"default": Tolerances(0.2, 0.3, 5.0), "match_rate": Tolerances(0.3, 0.5, 10.0)}


def may_match(minima_first: np.ndarray, edges_second: np.ndarray, tolerances: Tolerances) -> np.ndarray:
    """``(k,)`` bool: False where no basis of the first lattice can have the second cell's lengths.

    minima_first: ``(k, 3)`` successive minima. edges_second: ``(k, 3)`` sorted edge lengths. Three
    independent vectors of lengths l1 ≤ l2 ≤ l3 bound the successive minima.
    """
    limits = edges_second * (1 + tolerances.ltol) * (1 + _ROUNDING)
    return np.asarray((minima_first <= limits).all(axis=-1))


class Crystal:
    """A reduced cell with what its comparisons share."""

    def __init__(self, reduced: ReducedCell) -> None:
        self.numbers, self.cell = reduced.numbers, reduced.cell
        self.fractional = np.ascontiguousarray(reduced.fractional)
        self.positions = self.fractional @ self.cell
        self.parameters = parameters(self.cell)
        self.counts = np.bincount(self.numbers)
        self._radius = 0.0
        self._points = np.zeros((0, 3))
        self._norms = np.zeros(0)

    def lattice_points(self, radius: float) -> tuple[np.ndarray, np.ndarray]:
        """Lattice vectors ``(k, 3)`` of at most ``radius`` and some longer ones, and their lengths."""
        if radius > self._radius:
            self._radius = 1.2 * radius
            reach = np.floor(self._radius * np.linalg.norm(np.linalg.inv(self.cell), axis=0)).astype(int)
            grid = np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij")
            points = np.stack(grid, -1).reshape(-1, 3) @ self.cell
            norms = np.linalg.norm(points, axis=1)
            inside = (norms <= self._radius) & (norms > 0)
            self._points, self._norms = points[inside], norms[inside]
        return self._points, self._norms


def parameters(cells: np.ndarray) -> np.ndarray:
    """Lengths and angles in degrees, ``(..., 6)``, of cells ``(..., 3, 3)``."""
    lengths = np.linalg.norm(cells, axis=-1)
    unit = cells / lengths[..., None]
    a, b, c = unit[..., 0, :], unit[..., 1, :], unit[..., 2, :]
    cosines = np.stack([(b * c).sum(-1), (a * c).sum(-1), (a * b).sum(-1)], axis=-1)
    return np.concatenate([lengths, np.degrees(np.arccos(np.clip(cosines, -1, 1)))], axis=-1)


def matches(first: Crystal, second: Crystal, tolerances: Tolerances) -> bool:
    """Whether both are one structure; not quite symmetric, as the matcher is not."""
    if len(first.numbers) != len(second.numbers) or not np.array_equal(first.counts, second.counts):
        return False
    bases = mapped_bases(first, second.parameters, tolerances)
    if not len(bases):
        return False
    forbidden = (second.numbers[:, None] != first.numbers).astype(np.int64)
    rarest = int(forbidden.sum(axis=1).argmax())
    anchors = np.flatnonzero(forbidden[rarest] == 0)
    mean_cells, mean_of_basis = _mean_cells(bases, second.parameters)
    tests = [_SiteTest(mean, len(first.numbers), tolerances.stol, forbidden) for mean in mean_cells]
    in_bases = first.positions @ np.linalg.inv(bases)
    in_bases -= np.floor(in_bases)
    tried: set[tuple[int, bytes]] = set()
    for sites, place in zip(in_bases, mean_of_basis.tolist(), strict=True):
        for anchor in anchors:
            laid = second.fractional + (sites[anchor] - second.fractional[rarest])
            if not tests[place].near(laid, sites):
                continue
            arrangement = (place, _fingerprint(sites - sites[anchor], first.numbers))
            if arrangement not in tried:
                tried.add(arrangement)
                if tests[place].farthest(laid, sites) < tolerances.stol:
                    return True
    return False


def mapped_bases(first: Crystal, target: np.ndarray, tolerances: Tolerances) -> np.ndarray:
    """``(m, 3, 3)`` bases of the first lattice with the lengths and angles of ``target (6,)``, within the
    tolerances; right- and left-handed ones."""
    lengths, angles = target[:3], target[3:]
    points, norms = first.lattice_points(float(lengths.max()) * (1 + tolerances.ltol))
    ratio = norms / lengths[:, None]
    close = (ratio < 1 + tolerances.ltol) & (ratio > 1 / (1 + tolerances.ltol))
    (a, b, c), (n_a, n_b, n_c) = ([of[near] for near in close] for of in (points, norms))

    def at_angle(u: np.ndarray, v: np.ndarray, n_u: np.ndarray, n_v: np.ndarray, angle: float) -> np.ndarray:
        found = np.degrees(np.arccos(np.clip(u @ v.T / n_u[:, None] / n_v, -1, 1)))
        return np.abs(found - angle) <= tolerances.angle_tol

    alpha, beta, gamma = (
        at_angle(b, c, n_b, n_c, angles[0]),
        at_angle(a, c, n_a, n_c, angles[1]),
        at_angle(a, b, n_a, n_b, angles[2]),
    )
    at_once = max(1, _BASES_AT_ONCE // max(1, alpha.size))
    found = []
    for i in range(0, len(a), at_once):
        rows = slice(i, i + at_once)
        which = np.argwhere(gamma[rows, :, None] & beta[rows, None, :] & alpha)
        found.append(np.stack([a[rows][which[:, 0]], b[which[:, 1]], c[which[:, 2]]], axis=1))
    bases = np.concatenate(found) if found else np.zeros((0, 3, 3))
    # Of the volume of one primitive cell: other bases span a sublattice, or a plane.
    volume = abs(np.linalg.det(first.cell))
    return bases[np.abs(np.abs(np.linalg.det(bases)) / volume - 1) < 0.5]


class _MeanCell(Lattice):
    """A lattice that inverts the map to its reduced form once, not in each search for shortest vectors."""

    @functools.cached_property
    def lll_inverse(self) -> np.ndarray:
        return np.linalg.inv(self.lll_mapping)


def _mean_cells(bases: np.ndarray, target: np.ndarray) -> tuple[list[Lattice], np.ndarray]:
    """The different mean cells of the bases and the target, as lattices, and which belongs to each basis."""
    mean = (parameters(bases) + target) / 2
    _, first, of_basis = np.unique(np.round(mean, 8), axis=0, return_index=True, return_inverse=True)
    return [_MeanCell.from_parameters(*mean[i]) for i in first], of_basis.reshape(-1)


class _SiteTest:
    """Sites of two crystals laid over each other in one mean cell."""

    def __init__(self, mean: Lattice, n: int, stol: float, forbidden: np.ndarray) -> None:
        self._mean, self._forbidden = mean, forbidden
        self._per_length = (n / mean.volume) ** (1 / 3)
        self._reach = stol / (np.pi * self._per_length)
        self._limits = np.array(mean.reciprocal_lattice.abc) * self._reach
        self._lll_limits: np.ndarray | None = None

    def near(self, laid: np.ndarray, sites: np.ndarray) -> bool:
        """Whether each atom has one of its element within twice the site tolerance along each axis."""
        return bool(is_coord_subset_pbc(laid, sites, self._limits, self._forbidden))

    def farthest(self, laid: np.ndarray, sites: np.ndarray) -> float:
        """The largest distance of the best assignment after the best shift, over (V/n)^(1/3)."""
        if self._lll_limits is None:
            lll = self._mean.get_lll_reduced_lattice()
            self._lll_limits = np.array(lll.reciprocal_lattice.abc) * self._reach
        vectors, squares = pbc_shortest_vectors(
            self._mean, laid, sites, self._forbidden, return_d2=True, lll_frac_tol=self._lll_limits
        )
        rows, columns = linear_sum_assignment(squares)
        short = vectors[rows, columns]
        short -= short.sum(axis=0) / len(short)
        return float(np.sqrt((short * short).sum(axis=1).max()) * self._per_length)


def _fingerprint(relative: np.ndarray, numbers: np.ndarray) -> bytes:
    """The same for the same arrangement of sites about an anchor, rounded to a millionth of an edge."""
    steps = np.rint(relative * 1e6).astype(np.int64) % 1_000_000
    keys = (steps[:, 0] * 1_000_000 + steps[:, 1]) * 1_000_000 + steps[:, 2]
    return keys[np.lexsort((keys, numbers))].tobytes()

"""From a sample to what is drawn of it: balls, sticks and the edges of a cell.

Of a crystal every atom of the cell is drawn, and again at each face, edge or corner that it lies on, as
textbooks do; these images are fainter, so that atoms of the cell can still be counted.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adit_scale.atoms import AtomSet
from adit_scale.evaluation.bonds import bond_orders
from adit_scale.evaluation.decode import Invalid
from adit_scale.evaluation.pictures.elements import ball_radii, covalent_radii

ON_FACE_ANGSTROM = 0.15  # an atom so near a face of the cell is drawn on the opposite face as well
CONTACT_FACTOR = 1.15  # sticks of crystals: nearer than this times the sum of covalent radii,
NEAREST_FACTOR = 1.2  # and than this times the farther of the two atoms' nearest neighbours
MAX_EXTENT_ANGSTROM = 1e4  # a sample that is larger makes no picture
MAX_DRAWN_ATOMS = 2000
STICK_RULE = (
    f"sticks of molecules are the distance table's bonds (EDM); those of crystals join drawn atoms nearer "
    f"than {CONTACT_FACTOR} times the sum of covalent radii and {NEAREST_FACTOR} times the nearest-neighbour "
    f"distance: a guide to the eye, not a bond analysis"
)


@dataclass(frozen=True)
class Scene:
    """Balls, sticks and a cell.

    numbers: ``(m,)``. positions: ``(m, 3)`` angstrom. image: ``(m,)`` bool, a repeat at the boundary of the
    cell. sticks: ``(k, 3)`` int, two atoms and a bond order. cell: ``(3, 3)`` or None.
    orientation: ``(3, 3)``, rows are the screen's right, up and towards the viewer; a picture starts from it.
    """

    numbers: np.ndarray
    positions: np.ndarray
    image: np.ndarray
    sticks: np.ndarray
    cell: np.ndarray | None
    orientation: np.ndarray

    @property
    def corners(self) -> np.ndarray:
        """The eight corners of the cell, ``(8, 3)``; none without a cell."""
        if self.cell is None:
            return np.empty((0, 3))
        return np.array(list(itertools.product((0, 1), repeat=3))) @ self.cell

    @functools.cached_property
    def centre(self) -> np.ndarray:
        """``(3,)``: the middle of the cell, else of the smallest sphere around the atoms."""
        return _middle(self.positions) if self.cell is None else self.cell.sum(axis=0) / 2

    @functools.cached_property
    def radius(self) -> float:
        """Of the sphere about ``centre`` that holds everything, angstrom: rotation never cuts a picture."""
        reach = np.linalg.norm(self.positions - self.centre, axis=1) + ball_radii()[self.numbers]
        edges = np.linalg.norm(self.corners - self.centre, axis=1)
        return float(max(reach.max(initial=0.5), edges.max(initial=0.5)))


def make_scene(sample: AtomSet | Invalid) -> Scene | str:
    """What to draw, or in a few words why there is nothing to draw."""
    if isinstance(sample, Invalid):
        return sample.reason
    if not len(sample):
        return "no atoms"
    values = np.concatenate([sample.positions, sample.cell])
    if not np.isfinite(values).all():
        return "coordinates are not finite"
    if np.abs(values).max() > MAX_EXTENT_ANGSTROM:
        return f"larger than {MAX_EXTENT_ANGSTROM:,.0f} Å"
    return _crystal(sample) if sample.periodic else _molecule(sample)


def _molecule(sample: AtomSet) -> Scene:
    orders = bond_orders(sample.numbers, sample.positions)
    first, second = np.nonzero(np.triu(orders, 1))
    sticks = np.column_stack([first, second, orders[first, second]])
    image = np.zeros(len(sample), dtype=bool)
    return Scene(sample.numbers, sample.positions, image, sticks, None, _widest_view(sample.positions))


def _crystal(sample: AtomSet) -> Scene:
    cell = sample.cell
    numbers, positions, image = sample.numbers, sample.positions, np.zeros(len(sample), dtype=bool)
    if abs(np.linalg.det(cell)) > 1e-6:
        places = sample.fractional
        of, shifts = _boundary_images(places, 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0))
        positions = np.concatenate([places @ cell, (places[of] + shifts) @ cell])
        numbers = np.concatenate([numbers, numbers[of]])
        image = np.concatenate([image, np.ones(len(of), dtype=bool)])
    return Scene(numbers, positions, image, contacts(numbers, positions), cell, _cell_view(cell))


def _boundary_images(fractional: np.ndarray, spacings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Repeats of atoms that lie on faces: ``(k,)`` which atom, ``(k, 3)`` by which lattice vector.

    spacings: ``(3,)`` distance between opposite faces, angstrom. An atom just below 1 lies on the far face
    and repeats on the near one.
    """
    near = np.minimum(ON_FACE_ANGSTROM / spacings, 0.2)
    step = np.where(fractional < near, 1, np.where(fractional > 1 - near, -1, 0))
    of, shifts = [], []
    for atom in range(len(fractional)):
        for shift in itertools.product(*({0, int(s)} for s in step[atom])):
            if any(shift):
                of.append(atom)
                shifts.append(shift)
    return np.array(of, dtype=int), np.array(shifts, dtype=float).reshape(-1, 3)


def contacts(numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Sticks ``(k, 3)`` of a crystal among the drawn atoms, all of order 1; see ``STICK_RULE``."""
    if not 1 < len(numbers) <= MAX_DRAWN_ATOMS:
        return np.empty((0, 3), dtype=int)
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    radii = covalent_radii()[numbers]
    nearest = distance.min(axis=1)
    joined = (distance < CONTACT_FACTOR * (radii[:, None] + radii)) & (
        distance < NEAREST_FACTOR * np.maximum(nearest[:, None], nearest)
    )
    first, second = np.nonzero(np.triu(joined, 1))
    return np.column_stack([first, second, np.ones_like(first)])


def _middle(points: np.ndarray) -> np.ndarray:
    """Nearly the centre of the smallest sphere that holds all points (Badoiu and Clarkson 2003)."""
    centre = points.mean(axis=0)
    for k in range(1, 200):
        farthest = points[np.linalg.norm(points - centre, axis=1).argmax()]
        centre = centre + (farthest - centre) / (k + 1)
    return centre


def _widest_view(positions: np.ndarray) -> np.ndarray:
    """A molecule's longest extent lies across, its thinnest along the line of sight, tilted a little."""
    centred = positions - positions.mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=True)[2]
    for row in axes[:2]:  # a sign that does not depend on rounding
        row *= np.sign(row[np.abs(row).argmax()])
    axes[2] = np.cross(axes[0], axes[1])
    return _turned(25, -20) @ axes


def _cell_view(cell: np.ndarray) -> np.ndarray:
    """c up, a to the right, b away from the viewer; seen from a little above and beside."""
    up = _unit(cell[2], (0, 0, 1))
    right = _unit(cell[0] - (cell[0] @ up) * up, np.cross((0.3, 1, 0.2), up))
    return _turned(16, 24) @ np.array([right, up, np.cross(right, up)])


def _unit(vector: np.ndarray, otherwise: Sequence[float] | np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vector)
    if length > 1e-9:
        return vector / length
    spare = np.asarray(otherwise, dtype=float)
    return spare / np.linalg.norm(spare)


def _turned(about_x: float, about_y: float) -> np.ndarray:
    """Rotation in screen axes by degrees, about the upright axis first."""
    x, y = np.radians([about_x, about_y])
    turn_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    turn_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    return turn_x @ turn_y

"""A scene as pixels: shaded balls and sticks with a depth buffer, by NumPy.

The line of sight is parallel (no perspective), so that equal lengths look equal and a scale bar holds
everywhere at right angles to it. ``viewer.js`` does the same in a browser.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adit_scale.evaluation.pictures.elements import STICK_RADIUS_ANGSTROM, ball_radii, colours
from adit_scale.evaluation.pictures.scene import Scene

LIGHT = np.array([-0.42, 0.52, 0.74])  # towards the light: over the viewer's left shoulder
AMBIENT, SHINE, GLOSS = 0.42, 0.35, 24
RIM = 0.30  # where a surface turns away from the viewer further than this it is drawn dark, as an outline
FAINT, FOG = 0.55, 0.35  # how far images and what lies deepest fade to white
MULTIPLE_BOND_GAP_ANGSTROM = 0.16
EDGE_RADIUS_ANGSTROM = 0.03
EDGE_GREY, AXIS_COLOURS = (0.45, 0.45, 0.45), ((0.84, 0.15, 0.16), (0.17, 0.55, 0.17), (0.12, 0.37, 0.78))
MARGIN = 0.06  # of the picture's side, free around the scene


@dataclass(frozen=True)
class Picture:
    """pixels: ``(side, side, 3)`` uint8. pixels_per_angstrom: at right angles to the line of sight.
    axis_ends: where the labels a, b, c belong, ``(3, 2)`` pixels from the left and the top; None: no cell."""

    pixels: np.ndarray
    pixels_per_angstrom: float
    axis_ends: np.ndarray | None


def render(scene: Scene, side: int, oversampling: int = 2) -> Picture:
    """Draw the scene on white, ``side`` × ``side`` pixels."""
    canvas = _Canvas(side * oversampling, scene)
    balls = ball_radii()[scene.numbers]
    paint = colours()[scene.numbers]
    paint = np.where(scene.image[:, None], paint + FAINT * (1 - paint), paint)
    for place, radius, colour in zip(canvas.project(scene.positions), balls, paint, strict=True):
        canvas.ball(place, radius, colour)
    for first, second, order in scene.sticks.tolist():
        ends = canvas.project(scene.positions[[first, second]])
        canvas.bond(ends[0], ends[1], order, paint[first], paint[second])
    axis_ends = None
    if scene.cell is not None:
        canvas.cell_edges(scene.cell)
        axis_ends = canvas.axis_labels(scene.cell) / oversampling
    shape = (side, oversampling, side, oversampling, 3)
    pixels = canvas.pixels.reshape(shape).mean(axis=(1, 3))
    return Picture((255 * pixels).round().astype(np.uint8), canvas.scale / oversampling, axis_ends)


class _Canvas:
    """Colour and depth of each pixel; lengths here are in pixels, x right, y down, z towards the viewer."""

    def __init__(self, side: int, scene: Scene) -> None:
        self.side = side
        self.pixels = np.ones((side, side, 3))
        self.depth = np.full((side, side), -np.inf)
        self.scale = side * (0.5 - MARGIN) / scene.radius
        self._radius = scene.radius
        self._centre, self._orientation = scene.centre, scene.orientation

    def project(self, points: np.ndarray) -> np.ndarray:
        """``(k, 3)`` angstrom to pixels and depth in pixels."""
        turned = (points - self._centre) @ self._orientation.T * self.scale
        return turned * (1, -1, 1) + (self.side / 2, self.side / 2, 0)

    def ball(self, place: np.ndarray, radius_angstrom: float, colour: np.ndarray) -> None:
        radius = max(radius_angstrom * self.scale, 1.5)
        window = self._window(place[:2] - radius, place[:2] + radius)
        if window is None:
            return
        rows, columns, x, y = window
        x, y = (x - place[0]) / radius, (y - place[1]) / radius
        height2 = 1 - x**2 - y**2
        height = np.sqrt(np.maximum(height2, 0))
        normal = np.stack([x + 0 * y, 0 * x - y, height], axis=-1)
        self._paint(rows, columns, height2 >= 0, place[2] + radius * height, normal, colour)

    def bond(
        self, start: np.ndarray, end: np.ndarray, order: int, first: np.ndarray, second: np.ndarray
    ) -> None:
        """A stick in the two atoms' colours; double and triple bonds are two and three, side by side."""
        direction = (end - start)[:2]
        length = np.linalg.norm(direction)
        across = np.array([-direction[1], direction[0], 0.0]) / max(length, 1e-9)
        radius = STICK_RADIUS_ANGSTROM if order == 1 else 0.6 * STICK_RADIUS_ANGSTROM
        middle = (start + end) / 2
        for k in range(order):
            offset = across * (k - (order - 1) / 2) * MULTIPLE_BOND_GAP_ANGSTROM * self.scale
            self.stick(start + offset, middle + offset, radius, first)
            self.stick(middle + offset, end + offset, radius, second)

    def cell_edges(self, cell: np.ndarray) -> None:
        """The twelve edges; those from the origin in the colours of a, b and c."""
        for axis in range(3):
            others = [k for k in range(3) if k != axis]
            for i in (0, 1):
                for j in (0, 1):
                    start = i * cell[others[0]] + j * cell[others[1]]
                    ends = self.project(np.stack([start, start + cell[axis]]))
                    colour = EDGE_GREY if i or j else AXIS_COLOURS[axis]
                    thick = EDGE_RADIUS_ANGSTROM * (1 if i or j else 1.6)
                    self.stick(ends[0], ends[1], max(thick, 1.2 / self.scale), np.array(colour))

    def axis_labels(self, cell: np.ndarray) -> np.ndarray:
        """Just beyond the ends of a, b and c, ``(3, 2)``; kept inside the picture."""
        ends = self.project(np.concatenate([cell, np.zeros((1, 3))]))[:, :2]
        along = ends[:3] - ends[3]
        along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
        margin = 0.045 * self.side
        return np.clip(ends[:3] + along * margin, margin, self.side - margin)

    def stick(self, start: np.ndarray, end: np.ndarray, radius_angstrom: float, colour: np.ndarray) -> None:
        """The open cylinder between two places; one seen end on is hidden by its balls and left out."""
        radius = max(radius_angstrom * self.scale, 0.8)
        axis = end - start
        length = float(np.linalg.norm(axis))
        if length < 1e-6:
            return
        axis = axis / length
        on_screen = float(np.hypot(axis[0], axis[1]))
        if on_screen < 1e-3:
            return
        window = self._window(np.minimum(start, end)[:2] - radius, np.maximum(start, end)[:2] + radius)
        if window is None:
            return
        rows, columns, x, y = window
        x, y = x - start[0], y - start[1]
        ex, ey = axis[0] / on_screen, axis[1] / on_screen
        aside = (-ey * x + ex * y) / radius  # across the axis, in radii
        height = np.sqrt(np.maximum(1 - aside**2, 0))  # towards the viewer, at right angles to the axis
        along = (ex * x + ey * y + radius * height * axis[2]) / on_screen
        depth = start[2] + along * axis[2] + radius * height * on_screen
        toward_x, toward_y = -axis[2] * ex, -axis[2] * ey
        normal = np.stack(
            [-ey * aside + toward_x * height, -(ex * aside + toward_y * height), on_screen * height], axis=-1
        )
        inside = (np.abs(aside) <= 1) & (along >= 0) & (along <= length)
        self._paint(rows, columns, inside, depth, normal, colour)

    def _window(
        self, low: np.ndarray, high: np.ndarray
    ) -> tuple[slice, slice, np.ndarray, np.ndarray] | None:
        """Rows, columns and the pixels' middles of the part of a box that lies inside the picture."""
        left, top = np.maximum(np.floor(low), 0).astype(int)
        right, bottom = np.minimum(np.ceil(high) + 1, self.side).astype(int)
        if left >= right or top >= bottom:
            return None
        x, y = np.arange(left, right)[None, :] + 0.5, np.arange(top, bottom)[:, None] + 0.5
        return slice(top, bottom), slice(left, right), x, y

    def _paint(
        self,
        rows: slice,
        columns: slice,
        inside: np.ndarray,
        depth: np.ndarray,
        normal: np.ndarray,
        colour: np.ndarray,
    ) -> None:
        seen = inside & (depth > self.depth[rows, columns])
        if not seen.any():
            return
        normal, depth = normal[seen], depth[seen]
        lit = np.maximum(normal @ LIGHT, 0)
        shade = colour * (AMBIENT + (1 - AMBIENT) * lit)[:, None]
        half = LIGHT + np.array([0.0, 0.0, 1.0])
        shade += SHINE * (np.maximum(normal @ (half / np.linalg.norm(half)), 0) ** GLOSS)[:, None]
        shade *= np.where(normal[:, 2] < RIM, 0.6, 1.0)[:, None]
        away = np.clip(0.5 - depth / (2 * self._radius * self.scale), 0, 1)
        shade += (FOG * away)[:, None] * (1 - shade)
        self.pixels[rows, columns][seen] = np.clip(shade, 0, 1)
        self.depth[rows, columns][seen] = depth

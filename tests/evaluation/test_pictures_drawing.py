"""Drawings of known structures: the right balls, sticks, cells and lengths."""

from __future__ import annotations

import io
import itertools
from dataclasses import replace

import numpy as np
import pytest
from hand_made import crystal, molecule
from picture_samples import (
    broken,
    diamond,
    hydrogen_cyanide,
    magnesium,
    perovskite,
    rock_salt,
    water,
)
from PIL import Image

from adit_scale.atoms import CRYSTAL, MOLECULE
from adit_scale.evaluation.pictures.drawing import (
    BY_RDKIT,
    BY_TABLE,
    FlatDrawing,
    ball_and_stick,
    flat_drawing,
    round_length,
)
from adit_scale.evaluation.pictures.elements import colours, hex_colour
from adit_scale.evaluation.pictures.render import render
from adit_scale.evaluation.pictures.scene import Scene, make_scene


def drawn(sample) -> Scene:
    scene = make_scene(sample)
    assert isinstance(scene, Scene), scene
    return scene


def stick_kinds(scene: Scene) -> dict[tuple[int, int], int]:
    """Sticks by the two elements they join."""
    found: dict[tuple[int, int], int] = {}
    for first, second, _ in scene.sticks:
        pair = tuple(sorted(scene.numbers[[first, second]].tolist()))
        found[pair] = found.get(pair, 0) + 1
    return found


def test_rock_salt_is_the_textbook_cube_of_27_atoms():
    scene = make_scene(rock_salt())
    assert np.bincount(scene.numbers)[[11, 17]].tolist() == [14, 13]  # 8 corners and 6 faces; 12 edges and 1
    assert int((~scene.image).sum()) == 8
    assert stick_kinds(scene) == {(11, 17): 54}
    ends = scene.positions[scene.sticks[:, :2]]
    assert np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1) == pytest.approx(2.82)


def test_diamond_has_18_atoms_and_16_bonds_in_its_cell():
    scene = make_scene(diamond())
    assert len(scene.numbers) == 18
    assert stick_kinds(scene) == {(6, 6): 16}


def test_hexagonal_cell_is_closed_and_its_atoms_lie_inside():
    scene = drawn(magnesium())
    assert not scene.image.any()
    assert stick_kinds(scene) == {(12, 12): 1}
    edges = [b - a for a, b in itertools.combinations(scene.corners, 2)]
    lengths = [round(float(np.linalg.norm(e)), 2) for e in edges]
    assert (lengths.count(3.21), lengths.count(5.21)) == (10, 4)  # the short diagonal is 3.21 Å as well
    assert scene.cell is not None
    assert np.degrees(np.arccos(scene.cell[0] @ scene.cell[1] / 3.21**2)) == pytest.approx(120)


def test_perovskite_has_bonds_to_oxygen_alone():
    assert stick_kinds(make_scene(perovskite())) == {(8, 22): 6, (8, 38): 24}


def test_atoms_a_hair_below_a_face_are_repeated_on_both_faces():
    near = make_scene(crystal([11], [[0.9999, 0.5, 0.5]], np.eye(3) * 4))
    assert sorted(near.positions[:, 0].round(3)) == [-0.0, 4.0]
    assert near.image.tolist() == [False, True]


def test_bond_orders_of_molecules_are_the_tables():
    orders = make_scene(hydrogen_cyanide()).sticks
    assert orders.tolist() == [[0, 1, 1], [1, 2, 3]]


@pytest.mark.parametrize("sample", [rock_salt(), magnesium(), water(), hydrogen_cyanide()])
def test_views_turn_and_never_mirror(sample):
    scene = make_scene(sample)
    assert scene.orientation @ scene.orientation.T == pytest.approx(np.eye(3), abs=1e-9)
    assert np.linalg.det(scene.orientation) == pytest.approx(1)


@pytest.mark.parametrize("domain", [MOLECULE, CRYSTAL])
def test_what_cannot_be_drawn_says_why(domain):
    for sample in broken(domain):
        scene = make_scene(sample)
        picture = ball_and_stick(scene, 60)
        assert picture.size == (60, 60)
        assert isinstance(scene, Scene) == (len(sample) == 3 or (domain == CRYSTAL and len(sample) == 1))


def facing(sample) -> Scene:
    """Seen along z."""
    return replace(drawn(sample), orientation=np.eye(3))


def hue(colour: np.ndarray) -> np.ndarray:
    """What stays of a colour under light, gloss and fog: its part beyond grey, scaled to 1."""
    beyond = colour - colour.min(axis=-1, keepdims=True)
    return beyond / np.maximum(beyond.sum(axis=-1, keepdims=True), 1e-9)


def middle(pixels: np.ndarray, number: int) -> np.ndarray:
    """Column and row of the middle of the pixels in an element's hue."""
    away = np.abs(hue(pixels.astype(float)) - hue(colours()[number])).sum(axis=2)
    rows, columns = np.nonzero((away < 0.1) & (np.ptp(pixels, axis=2) > 30))
    assert len(rows) > 20
    return np.array([(columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2])


def test_lengths_on_the_picture_are_those_of_the_scale():
    scene = facing(molecule([11, 17], [[-3, -1, 0], [3, 1, 0]]))  # too far apart for a stick
    picture = render(scene, 300)
    sodium, chlorine = middle(picture.pixels, 11), middle(picture.pixels, 17)
    across, up = (chlorine - sodium) / picture.pixels_per_angstrom
    assert (across, up) == (pytest.approx(6, abs=0.1), pytest.approx(-2, abs=0.1))  # y is up


def test_the_nearer_atom_hides_the_farther():
    for front, back in ((11, 17), (17, 11)):
        scene = facing(molecule([front, back], [[0, 0, 4], [0, 0, -4]]))
        assert hue(render(scene, 201).pixels[100, 100].astype(float)) == pytest.approx(
            hue(colours()[front]), abs=0.06
        )


@pytest.mark.parametrize("sample", [rock_salt(), magnesium(), crystal([2], [[0.5] * 3], np.eye(3) * 5)])
def test_all_twelve_edges_of_the_cell_are_drawn(sample):
    scene = make_scene(replace(sample, numbers=sample.numbers[:0], positions=sample.positions[:0]))
    assert isinstance(scene, str)  # no atoms; so keep the cell of one atom out of the way
    scene = replace(drawn(sample), numbers=np.zeros(0, int), positions=np.zeros((0, 3)),
                    sticks=np.zeros((0, 3), int), image=np.zeros(0, bool))  # fmt: skip
    picture = render(scene, 240)
    for axis in range(3):
        others = [k for k in range(3) if k != axis]
        for i, j in itertools.product((0, 1), repeat=2):
            start = i * sample.cell[others[0]] + j * sample.cell[others[1]]
            for along in (0.03, 0.37, 0.71, 0.97):
                turned = scene.orientation @ (start + along * sample.cell[axis] - scene.centre)
                x, y = 120 + turned[:2] * (1, -1) * picture.pixels_per_angstrom
                near = picture.pixels[int(y) - 1 : int(y) + 3, int(x) - 1 : int(x) + 3]
                assert near.min() < 215, (axis, i, j, along)


def test_scale_bars_are_round():
    lengths = [round_length(most) for most in (0.06, 0.9, 1, 2.3, 7, 30, 999)]
    assert lengths == [0.05, 0.5, 1, 2, 5, 20, 500]


def test_colours_are_jmols():
    assert [hex_colour(z) for z in (1, 6, 8, 26)] == ["#ffffff", "#909090", "#ff0d0d", "#e06633"]


def test_flat_drawings_mark_refused_valences():
    good = flat_drawing(water(), "", 200, 150)
    bad = flat_drawing(water(1.6), "", 200, 150)
    assert (good.bonds, good.refused, bad.refused) == (BY_TABLE, 0, 3)
    pictures = [np.asarray(Image.open(io.BytesIO(d.png)).convert("RGB")).astype(int) for d in (good, bad)]
    marked = [int(((p[..., 0] > 240) & (p[..., 1] < 200) & (p[..., 1] > 150)).sum()) for p in pictures]
    assert pictures[0].shape == (150, 200, 3)
    assert marked[1] > 10 * marked[0]  # the letter O has a red rim


def test_flat_drawings_take_rdkits_bonds_where_it_found_some():
    drawn = flat_drawing(water(1.6), "O", 200, 150)
    assert isinstance(drawn, FlatDrawing)
    assert drawn.bonds == BY_RDKIT


def test_a_clump_is_not_drawn_flat():
    rng = np.random.default_rng(0)
    clump = molecule([6] * 30, rng.normal(0, 0.6, (30, 3)))
    said = flat_drawing(clump, "", 200, 150)
    assert isinstance(said, str)
    assert said.endswith("bonds among 30 atoms")

"""What ``adit data info`` says and draws, against the structures themselves."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.image import imread
from matplotlib.patches import Rectangle

from adit_scale.atoms import AtomSet
from adit_scale.data.manifest import Manifest
from adit_scale.data.sources.structures import ELEMENT_SYMBOLS
from adit_scale.data.tools import pictures
from adit_scale.data.tools.info import describe, histogram, table
from adit_scale.errors import DataError


@pytest.fixture(scope="module")
def small(small_data: Path) -> Manifest:
    return Manifest.load(small_data)


def bars_of(axes: Axes) -> list[Rectangle]:
    return [patch for patch in axes.patches if isinstance(patch, Rectangle)]


def test_table_and_description(small: Manifest, some_sets: list[AtomSet]) -> None:
    lines = table(small).splitlines()
    assert lines[0].split() == ["data", "set", "domain", "train", "val", "test", "left", "out"]
    for line, name in zip(lines[1:], ("mols", "xtals"), strict=True):
        words = line.split()
        assert words[0] == name
        assert sum(int(n) for n in words[2:5]) == sum(s.dataset == name for s in some_sets)
    said = describe(small)
    crystals = [s for s in some_sets if s.periodic]
    n_atoms = sum(map(len, crystals))
    sizes = [len(s) for s in crystals]
    spread = f"{min(sizes)} to {max(sizes)} a structure, {n_atoms / 90:.1f} on average"
    assert f"  atoms       {spread}, {n_atoms:,} in all\n" in said
    groups = Counter(s.spacegroup for s in crystals)
    top, n = min(groups.items(), key=lambda item: (-item[1], str(item[0])))
    assert f"  spacegroups {len(groups)}: {top} {n}, " in said
    assert said.count("spacegroups") == 1
    assert said.endswith(f"schema version 2, fingerprint {small.fingerprint}\n")


def test_duplicates_have_a_column_where_there_are_any(small: Manifest) -> None:
    small.descriptions["mols"]["n_duplicates"] = 12
    try:
        assert table(small).splitlines()[1].endswith("12")
        assert table(small).splitlines()[0].endswith("of these duplicates")
    finally:
        del small.descriptions["mols"]["n_duplicates"]


def test_histograms_come_in_order() -> None:
    assert list(histogram({"atom_counts": {"10": 1, "2": 3}}, "atom_counts").items()) == [(2, 3), (10, 1)]


def test_pictures(small: Manifest, tmp_path: Path) -> None:
    paths = pictures.draw(small, tmp_path / "deep/pictures")
    assert [path.name for path in paths] == ["mols.png", "xtals.png"]
    heights = []
    for path in paths:
        picture = imread(path)
        assert picture.shape[1] == 1650
        assert picture[..., :3].std() > 0.05
        heights.append(picture.shape[0])
    assert heights[0] < heights[1]  # molecules have no spacegroups


def test_page_shows_the_numbers_of_the_manifest(small: Manifest) -> None:
    known = small.descriptions["xtals"]
    atoms, elements, spacegroups = pictures.page("xtals", known).axes[:3]
    heights = [bar.get_height() for bar in bars_of(atoms)]
    assert sum(heights) == sum(known["atom_counts"].values())
    symbols = {text.get_text() for text in elements.texts}
    assert set(ELEMENT_SYMBOLS[1:104]) <= symbols
    bars = {
        round(bar.get_x() + bar.get_width() / 2): bar.get_height()
        for bar in bars_of(spacegroups)
        if bar.get_width() == 1
    }
    stated = {int(group): n for group, n in known["spacegroups"].items() if group != "0"}
    assert {group: n for group, n in bars.items() if n} == stated
    shares = [label.split()[-1] for label in spacegroups.get_legend_handles_labels()[1]]
    assert sum(float(share[:-1]) for share in shares) == pytest.approx(100, abs=0.5)


def test_each_element_has_a_place_of_its_own() -> None:
    places = [pictures._place(z) for z in range(1, 119)]
    assert len(set(places)) == 118
    assert all(0 <= column < 18 for _, column in places)
    assert pictures._place(26) == (3, 7)  # iron: period 4, group 8
    assert pictures._place(79) == (5, 10)  # gold: period 6, group 11
    assert np.isclose(pictures._place(92)[0], 8.6)  # uranium: the lower row of the f block


def test_wide_distributions_share_bars_and_odd_names_become_files(tmp_path: Path, small: Manifest) -> None:
    known = dict(small.descriptions["mols"], atom_counts={"1": 5, "444": 2, "1000": 1})
    axes = pictures.page("wide", known).axes[0]
    assert len(axes.patches) <= 121
    assert sum(bar.get_height() for bar in bars_of(axes)) == 8
    assert axes.get_xlabel() == "atoms, 9 a bar"
    odd = Manifest(["../ü"], {"../ü": known}, small.shards, small.blocks, small.sets_sha256, small.storage)
    assert [path.name for path in pictures.draw(odd, tmp_path)] == ["..__.png"]
    bare = Manifest(["x"], {}, small.shards, small.blocks, small.sets_sha256, small.storage)
    with pytest.raises(DataError, match="no statistics of x in its manifest"):
        pictures.draw(bare, tmp_path)

"""What a build puts where: splits, what is left out, duplicates, and real structures as they were."""

from __future__ import annotations

import csv
import gzip
import hashlib
import warnings
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from adit_scale.atoms import CRYSTAL, AtomSet
from adit_scale.data.build import build, build_from_sets
from adit_scale.data.building import conversion, shuffling
from adit_scale.data.building.duplicates import repeats_of_crystals, repeats_of_molecules, sorted_distances
from adit_scale.data.config import DataConfig
from adit_scale.data.manifest import SPLITS, Manifest
from adit_scale.data.shards import ShardReader, verify
from adit_scale.data.sources import Rejected, Source, read_source
from adit_scale.data.sources.structures import standardise
from adit_scale.errors import DataError
from tests.data.building import ALL_TRAIN, contents, members, rejected, write_xyz
from tests.data.conftest import molecule


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "PIECE_RECORDS", 16)


# Splits


def test_publishers_splits_lists_and_groups(tmp_path: Path) -> None:
    files = {split: write_xyz(tmp_path / f"{split}.xyz", 30, seed=k) for k, split in enumerate(SPLITS)}
    mine = write_xyz(tmp_path / "mine.xyz", 40, seed=9)
    sources = [Source(path, "theirs", split) for split, path in files.items()] + [Source(mine, "mine")]
    (tmp_path / "test.txt").write_text("mine\t3\n12\n\n")
    (tmp_path / "val.txt").write_text("train/5\r\nmine\t7\n")  # 7 is a structure that was left out
    lists = {"test": str(tmp_path / "test.txt"), "val": str(tmp_path / "val.txt")}
    config = DataConfig(split_lists=lists, build_workers=1)
    manifest = build(sources, tmp_path / "out", config)
    found = members(manifest)
    assert found["mine", "3"] == found["mine", "12"] == "test"
    assert found["theirs", "train/5"] == "val"
    others = Counter(
        (name[1].partition("/")[0], split) for name, split in found.items() if name[0] == "theirs"
    )
    assert others == {("train", "train"): 28, ("train", "val"): 1, ("val", "val"): 29, ("test", "test"): 29}
    assert (tmp_path / "out/split_list.test.txt").read_bytes() == (tmp_path / "test.txt").read_bytes()
    digest = hashlib.sha256((tmp_path / "val.txt").read_bytes()).hexdigest()
    assert manifest.descriptions["mine"]["conversion"]["split_lists"]["val"] == digest
    assert [s["split"] for s in manifest.descriptions["theirs"]["sources"]] == list(SPLITS)
    verify(tmp_path / "out")


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"val": "0\nnobody\n"}, r"val\.txt: line 2: no structure has the id 'nobody'; correct the list"),
        ({"val": "other\t0\n"}, r"line 1: no structure has the id '0' in other; correct"),
        ({"val": "0\n", "test": "1\n0\n"}, r"val\.txt: line 1: '0' is listed for test too"),
        ({"test": b"\xff\xfe\n"}, r"test\.txt: not UTF-8 text"),
    ],
)
def test_a_wrong_list_is_named(tmp_path: Path, lists: dict[str, str | bytes], message: str) -> None:
    places = {}
    for split, text in lists.items():
        places[split] = str(tmp_path / f"{split}.txt")
        Path(places[split]).write_bytes(text if isinstance(text, bytes) else text.encode())
    sets = [molecule(np.random.default_rng(k), 4, str(k)) for k in range(5)]
    with pytest.raises(DataError, match=message):
        build_from_sets(sets, tmp_path / "d", DataConfig(split_lists=places))
    with pytest.raises(DataError, match=r"data\.split_lists\.val: /nowhere: No such file"):
        build_from_sets(sets, tmp_path / "d", DataConfig(split_lists={"val": "/nowhere"}))
    assert not (tmp_path / "d").exists()


def test_a_group_and_a_composition_stay_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sets = [
        replace(
            molecule(rng, 3 + k % 9, f"{k}"), numbers=np.array([6, 6, 8, *[1] * (k % 9)]), group=f"g{k % 40}"
        )
        for k in range(400)
    ]
    halves = DataConfig(validation_fraction=0.3, test_fraction=0.3)
    by_id = members(build_from_sets(sets, tmp_path / "id", halves))
    splits = {s.group: {by_id["mols", t.id] for t in sets if t.group == s.group} for s in sets}
    assert all(len(found) == 1 for found in splits.values())
    assert len(set.union(*splits.values())) == 3
    (tmp_path / "val.txt").write_text("g7\n")  # a group may be listed as a whole
    listed = DataConfig(
        split_lists={"val": str(tmp_path / "val.txt")}, validation_fraction=0, test_fraction=0
    )
    found = members(build_from_sets(sets, tmp_path / "listed", listed))
    assert {name for name, split in found.items() if split == "val"} == {
        ("mols", s.id) for s in sets if s.group == "g7"
    }
    halves.split_by = "composition"
    by_composition = members(build_from_sets(sets, tmp_path / "composition", halves))
    for size in range(3, 12):
        assert len({by_composition["mols", s.id] for s in sets if len(s) == size}) == 1
    assert len(set(by_composition.values())) > 1


def test_ids_of_several_files_do_not_collide(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
    files = [write_xyz(tmp_path / name, 5, k) for k, name in enumerate(("x/data.xyz", "y/data.xyz", "z.xyz"))]
    with pytest.raises(DataError, match="two sources are called 'data'"):
        build([Source(path, "data") for path in files[:2]], tmp_path / "d", ALL_TRAIN)
    with pytest.raises(DataError, match="named 2 times among the sources"):
        build([Source(files[0], "a"), Source(files[0], "a")], tmp_path / "d", ALL_TRAIN)
    manifest = build([Source(path, "all") for path in files], tmp_path / "d", ALL_TRAIN)
    assert rejected(tmp_path / "d") == []
    assert {name for _, name in members(manifest)} == {
        f"{label}/{k}" for label in ("x/data", "y/data", "z") for k in range(5)
    }


def test_split_does_not_depend_on_company(
    small_data: Path, some_sets: list[AtomSet], small_config: DataConfig, tmp_path: Path
) -> None:
    half = members(build_from_sets(some_sets[::2], tmp_path / "half", small_config))
    whole = members(Manifest.load(small_data))
    assert half == {(s.dataset, s.id): whole[s.dataset, s.id] for s in some_sets[::2]}
    assert set(half.values()) == set(SPLITS)


def test_data_sets_are_mixed_through_the_blocks(small_data: Path) -> None:
    index = Manifest.load(small_data).split("train")
    block_s = index.block_of(np.arange(len(index)))
    for block in range(len(index.blocks) - 1):
        share = (index.domain[block_s == block] == CRYSTAL).mean()
        assert 0.1 < share < 0.7  # 90 of 240 on the whole


def test_statistics(small_data: Path, some_sets: list[AtomSet]) -> None:
    described = Manifest.load(small_data).descriptions["xtals"]
    crystals = [s for s in some_sets if s.periodic]
    assert described["domain"] == "crystal"
    assert sum(described["n_sets"].values()) == 90
    assert described["atom_counts"] == {
        str(n): [len(s) for s in crystals].count(n) for n in sorted({len(s) for s in crystals})
    }
    assert sum(described["elements"].values()) == sum(len(s) for s in crystals)
    assert described["elements"]["Fe"] == sum(int((s.numbers == 26).sum()) for s in crystals)
    assert described["spacegroups"] == {
        str(n): [s.spacegroup for s in crystals].count(n) for n in sorted({s.spacegroup for s in crystals})
    }


# What is left out


def test_rejected_structures_stand_in_the_order_of_the_sources(tmp_path: Path, small_pieces: None) -> None:
    rng = np.random.default_rng(0)
    sets = [molecule(rng, 3 + k % 3, str(k % 90)) for k in range(100)]
    sets[20] = AtomSet(np.array([6]), np.full((1, 3), np.inf), np.zeros((3, 3)), False, "mols", 0, "odd")
    sets[50] = AtomSet(
        np.full(65536, 6), rng.normal(size=(65536, 3)), np.zeros((3, 3)), False, "mols", 0, "vast"
    )
    sets[70] = replace(sets[5], id="copy")
    config = DataConfig(validation_fraction=0, test_fraction=0, deduplicate=True)
    manifest = build_from_sets(sets, tmp_path / "d", config)
    rows = rejected(tmp_path / "d")
    assert [row["index"] for row in rows] == [20, 50, 70, *range(90, 100)]
    assert rows[0]["reason"] == "position of atom 0 is [inf, inf, inf]"
    assert rows[1]["reason"] == "65536 atoms; at most 65535 can be stored"
    assert rows[2]["reason"] == "duplicate of '5'"
    assert rows[3] == {"source": "mols", "index": 90, "id": "0", "reason": "id '0' stands twice in mols"}
    described = manifest.descriptions["mols"]
    assert (described["n_rejected"], described["n_duplicates"], described["n_sets"]["train"]) == (13, 1, 87)


def test_left_out_structures_are_listed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sets = [molecule(rng, n, name) for n, name in ((5, "a"), (12, "big"), (5, "a"), (6, "b"))]
    sets.append(replace(molecule(rng, 1, "md"), numbers=np.array([101])))
    sets.append(replace(molecule(rng, 1, "nan"), positions=np.full((1, 3), np.nan)))
    manifest = build_from_sets(sets, tmp_path / "d", replace(ALL_TRAIN, max_atoms=10))
    assert sorted(manifest.split("train").sizes.tolist()) == [5, 6]
    assert {row["id"]: row["reason"] for row in rejected(tmp_path / "d")} == {
        "big": "12 atoms; data.max_atoms is 10",
        "a": "id 'a' stands twice in mols",
        "md": "atomic number 101; expected 1 to 99",
        "nan": "position of atom 0 is [nan, nan, nan]",
    }
    assert manifest.descriptions["mols"]["n_rejected"] == 4


def test_more_than_256_data_sets_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sets = [molecule(rng, 2, "a", dataset=f"d{k}") for k in range(257)]
    with pytest.raises(DataError, match="257 data sets; expected at most 256"):
        build_from_sets(sets, tmp_path / "d", ALL_TRAIN)
    assert len(build_from_sets(sets[:256], tmp_path / "d", ALL_TRAIN).datasets) == 256
    verify(tmp_path / "d")


# Duplicates


def rotated(rng: np.random.Generator, atom_set: AtomSet, noise: float) -> AtomSet:
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    order = rng.permutation(len(atom_set))
    moved = atom_set.positions[order] @ turn + rng.uniform(-1, 1, size=(len(atom_set), 3)) * noise
    return AtomSet(atom_set.numbers[order], moved, atom_set.cell, False, atom_set.dataset, 0, atom_set.id)


def test_duplicate_molecules_against_a_plain_double_loop() -> None:
    rng = np.random.default_rng(0)
    kinds = np.array([1, 1, 1, 6, 6, 8])
    base = [AtomSet(kinds, rng.normal(size=(6, 3)) * 2, np.zeros((3, 3)), False, "m") for _ in range(40)]
    sets = [
        rotated(rng, base[int(rng.integers(40))], noise=float(rng.choice([0, 0.004, 0.02])))
        for _ in range(400)
    ]
    vectors = np.stack([sorted_distances(s) for s in sets])
    kept: list[int] = []
    expected = []
    for i, vector in enumerate(vectors):
        like = [k for k in kept if np.abs(vectors[k] - vector).max() <= 0.02]
        if like:
            expected.append((i, like[0]))
        else:
            kept.append(i)
    assert repeats_of_molecules(sets) == expected
    assert 200 < len(expected) < 360
    one = [AtomSet(np.array([2]), np.zeros((1, 3)), np.zeros((3, 3)), False, "m")] * 3
    assert repeats_of_molecules(one) == [(1, 0), (2, 0)]


def test_duplicate_crystals_are_found_in_other_cells() -> None:
    cell = np.array([[0.0, 2, 2], [2, 0, 2], [2, 2, 0]])

    def salt(scale: float, repeat: int, shift: float) -> AtomSet:
        fractional = np.array([[i + x, x, x] for i in range(repeat) for x in (0.0, 0.5)]) / [repeat, 1, 1]
        big = cell * scale * np.array([[repeat], [1], [1]])
        positions = (fractional + shift) @ big
        return standardise(AtomSet(np.array([11, 17] * repeat), positions, big, True, "x"))

    caesium = standardise(
        AtomSet(np.array([11, 17]), np.array([[0, 0, 0], [1.26] * 3]), np.eye(3) * 2.52, True, "x")
    )
    sets = [salt(1, 1, 0), caesium, salt(1.005, 2, 0.3), salt(1.2, 1, 0.1), salt(1.2, 3, 0)]
    assert repeats_of_crystals(sets) == [(2, 0), (4, 3)]


def test_duplicates_are_sought_within_a_data_set_and_by_any_number_of_workers(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    base = [molecule(rng, 3 + k % 5, f"{k}") for k in range(60)]
    copies = [rotated(rng, s, 0) for s in base[::3]]
    copies = [AtomSet(s.numbers, s.positions, s.cell, False, "mols", 0, f"copy{s.id}") for s in copies]
    elsewhere = [AtomSet(s.numbers, s.positions, s.cell, False, "other", 0, s.id) for s in base]
    built = []
    for workers, bucket in ((1, 1 << 20), (2, 400)):
        config = DataConfig(deduplicate=True, build_workers=workers)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shuffling, "_BUCKET_BYTES", bucket)
            manifest = build_from_sets([*base, *copies, *elsewhere], tmp_path / f"{workers}", config)
        built.append(contents(tmp_path / f"{workers}"))
    assert built[0] == built[1]
    assert {row["id"]: row["reason"] for row in rejected(tmp_path / "1")} == {
        f"copy{s.id}": f"duplicate of '{s.id}'" for s in base[::3]
    }
    assert [manifest.descriptions[name]["n_duplicates"] for name in ("mols", "other")] == [20, 0]
    plain = build_from_sets([*base, *copies], tmp_path / "plain", DataConfig())
    assert "n_duplicates" not in plain.descriptions["mols"]


# Real structures


FILES = {
    "qm9_sample.extxyz.gz": (2000, 29),
    "qm7.extxyz.gz": (6101, 23),
    "mp20_biternary_val.csv.gz": (7140, 20),
    "mp20_biternary_test.csv.gz": (7116, 20),
    "mpts52_val.csv.gz": (5000, 52),
}


def head(path: Path, n_structures: int, folder: Path) -> Path:
    """The first structures of a file, as a file of the same form."""
    target = folder / path.name.removesuffix(".gz")
    with gzip.open(path, "rt", newline="") as lines, target.open("w", newline="") as out:
        if ".csv" in path.name:
            writer = csv.writer(out)
            writer.writerows(islice(csv.reader(lines), n_structures + 1))
        else:
            for _ in range(n_structures):
                count = next(lines)
                out.writelines([count, *islice(lines, int(count) + 1)])
    return target


def test_real_files_read_back_as_they_were(shared: Path, tmp_path: Path) -> None:
    config = DataConfig(build_workers=1)
    paths = [head(shared / "data" / name, 300, tmp_path) for name in FILES]
    sources = [Source.from_word(str(path)) for path in paths]
    manifest = build(sources, tmp_path / "out", config)
    assert verify(tmp_path / "out").fingerprint == manifest.fingerprint
    assert rejected(tmp_path / "out") == []
    found = {}
    for split in SPLITS:
        reader = ShardReader(manifest, split)
        found.update({(s.dataset, s.id): s for s in reader.read_sets(np.arange(len(manifest.split(split))))})
    assert len(found) == 300 * len(FILES)
    sample = []
    for source in sources:
        for original in read_source(source, config):
            assert not isinstance(original, Rejected)
            stored = found[original.dataset, original.id]
            assert stored.numbers.tolist() == original.numbers.tolist()
            assert stored.spacegroup == original.spacegroup
            np.testing.assert_allclose(stored.cell, original.cell, atol=1e-5)
            apart = stored.positions - original.positions
            if stored.periodic:
                sample.append((stored, original))
                fractional = apart @ np.linalg.inv(original.cell)
                apart = (fractional - np.rint(fractional)) @ original.cell
            assert np.abs(apart).max() < 1e-5
    assert len(sample) == 900
    for path in paths:
        if path.suffix == ".csv":
            assert_same_crystals(path, found)


def assert_same_crystals(path: Path, found: dict[tuple[str, str], AtomSet]) -> None:
    """Every tenth, against pymatgen's own reading of the file."""
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure

    matcher = StructureMatcher(scale=False, primitive_cell=False)
    with path.open(newline="") as lines, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for row in islice(csv.DictReader(lines), 0, None, 10):
            stored = found[path.stem, row["material_id"]]
            given = Structure.from_str(row["cif"], fmt="cif")
            again = Structure(stored.cell, stored.numbers.tolist(), stored.fractional)
            assert abs(again.volume - given.volume) < 1e-4 * given.volume
            rms = matcher.get_rms_dist(given, again)
            assert rms is not None
            assert rms[0] < 1e-5

"""Shards on disk: the same bytes each time, readable by others, and no damage goes unnoticed."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from adit_scale.atoms import CRYSTAL, MOLECULE, AtomSet
from adit_scale.data.build import build, build_from_sets
from adit_scale.data.columns import SetColumns
from adit_scale.data.config import DataConfig
from adit_scale.data.manifest import SPLITS
from adit_scale.data.shards import Manifest, ShardReader, verify
from adit_scale.data.sources.structures import standardise
from adit_scale.errors import DataError
from tests.conftest import REPO
from tests.data.conftest import crystal, molecule


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def by_id(sets: list[AtomSet]) -> dict[tuple[str, str], AtomSet]:
    return {(s.dataset, s.id): s for s in sets}


def test_every_set_comes_back_from_one_split(small_data: Path, some_sets: list[AtomSet]) -> None:
    manifest = verify(small_data)
    read = []
    for split in SPLITS:
        n_sets = len(manifest.split(split))
        read += ShardReader(small_data, manifest, split).read_sets(np.arange(n_sets))
        assert n_sets == sum(manifest.descriptions[d]["n_sets"][split] for d in manifest.datasets)
    assert len(read) == len(some_sets)
    found = by_id(read)
    for key, original in by_id(some_sets).items():
        expected, got = standardise(original), found[key]
        assert got.numbers.tolist() == expected.numbers.tolist()
        assert (got.periodic, got.spacegroup) == (expected.periodic, expected.spacegroup)
        np.testing.assert_allclose(got.positions, expected.positions, atol=2e-5)
        np.testing.assert_allclose(got.cell, expected.cell, atol=2e-6)


def test_rebuilding_gives_the_same_bytes_in_any_order_of_input(
    small_data: Path, some_sets: list[AtomSet], small_config: DataConfig, tmp_path: Path
) -> None:
    build_from_sets(some_sets[::-1], tmp_path / "again", small_config)
    assert contents(tmp_path / "again") == contents(small_data)
    other = DataConfig(**{**vars(small_config), "split_salt": "other"})
    assert (
        build_from_sets(some_sets, tmp_path / "other", other).fingerprint
        != Manifest.load(small_data).fingerprint
    )


def test_split_does_not_depend_on_company(
    small_data: Path, some_sets: list[AtomSet], small_config: DataConfig, tmp_path: Path
) -> None:
    half = build_from_sets(some_sets[::2], tmp_path / "half", small_config)
    whole = Manifest.load(small_data)
    for split in ("val", "test"):
        members = [
            set(by_id(ShardReader(folder, m, split).read_sets(np.arange(len(m.split(split))))))
            for folder, m in ((tmp_path / "half", half), (small_data, whole))
        ]
        assert members[0] == members[1] & set(by_id(some_sets[::2]))


def test_data_sets_are_mixed_through_the_blocks(small_data: Path) -> None:
    index = Manifest.load(small_data).split("train")
    for block in range(len(index.blocks) - 1):
        share = (index.domain[index.block_of_set == block] == CRYSTAL).mean()
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
    assert sum(described["spacegroups"].values()) == 90


def test_plain_webdataset_reads_the_shards(small_data: Path) -> None:
    manifest = Manifest.load(small_data)
    urls = [str(small_data / shard.file) for shard in manifest.shards["train"]]
    assert len(urls) > 1
    blocks = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert [block["__key__"] for block in blocks] == [b.key for b in manifest.blocks["train"]]
    sizes = np.concatenate([np.diff(block["offsets.npy"]) for block in blocks])
    assert sizes.tolist() == manifest.split("train").sizes.tolist()
    ids = [name for block in blocks for name in block["ids.json"]]
    reader = ShardReader(small_data, manifest, "train")
    assert ids == [s.id for s in reader.read_sets(np.arange(len(ids)))]
    first = blocks[0]
    assert {k: v.dtype.name for k, v in first.items() if k.endswith(".npy")} == {
        "numbers.npy": "uint8",
        "positions.npy": "float32",
        "offsets.npy": "int64",
        "cells.npy": "float32",
        "dataset.npy": "uint16",
        "spacegroup.npy": "int16",
    }


def test_the_example_in_the_docs_reads_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPO)
    (example,) = re.findall(r"```python\n(.*?)```", Path("docs/data.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)
    folder = Path("shards/demo")
    manifest = Manifest.load(folder)
    n_sets = len(manifest.split("train"))
    assert len(names["structures"]) == n_sets
    for found, expected in zip(
        names["structures"], ShardReader(folder, manifest, "train").read_sets(np.arange(n_sets)), strict=True
    ):
        assert found[0] == expected.id
        assert found[1].tolist() == expected.numbers.tolist()
        np.testing.assert_allclose(found[3], expected.cell)
        if not expected.periodic:
            np.testing.assert_allclose(found[2], expected.positions)


def test_blocks_tile_their_shards(small_data: Path) -> None:
    manifest = Manifest.load(small_data)
    for split in SPLITS:
        for shard in manifest.shards[split]:
            data = (small_data / shard.file).read_bytes()
            blocks = [b for b in manifest.blocks[split] if b.shard == shard.file]
            assert [b.start for b in blocks] == [0] + [b.stop for b in blocks[:-1]]
            assert blocks[-1].stop == len(data) == shard.n_bytes
            assert hashlib.sha256(data).hexdigest() == shard.sha256
            for block in blocks:
                assert hashlib.sha256(data[block.start : block.stop]).hexdigest() == block.sha256


@pytest.fixture(scope="module")
def one_shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(1)
    folder = tmp_path_factory.mktemp("flip") / "data"
    sets = [molecule(rng, 3, f"m{i}") for i in range(6)]
    build_from_sets(sets, folder, DataConfig(block_sets=3, validation_fraction=0, test_fraction=0))
    return folder


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_flipped_bit_is_found(one_shard: Path, data: st.DataObject) -> None:
    """Anywhere: tar header, npy header, payload, padding, end-of-archive mark."""
    path = one_shard / "train-000000.tar"
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    flipped = bytearray(whole)
    flipped[place] ^= 1 << data.draw(st.integers(0, 7))
    (block,) = [b for b in Manifest.load(one_shard).blocks["train"] if b.start <= place < b.stop]
    found = hashlib.sha256(flipped[block.start : block.stop]).hexdigest()
    path.write_bytes(flipped)
    try:
        with pytest.raises(DataError) as caught:
            verify(one_shard)
    finally:
        path.write_bytes(whole)
    for part in (str(path), f"block {block.key}", f"expected sha256 {block.sha256}", f"found {found}"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_each_kind_of_byte_was_among_them(one_shard: Path) -> None:
    """The shard of the test above does hold zero padding and an end mark, and they are in the last block."""
    data = (one_shard / "train-000000.tar").read_bytes()
    assert data[-1024:] == bytes(1024)
    assert data[257:262] == b"ustar"
    assert len(Manifest.load(one_shard).blocks["train"]) == 2


@pytest.mark.parametrize("cut", [0, 100, 5000, -1024, -1])
def test_truncated_shard(one_shard: Path, tmp_path: Path, cut: int) -> None:
    shutil.copytree(one_shard, tmp_path / "cut")
    path = tmp_path / "cut" / "train-000000.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    manifest = Manifest.load(tmp_path / "cut")
    left = len(whole[:cut])
    block = next(b for b in manifest.blocks["train"] if b.stop > left)
    found = hashlib.sha256(whole[block.start : left]).hexdigest()
    with pytest.raises(DataError) as caught:
        ShardReader(tmp_path / "cut", manifest, "train").read_columns(np.array([0]))
    for part in (path.name, f"block {block.key}", block.sha256, found, f"{left} bytes long", str(len(whole))):
        assert part in str(caught.value)


def test_lengthened_and_missing_shard(one_shard: Path, tmp_path: Path) -> None:
    shutil.copytree(one_shard, tmp_path / "long")
    path = tmp_path / "long" / "train-000000.tar"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DataError, match="block 000001: expected sha256"):
        verify(tmp_path / "long")
    path.unlink()
    with pytest.raises(DataError, match=r"train-000000\.tar: no such shard"):
        verify(tmp_path / "long")


def test_damaged_manifest(one_shard: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(one_shard, folder)
    path = folder / "manifest.json"
    text = path.read_text()
    tree = json.loads(text)
    tree["splits"]["train"]["blocks"][0]["n_sets"] += 1
    for damaged, reason in (
        (json.dumps(tree), "expected fingerprint"),
        (text[:200], "not readable as JSON"),
        ("[]", "schema version None"),
        (text.replace('"schema_version": 1', '"schema_version": 7'), "schema version 7; expected 1"),
        ('{"schema_version": 1}', "damaged table"),
    ):
        path.write_text(damaged)
        with pytest.raises(DataError, match=reason):
            Manifest.load(folder)
    path.write_text(text)
    sets = bytearray((folder / "sets.npz").read_bytes())
    sets[-30] ^= 1
    (folder / "sets.npz").write_bytes(sets)
    with pytest.raises(DataError, match=r"sets\.npz: expected sha256"):
        Manifest.load(folder)
    with pytest.raises(DataError, match="no split 'dev'"):
        Manifest.load(one_shard).split("dev")


def test_reader_keeps_its_cache_small_and_its_answers_right(small_data: Path) -> None:
    manifest = Manifest.load(small_data)
    n_sets = len(manifest.split("train"))
    small, large = (ShardReader(small_data, manifest, "train", cache_bytes=c) for c in (1, 1 << 30))
    picks = np.random.default_rng(0).integers(0, n_sets, 60)
    assert len(small._cached) == 0
    a, b = small.read_columns(picks), large.read_columns(picks)
    assert len(small._cached) == 1
    assert len(large._cached) == len(np.unique(manifest.split("train").block_of_set[picks]))
    assert a.sizes_s.tolist() == manifest.split("train").sizes[picks].tolist()
    assert np.array_equal(a.positions_t3, b.positions_t3)
    one = large.read_columns(picks[:1])
    assert np.array_equal(one.positions_t3, b.positions_t3[: len(one.positions_t3)])


def test_positions_agree_with_fractional_and_zero_stays_zero() -> None:
    rng = np.random.default_rng(3)
    sets = [standardise(crystal(rng, 8, f"x{i}")) for i in range(200)]
    for s in sets:
        s.positions[0] = 0  # an atom at the origin must not come back at 0.9999999
    columns = SetColumns.from_sets(sets, ["xtals"])
    again = SetColumns.from_arrays(
        columns.sizes_s,
        columns.numbers_t,
        columns.positions_t3,
        columns.cells_s33,
        columns.dataset_s,
        columns.spacegroup_s,
    )
    assert (again.fractional_t3[::8] < 1e-6).all()
    assert (again.fractional_t3 < 1).all()
    np.testing.assert_allclose(
        again.positions_t3,
        np.einsum("tk,tkj->tj", again.fractional_t3, np.repeat(again.cells_s33, 8, axis=0)),
        atol=2e-5,
    )
    np.testing.assert_allclose(again.positions_t3, columns.positions_t3, atol=2e-5)


def test_left_out_structures_are_listed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sets = [molecule(rng, n, name) for n, name in ((5, "a"), (12, "big"), (5, "a"), (6, "b"))]
    sets.append(AtomSet(np.array([101]), np.zeros((1, 3)), np.zeros((3, 3)), False, "mols", 0, "md"))
    sets.append(AtomSet(np.array([6]), np.full((1, 3), np.nan), np.zeros((3, 3)), False, "mols", 0, "nan"))
    config = DataConfig(max_atoms=10, validation_fraction=0, test_fraction=0)
    manifest = build_from_sets(sets, tmp_path / "d", config)
    assert manifest.split("train").sizes.tolist() in ([5, 6], [6, 5])
    lines = [json.loads(line) for line in (tmp_path / "d/rejected.jsonl").read_text().splitlines()]
    assert {line["id"]: line["reason"] for line in lines} == {
        "big": "12 atoms; data.max_atoms is 10",
        "a": "id 'a' stands twice in mols",
        "md": "atomic number 101; expected 1 to 99",
        "nan": "position of atom 0 is [nan, nan, nan]",
    }
    assert manifest.descriptions["mols"]["n_rejected"] == 4


def test_a_data_set_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    config = DataConfig(validation_fraction=0, test_fraction=0)

    def breaks():
        yield molecule(rng, 3, "a")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_from_sets(breaks(), tmp_path / "d", config)
    with pytest.raises(DataError, match="no usable structure among 0"):
        build_from_sets([], tmp_path / "d", config)
    assert list(tmp_path.iterdir()) == []
    first = build_from_sets([molecule(rng, 3, "a")], tmp_path / "d", config)
    with pytest.raises(DataError, match="holds a data set already"):
        build_from_sets([molecule(rng, 4, "a")], tmp_path / "d", config)
    assert Manifest.load(tmp_path / "d").fingerprint == first.fingerprint
    second = build_from_sets([molecule(rng, 4, "a")], tmp_path / "d", config, overwrite=True)
    assert Manifest.load(tmp_path / "d").fingerprint == second.fingerprint != first.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.txt").write_text("keep me")
    with pytest.raises(DataError, match="exists and is not a data set"):
        build_from_sets([molecule(rng, 4, "a")], tmp_path / "other", config, overwrite=True)


def test_build_names_the_missing_or_repeated_source(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for folder in (tmp_path, tmp_path / "b"):
        (folder / "a.xyz").write_text("1\n\nC 0 0 0\n")
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        build([tmp_path / "a.xyz", tmp_path / "none.csv"], tmp_path / "d", DataConfig())
    with pytest.raises(DataError, match="two sources are called 'a'"):
        build([tmp_path / "a.xyz", tmp_path / "b/a.xyz"], tmp_path / "d", DataConfig())
    (tmp_path / "bad.xyz").write_text("1\n\nQq 0 0 0\n")
    for sources in ([tmp_path / "bad.xyz"], [tmp_path / "a.xyz", tmp_path / "bad.xyz"]):
        with pytest.raises(DataError, match=r"among 1 in bad\.xyz; .* unknown element 'Qq'"):
            build(sources, tmp_path / "d", DataConfig())


@pytest.mark.real_data
def test_real_corpus(shared: Path, tmp_path: Path) -> None:
    sources = [shared / f"data/{f}" for f in ("qm9_sample.extxyz.gz", "mp20_biternary_val.csv.gz")]
    counts: dict[str, int] = {}
    manifest = build(sources, tmp_path / "d", DataConfig(), progress=counts.__setitem__)
    assert counts == {"qm9_sample": 2000, "mp20_biternary_val": 7140}
    assert manifest.datasets == ["mp20_biternary_val", "qm9_sample"]
    n_sets = [len(manifest.split(split)) for split in SPLITS]
    assert sum(n_sets) == 9140
    assert n_sets[1] == pytest.approx(457, abs=65)
    assert n_sets[2] == pytest.approx(457, abs=65)
    train = manifest.split("train")
    assert (train.domain[train.dataset == 1] == MOLECULE).all()
    assert train.sizes[train.domain == CRYSTAL].max() <= 20
    assert manifest.descriptions["qm9_sample"]["source"] == "qm9_sample.extxyz.gz"
    assert verify(tmp_path / "d").fingerprint == manifest.fingerprint

"""Shards as they are read: each set comes back, others can read them too, and little memory is taken."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from adit_scale.atoms import AtomSet
from adit_scale.data.columns import SetColumns, inverse
from adit_scale.data.manifest import SPLITS
from adit_scale.data.shards import Manifest, ShardReader, verify
from adit_scale.data.sources.structures import standardise
from tests.conftest import REPO
from tests.data.conftest import crystal, molecule


def by_id(sets: list[AtomSet]) -> dict[tuple[str, str], AtomSet]:
    return {(s.dataset, s.id): s for s in sets}


def test_every_set_comes_back_from_one_split(small_data: Path, some_sets: list[AtomSet]) -> None:
    manifest = verify(small_data)
    read = []
    for split in SPLITS:
        n_sets = len(manifest.split(split))
        read += ShardReader(manifest, split).read_sets(np.arange(n_sets))
        assert n_sets == sum(manifest.descriptions[d]["n_sets"][split] for d in manifest.datasets)
    assert len(read) == len(some_sets)
    found = by_id(read)
    for key, original in by_id(some_sets).items():
        expected, got = standardise(original), found[key]
        assert got.numbers.tolist() == expected.numbers.tolist()
        assert (got.periodic, got.spacegroup) == (expected.periodic, expected.spacegroup)
        np.testing.assert_allclose(got.positions, expected.positions, atol=2e-5)
        np.testing.assert_allclose(got.cell, expected.cell, atol=2e-6)


def test_sets_come_in_the_order_asked_for(small_data: Path) -> None:
    manifest = Manifest.load(small_data)
    n_sets = len(manifest.split("train"))
    whole = ShardReader(manifest, "train").read_sets(np.arange(n_sets))
    picks = np.random.default_rng(3).integers(0, n_sets, 100)  # with repeats
    read = ShardReader(manifest, "train").read_sets(picks)
    assert [s.id for s in read] == [whole[i].id for i in picks]
    assert all(np.array_equal(a.positions, whole[i].positions) for a, i in zip(read, picks, strict=True))
    assert ShardReader(manifest, "train").read_sets(np.array([], dtype=np.int64)) == []


def test_plain_webdataset_reads_the_shards(small_data: Path) -> None:
    manifest = Manifest.load(small_data)
    urls = [str(small_data / shard.file) for shard in manifest.shards["train"]]
    assert len(urls) > 1
    blocks = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert [block["__key__"] for block in blocks] == [b.key for b in manifest.blocks["train"]]
    sizes = np.concatenate([np.diff(block["offsets.npy"]) for block in blocks])
    assert sizes.tolist() == manifest.split("train").sizes.tolist()
    ids = [name for block in blocks for name in block["ids.json"]]
    reader = ShardReader(manifest, "train")
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
    manifest = Manifest.load(Path("shards/demo"))
    n_sets = len(manifest.split("train"))
    assert len(names["structures"]) == n_sets
    for found, expected in zip(
        names["structures"], ShardReader(manifest, "train").read_sets(np.arange(n_sets)), strict=True
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


def same(a: SetColumns, b: SetColumns) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in vars(a))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_answers_do_not_depend_on_the_memory_given(small_data: Path, data: st.DataObject) -> None:
    """From one block held to all of them, whatever was asked before."""
    manifest = Manifest.load(small_data)
    n_sets = len(manifest.split("train"))
    whole = ShardReader(manifest, "train").read_columns(np.arange(n_sets))
    reader = ShardReader(
        manifest, "train", cache_bytes=data.draw(st.sampled_from([0, 60_000, 150_000, 10**9]))
    )
    for _ in range(3):
        picks = np.array(data.draw(st.lists(st.integers(0, n_sets - 1), min_size=1, max_size=60)))
        assert same(reader.read_columns(picks), whole.take(picks))


def test_the_memory_given_is_kept_to(small_data: Path) -> None:
    manifest = Manifest.load(small_data)
    n_blocks = len(manifest.blocks["train"])
    everything = np.arange(len(manifest.split("train")))
    held = []
    for cache_bytes in (0, 60_000, 10**9):
        reader = ShardReader(manifest, "train", cache_bytes)
        reader.read_columns(everything)
        held.append(len(reader._arena))
        columns = [getattr(reader._arena, name) for name in vars(reader._arena) if name.endswith(("_s", "3"))]
        assert sum(c.nbytes for c in columns) <= max(cache_bytes, 30_000)
    assert held[0] == 1
    assert 1 < held[1] < n_blocks
    assert held[2] == n_blocks


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


def test_columns_of_a_set_do_not_depend_on_its_neighbours() -> None:
    rng = np.random.default_rng(4)
    sets = [crystal(rng, 5, "a"), molecule(rng, 7, "b"), crystal(rng, 1, "c"), molecule(rng, 2, "d")]
    names = ["mols", "xtals"]
    together = SetColumns.from_sets(sets, names)
    for i, one in enumerate(sets):
        assert same(together.take(np.array([i])), SetColumns.from_sets([one], names))


def test_inverse_of_cells() -> None:
    cells = np.random.default_rng(0).normal(size=(500, 3, 3)) * 6
    np.testing.assert_allclose(inverse(cells), np.linalg.inv(cells), rtol=1e-9, atol=1e-9)

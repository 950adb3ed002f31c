"""The loader as the trainer uses it: same steps for every world size, from disk, at a known cost."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adit_scale.atoms import CRYSTAL, MOLECULE, AtomSet, PackedBatch
from adit_scale.data.augment import augment
from adit_scale.data.build import build, build_from_sets
from adit_scale.data.config import DataConfig
from adit_scale.data.loader import BatchLoader, StepBatches, reference_sets, size_histogram
from adit_scale.data.shards import Manifest
from adit_scale.data.sources.source import Source
from adit_scale.errors import ConfigError, DataError
from adit_scale.randomness import normal_atoms, set_keys
from tests.data.conftest import molecule


def loader(folder: Path, **changes) -> BatchLoader:
    options = {"seed": 7, "atom_budget": 300, "micro_batch_atoms": 160} | changes
    data = DataConfig(
        shards=str(folder), repeat=options.pop("repeat", {"mols": 1.5}), workers=options.pop("workers", 0)
    )
    return BatchLoader(data, **options)


def visits(batches: list[PackedBatch]) -> list[list[int]]:
    return [
        visit
        for b in batches
        for visit in torch.stack([b.epoch_s, b.repetition_s, b.set_index_s], 1)[b.layout.real_s].tolist()
    ]


def contents(batches: list[PackedBatch]) -> dict[tuple[int, ...], tuple[bytes, ...]]:
    """By visit: the augmented set and its noise, bit for bit."""
    found = {}
    for raw in batches:
        batch = augment(raw, seed=7)
        layout = batch.layout
        key_s = set_keys(7, "noise", batch.epoch_s, batch.repetition_s, batch.set_index_s)
        noise_t3 = normal_atoms(key_s, layout.set_of_atom_t, layout.index_in_set_t, 3)
        for i, visit in enumerate(visits([batch])):
            own = slice(int(layout.offsets[i]), int(layout.offsets[i + 1]))
            parts = (batch.numbers_t, batch.positions_t3, batch.fractional_t3, noise_t3)
            values = [part[own].numpy().tobytes() for part in parts]
            found[tuple(visit)] = (*values, batch.cells_s33[i].numpy().tobytes())
    return found


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 40),  # an epoch is about 14 steps
    st.integers(1, 16),
    st.integers(60, 400),
    st.booleans(),
    st.sampled_from([{}, {"mols": 1.5}, {"xtals": 0.5, "mols": 3.0}]),
)
def test_packing_changes_neither_sets_nor_augmentation_nor_noise(
    small_data: Path,
    step: int,
    world_size: int,
    micro_batch_atoms: int,
    capacity: bool,
    repeat: dict[str, float],
) -> None:
    def open_rank(**changes) -> StepBatches:
        with loader(small_data, repeat=repeat, **changes) as source:
            return source.step(step)

    alone = open_rank(micro_batch_atoms=400)
    expected = contents(alone.batches)
    assert len(expected) == alone.n_sets
    parts = [
        open_rank(micro_batch_atoms=micro_batch_atoms, capacity=capacity, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    batches = [batch for part in parts for batch in part.batches]
    assert sum(len(visits([b])) for b in batches) == alone.n_sets  # none twice
    assert contents(batches) == expected
    assert {p.n_sets for p in parts} == {alone.n_sets}
    assert {p.n_rounds for p in parts} == {len(p.batches) for p in parts}
    assert {p.n_atoms for p in parts} == {alone.n_atoms}
    assert {tuple(p.cursor.items()) for p in parts} == {tuple(alone.cursor.items())}
    assert alone.n_atoms <= 300


@settings(max_examples=5, deadline=None)
@given(st.integers(1, 16))
def test_ranks_together_see_each_set_as_repeat_says(small_data: Path, world_size: int) -> None:
    ranks = [loader(small_data, rank=r, world_size=world_size) for r in range(world_size)]
    index = ranks[0].manifest.split("train")
    names = np.array(ranks[0].datasets)[index.dataset]
    seen: Counter[tuple[int, ...]] = Counter()
    step, cursor = 0, {"epoch": 0}
    while cursor["epoch"] < 2:
        parts = [rank.step(step) for rank in ranks]
        seen.update(tuple(v) for part in parts for v in visits(part.batches))
        step, cursor = step + 1, parts[0].cursor
    assert set(seen.values()) == {1}
    sets = Counter(index_ for epoch, _, index_ in seen if epoch < 2)
    assert [sets[i] for i in range(len(index))] == [3 if name == "mols" else 2 for name in names]
    for rank in ranks:
        rank.close()


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_resumed_at_any_step_on_another_world_size(
    small_data: Path, stop: int, before: int, after: int, with_cursor: bool
) -> None:
    with loader(small_data, rank=before - 1, world_size=before) as first:
        first.step(stop - 1)
        cursor = first.cursor(stop)
        assert set(cursor) == {"plan", "epoch", "window", "offset"}
        assert first.cursor(stop + 1) == {}
    with loader(small_data, micro_batch_atoms=400) as uninterrupted:
        expected = [sorted(visits(uninterrupted.step(s).batches)) for s in range(stop, stop + 3)]
    resumed = [loader(small_data, rank=rank, world_size=after) for rank in range(after)]
    for i in range(3):
        found: list[list[int]] = []
        for source in resumed:
            if with_cursor and i == 0:
                source.seek(stop, cursor)
            found += visits(source.step(stop + i).batches)
        assert sorted(found) == expected[i]
    for source in resumed:
        source.close()


def test_a_batch_holds_the_sets_it_names(small_data: Path, some_sets: list[AtomSet]) -> None:
    source = loader(small_data)
    index = source.manifest.split("train")
    for batch in source.step(3).batches:
        sizes = batch.layout.sizes_s
        assert torch.equal(sizes, sizes.sort().values)
        assert int(sizes.sum()) <= 160
        for name in ("sizes", "dataset", "domain"):
            packed = sizes if name == "sizes" else getattr(batch, f"{name}_s")
            assert packed.tolist() == getattr(index, name)[batch.set_index_s.numpy()].tolist()


def test_any_step_at_any_time(small_data: Path) -> None:
    forward, jumping = loader(small_data), loader(small_data)
    steps = [forward.step(s) for s in range(30)]
    for s in (29, 4, 5, 6, 0, 28):
        for a, b in zip(jumping.step(s).batches, steps[s].batches, strict=True):
            assert torch.equal(a.positions_t3, b.positions_t3)
            assert visits([a]) == visits([b])
    forward.close()
    jumping.close()


def test_fixed_capacity(small_data: Path) -> None:
    loose, fixed = loader(small_data), loader(small_data, capacity=True)
    shapes = set()
    for s in range(20):
        a, b = loose.step(s), fixed.step(s)
        assert sorted(visits(a.batches)) == sorted(visits(b.batches))
        shapes |= {(x.layout.n_atoms, x.layout.n_sets, x.layout.max_atoms) for x in b.batches}
        assert all((x.layout.sizes_s <= x.layout.max_atoms).all() for x in b.batches)
    assert len(shapes) == 1
    assert shapes.pop()[0] == 120  # three micro-batches share 300 atoms, with room for a set of mean size
    with loader(small_data, capacity=True, micro_batch_atoms=4096) as roomy:
        assert {b.layout.n_atoms for s in range(20) for b in roomy.step(s).batches} == {304}


def test_a_rank_without_sets_gets_a_dummy(small_data: Path) -> None:
    parts = [loader(small_data, atom_budget=1, rank=r, world_size=3).step(0) for r in range(3)]
    assert [p.n_sets for p in parts] == [1, 1, 1]
    assert sum(int(p.batches[0].layout.real_s.sum()) for p in parts) == 1
    assert [p.batches[0].layout.n_atoms for p in parts].count(1) >= 2


def test_validation_batches(small_data: Path) -> None:
    first, again = (loader(small_data, seed=s, rank=s, world_size=2) for s in (0, 1))
    a, b = (x.validation_batches(20, 100) for x in (first, again))
    assert visits(a) == visits(b)
    assert len(a) > 1
    assert all(batch.layout.n_atoms <= 100 for batch in a)
    domains = torch.cat([batch.domain_s for batch in a])
    index = first.manifest.split("val")
    n_crystals = int((index.domain == CRYSTAL).sum())
    assert (domains == CRYSTAL).sum() == min(10, n_crystals)
    assert len(domains) == 20
    every = first.validation_batches(10**6, 100)
    assert sorted(v[2] for v in visits(every)) == list(range(len(index)))


def test_references_and_histogram(small_data: Path) -> None:
    data = DataConfig(shards=str(small_data))
    manifest = Manifest.load(small_data)
    sets = reference_sets(data, "test", MOLECULE, 5)
    assert len(sets) == 5
    assert not any(s.periodic for s in sets)
    assert len({s.id for s in sets}) == 5
    assert (
        len(reference_sets(data, "test", CRYSTAL, 10**6)) == (manifest.split("test").domain == CRYSTAL).sum()
    )
    counts = size_histogram(manifest, MOLECULE)
    train = manifest.split("train")
    assert counts.sum() == (train.domain == MOLECULE).sum()
    assert counts[17] == ((train.domain == MOLECULE) & (train.sizes == 17)).sum()


def test_mistakes_are_named(small_data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"largest set has 30 atoms; parallel\.micro_batch_atoms is 16"):
        loader(small_data, micro_batch_atoms=16)
    with pytest.raises(
        ConfigError, match=r"data\.repeat\.geom: no such data set; expected one of mols, xtals"
    ):
        loader(small_data, repeat={"geom": 2.0})
    with pytest.raises(DataError, match=r"manifest\.json: no such file"):
        loader(tmp_path)
    few = [molecule(np.random.default_rng(0), 3, f"m{i}") for i in range(4)]
    build_from_sets(few, tmp_path / "d", DataConfig(validation_fraction=0, test_fraction=0))
    with pytest.raises(ConfigError, match=r"raise data\.validation_fraction and rebuild"):
        loader(tmp_path / "d").validation_batches(4, 100)


def test_damage_surfaces_at_the_step_that_needs_the_block(tmp_path: Path) -> None:
    sets = [molecule(np.random.default_rng(0), 3, f"m{i}") for i in range(40)]
    build_from_sets(sets, tmp_path / "d", DataConfig(block_sets=10, validation_fraction=0, test_fraction=0))
    shard = tmp_path / "d/train-000000.tar"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    source = loader(tmp_path / "d", atom_budget=9, repeat={})
    with pytest.raises(DataError, match=r"train-000000\.tar: block 00000\d: expected sha256"):
        [source.step(s) for s in range(14)]


@pytest.mark.real_data
def test_cost_of_a_step_on_real_data(shared: Path, tmp_path: Path) -> None:
    """A step of 4,096 atoms is ready in under 3 ms (0.7 ms on one core of 2024)."""
    sources = [Source(shared / f"data/{name}.extxyz.gz", name) for name in ("qm9_sample", "qm7")]
    build(sources, tmp_path / "d", DataConfig())
    source = loader(tmp_path / "d", atom_budget=4096, micro_batch_atoms=4096, repeat={})
    source._maker.step(0)
    times_s = []
    for step in range(1, 40):
        start_s = time.thread_time()
        source._maker.step(step)
        times_s.append(time.thread_time() - start_s)
    assert np.median(times_s) < 3e-3

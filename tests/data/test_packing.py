"""Packing puts each atom where the layout says."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adit_scale.atoms import CRYSTAL, MOLECULE, AtomSet
from adit_scale.data.columns import SetColumns
from adit_scale.data.packing import pack, pack_sets


def test_packed_values(some_sets: list[AtomSet]) -> None:
    sets = [some_sets[i] for i in (0, 151, 3, 152)]
    batch = pack_sets(sets, ["mols", "xtals"])
    offsets = batch.layout.offsets.tolist()
    assert offsets == [0, *np.cumsum([len(s) for s in sets]).tolist()]
    assert batch.domain_s.tolist() == [MOLECULE, CRYSTAL, MOLECULE, CRYSTAL]
    assert batch.dataset_s.tolist() == [0, 1, 0, 1]
    assert batch.set_index_s.tolist() == [0, 1, 2, 3]
    assert batch.numbers_t.dtype == torch.int64
    for i, s in enumerate(sets):
        own = slice(offsets[i], offsets[i + 1])
        assert batch.numbers_t[own].tolist() == s.numbers.tolist()
        if s.periodic:
            np.testing.assert_allclose(batch.fractional_t3[own], s.fractional, atol=1e-6)
            np.testing.assert_allclose(batch.cells_s33[i], s.cell, atol=1e-6)
            np.testing.assert_allclose(batch.positions_t3[own], s.fractional @ s.cell, atol=2e-5)
            assert batch.spacegroup_s[i] == s.spacegroup
        else:
            np.testing.assert_allclose(batch.positions_t3[own], s.positions, atol=1e-6)
            assert not batch.fractional_t3[own].any()
            assert not batch.cells_s33[i].any()


def test_fixed_capacities_leave_the_real_part_alone(some_sets: list[AtomSet]) -> None:
    sets = some_sets[148:153]
    loose, fixed = pack_sets(sets), pack_sets(sets, None, capacity_atoms=200, capacity_sets=9)
    n_atoms = loose.layout.n_atoms
    assert (fixed.layout.n_atoms, fixed.layout.n_sets) == (200, 9)
    assert fixed.layout.real_t.tolist() == [True] * n_atoms + [False] * (200 - n_atoms)
    assert fixed.layout.real_s.tolist() == [True] * 5 + [False] * 4
    for name in ("numbers_t", "positions_t3", "fractional_t3"):
        assert torch.equal(getattr(fixed, name)[:n_atoms], getattr(loose, name))
        assert not getattr(fixed, name)[n_atoms:].any()
    assert torch.equal(fixed.cells_s33[:5], loose.cells_s33)
    assert fixed.domain_s[5:].tolist() == [MOLECULE] * 4


def test_empty_micro_batch_is_one_dummy_atom() -> None:
    nobody = np.zeros(0, dtype=np.int64)
    batch = pack(None, nobody, nobody, nobody)
    assert (batch.layout.n_atoms, batch.layout.n_sets) == (1, 1)
    assert not batch.layout.real_t.any()
    assert not batch.layout.real_s.any()
    assert torch.equal(batch.angles_s3, torch.zeros(1, 3))
    fixed = pack(None, nobody, nobody, nobody, capacity_atoms=16, capacity_sets=3)
    assert (fixed.layout.n_atoms, fixed.layout.n_sets) == (16, 3)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 239), min_size=1, max_size=30))
def test_taking_columns(some_sets: list[AtomSet], picks: list[int]) -> None:
    every = SetColumns.from_sets(some_sets, ["mols", "xtals"])
    taken = every.take(np.array(picks))
    direct = SetColumns.from_sets([some_sets[i] for i in picks], ["mols", "xtals"])
    for name in vars(direct):
        assert np.array_equal(getattr(taken, name), getattr(direct, name)), name

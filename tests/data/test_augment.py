"""Augmentation moves structures rigidly, one draw a visit, whatever else is in the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adit_scale.atoms import AtomSet, PackedBatch
from adit_scale.data.augment import augment, rotation_matrices
from adit_scale.data.columns import SetColumns
from adit_scale.data.packing import pack, pack_sets
from adit_scale.randomness import normal, set_keys


@pytest.fixture(scope="module")
def batch(some_sets: list[AtomSet]) -> PackedBatch:
    return pack_sets(some_sets[120:180])


def atoms_of(batch: PackedBatch, i: int) -> slice:
    return slice(int(batch.layout.offsets[i]), int(batch.layout.offsets[i + 1]))


def test_molecules_are_turned_rigidly(batch: PackedBatch) -> None:
    turned = augment(batch, seed=1)
    for i in np.flatnonzero(~batch.periodic_s).tolist():
        before, after = (b.positions_t3[atoms_of(batch, i)].double() for b in (batch, turned))
        torch.testing.assert_close(torch.cdist(after, after), torch.cdist(before, before), atol=3e-6, rtol=0)
        torch.testing.assert_close(after.mean(0).norm(), before.mean(0).norm(), atol=1e-6, rtol=0)
        assert (after - before).abs().max() > 0.1
        corner, corner_after = (p[1:4] - p[0] for p in (before, after))
        if len(corner) == 3:  # no mirror image
            torch.testing.assert_close(
                torch.linalg.det(corner_after), torch.linalg.det(corner), atol=1e-4, rtol=0
            )


def test_crystals_are_turned_and_shifted_in_their_cell(batch: PackedBatch) -> None:
    moved = augment(batch, seed=1)
    torch.testing.assert_close(moved.lengths_s3, batch.lengths_s3, atol=2e-6, rtol=0)
    torch.testing.assert_close(moved.angles_s3, batch.angles_s3, atol=2e-6, rtol=0)
    shifts = []
    for i in np.flatnonzero(batch.periodic_s).tolist():
        own = atoms_of(batch, i)
        fractional, cell = moved.fractional_t3[own], moved.cells_s33[i]
        assert fractional.min() >= 0
        assert fractional.max() < 1
        torch.testing.assert_close(fractional @ cell, moved.positions_t3[own], atol=5e-6, rtol=0)
        difference = fractional - batch.fractional_t3[own]
        shift = difference[0]
        off = difference - shift
        torch.testing.assert_close(off - off.round(), torch.zeros_like(off), atol=1e-6, rtol=0)
        shifts.append(shift)
        assert torch.linalg.det(cell) > 0
    assert torch.stack(shifts).std(dim=0).min() > 0.1  # a draw a set, not one a batch


def test_draws_depend_on_the_visit_alone(some_sets: list[AtomSet]) -> None:
    sets = some_sets[130:170]
    columns = SetColumns.from_sets(sets, ["mols", "xtals"])
    who = np.arange(100, 140)
    visits = np.zeros(40, dtype=np.int64)
    together = augment(pack(columns, who, visits + 2, visits), seed=3)
    for picks in (np.arange(40)[::-1].copy(), np.array([7]), np.array([3, 31, 12])):
        part = columns.take(picks)
        capacity = int(part.sizes_s.sum()) + 13
        own = augment(
            pack(part, who[picks], visits[picks] + 2, visits[picks], capacity, len(picks) + 1), seed=3
        )
        for place, i in enumerate(picks.tolist()):
            for name in ("positions_t3", "fractional_t3"):
                a = getattr(own, name)[atoms_of(own, place)]
                b = getattr(together, name)[atoms_of(together, i)]
                assert torch.equal(a, b), name
            assert torch.equal(own.cells_s33[place], together.cells_s33[i])


@pytest.mark.parametrize("change", ["seed", "epoch_s", "repetition_s", "set_index_s"])
def test_each_visit_has_its_own_draw(batch: PackedBatch, change: str) -> None:
    base = augment(batch, seed=1)
    if change == "seed":
        other = augment(batch, seed=2)
    else:
        other = augment(batch.replace(**{change: getattr(batch, change) + 100}), seed=1)
    moved = (other.positions_t3 - base.positions_t3).norm(dim=1)
    assert (moved > 1e-3).float().mean() > 0.98


def test_rotations_are_uniform() -> None:
    n = 20_000
    zeros = torch.zeros(n, dtype=torch.int64)
    matrices = rotation_matrices(normal(set_keys(0, "rotation", zeros, zeros, torch.arange(n)), 4))
    identity = torch.eye(3, dtype=torch.float64).expand(n, 3, 3)
    torch.testing.assert_close(matrices @ matrices.transpose(1, 2), identity, atol=1e-12, rtol=0)
    torch.testing.assert_close(torch.linalg.det(matrices), torch.ones(n, dtype=torch.float64))
    # each entry is the cosine of a uniform direction: mean 0, variance 1/3; the trace has mean 0, variance 1
    assert matrices.mean(0).abs().max() < 4 / (3 * n) ** 0.5
    assert (matrices.square().mean(0) - 1 / 3).abs().max() < 4 * (4 / 45 / n) ** 0.5
    trace = matrices.diagonal(dim1=1, dim2=2).sum(1)
    assert abs(float(trace.mean())) < 4 / n**0.5
    assert float(trace.var()) == pytest.approx(1, abs=0.05)


def test_dummy_atoms_stay_where_they_are() -> None:
    nobody = np.zeros(0, dtype=np.int64)
    empty = pack(None, nobody, nobody, nobody, capacity_atoms=8, capacity_sets=2)
    moved = augment(empty, seed=0)
    assert torch.equal(moved.positions_t3, torch.zeros(8, 3))
    assert torch.isfinite(moved.cells_s33).all()

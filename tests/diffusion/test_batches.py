"""Which samples are drawn together: each once, within capacity, whatever the number of ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adit_scale.atoms import CRYSTAL, MOLECULE, PackedLayout
from adit_scale.diffusion.batches import TAIL_ATOMS, filled_up_to, plan_batches
from adit_scale.diffusion.config import SamplingConfig
from adit_scale.errors import ConfigError

SIZES = st.lists(st.integers(1, 60), max_size=80).map(np.array)


@given(SIZES, SIZES, st.integers(1, 200), st.integers(0, 12), st.booleans(), st.integers(1, 4))
def test_each_sample_once_within_capacity(crystals, molecules, atoms, sets, pad, world_size):
    config = SamplingConfig(batch_atoms=atoms, batch_sets=sets, pad_batches=pad)
    sizes = {CRYSTAL: crystals, MOLECULE: molecules}
    plans = plan_batches(sizes, config)
    assert [plan.number for plan in plans] == list(range(len(plans)))
    for domain, of in sizes.items():
        places = [plan.places for plan in plans if plan.domain == domain]
        assert sorted(np.concatenate(places) if places else []) == list(range(len(of)))
    for plan in plans:
        assert (plan.sizes == sizes[plan.domain][plan.places]).all()
        assert plan.n_atoms <= atoms or len(plan.places) == 1
        assert len(plan.places) <= (sets or atoms)
        layout = plan.padded_layout()
        if pad:  # all alike, but for a sample that is larger than a batch
            capacity = filled_up_to(int(sizes[plan.domain].sum()), atoms)
            assert layout.n_atoms == max(capacity, plan.n_atoms)
            most = min(capacity, sets or capacity)
            assert plan.n_atoms > atoms or layout.n_sets == most + -(-capacity // TAIL_ATOMS)
        else:
            assert layout.n_atoms == plan.n_atoms
        assert layout.max_atoms <= max(TAIL_ATOMS, plan.sizes.max())
        assert int(layout.real_t.sum()) == plan.n_atoms
        assert int(layout.real_s.sum()) == len(plan.places)
    dealt = sorted(plan.number for rank in range(world_size) for plan in plans[rank::world_size])
    assert dealt == [plan.number for plan in plans]


def test_labels_go_with_their_samples():
    sizes = {CRYSTAL: np.array([9, 2, 5]), MOLECULE: np.array([3])}
    plans = plan_batches(sizes, SamplingConfig(batch_atoms=11), {CRYSTAL: np.array([7, 225, 1])})
    assert [plan.places.tolist() for plan in plans] == [[1, 2], [0], [0]]
    assert [None if p.spacegroups is None else p.spacegroups.tolist() for p in plans] == [[225, 1], [7], None]


@pytest.mark.parametrize(
    ("n_atoms", "capacity"), [(1, 256), (256, 256), (257, 512), (2048, 2048), (2049, 4096), (10**6, 4096)]
)
def test_few_samples_cost_no_more_than_twice_their_atoms(n_atoms: int, capacity: int):
    assert filled_up_to(n_atoms, 4096) == capacity
    assert filled_up_to(n_atoms, 100) == 100


def test_a_hundred_thousand_samples_take_no_time():
    sizes = np.random.default_rng(0).integers(1, 30, 100_000)
    plans = plan_batches({MOLECULE: sizes}, SamplingConfig(batch_atoms=1024))
    full = [plan.n_atoms for plan in plans[:-1]]
    assert min(full) > 1024 - 30


def test_no_atoms_are_refused():
    with pytest.raises(ConfigError, match="a sample of 0 atoms is asked for; expected at least 1"):
        plan_batches({CRYSTAL: np.array([3, 0])}, SamplingConfig(batch_atoms=64))


def test_a_tail_of_small_sets():
    layout = PackedLayout.from_sizes((5, 3), capacity_atoms=29, capacity_sets=8, tail_atoms=8)
    assert layout.sizes_s.tolist() == [5, 3, 8, 8, 5, 0, 0, 0]
    assert layout.real_s.tolist() == [True, True] + [False] * 6
    assert layout.groups_s2[:4].tolist() == [[5, 1], [3, 1], [8, 2], [5, 1]]
    assert layout.max_atoms == 8
    full = PackedLayout.from_sizes((5, 3), capacity_atoms=8, capacity_sets=3, tail_atoms=8)
    assert full.sizes_s.tolist() == [5, 3, 0]
    whole = PackedLayout.from_sizes((5, 3), capacity_atoms=29, capacity_sets=8)
    assert torch.equal(whole.sizes_s, torch.tensor([5, 3, 21, 0, 0, 0, 0, 0]))

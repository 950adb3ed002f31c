"""Dealing keeps every set and every capacity, levels loads, and keeps ranks to few blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adit_scale.data.dealing import Dealing, deal, micro_batches
from adit_scale.errors import ConfigError

size_lists = st.lists(st.integers(1, 60), min_size=0, max_size=400).map(np.array)


def qm9_like(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.clip(np.rint(rng.normal(18, 3, n)), 3, 29).astype(np.int64)


def drugs_like(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.clip(np.rint(rng.normal(44.4, 11, n)), 10, 181).astype(np.int64)


def dealt(dealing: Dealing) -> list[np.ndarray]:
    return [own for rank in range(dealing.world_size) for own in dealing.of_rank(rank)]


@settings(max_examples=200, deadline=None)
@given(
    size_lists,
    st.integers(1, 16),
    st.integers(60, 700),
    st.none() | st.integers(1, 40),
    st.integers(1, 3),
    st.booleans(),
)
def test_every_set_is_dealt_once_and_fits(
    sizes: np.ndarray,
    world_size: int,
    capacity: int,
    capacity_sets: int | None,
    n_rounds: int,
    with_home: bool,
) -> None:
    home = np.random.default_rng(0).integers(0, 20, len(sizes)) if with_home else None
    dealing = deal(sizes, world_size, capacity, capacity_sets, home, n_rounds)
    bins = dealt(dealing)
    assert len(bins) == world_size * dealing.n_rounds
    assert sorted(np.concatenate(bins).tolist()) == list(range(len(sizes)))
    assert dealing.loads.ravel().tolist() == [sizes[own].sum() for own in bins]
    for own in bins:
        assert sizes[own].sum() <= capacity
        assert capacity_sets is None or len(own) <= capacity_sets
        assert own.tolist() == sorted(own.tolist(), key=lambda i: (sizes[i], i))
    assert dealing.n_rounds >= max(n_rounds, -(-int(sizes.sum()) // (capacity * world_size)))
    again = deal(sizes, world_size, capacity, capacity_sets, home, n_rounds)
    assert np.array_equal(again.order, dealing.order)


@pytest.mark.parametrize("draw", [qm9_like, drugs_like])
@pytest.mark.parametrize(("world_size", "n_rounds"), [(2, 1), (8, 1), (64, 1), (1, 4), (8, 4)])
@pytest.mark.parametrize("capacity", [1024, 4096])
def test_loads_come_out_level(draw, world_size: int, n_rounds: int, capacity: int) -> None:
    """The budget of the rule fits into as few rounds as it says, and nearly fills them."""
    rng = np.random.default_rng(0)
    budget = world_size * n_rounds * (capacity - 4)
    assert micro_batches(budget, world_size, capacity, 44.4, 181) == (n_rounds, capacity)
    filled = []
    for _ in range(12):
        sizes = draw(rng, budget // 10)
        sizes = sizes[np.cumsum(sizes) <= budget]
        dealing = deal(sizes, world_size, capacity, home=rng.integers(0, 1000, len(sizes)), n_rounds=n_rounds)
        assert dealing.n_rounds == n_rounds
        assert dealing.loads.max() - dealing.loads.mean() <= 6
        filled.append(dealing.loads.sum() / (world_size * n_rounds * capacity))
    assert np.mean(filled) > 0.98


def test_ranks_keep_to_neighbouring_blocks() -> None:
    """Of 40 blocks with 100 sets each, 8 ranks meet the 5 of their share each, and one or two more."""
    rng = np.random.default_rng(1)
    block = rng.permutation(np.repeat(np.arange(40), 100))
    sizes = qm9_like(rng, len(block))
    dealing = deal(sizes, 8, 16384, home=block * 1000)
    met = [np.unique(block[np.concatenate(dealing.of_rank(rank))]) for rank in range(8)]
    assert max(map(len, met)) <= 7
    assert all(blocks[-1] - blocks[0] < 8 for blocks in met)


def test_few_sets_to_a_micro_batch() -> None:
    """7 sets each: whole stretches of micro-batches share their sets, and level to less than two."""
    rng = np.random.default_rng(2)
    sizes = rng.integers(100, 200, 7 * 32)
    dealing = deal(sizes, 16, 1300, n_rounds=2)
    counts = np.diff(dealing.bounds)
    assert dealing.n_rounds == 2
    assert counts.max() - counts.min() <= 2
    assert dealing.loads.max() - dealing.loads.min() < 200


def test_a_spare_round_where_sets_do_not_fit() -> None:
    assert deal(np.full(3, 60), 1, 100).n_rounds == 3  # 180 atoms would fill two
    assert deal(np.full(10, 3), 1, 100, capacity_sets=4).n_rounds == 3


def test_dealing_a_million_sets_to_a_thousand_ranks() -> None:
    rng = np.random.default_rng(3)
    sizes = qm9_like(rng, 1_000_000)
    dealing = deal(sizes, 1024, 18000, home=rng.integers(0, 1 << 24, len(sizes)))
    assert dealing.n_rounds == 1
    assert dealing.loads.max() - dealing.loads.min() <= 8
    assert np.array_equal(np.sort(dealing.order), np.arange(len(sizes)))


def test_too_large_a_set_is_named() -> None:
    with pytest.raises(ConfigError, match=r"a set has 70 atoms .* raise parallel\.micro_batch_atoms"):
        deal(np.array([3, 70]), 2, 64)


def test_nothing_to_deal() -> None:
    assert [own.tolist() for own in dealt(deal(np.array([], int), 3, 10))] == [[], [], []]


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 10**6),
    st.integers(1, 1024),
    st.integers(200, 20000),
    st.floats(1, 60),
    st.integers(60, 200),
)
def test_rule_of_rounds_and_capacity(
    budget: int, world_size: int, limit: int, mean: float, largest: int
) -> None:
    n_rounds, capacity = micro_batches(budget, world_size, limit, mean, largest)
    assert largest <= capacity <= limit
    assert n_rounds * world_size * capacity >= min(budget, largest)
    fewest = -(-budget // (world_size * limit))
    assert fewest <= n_rounds <= max(fewest + 1, int(1.5 * fewest) + 1)
    assert capacity % 8 == 0 or capacity == limit

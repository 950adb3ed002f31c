"""The order of a run: exact counts, exact budgets, and nothing that depends on how it is asked for."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adit_scale.data.manifest import SplitIndex
from adit_scale.data.plan import SamplePlan
from adit_scale.errors import ConfigError

NAMES = ["a", "b", "c"]


def make_index(rng: np.random.Generator, n_sets: int, block_sets: int = 7) -> SplitIndex:
    block_of_set = np.arange(n_sets) // block_sets
    return SplitIndex(
        name="train",
        sizes=rng.integers(1, 40, n_sets),
        dataset=rng.integers(0, len(NAMES), n_sets),
        domain=np.ones(n_sets, dtype=np.int64),
        block_of_set=block_of_set,
        block_bytes=rng.integers(1000, 2000, int(block_of_set.max()) + 1),
        blocks=(),
    )


def make_plan(index: SplitIndex, **changes) -> SamplePlan:
    settings_ = {"fingerprint": "f", "seed": 0, "atom_budget": 200, "window_bytes": 4000} | changes
    return SamplePlan(index, NAMES, **settings_)


indices = st.builds(
    lambda seed, n: make_index(np.random.default_rng(seed), n), st.integers(0, 999), st.integers(1, 80)
)
rates = st.sampled_from([0.0, 0.1, 0.2, 1 / 3, 0.5, 1.0, 1.5, 2.0, 2.7])
repeats = st.fixed_dictionaries(dict.fromkeys(NAMES, rates))


@settings(max_examples=60, deadline=None)
@given(indices, repeats, st.integers(0, 5))
def test_repeat_is_exact_in_every_epoch_and_over_epochs(
    index: SplitIndex, repeat: dict[str, float], first_epoch: int
) -> None:
    rate_s = [Fraction(repeat[NAMES[d]]).limit_denominator(10**6) for d in index.dataset]
    if not any(rate_s):
        with pytest.raises(ConfigError, match="no set of split 'train' is ever visited"):
            make_plan(index, repeat=repeat)
        return
    plan = make_plan(index, repeat=repeat)
    n_epochs = 30  # r * 30 is whole for each rate above
    total: Counter[int] = Counter()
    for epoch in range(first_epoch, first_epoch + n_epochs):
        order = plan.epoch(epoch)
        visits = Counter(order.set_index.tolist())
        total.update(visits)
        for i, rate in enumerate(rate_s):
            assert visits[i] in (rate.__floor__(), rate.__ceil__())
        pairs = list(zip(order.set_index.tolist(), order.repetition.tolist(), strict=True))
        assert set(pairs) == {(i, r) for i, n in visits.items() for r in range(n)}
        assert len(set(pairs)) == len(pairs)
    assert [total[i] for i in range(len(index))] == [int(rate * n_epochs) for rate in rate_s]


@settings(max_examples=60, deadline=None)
@given(
    indices,
    st.fixed_dictionaries(dict.fromkeys(NAMES, rates.filter(bool))),
    st.integers(1, 2500),
    st.integers(1, 12),
)
def test_steps_cut_the_order_of_the_epochs_without_loss(
    index: SplitIndex, repeat: dict[str, float], atom_budget: int, n_steps: int
) -> None:
    plan = make_plan(index, repeat=repeat, atom_budget=atom_budget)
    steps = [plan.step(s) for s in range(n_steps + 1)]
    visits = [
        (e, i, r)
        for step in steps
        for e, i, r in zip(step.epoch, step.set_index, step.repetition, strict=True)
    ]
    expected: list[tuple[int, int, int]] = []
    epoch = 0
    while len(expected) < len(visits):
        order = plan.epoch(epoch)
        expected += [(epoch, i, r) for i, r in zip(order.set_index, order.repetition, strict=True)]
        epoch += 1
    assert visits == expected[: len(visits)]
    for step, following in pairwise(steps):
        n_atoms = index.sizes[step.set_index].sum()
        assert len(step.set_index) >= 1
        assert n_atoms <= atom_budget or len(step.set_index) == 1
        assert n_atoms + index.sizes[following.set_index[0]] > atom_budget


def test_a_step_may_hold_several_epochs() -> None:
    index = make_index(np.random.default_rng(0), 10)
    plan = make_plan(index, atom_budget=int(index.sizes.sum()) * 3)
    for s in range(3):
        step = plan.step(s)
        assert Counter(step.epoch.tolist()) == {3 * s: 10, 3 * s + 1: 10, 3 * s + 2: 10}
        assert all(n == 3 for n in Counter(step.set_index.tolist()).values())


def test_any_step_in_any_order() -> None:
    index = make_index(np.random.default_rng(1), 300)
    forward = make_plan(index, repeat={"b": 1.5})
    steps = [forward.step(s) for s in range(80)]
    backward = make_plan(index, repeat={"b": 1.5})
    for s in [79, 3, 40, 0, 41, 78]:
        for name in ("set_index", "epoch", "repetition"):
            assert np.array_equal(getattr(backward.step(s), name), getattr(steps[s], name))


def test_order_follows_from_fingerprint_seed_and_epoch() -> None:
    index = make_index(np.random.default_rng(2), 200)
    base = make_plan(index).epoch(3).set_index
    assert np.array_equal(base, make_plan(index, atom_budget=7).epoch(3).set_index)
    others = [
        make_plan(index, seed=1).epoch(3).set_index,
        make_plan(index, fingerprint="g").epoch(3).set_index,
        make_plan(index).epoch(4).set_index,
    ]
    for other in others:
        assert sorted(other) == sorted(base)
        assert (other == base).mean() < 0.1


def test_order_is_the_one_it_always_was() -> None:
    """Frozen: another order would change what an interrupted run goes on with."""
    index = make_index(np.random.default_rng(5), 12, block_sets=3)
    plan = make_plan(index, window_bytes=1 << 20)
    assert plan.epoch(0).set_index.tolist() == [6, 3, 5, 7, 2, 9, 10, 0, 8, 1, 4, 11]


def test_windows_bound_the_blocks_in_use() -> None:
    index = make_index(np.random.default_rng(3), 700)
    window_bytes = 6000
    order = make_plan(index, window_bytes=window_bytes).epoch(0)
    blocks = index.block_of_set[order.set_index]
    first = np.array([np.flatnonzero(blocks == b)[0] for b in range(len(index.block_bytes))])
    last = np.array([np.flatnonzero(blocks == b)[-1] for b in range(len(index.block_bytes))])
    most = max(
        index.block_bytes[(first <= place) & (last >= place)].sum() for place in range(0, len(blocks), 5)
    )
    assert 3000 < most < window_bytes + index.block_bytes.max()
    changes = (np.diff(blocks) != 0).mean()
    assert changes > 0.6  # mixed inside a window, not block after block


def test_mixture_is_even_along_an_epoch() -> None:
    index = make_index(np.random.default_rng(4), 4000, block_sets=50)
    plan = make_plan(index, repeat={"a": 3.0}, window_bytes=8000)
    dataset = index.dataset[plan.epoch(0).set_index]
    shares = [(part == 0).mean() for part in np.array_split(dataset, 10)]
    assert min(shares) > 0.5  # 3/5 on the whole
    assert max(shares) < 0.7


def test_bad_settings() -> None:
    index = make_index(np.random.default_rng(0), 10)
    with pytest.raises(ConfigError, match=r"data\.repeat\.d: no such data set; expected one of a, b, c"):
        make_plan(index, repeat={"d": 2.0})
    with pytest.raises(ConfigError, match="atom_budget is 0"):
        make_plan(index, atom_budget=0)

"""Which set, when: the order of an epoch and its cutting into steps, as pure functions.

The order of epoch e follows from (fingerprint, seed, e): blocks are permuted, neighbouring blocks form
windows bounded in bytes, and the visits to the sets of a window are mixed. A step takes the next visits
until the atom budget would be passed, running on across epochs, so what a step holds depends on neither
packing, micro-batch size nor world size, and the state of a run is one integer.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch

from adit_scale.data.columns import cumulative
from adit_scale.data.manifest import SplitIndex
from adit_scale.errors import ConfigError
from adit_scale.randomness import set_keys

WINDOW_BYTES = 32 << 20
_KEPT_EPOCHS = 2  # a step may span the end of one and the start of the next


@dataclass(frozen=True)
class StepPlan:
    """The visits of one step, in order: ``(n,)`` int64 each.

    repetition counts the visits to a set within an epoch, from 0.
    """

    set_index: np.ndarray
    epoch: np.ndarray
    repetition: np.ndarray


@dataclass(frozen=True)
class EpochOrder:
    """All visits of one epoch, ``(n,)`` int64 each. ends: atoms up to and with each visit."""

    set_index: np.ndarray
    repetition: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.set_index)


class SamplePlan:
    """The order of a whole run, open at any step.

    repeat: visits an epoch by data set name; 1 where a name is missing. A set is visited floor(r) or
        ceil(r) times an epoch, and exactly r·k times in any k epochs in a row where r·k is whole.
    window_bytes: how many bytes of shards are mixed at once; a window may pass it by less than a block.

    Finding step s the first time walks the steps before it (about a microsecond each, and the sorting of
    their epochs); a plan remembers where steps begin.
    """

    def __init__(
        self,
        index: SplitIndex,
        datasets: list[str],
        *,
        fingerprint: str,
        seed: int,
        atom_budget: int,
        repeat: dict[str, float] | None = None,
        window_bytes: int = WINDOW_BYTES,
    ) -> None:
        if atom_budget < 1:
            raise ConfigError(f"atom_budget is {atom_budget}; expected at least 1 atom a step")
        self._index = index
        self._seed = seed
        self._budget = atom_budget
        self._window_bytes = window_bytes
        self._purpose = f"order/{fingerprint}/{index.name}"
        self._numerator_s, self._denominator_s = _visit_rates(index, datasets, repeat or {})
        self._phase_s = self._phases()
        self._orders: OrderedDict[int, EpochOrder] = OrderedDict()
        self._starts: list[tuple[int, int]] = [(0, 0)]  # (epoch, place in it) at which each step begins

    def step(self, step: int) -> StepPlan:
        """The visits of a step, counted from 0."""
        assert step >= 0, f"step {step}"
        while len(self._starts) < step + 2:
            self._starts.append(self._end_of_step(*self._starts[-1]))
        (epoch, place), (last_epoch, last_place) = self._starts[step : step + 2]
        sets, epochs, repetitions = [], [], []
        for e in range(epoch, last_epoch + 1):
            order = self.epoch(e)
            span = slice(place if e == epoch else 0, last_place if e == last_epoch else len(order))
            sets.append(order.set_index[span])
            repetitions.append(order.repetition[span])
            epochs.append(np.full(len(sets[-1]), e, dtype=np.int64))
        return StepPlan(np.concatenate(sets), np.concatenate(epochs), np.concatenate(repetitions))

    def epoch(self, epoch: int) -> EpochOrder:
        """The visits of an epoch, counted from 0, in order."""
        if epoch not in self._orders:
            self._orders[epoch] = self._order(epoch)
            if len(self._orders) > _KEPT_EPOCHS:
                self._orders.popitem(last=False)
        self._orders.move_to_end(epoch)
        return self._orders[epoch]

    def _end_of_step(self, epoch: int, place: int) -> tuple[int, int]:
        """Where the step that begins here ends: as many visits as the budget holds, but at least one."""
        left = self._budget
        taken = 0
        while True:
            order = self.epoch(epoch)
            before = int(order.ends[place - 1]) if place else 0
            stop = int(np.searchsorted(order.ends, before + left, side="right"))
            if stop == place and taken == 0 and place < len(order):
                stop = place + 1  # a set larger than the budget is a step of its own
            taken += stop - place
            if stop < len(order):
                return epoch, stop
            left -= (int(order.ends[-1]) if len(order) else 0) - before
            epoch, place = epoch + 1, 0
            if left <= 0:
                return epoch, place

    def _order(self, epoch: int) -> EpochOrder:
        n_visits_s = (self._numerator_s * (epoch + 1) + self._phase_s) // self._denominator_s - (
            self._numerator_s * epoch + self._phase_s
        ) // self._denominator_s
        set_index = np.repeat(np.arange(len(n_visits_s)), n_visits_s)
        firsts = cumulative(n_visits_s)[:-1]
        repetition = np.arange(len(set_index)) - np.repeat(firsts, n_visits_s)
        window = self._windows(epoch)[self._index.block_of_set[set_index]]
        keys = self._keys("visit", epoch, repetition, set_index)
        order = np.lexsort((keys, window))
        sizes = self._index.sizes[set_index[order]]
        return EpochOrder(set_index[order], repetition[order], np.cumsum(sizes, dtype=np.int64))

    def _windows(self, epoch: int) -> np.ndarray:
        """The window of each block in this epoch: blocks permuted, then cut by bytes."""
        n_blocks = len(self._index.block_bytes)
        block = np.arange(n_blocks)
        order = np.argsort(self._keys("block", epoch, np.zeros_like(block), block), kind="stable")
        window = np.empty(n_blocks, dtype=np.int64)
        window[order] = cumulative(self._index.block_bytes[order])[:-1] // self._window_bytes
        return window

    def _phases(self) -> np.ndarray:
        """Where in its cycle of epochs each set begins. Within a data set the phases are spread evenly in
        random order, so that every epoch holds about r visits a set."""
        phase_s = np.zeros_like(self._numerator_s)
        every = np.arange(len(phase_s))
        keys = self._keys("phase", 0, np.zeros_like(every), every)
        for dataset in np.unique(self._index.dataset):
            own = np.flatnonzero(self._index.dataset == dataset)
            rank = np.empty(len(own), dtype=np.int64)
            rank[np.argsort(keys[own], kind="stable")] = np.arange(len(own))
            phase_s[own] = rank * self._denominator_s[own] // len(own)
        return phase_s

    def _keys(self, purpose: str, epoch: int, repetition: np.ndarray, index: np.ndarray) -> np.ndarray:
        index_s = torch.from_numpy(np.ascontiguousarray(index, dtype=np.int64))
        epoch_s = torch.full_like(index_s, epoch)
        repetition_s = torch.from_numpy(np.ascontiguousarray(repetition, dtype=np.int64))
        return set_keys(self._seed, f"{self._purpose}/{purpose}", epoch_s, repetition_s, index_s).numpy()


def _visit_rates(
    index: SplitIndex, datasets: list[str], repeat: dict[str, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Visits an epoch of each set as exact fractions: numerators and denominators, ``(n,)`` int64."""
    unknown = sorted(set(repeat) - set(datasets))
    if unknown:
        raise ConfigError(
            f"data.repeat.{unknown[0]}: no such data set; expected one of {', '.join(datasets)}"
        )
    rates = [Fraction(repeat.get(name, 1.0)).limit_denominator(10**6) for name in datasets]
    numerator = np.array([rate.numerator for rate in rates], dtype=np.int64)[index.dataset]
    denominator = np.array([rate.denominator for rate in rates], dtype=np.int64)[index.dataset]
    if not (numerator > 0).any():
        raise ConfigError(f"no set of split {index.name!r} is ever visited; raise data.repeat or add data")
    return numerator, denominator

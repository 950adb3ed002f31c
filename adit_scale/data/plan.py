"""Which set, when: the cutting of the order of visits into steps, as a pure function.

A step takes the next visits until one more would pass the atom budget, running on across windows and epochs;
a set larger than the budget is a step of its own. So what a step holds depends on neither packing,
micro-batch size nor world size, and the state of a run is one integer. Where a step begins is found by
walking from the nearest start that is known; a cursor, saved with a checkpoint, is such a start.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from adit_scale.data.manifest import SplitIndex
from adit_scale.data.order import WINDOW_BYTES, VisitOrder, Window
from adit_scale.errors import ConfigError

__all__ = ["WINDOW_BYTES", "SamplePlan", "StepPlan"]

_MARK_EVERY = 1024  # steps between the starts that are always remembered
_RECENT = 64  # starts remembered beside them


@dataclass(frozen=True)
class StepPlan:
    """The visits of one step, in order: ``(n,)`` int64 each.

    repetition counts the visits to a set within an epoch, from 0. sizes: atoms. home: where in its window the
    block of the set lies, in [0, 2^24); the same for all visits of a window to a block, for dealing that
    keeps to blocks.
    """

    set_index: np.ndarray
    epoch: np.ndarray
    repetition: np.ndarray
    sizes: np.ndarray
    home: np.ndarray


class Place(NamedTuple):
    """A place in the order: the visit ``offset`` of a window of an epoch, all counted from 0."""

    epoch: int
    window: int
    offset: int


class SamplePlan:
    """The order of a whole run, open at any step; see VisitOrder for ``repeat`` and ``window_bytes``.

    Holds two windows of the order in memory. Finding a step walks from the nearest known start before it: all
    visits between are sorted, about 20 ns each. Raises ConfigError for settings that leave nothing to visit.

    domain, domain_match: see DataConfig; a code of DOMAINS. Under ``samples`` a step may be empty.
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
        domain: int = 0,
        domain_match: str = "flops",
    ) -> None:
        if atom_budget < 1:
            raise ConfigError(f"atom_budget is {atom_budget}; expected at least 1 atom a step")
        self.order = VisitOrder(
            index,
            datasets,
            fingerprint=fingerprint,
            seed=seed,
            repeat=repeat or {},
            window_bytes=window_bytes,
            domain=domain,
            domain_match=domain_match,
        )
        self._budget = atom_budget
        identity = f"{self.order.identity}/{seed}/{atom_budget}"
        self._identity = int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=6).digest(), "big")
        self._marks: dict[int, Place] = {0: Place(0, 0, 0)}
        self._marked: list[int] = [0]  # the keys of _marks in order
        self._recent: deque[tuple[int, Place]] = deque(maxlen=_RECENT)

    def step(self, step: int) -> StepPlan:
        """The visits of a step, counted from 0."""
        place = self._start(step)
        pieces: list[tuple[int, Window, slice]] = []
        for at, window, stop in self._spans(place):
            pieces.append((at.epoch, window, slice(at.offset, stop)))
            place = Place(at.epoch, at.window, stop)
        self._remember(step + 1, self._normal(place))
        columns = (  # as StepPlan has them
            np.concatenate([w.set_index_v[span] for _, w, span in pieces]),
            np.concatenate([np.full(span.stop - span.start, e, dtype=np.int64) for e, _, span in pieces]),
            np.concatenate([w.repetition_v[span] for _, w, span in pieces]),
            np.concatenate([w.sizes_v[span] for _, w, span in pieces]).astype(np.int64),
            np.concatenate([w.home_b[w.block_v[span]] for _, w, span in pieces]),
        )
        own = [w.own_v[span] for _, w, span in pieces if w.own_v is not None]
        return StepPlan(*([column[np.concatenate(own)] for column in columns] if own else columns))

    def cursor(self, step: int) -> dict[str, int]:
        """Where a step begins, for ``seek`` on a plan of the same data and settings."""
        return {"plan": self._identity, **self._start(step)._asdict()}

    def seek(self, step: int, cursor: dict[str, int]) -> None:
        """Remember where a step begins. A cursor of another plan is passed over: the step is walked to."""
        if cursor.get("plan") == self._identity:
            self._mark(step, Place(cursor["epoch"], cursor["window"], cursor["offset"]))

    def _start(self, step: int) -> Place:
        assert step >= 0, f"step {step}"
        marked = self._marked[bisect_right(self._marked, step) - 1]
        found, place = max(
            [(marked, self._marks[marked]), *(known for known in self._recent if known[0] <= step)],
            key=lambda known: known[0],
        )
        while found < step:
            for at, _, stop in self._spans(place):
                place = Place(at.epoch, at.window, stop)
            found, place = found + 1, self._normal(place)
            self._remember(found, place)
        return place

    def _spans(self, place: Place) -> Iterator[tuple[Place, Window, int]]:
        """The parts of windows that a step beginning here takes: where each begins, its window, its end."""
        left, taken = self._budget, 0
        while True:
            window = self.order.window(place.epoch, place.window)
            before = int(window.ends_v[place.offset - 1]) if place.offset else 0
            stop = int(np.searchsorted(window.ends_v, before + left, side="right"))
            if stop == place.offset < len(window) and not taken:
                stop += 1  # a set larger than the budget is a step of its own
            taken += stop - place.offset
            if stop > place.offset:
                yield place, window, stop
                left -= int(window.ends_v[stop - 1]) - before
            if stop < len(window) or left <= 0:
                return
            place = self._next_window(place)

    def _normal(self, place: Place) -> Place:
        """The same place, never at the end of a window."""
        at_end = place.offset == len(self.order.window(place.epoch, place.window))
        return self._next_window(place) if at_end else place

    def _next_window(self, place: Place) -> Place:
        if place.window + 1 < self.order.epoch(place.epoch).n_windows:
            return Place(place.epoch, place.window + 1, 0)
        return Place(place.epoch + 1, 0, 0)

    def _remember(self, step: int, place: Place) -> None:
        if step % _MARK_EVERY == 0:
            self._mark(step, place)
        if not any(known == step for known, _ in self._recent):
            self._recent.append((step, place))

    def _mark(self, step: int, place: Place) -> None:
        if step not in self._marks:
            insort(self._marked, step)
        self._marks[step] = place

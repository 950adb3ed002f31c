"""Which crystals belong together: connected components of the matches between them.

Matching is not transitive, so the answer to "how many are there" must not hang on the order of asking: a
group is a connected component. Two crystals that are already in one group are not compared any more; pairs
of most alike neighbourhoods are compared first, so that copies find each other at once.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from adit_scale.evaluation.crystals.matching import Crystal, Tolerances, matches
from adit_scale.evaluation.crystals.reduction import ReducedCell
from adit_scale.evaluation.limited import Overrun, map_limited

_PAIRS_A_TASK = 200
_SMALL = 2 * _PAIRS_A_TASK
_NO, _YES, _JOINED, _LEFT = 0, 1, 2, 3  # of a pair: compared, or joined by other pairs, or out of time


class Components:
    """Disjoint sets of ``n`` nodes; the root of a set is its smallest member."""

    def __init__(self, n: int) -> None:
        self._parent = list(range(n))

    def __len__(self) -> int:
        return len(self._parent)

    def root(self, i: int) -> int:
        parent = self._parent
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    def join(self, i: int, j: int) -> None:
        low, high = sorted((self.root(i), self.root(j)))
        self._parent[high] = low

    def roots(self) -> list[int]:
        return [self.root(i) for i in range(len(self._parent))]


@dataclass(frozen=True)
class Pairs:
    """Pairs to compare: places in a list of cells, and how unlike their neighbourhoods are; ``(k,)`` each."""

    first: np.ndarray
    second: np.ndarray
    unlike: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def take(self, index: np.ndarray) -> Pairs:
        return Pairs(self.first[index], self.second[index], self.unlike[index])


@dataclass(frozen=True)
class _Task:
    """cells: those the pairs name. groups: the node of each, as it stands. pairs: ``(k, 2)``."""

    cells: list[ReducedCell]
    groups: list[int]
    pairs: np.ndarray
    budget_s: float


class Matcher:
    """Joins the nodes of matching cells, in processes that may be killed.

    limit_s: of one comparison; one that takes longer counts as no match, and is counted in ``n_cut``.
    """

    def __init__(self, tolerances: Tolerances, limit_s: float, processes: int) -> None:
        self.tolerances, self._limit_s, self._processes = tolerances, limit_s, processes
        self.n_cut = 0
        self.n_compared = 0

    def join(
        self,
        cells: Sequence[ReducedCell],
        nodes: np.ndarray,
        pairs: Pairs,
        components: Components,
        done: Callable[[int], object] | None = None,
    ) -> None:
        """Compare the pairs that are not in one component yet. nodes: ``(len(cells),)`` of ``components``."""
        todo = pairs.take(np.argsort(pairs.unlike, kind="stable"))
        while len(todo := self._apart(todo, nodes, components)):
            wave = np.arange(len(todo))
            if len(todo) > _SMALL:  # first what is nearest to each: most other pairs may then be spared
                wave = np.sort(np.unique(todo.second, return_index=True)[1])
            n_before = len(todo)
            found = self._compare(cells, nodes, todo.take(wave), components)
            for i in wave[found == _YES].tolist():
                components.join(int(nodes[todo.first[i]]), int(nodes[todo.second[i]]))
            left = np.ones(n_before, bool)
            left[wave[found != _LEFT]] = False
            todo = todo.take(np.flatnonzero(left))

    @staticmethod
    def _apart(pairs: Pairs, nodes: np.ndarray, components: Components) -> Pairs:
        roots = np.array(components.roots())[nodes]
        return pairs.take(np.flatnonzero(roots[pairs.first] != roots[pairs.second]))

    def _compare(
        self, cells: Sequence[ReducedCell], nodes: np.ndarray, pairs: Pairs, components: Components
    ) -> np.ndarray:
        """``(k,)`` of _NO, _YES, _JOINED, _LEFT. A task that is cut off is asked again, pair by pair."""
        found = np.full(len(pairs), _LEFT)
        shares = [
            np.arange(i, min(i + _PAIRS_A_TASK, len(pairs))) for i in range(0, len(pairs), _PAIRS_A_TASK)
        ]
        cut = []
        for share, answer in self._run(shares, cells, nodes, pairs, components):
            if isinstance(answer, Overrun):
                cut.append(share)
            else:
                found[share] = answer
        singles = [np.array([i]) for share in cut for i in share]
        for share, answer in self._run(singles, cells, nodes, pairs, components):
            if isinstance(answer, Overrun):
                self.n_cut += 1
            found[share] = _NO if isinstance(answer, Overrun) else answer
        self.n_compared += int(((found == _NO) | (found == _YES)).sum())
        return found

    def _run(
        self,
        shares: Sequence[np.ndarray],
        cells: Sequence[ReducedCell],
        nodes: np.ndarray,
        pairs: Pairs,
        components: Components,
    ) -> Iterator[tuple[np.ndarray, np.ndarray | Overrun]]:
        tasks = []
        for share in shares:
            both = np.stack([pairs.first[share], pairs.second[share]], axis=1)
            used, local = np.unique(both, return_inverse=True)
            groups = [components.root(int(nodes[i])) for i in used]
            chosen = [cells[i] for i in used]
            tasks.append(_Task(chosen, groups, local.reshape(both.shape), self._limit_s / 2))
        function = functools.partial(_compare_pairs, self.tolerances)
        answers = map_limited(function, tasks, limit_s=self._limit_s, processes=self._processes)
        return zip(shares, answers, strict=True)


def _compare_pairs(tolerances: Tolerances, task: _Task) -> np.ndarray:
    """``(k,)`` of _NO, _YES, _JOINED, _LEFT; at least one pair is compared."""
    end = time.monotonic() + task.budget_s
    nodes, groups = np.unique(task.groups, return_inverse=True)
    components = Components(len(nodes))
    crystals: dict[int, Crystal] = {}
    found = np.full(len(task.pairs), _LEFT)
    for place, (i, j) in enumerate(task.pairs.tolist()):
        if components.root(groups[i]) == components.root(groups[j]):
            found[place] = _JOINED
            continue
        if place and time.monotonic() > end:
            break
        first, second = (
            crystals.setdefault(k, Crystal(task.cells[k])) if k not in crystals else crystals[k]
            for k in (i, j)
        )
        found[place] = _YES if matches(first, second, tolerances) else _NO
        if found[place] == _YES:
            components.join(groups[i], groups[j])
    return found

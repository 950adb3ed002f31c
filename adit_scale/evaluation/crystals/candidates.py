"""Which pairs of crystals need to be compared: those that no cheap invariant rules out.

Crystals can match only where their reduced formulas, the sizes of their primitive cells and the successive
minima of their lattices agree (``matching.may_match``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from adit_scale.evaluation.crystals.components import Pairs
from adit_scale.evaluation.crystals.composition import reduced_composition
from adit_scale.evaluation.crystals.matching import Tolerances, may_match
from adit_scale.evaluation.crystals.reduction import ReducedCell

Key = tuple[int, ...]

_PAIRS_AT_ONCE = 200_000


def bucket_key(numbers: np.ndarray) -> Key:
    """Of a primitive cell: its number of atoms and its reduced composition."""
    return (len(numbers), *(part for pair in reduced_composition(numbers) for part in pair))


def buckets(cells: Sequence[ReducedCell], places: Iterable[int]) -> dict[Key, list[int]]:
    """Places of cells that may be the same, in order."""
    found: dict[Key, list[int]] = defaultdict(list)
    for place in places:
        found[bucket_key(cells[place].numbers)].append(place)
    return found


def pairs_within(
    cells: Sequence[ReducedCell], places: Sequence[int], tolerances: Tolerances
) -> Iterator[Pairs]:
    """Every pair, earlier first, that may match, of cells of one bucket; some hundred thousand at a time."""
    shape = _Shapes(cells, places)
    rows = max(1, _PAIRS_AT_ONCE // len(places))
    for start in range(0, len(places), rows):
        later, earlier = np.meshgrid(
            np.arange(start, min(start + rows, len(places))), np.arange(len(places)), indexing="ij"
        )
        below = earlier < later
        yield _likely(shape, shape, earlier[below], later[below], tolerances)


def pairs_between(
    cells: Sequence[ReducedCell], samples: Sequence[int], references: Sequence[int], tolerances: Tolerances
) -> Iterator[Pairs]:
    """Every pair of a sample and a reference, sample first, that may match, of cells of one bucket."""
    of_samples, of_references = _Shapes(cells, samples), _Shapes(cells, references)
    rows = max(1, _PAIRS_AT_ONCE // len(references))
    for start in range(0, len(samples), rows):
        first, second = np.meshgrid(
            np.arange(start, min(start + rows, len(samples))), np.arange(len(references)), indexing="ij"
        )
        yield _likely(of_samples, of_references, first.ravel(), second.ravel(), tolerances)


class _Shapes:
    """places: ``(k,)``. minima, edges: ``(k, 3)``. profiles: ``(k, p)``."""

    def __init__(self, cells: Sequence[ReducedCell], places: Sequence[int]) -> None:
        self.places = np.asarray(places)
        self.minima = np.stack([cells[i].minima for i in places])
        edges = np.linalg.norm(np.stack([cells[i].cell for i in places]), axis=2)
        self.edges = np.sort(edges, axis=1)
        self.profiles = np.stack([cells[i].profile for i in places])


def _likely(first: _Shapes, second: _Shapes, i: np.ndarray, j: np.ndarray, tolerances: Tolerances) -> Pairs:
    may = may_match(first.minima[i], second.edges[j], tolerances)
    i, j = i[may], j[may]
    unlike = np.abs(first.profiles[i] - second.profiles[j]).max(axis=1, initial=0)
    return Pairs(first.places[i], second.places[j], unlike)

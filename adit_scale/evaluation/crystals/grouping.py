"""Unique and novel crystals: groups of one structure among the samples, and those that training data hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from adit_scale.evaluation.crystals.candidates import buckets, pairs_between, pairs_within
from adit_scale.evaluation.crystals.components import Components, Matcher, Pairs
from adit_scale.evaluation.crystals.reduction import ReducedCell
from adit_scale.evaluation.crystals.references import ReferenceIndex

_PAIRS_AT_ONCE = 400_000


def group_crystals(cells: Mapping[int, ReducedCell], components: Components, matcher: Matcher) -> None:
    """Join samples of one structure. cells: of the samples that may have company, by place."""
    places = sorted(cells)
    dense = [cells[place] for place in places]
    blocks = (
        block
        for members in buckets(dense, range(len(dense))).values()
        if len(members) > 1
        for block in pairs_within(dense, members, matcher.tolerances)
    )
    for pairs in _batches(blocks):
        matcher.join(dense, np.array(places), pairs, components)


def join_references(
    cells: Mapping[int, ReducedCell], index: ReferenceIndex, components: Components, matcher: Matcher
) -> None:
    """Join every sample that matches a reference with the last node, which stands for the references."""
    places = sorted(cells)
    dense = [cells[place] for place in places] + index.cells
    references = buckets(dense, range(len(places), len(dense)))
    nodes = np.append(places, np.full(len(index.cells), len(components) - 1)).astype(np.int64)
    blocks = (
        block
        for key, members in buckets(dense, range(len(places))).items()
        if key in references
        for block in pairs_between(dense, members, references[key], matcher.tolerances)
    )
    for pairs in _batches(blocks):
        matcher.join(dense, nodes, pairs, components)


def _batches(blocks: Iterable[Pairs]) -> Iterator[Pairs]:
    """Blocks laid together, so that few of them are sent to the processes one by one."""
    held: list[Pairs] = []
    for block in blocks:
        held.append(block)
        if sum(map(len, held)) >= _PAIRS_AT_ONCE:
            yield _together(held)
            held = []
    if any(map(len, held)):
        yield _together(held)


def _together(blocks: Sequence[Pairs]) -> Pairs:
    return Pairs(
        *(
            np.concatenate([getattr(block, name) for block in blocks])
            for name in ("first", "second", "unlike")
        )
    )

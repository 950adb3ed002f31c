"""What is known of all structures while a data set is built, about 50 bytes each."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from adit_scale.data.building.staging import Piece, read_pieces
from adit_scale.data.manifest import MAX_DATASETS
from adit_scale.data.sources import Rejected
from adit_scale.errors import DataError

STORED, REPEATED_ID, DUPLICATE = 0, 1, 2
LEFT_OUT = 255  # in place of an index of a split


class NothingUsableError(DataError):
    """No source holds a structure that can be used."""


@dataclass
class Ledger:
    """All structures in the order of the sources.

    pieces: where they lie. dataset_maps: of each piece, the index in ``datasets`` of its own data sets.
    facts: FACTS rows. status_s: uint8, STORED or why not. original_s: int64, the place of the structure
    that a DUPLICATE repeats; None where duplicates were not looked for.
    """

    pieces: list[Path]
    datasets: list[str]
    dataset_maps: list[np.ndarray]
    facts: np.ndarray
    status_s: np.ndarray
    original_s: np.ndarray | None = None

    @staticmethod
    def gather(pieces: list[Path], expected: dict[str, str]) -> Ledger:
        """expected: data sets and what they are called in a message.

        Raises DataError where one of them has no structure.
        """
        local: list[list[str]] = []
        facts: list[np.ndarray] = []
        first: dict[str, Rejected] = {}
        n_rejected: Counter[str] = Counter()
        for piece in read_pieces(pieces):
            local.append(piece.datasets)
            facts.append(piece.facts.copy())
            for item in piece.rejected:
                n_rejected[item.source] += 1
                first.setdefault(item.source, item)
        datasets = sorted({name for names in local for name in names})
        _refuse_nothing(datasets, expected, n_rejected, first)
        if len(datasets) > MAX_DATASETS:
            raise DataError(
                f"{len(datasets)} data sets; expected at most {MAX_DATASETS}: join some with NAME=PATH"
            )
        maps = [np.array([datasets.index(name) for name in names], np.int64) for names in local]
        for rows, mapped in zip(facts, maps, strict=True):
            rows["dataset"] = mapped[rows["dataset"]]
        joined = np.concatenate(facts)
        return Ledger(pieces, datasets, maps, joined, np.zeros(len(joined), np.uint8))

    def reject_repeated_ids(self) -> None:
        """Of structures of one data set and id, the first in the order of the sources stays."""
        high, low = self.facts["high"], self.facts["low"]
        order = np.lexsort((low, high))  # stable: the first of equals comes first
        same = (high[order][1:] == high[order][:-1]) & (low[order][1:] == low[order][:-1])
        self.status_s[order[1:][same]] = REPEATED_ID

    def is_rejected(self, dataset: str, name: str) -> bool:
        """Whether the readers left out a structure of this id, in this data set or ("") in any."""
        return (dataset, name) in self._rejected_names

    @cached_property
    def _rejected_names(self) -> set[tuple[str, str]]:
        lost = (item for piece in read_pieces(self.pieces) for item in piece.rejected)
        return {key for item in lost for key in ((item.source, item.id), ("", item.id))}

    def write_rejected(self, path: Path) -> Counter[str]:
        """One JSON line for each structure left out, in the order of the sources; counts by data set."""
        counts: Counter[str] = Counter()
        known = _Originals(self)
        first = 0
        with path.open("w") as file:
            for piece in read_pieces(self.pieces):
                texts = piece.lot.id_texts()
                known.add(first, texts)
                lost = [*piece.rejected, *self._left_out(piece, first, texts, known)]
                for item in sorted(lost, key=lambda item: item.index):
                    counts[item.source] += 1
                    file.write(json.dumps(asdict(item), sort_keys=True) + "\n")
                first += len(piece.lot)
        return counts

    def _left_out(
        self, piece: Piece, first: int, texts: Sequence[str], known: _Originals
    ) -> Iterable[Rejected]:
        status_s = self.status_s[first : first + len(piece.lot)]
        for i in np.flatnonzero(status_s != STORED).tolist():
            dataset, name = piece.datasets[piece.lot.dataset_s[i]], texts[i]
            if status_s[i] == REPEATED_ID:
                reason = f"id {name!r} stands twice in {dataset}"
            else:
                reason = f"duplicate of {known.id_of(first + i)!r}"
            yield Rejected(dataset, int(piece.index_s[i]), name, reason)


class _Originals:
    """The ids of structures that later ones repeat."""

    def __init__(self, ledger: Ledger) -> None:
        self._original_s = ledger.original_s
        self._wanted = np.zeros(0, np.int64)
        if self._original_s is not None:
            self._wanted = np.unique(self._original_s[ledger.status_s == DUPLICATE])
        self._ids: dict[int, str] = {}

    def add(self, first: int, texts: Sequence[str]) -> None:
        start, stop = np.searchsorted(self._wanted, [first, first + len(texts)])
        self._ids.update((place, texts[place - first]) for place in self._wanted[start:stop].tolist())

    def id_of(self, duplicate: int) -> str:
        assert self._original_s is not None
        return self._ids[int(self._original_s[duplicate])]


def _refuse_nothing(
    datasets: Sequence[str], expected: dict[str, str], n_rejected: Counter[str], first: dict[str, Rejected]
) -> None:
    """A source of which nothing is left is a mistake, not a smaller data set."""
    missing = [name for name in sorted(expected) if name not in datasets]
    if datasets and not missing:
        return
    lost = missing[:1] or sorted(first)[:1]
    count = n_rejected[missing[0]] if missing else n_rejected.total()
    where = f" in {expected[missing[0]]}" if missing else ""
    reason = f"the first was left out: {first[lost[0]].reason}" if count else "expected at least one"
    kind = DataError if datasets else NothingUsableError
    raise kind(f"no usable structure among {count}{where}; {reason}")

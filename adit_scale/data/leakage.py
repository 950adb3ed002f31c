"""Training sets that could be a held-out one: those of its composition. Chemistry decides elsewhere.

Every block of the training split is read once, none is kept; the order on disk is that of hashes, so that
what was read when time runs out is a fair sample.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from adit_scale.atoms import CRYSTAL, MAX_ATOMIC_NUMBER, AtomSet
from adit_scale.data.columns import SetColumns
from adit_scale.data.manifest import Manifest
from adit_scale.data.shards import ShardReader

_SETS_AT_ONCE = 20_000
_WEIGHTS = np.random.default_rng(0).integers(1, 2**63, MAX_ATOMIC_NUMBER + 1, dtype=np.uint64)


@dataclass
class Search:
    """n_training: sets of the domain; n_read: those looked at before time ran out."""

    n_training: int = 0
    n_read: int = 0


def composition_keys(columns: SetColumns) -> np.ndarray:
    """``(S,)`` uint64, equal for equal compositions; a crystal's counts over their common divisor."""
    counts_sz = np.zeros((len(columns), MAX_ATOMIC_NUMBER + 1), np.int64)
    set_of_atom = np.repeat(np.arange(len(columns)), columns.sizes_s)
    np.add.at(counts_sz, (set_of_atom, columns.numbers_t), 1)
    divisor_s = np.where(columns.domain_s == CRYSTAL, np.gcd.reduce(counts_sz, axis=1), 1)
    keys: np.ndarray = (counts_sz // divisor_s[:, None]).astype(np.uint64) @ _WEIGHTS  # modulo 2**64
    return keys


def keys_of(sets: Sequence[AtomSet]) -> np.ndarray:
    """``composition_keys`` of sets in memory."""
    return composition_keys(SetColumns.from_sets(sets, sorted({s.dataset for s in sets})))


def training_sets_of(
    manifest: Manifest,
    domain: int,
    keys: Collection[int],
    search: Search,
    limit_s: float,
    progress: Callable[[int, int], object] | None = None,
) -> Iterator[list[AtomSet]]:
    """The training sets of a domain with one of the compositions, a bounded number at a time, without ids.

    search: filled in on the way. limit_s: reading ends after so many seconds, the caller's included.
    progress: called with sets done and all. Raises DataError for damaged shards.
    """
    wanted, begin_s = np.array(sorted(keys), np.uint64), time.monotonic()
    index, reader = manifest.split("train"), ShardReader(manifest, "train")
    places = [first + np.flatnonzero(rows["domain"] == domain) for first, rows in index.chunks()]
    search.n_training = sum(map(len, places))
    for chosen in places:
        for first in range(0, len(chosen), _SETS_AT_ONCE):
            if time.monotonic() - begin_s > limit_s:
                return
            columns = reader.read_columns(chosen[first : first + _SETS_AT_ONCE])
            same = np.flatnonzero(np.isin(composition_keys(columns), wanted))
            search.n_read += len(columns)
            if len(same):
                yield columns.take(same).to_sets(manifest.datasets, [""] * len(same))
            if progress is not None:
                progress(search.n_read, search.n_training)

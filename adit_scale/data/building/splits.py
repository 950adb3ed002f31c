"""Which split a set belongs to, and where in it: frozen by names, whatever else the data set holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from adit_scale.data.building.identity import read_lists
from adit_scale.data.building.keys import group_word, id_words, name_digest
from adit_scale.data.building.ledger import LEFT_OUT
from adit_scale.data.config import SPLITS, DataConfig
from adit_scale.errors import DataError


def split_of_sets(
    facts: np.ndarray,
    datasets: Sequence[str],
    config: DataConfig,
    is_rejected: Callable[[str, str], bool],
) -> np.ndarray:
    """Index in SPLITS of every set, uint8: by the split lists, else the publisher's, else by a hash.

    facts: FACTS rows. is_rejected: whether a structure of a (data set or "", id) was left out on the way.
    Raises DataError for an id of a list that no structure has, and for one in two lists.
    """
    deciding = facts["composition"] if config.split_by == "composition" else facts["group"]
    # Divided by 2**64 in float64, rounded as Python's own division of integers would.
    u = deciding.astype(np.float64) / 2.0**64
    by_hash = np.select(
        [u < config.test_fraction, u < config.test_fraction + config.validation_fraction],
        [SPLITS.index("test"), SPLITS.index("val")],
        SPLITS.index("train"),
    )
    split_s = np.where(facts["split"] > 0, facts["split"].astype(np.int64) - 1, by_hash).astype(np.uint8)
    if config.split_lists:
        listed_s = _listed(facts, datasets, config, is_rejected)
        split_s = np.where(listed_s == LEFT_OUT, split_s, listed_s)
    return split_s


def order_on_disk(facts: np.ndarray, split_s: np.ndarray) -> np.ndarray:
    """Places of the sets, one split after the other, each in the order of their ids' hashes.

    split_s: index in SPLITS, LEFT_OUT where a set is not stored. Returns ``(n_stored,)`` int64.
    """
    order = np.lexsort((facts["low"], facts["high"], split_s))
    return order[: int((split_s != LEFT_OUT).sum())]


def _listed(
    facts: np.ndarray,
    datasets: Sequence[str],
    config: DataConfig,
    is_rejected: Callable[[str, str], bool],
) -> np.ndarray:
    """Index in SPLITS of the sets that a list names by their id or their group, else LEFT_OUT."""
    listed_s = np.full(len(facts), LEFT_OUT, np.uint8)
    find = _Finder(facts)
    for split, (content, _) in read_lists(config).items():
        where = f"data.split_lists.{split}: {config.split_lists[split]}"
        for number, dataset, name in _names(content, where):
            among = datasets if dataset == "" else [dataset]
            found = np.concatenate([find(name_digest(config.split_salt, d, name)) for d in among])
            if not len(found) and not is_rejected(dataset, name):
                raise DataError(
                    f"{where}: line {number}: no structure has the id {name!r}"
                    f"{f' in {dataset}' if dataset else ''}; correct the list"
                )
            other = listed_s[found][~np.isin(listed_s[found], (LEFT_OUT, SPLITS.index(split)))]
            if len(other):
                raise DataError(
                    f"{where}: line {number}: {name!r} is listed for {SPLITS[other[0]]} too; "
                    f"expected each id in one list"
                )
            listed_s[found] = SPLITS.index(split)
    return listed_s


def _names(content: bytes, where: str) -> Iterator[tuple[int, str, str]]:
    """Line number, data set or "", id of each line."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.rstrip("\r")
        if line.strip():
            dataset, tab, name = line.partition("\t")
            yield (number, dataset, name) if tab else (number, "", line)


class _Finder:
    """Places of the sets of an id or a group."""

    def __init__(self, facts: np.ndarray) -> None:
        self._facts = facts
        self._by_id = np.argsort(facts["high"], kind="stable")
        self._by_group = np.argsort(facts["group"], kind="stable")
        self._high, self._group = facts["high"][self._by_id], facts["group"][self._by_group]

    def __call__(self, digest: bytes) -> np.ndarray:
        high, low = (np.uint64(word) for word in id_words(digest))
        own = self._by_id[_span(self._high, high)]
        own = own[self._facts["low"][own] == low]
        group = np.uint64(group_word(digest))
        return np.concatenate([own, self._by_group[_span(self._group, group)]])


def _span(ordered: np.ndarray, value: np.uint64) -> slice:
    return slice(int(np.searchsorted(ordered, value)), int(np.searchsorted(ordered, value, side="right")))

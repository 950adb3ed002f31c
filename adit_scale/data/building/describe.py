"""What the manifest says of each data set: statistics, gathered as the blocks are written."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from adit_scale.atoms import DOMAIN_NAMES, MAX_ATOMIC_NUMBER
from adit_scale.data.building.ledger import DUPLICATE, LEFT_OUT, Ledger
from adit_scale.data.building.staging import Lot
from adit_scale.data.config import SPLITS
from adit_scale.data.sources.structures import ELEMENT_SYMBOLS, MAX_SPACEGROUP

CONVERTER_VERSION = "2"


class Census:
    """Histograms of elements and spacegroups by data set."""

    def __init__(self, n_datasets: int) -> None:
        self.elements = np.zeros((n_datasets, MAX_ATOMIC_NUMBER + 1), np.int64)
        self.spacegroups = np.zeros((n_datasets, MAX_SPACEGROUP + 1), np.int64)

    def add(self, lot: Lot) -> None:
        np.add.at(self.elements, (np.repeat(lot.dataset_s, lot.sizes_s), lot.numbers_t), 1)
        np.add.at(self.spacegroups, (lot.dataset_s, lot.spacegroup_s), 1)


def describe(
    ledger: Ledger,
    split_s: np.ndarray,
    census: Census,
    n_rejected: Counter[str],
    stated: dict[str, dict[str, Any]],
    conversion: dict[str, Any],
) -> dict[str, dict[str, Any]]:
    """By data set name; histogram keys are strings, as JSON wants.

    split_s: index in SPLITS of every structure, LEFT_OUT where it is not stored.
    stated: what else is known of a data set, such as its source and licence.
    """
    facts = ledger.facts
    described: dict[str, dict[str, Any]] = {}
    for index, name in enumerate(ledger.datasets):
        own = facts["dataset"] == index
        n_sets = {split: int((own & (split_s == k)).sum()) for k, split in enumerate(SPLITS)}
        stored = facts[own & (split_s != LEFT_OUT)]
        described[name] = {
            "source": "not stated",
            "licence": "not stated",
            **stated.get(name, {}),
            "converter_version": CONVERTER_VERSION,
            "conversion": conversion,
            "domain": "+".join(sorted(DOMAIN_NAMES[int(d)] for d in np.unique(stored["domain"]))),
            "n_sets": n_sets,
            "n_rejected": n_rejected[name],
            "atom_counts": _histogram(np.bincount(stored["n_atoms"])),
            "elements": {ELEMENT_SYMBOLS[z]: n for z, n in _counted(census.elements[index])},
            "spacegroups": _histogram(census.spacegroups[index]),
        }
        if ledger.original_s is not None:
            described[name]["n_duplicates"] = int((own & (ledger.status_s == DUPLICATE)).sum())
    return described


def _counted(histogram: np.ndarray) -> list[tuple[int, int]]:
    return [(int(value), int(histogram[value])) for value in np.flatnonzero(histogram)]


def _histogram(histogram: np.ndarray) -> dict[str, int]:
    return {str(value): count for value, count in _counted(histogram)}

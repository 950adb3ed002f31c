"""Facts of a structure that building needs again and again: 38 bytes each, so that 100 million fit in memory.

A set's place on disk and its split follow from hashes of its name alone: they stay what they are whatever
comes with it, and in whatever order.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence

import numpy as np

from adit_scale.atoms import CRYSTAL, MOLECULE, AtomSet
from adit_scale.data.config import SPLITS

# high, low: of the id's hash; they tell ids apart and give the order on disk. group: of the group's hash.
# composition: hash of the elements' counts. n_atoms, dataset, domain: as in the manifest's rows.
# split: what the publisher gave, 1 + index in SPLITS, else 0.
FACTS = np.dtype(
    [
        ("high", "<u8"),
        ("low", "<u8"),
        ("group", "<u8"),
        ("composition", "<u8"),
        ("n_atoms", "<u2"),
        ("dataset", "<u2"),
        ("domain", "u1"),
        ("split", "u1"),
    ]
)


def facts_of(sets: Sequence[AtomSet], datasets: Sequence[str], split: str, salt: str) -> np.ndarray:
    """FACTS rows of the sets; ``datasets`` gives each name its index, ``split`` is the publisher's or ""."""
    index = {name: i for i, name in enumerate(datasets)}
    given = 1 + SPLITS.index(split) if split else 0
    rows = np.zeros(len(sets), FACTS)
    for row, atom_set in zip(rows, sets, strict=True):
        own = name_digest(salt, atom_set.dataset, atom_set.id)
        group = name_digest(salt, atom_set.dataset, atom_set.group) if atom_set.group else own
        row["high"], row["low"] = id_words(own)
        row["group"] = group_word(group)
        row["composition"] = _composition_word(salt, atom_set)
        row["n_atoms"] = len(atom_set)
        row["dataset"] = index[atom_set.dataset]
        row["domain"] = CRYSTAL if atom_set.periodic else MOLECULE
        row["split"] = given
    return rows


def name_digest(salt: str, dataset: str, name: str) -> bytes:
    """The hash of an id or a group."""
    return hashlib.sha256(json.dumps([salt, dataset, name]).encode()).digest()


def group_word(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "big")


def id_words(digest: bytes) -> tuple[int, int]:
    return int.from_bytes(digest[8:16], "big"), int.from_bytes(digest[16:24], "big")


def _composition_word(salt: str, atom_set: AtomSet) -> int:
    """A crystal's counts are divided by their common divisor: a supercell is the same composition."""
    elements, counts = np.unique(atom_set.numbers, return_counts=True)
    if atom_set.periodic:
        counts = counts // math.gcd(*counts.tolist())
    key = json.dumps([salt, elements.tolist(), counts.tolist()])
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")

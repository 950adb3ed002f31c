"""Decoded blocks side by side in a few flat arrays of fixed size, so that sets are gathered in one go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from adit_scale.atoms import CRYSTAL, MOLECULE
from adit_scale.data.blocks import RawBlock
from adit_scale.data.columns import SetColumns, atoms_of, coordinates
from adit_scale.data.manifest import SplitIndex

# What a block holds besides its columns, at the least: seven tar headers and six array headers.
_HEADER_BYTES = 7 * 512 + 6 * 128
_ATOM_BYTES, _SET_BYTES = 1 + 12, 8 + 36 + 2 + 2 + 4  # on disk; an id takes 4 bytes of JSON or more
Load = Callable[[Sequence[int]], Iterable[RawBlock]]  # reads blocks, one after the other
_DECODED_ATOM_BYTES, _DECODED_SET_BYTES = 1 + 12, 2 * 8 + 36 + 1 + 2 + 2


class BlockArena:
    """The latest blocks of a split, each in a slot that holds the largest of them.

    A slot's memory is taken up when it is first written to. There is always one slot, however large.
    """

    def __init__(self, index: SplitIndex, cache_bytes: int) -> None:
        n_sets_b = np.diff(index.first_set)
        self._index = index
        self._slot_sets = int(n_sets_b.max(initial=1))
        self._slot_atoms = int(_most_atoms(index.block_bytes, n_sets_b).max(initial=1))
        slot_bytes = self._slot_atoms * _DECODED_ATOM_BYTES + self._slot_sets * _DECODED_SET_BYTES
        self.n_slots = max(1, min(len(n_sets_b), cache_bytes // slot_bytes))
        n_atoms, n_sets = self.n_slots * self._slot_atoms, self.n_slots * self._slot_sets
        self._numbers_t = np.empty(n_atoms, np.uint8)
        self._coordinates_t3 = np.empty((n_atoms, 3), np.float32)
        self._starts_s = np.empty(n_sets, np.int64)
        self._sizes_s = np.empty(n_sets, np.int64)
        self._cells_s33 = np.empty((n_sets, 3, 3), np.float32)
        self._domain_s = np.empty(n_sets, np.uint8)
        self._dataset_s = np.empty(n_sets, np.uint16)
        self._spacegroup_s = np.empty(n_sets, np.int16)
        self._slot_of_block = np.full(len(n_sets_b), -1, np.int32)
        self._block_in_slot = np.full(self.n_slots, -1, np.int64)
        self._last_use = np.zeros(self.n_slots, np.int64)
        self._clock = 0

    def __len__(self) -> int:
        """Blocks held."""
        return int((self._block_in_slot >= 0).sum())

    def take(self, set_index: np.ndarray, load: Load) -> SetColumns:
        """The sets at the given places of the split; ``load`` reads blocks that are not held."""
        block = self._index.block_of(set_index)
        wanted = np.unique(block)
        if len(wanted) <= self.n_slots:
            self._hold(wanted, load)
            return self._gather(set_index, block)
        pieces, places = [], []
        for start in range(0, len(wanted), self.n_slots):
            own = wanted[start : start + self.n_slots]
            here = np.flatnonzero((block >= own[0]) & (block <= own[-1]))
            self._hold(own, load)
            pieces.append(self._gather(set_index[here], block[here]))
            places.append(here)
        return SetColumns.join(pieces).take(np.argsort(np.concatenate(places), kind="stable"))

    def _hold(self, wanted: np.ndarray, load: Load) -> None:
        """Have the wanted blocks, at most as many as slots, dropping those used longest ago."""
        self._clock += 1
        slots = self._slot_of_block[wanted]
        self._last_use[slots[slots >= 0]] = self._clock
        missing = wanted[slots < 0].tolist()
        if not missing:
            return
        for block, raw in zip(missing, load(missing), strict=True):
            slot = int(self._last_use.argmin())
            if self._block_in_slot[slot] >= 0:
                self._slot_of_block[self._block_in_slot[slot]] = -1
            self._store(slot, raw)
            self._slot_of_block[block], self._block_in_slot[slot] = slot, block
            self._last_use[slot] = self._clock

    def _store(self, slot: int, raw: RawBlock) -> None:
        first_atom, first_set = slot * self._slot_atoms, slot * self._slot_sets
        starts, cells_s33 = raw.arrays["offsets.npy"], raw.arrays["cells.npy"]
        n_atoms, n_sets = int(starts[-1]), raw.n_sets
        assert n_atoms <= self._slot_atoms, f"{n_atoms} atoms in a slot for {self._slot_atoms}"
        assert n_sets <= self._slot_sets, f"{n_sets} sets in a slot for {self._slot_sets}"
        atoms, sets = slice(first_atom, first_atom + n_atoms), slice(first_set, first_set + n_sets)
        sizes_s = np.diff(starts)
        domain_s = np.where(cells_s33.any(axis=(1, 2)), CRYSTAL, MOLECULE)
        self._numbers_t[atoms] = raw.arrays["numbers.npy"]
        self._coordinates_t3[atoms] = coordinates(sizes_s, raw.arrays["positions.npy"], cells_s33, domain_s)
        self._starts_s[sets] = starts[:-1] + first_atom
        self._sizes_s[sets] = sizes_s
        self._cells_s33[sets] = cells_s33
        self._domain_s[sets] = domain_s
        self._dataset_s[sets] = raw.arrays["dataset.npy"]
        self._spacegroup_s[sets] = raw.arrays["spacegroup.npy"]

    def _gather(self, set_index: np.ndarray, block: np.ndarray) -> SetColumns:
        """Sets of blocks that are held, in the given order."""
        place = self._slot_of_block[block] * np.int64(self._slot_sets)
        place += set_index - self._index.first_set[block]
        sizes = self._sizes_s[place]
        atom = atoms_of(self._starts_s[place], sizes)
        return SetColumns.from_coordinates(
            sizes_s=sizes,
            numbers_t=self._numbers_t.take(atom),
            coordinates_t3=self._coordinates_t3.take(atom, axis=0),
            cells_s33=self._cells_s33.take(place, axis=0),
            domain_s=self._domain_s.take(place),
            dataset_s=self._dataset_s.take(place),
            spacegroup_s=self._spacegroup_s.take(place),
        )


def _most_atoms(block_bytes: np.ndarray, n_sets_b: np.ndarray) -> np.ndarray:
    """A close upper bound on the atoms of blocks of so many bytes on disk."""
    return np.maximum(1, (block_bytes - _HEADER_BYTES - _SET_BYTES * n_sets_b) // _ATOM_BYTES)

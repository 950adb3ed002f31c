"""Shards: WebDataset tar files whose members are columns of about a thousand sets each.

Block ``000017`` of a split is the tar members 000017.numbers.npy, .positions.npy, .offsets.npy, .cells.npy,
.dataset.npy, .spacegroup.npy and .ids.json, side by side; plain ``webdataset`` reads them. Each block's
digest covers every byte of it, tar headers and padding included, and is checked at each read from disk.
``writing`` makes them, ``blocks`` knows their members, ``integrity`` checks a whole data set.
"""

from __future__ import annotations

import numpy as np

from adit_scale.atoms import AtomSet
from adit_scale.data.arena import BlockArena
from adit_scale.data.blocks import decode_block
from adit_scale.data.columns import SetColumns
from adit_scale.data.integrity import BlockSource, find_damage, verify
from adit_scale.data.manifest import Manifest, SplitIndex

__all__ = ["Manifest", "ShardReader", "SplitIndex", "decode_block", "find_damage", "verify"]


class ShardReader:
    """Random access to the sets of one split, a block at a time, with the latest blocks kept decoded.

    cache_bytes: bound on the memory of decoded blocks, but for one block.
    Not for use from several threads at once.
    """

    def __init__(self, manifest: Manifest, split: str, cache_bytes: int = 256 << 20) -> None:
        self.index = manifest.split(split)
        self._datasets = manifest.datasets
        self._blocks = BlockSource(manifest, split)
        self._arena = BlockArena(self.index, cache_bytes)
        self._last: tuple[int, SetColumns, list[str]] | None = None

    def read_columns(self, set_index: np.ndarray) -> SetColumns:
        """The sets at the given places of the split, at least one, in the given order.

        Raises DataError when a shard is missing, truncated or altered.
        """
        set_index = np.asarray(set_index, dtype=np.int64)
        assert len(set_index), "no sets asked for"
        return self._arena.take(set_index, self._blocks.read)

    def read_sets(self, set_index: np.ndarray) -> list[AtomSet]:
        """The same sets one by one, with their ids."""
        set_index = np.asarray(set_index, dtype=np.int64)
        block_of = self.index.block_of(set_index)
        order = np.argsort(block_of, kind="stable")
        sets: list[AtomSet | None] = [None] * len(set_index)
        for places in np.split(order, np.flatnonzero(np.diff(block_of[order])) + 1):
            if len(places):
                block = int(block_of[places[0]])
                columns, ids = self._with_ids(block)
                inside = set_index[places] - self.index.first_set[block]
                found = columns.take(inside).to_sets(self._datasets, [ids[i] for i in inside])
                for place, atom_set in zip(places, found, strict=True):
                    sets[place] = atom_set
        return [s for s in sets if s is not None]

    def _with_ids(self, block: int) -> tuple[SetColumns, list[str]]:
        """Training needs no ids: they are decoded for the block read last alone."""
        if self._last is None or self._last[0] != block:
            (raw,) = self._blocks.read([block])
            self._last = block, raw.columns(), raw.ids()
        return self._last[1:]

"""The writing half of the shards: sets into blocks, blocks into tar files. See ``shards`` for the layout."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from adit_scale.data.building.staging import Lot
from adit_scale.data.manifest import Block, Shard

_END_OF_ARCHIVE = bytes(2 * tarfile.BLOCKSIZE)


class ShardWriter:
    """Writes the blocks of one split, in the given order, as ``<split>-000000.tar`` and so on.

    The bytes follow from the sets alone: no time, user or host is recorded. Call ``finish`` at the end.
    """

    def __init__(self, folder: Path, split: str, blocks_per_shard: int) -> None:
        self.shards: list[Shard] = []
        self.blocks: list[Block] = []
        self._folder, self._split, self._blocks_per_shard = folder, split, blocks_per_shard
        self._file: BinaryIO | None = None
        # The latest block: it may turn out to be the last of its shard.
        self._waiting: tuple[bytes, int] | None = None
        self._n_sets = self._position = 0

    def add(self, lot: Lot) -> None:
        """One block."""
        if self._waiting is not None:
            self._flush(last=(len(self.blocks) + 1) % self._blocks_per_shard == 0)
        key = f"{len(self.blocks):06d}"
        self._waiting = (encode_block(key, lot), len(lot))

    def finish(self) -> tuple[list[Shard], list[Block]]:
        """The tables for the manifest. Writes what is left."""
        if self._waiting is not None:
            self._flush(last=True)
        return self.shards, self.blocks

    def _flush(self, last: bool) -> None:
        assert self._waiting is not None
        data, n_sets = self._waiting
        self._waiting = None
        if self._file is None:
            self._open()
        assert self._file is not None
        if last:
            data += _END_OF_ARCHIVE
        self._file.write(data)
        self._whole.update(data)
        start, self._position = self._position, self._position + len(data)
        digest = hashlib.sha256(data).hexdigest()
        key = f"{len(self.blocks):06d}"
        self.blocks.append(Block(self._name, key, start, self._position, digest, self._n_sets, n_sets))
        self._n_sets += n_sets
        if last:
            self._file.close()
            self._file = None
            self.shards.append(Shard(self._name, self._position, self._whole.hexdigest()))

    def _open(self) -> None:
        self._name = f"{self._split}-{len(self.shards):06d}.tar"
        self._file = (self._folder / self._name).open("wb")
        self._whole, self._position = hashlib.sha256(), 0


def encode_block(key: str, lot: Lot) -> bytes:
    """The tar members of one block."""
    offsets = np.concatenate([[0], np.cumsum(lot.sizes_s)]).astype(np.int64)
    members = {
        "numbers.npy": _npy(lot.numbers_t),
        "positions.npy": _npy(lot.positions_t3),
        "offsets.npy": _npy(offsets),
        "cells.npy": _npy(lot.cells_s33),
        "dataset.npy": _npy(lot.dataset_s),
        "spacegroup.npy": _npy(lot.spacegroup_s),
        "ids.json": json.dumps(lot.id_texts()).encode(),
    }
    return b"".join(_tar_member(f"{key}.{name}", data) for name, data in members.items())


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def _tar_member(name: str, data: bytes) -> bytes:
    header = tarfile.TarInfo(name)  # time, owner and group are 0
    header.size = len(data)
    padding = bytes(-len(data) % tarfile.BLOCKSIZE)
    return header.tobuf(tarfile.USTAR_FORMAT) + data + padding

"""Shards: WebDataset tar files whose members are columns of about a thousand sets each.

Block ``000017`` of a split is the tar members 000017.numbers.npy, .positions.npy, .offsets.npy, .cells.npy,
.dataset.npy, .spacegroup.npy and .ids.json, side by side; plain ``webdataset`` reads them. Each block's
digest covers every byte of it, tar headers and padding included, and is checked at each read from disk.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from adit_scale.atoms import AtomSet
from adit_scale.data.columns import SetColumns
from adit_scale.data.manifest import Block, Manifest, Shard, SplitIndex
from adit_scale.errors import DataError

__all__ = ["Manifest", "ShardReader", "SplitIndex", "verify", "write_shards"]

_END_OF_ARCHIVE = bytes(2 * tarfile.BLOCKSIZE)


def write_shards(
    folder: Path,
    split: str,
    sets: Sequence[AtomSet],
    datasets: Sequence[str],
    block_sets: int,
    blocks_per_shard: int,
) -> tuple[list[Shard], list[Block]]:
    """Write the sets of a split, in the given order, as ``<split>-000000.tar`` and so on into ``folder``.

    The bytes follow from the sets alone: no time, user or host is recorded.
    """
    shards: list[Shard] = []
    blocks: list[Block] = []
    firsts = range(0, len(sets), block_sets)
    for shard_start in range(0, len(firsts), blocks_per_shard):
        name = f"{split}-{len(shards):06d}.tar"
        inside = firsts[shard_start : shard_start + blocks_per_shard]
        whole, position = hashlib.sha256(), 0
        with (folder / name).open("wb") as file:
            for first in inside:
                chunk = sets[first : first + block_sets]
                key = f"{len(blocks):06d}"
                data = encode_block(key, chunk, datasets)
                if first == inside[-1]:
                    data += _END_OF_ARCHIVE
                file.write(data)
                whole.update(data)
                digest, stop = hashlib.sha256(data).hexdigest(), position + len(data)
                blocks.append(Block(name, key, position, stop, digest, first, len(chunk)))
                position = stop
        shards.append(Shard(name, position, whole.hexdigest()))
    return shards, blocks


def encode_block(key: str, sets: Sequence[AtomSet], datasets: Sequence[str]) -> bytes:
    """The tar members of one block."""
    columns = SetColumns.from_sets(sets, datasets)
    members = {
        "numbers.npy": _npy(columns.numbers_t),
        "positions.npy": _npy(columns.positions_t3),
        "offsets.npy": _npy(columns.offsets),
        "cells.npy": _npy(columns.cells_s33),
        "dataset.npy": _npy(columns.dataset_s),
        "spacegroup.npy": _npy(columns.spacegroup_s),
        "ids.json": json.dumps([s.id for s in sets]).encode(),
    }
    return b"".join(_tar_member(f"{key}.{name}", data) for name, data in members.items())


def decode_block(data: bytes) -> tuple[SetColumns, list[str]]:
    """The columns and ids of a block whose digest has been checked."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members: dict[str, bytes] = {}
        for member in archive:
            content = archive.extractfile(member)
            assert content is not None, f"{member.name} is no file"
            members[member.name.partition(".")[2]] = content.read()
    arrays = {
        name.removesuffix(".npy"): np.load(io.BytesIO(content), allow_pickle=False)
        for name, content in members.items()
        if name.endswith(".npy")
    }
    columns = SetColumns.from_arrays(
        sizes_s=np.diff(arrays["offsets"]),
        numbers_t=arrays["numbers"],
        positions_t3=arrays["positions"],
        cells_s33=arrays["cells"],
        dataset_s=arrays["dataset"],
        spacegroup_s=arrays["spacegroup"],
    )
    return columns, json.loads(members["ids.json"])


@dataclass(frozen=True)
class _Cached:
    columns: SetColumns
    ids: list[str]


class ShardReader:
    """Random access to the sets of one split, a block at a time, with the latest blocks kept decoded.

    Not for use from several threads at once.
    """

    def __init__(self, folder: Path, manifest: Manifest, split: str, cache_bytes: int = 256 << 20) -> None:
        self.index = manifest.split(split)
        self._folder = folder
        self._datasets = manifest.datasets
        self._shard_bytes = {shard.file: shard.n_bytes for shard in manifest.shards[split]}
        self._first_set = np.array([block.first_set for block in self.index.blocks], dtype=np.int64)
        self._cache_bytes = cache_bytes
        self._cached: OrderedDict[int, _Cached] = OrderedDict()
        self._cached_bytes = 0

    def read_columns(self, set_index: np.ndarray) -> SetColumns:
        """The sets at the given places of the split, at least one, in the given order.

        Raises DataError when a shard is missing, truncated or altered.
        """
        set_index = np.asarray(set_index, dtype=np.int64)
        assert len(set_index), "no sets asked for"
        by_block = np.argsort(self.index.block_of_set[set_index], kind="stable")
        pieces = [
            self._block(block).columns.take(set_index[places] - self._first_set[block])
            for block, places in self._groups(set_index, by_block)
        ]
        if len(pieces) == 1:
            return pieces[0]
        restore = np.empty_like(by_block)
        restore[by_block] = np.arange(len(by_block))
        return SetColumns.join(pieces).take(restore)

    def read_sets(self, set_index: np.ndarray) -> list[AtomSet]:
        """The same sets one by one, with their ids."""
        set_index = np.asarray(set_index, dtype=np.int64)
        if len(set_index) == 0:
            return []
        ids = [
            self._block(block).ids[place - self._first_set[block]]
            for block, place in zip(self.index.block_of_set[set_index], set_index, strict=True)
        ]
        return self.read_columns(set_index).to_sets(self._datasets, ids)

    def _groups(self, set_index: np.ndarray, by_block: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        block = self.index.block_of_set[set_index[by_block]]
        starts = np.flatnonzero(np.diff(block, prepend=-1))
        for start, places in zip(starts, np.split(by_block, starts[1:]), strict=True):
            yield int(block[start]), places

    def _block(self, number: int) -> _Cached:
        number = int(number)
        if number in self._cached:
            self._cached.move_to_end(number)
            return self._cached[number]
        block = self.index.blocks[number]
        columns, ids = decode_block(self._read_bytes(block))
        entry = _Cached(columns, ids)
        self._cached[number] = entry
        self._cached_bytes += columns.n_bytes
        while self._cached_bytes > self._cache_bytes and len(self._cached) > 1:
            _, dropped = self._cached.popitem(last=False)
            self._cached_bytes -= dropped.columns.n_bytes
        return entry

    def _read_bytes(self, block: Block) -> bytes:
        path = self._folder / block.shard
        try:
            with path.open("rb") as file:
                n_bytes = file.seek(0, io.SEEK_END)
                if n_bytes != self._shard_bytes[block.shard]:
                    block = self._first_cut(block.shard, n_bytes)
                file.seek(block.start)
                data = file.read(block.stop - block.start)
        except FileNotFoundError as error:
            raise DataError(
                f"{path}: no such shard; the manifest names it: copy or build it again"
            ) from error
        except OSError as error:
            raise DataError(f"{path}: block {block.key} cannot be read ({error})") from error
        found = hashlib.sha256(data).hexdigest()
        expected_bytes = self._shard_bytes[block.shard]
        if found != block.sha256 or n_bytes != expected_bytes:
            size = "" if n_bytes == expected_bytes else f" ({n_bytes} bytes long; expected {expected_bytes})"
            raise DataError(
                f"{path}: block {block.key}: expected sha256 {block.sha256}, found {found}{size}; "
                "copy or build the shard again"
            )
        return data

    def _first_cut(self, shard: str, n_bytes: int) -> Block:
        """The first block of a shard that is cut; where the shard is too long, the last, to its end."""
        inside = [block for block in self.index.blocks if block.shard == shard]
        cut = [block for block in inside if block.stop > n_bytes]
        return cut[0] if cut else replace(inside[-1], stop=n_bytes)


def verify(folder: Path) -> Manifest:
    """Read every block of every split and check its digest. Raises DataError at the first bad one."""
    manifest = Manifest.load(folder)
    for split, blocks in manifest.blocks.items():
        reader = ShardReader(folder, manifest, split, cache_bytes=0)
        for block in blocks:
            reader.read_columns(np.array([block.first_set]))
    return manifest


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def _tar_member(name: str, data: bytes) -> bytes:
    header = tarfile.TarInfo(name)  # time, owner and group are 0
    header.size = len(data)
    padding = bytes(-len(data) % tarfile.BLOCKSIZE)
    return header.tobuf(tarfile.USTAR_FORMAT) + data + padding

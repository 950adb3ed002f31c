"""The rows of the manifest's tables, and what must hold of them before a byte of a shard is read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar file. sha256 is of the whole file, so that it can be checked with ordinary tools."""

    file: str
    n_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Block:
    """Bytes ``start`` to ``stop`` of a shard: tar headers, columns and padding of some sets.

    The blocks of a shard cover every byte of it; the last one holds the end-of-archive mark too.
    key: what its tar members' names begin with. first_set: place in the split of its first set.
    """

    shard: str
    key: str
    start: int
    stop: int
    sha256: str
    first_set: int
    n_sets: int


class TableError(Exception):
    """Tables that describe no data set; the text says what is wrong."""


# A file beside the manifest: no folders, nothing hidden, nothing that climbs.
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_tables(
    datasets: Any,
    descriptions: Any,
    shards: dict[str, list[Shard]],
    blocks: dict[str, list[Block]],
) -> None:
    """Raises TableError unless the blocks tile the shards and the sets, each shard standing there once."""
    if not (isinstance(datasets, list) and all(isinstance(name, str) for name in datasets)):
        raise TableError("damaged table: datasets is no list of names")
    if not (isinstance(descriptions, dict) and all(isinstance(d, dict) for d in descriptions.values())):
        raise TableError("damaged table: descriptions is no table of tables")
    by_file: dict[str, Shard] = {}
    by_digest: dict[str, Shard] = {}
    for split, rows in shards.items():
        for shard in rows:
            _check_shard(split, shard)
            if shard.file in by_file:
                raise TableError(f"{shard.file} is listed twice; each shard must be there once")
            if shard.sha256 in by_digest:
                raise TableError(
                    f"{shard.file} and {by_digest[shard.sha256].file} have the same sha256 {shard.sha256}; "
                    f"each shard must be there once"
                )
            by_file[shard.file] = by_digest[shard.sha256] = shard
        _check_blocks(split, rows, blocks[split])


def _check_shard(split: str, shard: Shard) -> None:
    if not isinstance(shard, Shard):
        raise TableError(f"damaged table: {shard!r:.80} in the shards of {split}")
    if not (isinstance(shard.file, str) and _FILE_NAME.fullmatch(shard.file)):
        raise TableError(
            f"shard {shard.file!r:.80} is no plain file name; expected one like {split}-000000.tar"
        )
    if type(shard.n_bytes) is not int or shard.n_bytes < 1:
        raise TableError(f"{shard.file}: {shard.n_bytes!r:.40} bytes long; expected at least 1")
    if not (isinstance(shard.sha256, str) and _SHA256.fullmatch(shard.sha256)):
        raise TableError(f"{shard.file}: {shard.sha256!r:.80} is no sha256 in hex")


def _check_blocks(split: str, shards: list[Shard], blocks: list[Block]) -> None:
    """The blocks in order cover every byte of every shard in order, and every set of the split, once."""
    places = iter(shards)
    shard: Shard | None = None
    at_byte, at_set = 0, 0
    keys: set[str] = set()
    for block in blocks:
        if not isinstance(block, Block):
            raise TableError(f"damaged table: {block!r:.80} in the blocks of {split}")
        numbers = (block.start, block.stop, block.first_set, block.n_sets)
        if not all(type(n) is int for n in numbers) or not isinstance(block.key, str):
            raise TableError(f"damaged table: block {block.key!r:.40} of {split} has places {numbers!r:.120}")
        if shard is None or at_byte == shard.n_bytes:
            shard, at_byte = next(places, None), 0
        expected = (shard.file if shard else "no shard", at_byte, at_set)
        if (block.shard, block.start, block.first_set) != expected or shard is None:
            raise TableError(
                f"block {block.key} of {split} lies at byte {block.start} of {block.shard!r:.80}, its sets "
                f"from {block.first_set}; expected byte {expected[1]} of {expected[0]}, {expected[2]}"
            )
        if not block.start < block.stop <= shard.n_bytes or block.n_sets < 1 or block.key in keys:
            raise TableError(
                f"block {block.key} of {split}: bytes {block.start} to {block.stop} of {shard.n_bytes}, "
                f"{block.n_sets} sets; expected blocks of different keys that tile the shard"
            )
        keys.add(block.key)
        at_byte, at_set = block.stop, at_set + block.n_sets
    left = next(places, None)
    if left is not None or (shard is not None and at_byte != shard.n_bytes):
        where = f"{left.file}" if left else f"byte {at_byte} of {shard.file if shard else ''}"
        raise TableError(f"no block of {split} covers {where}")

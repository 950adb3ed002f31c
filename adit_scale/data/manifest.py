"""What a data set is: its blocks and their digests, its splits, every set's size and origin.

``manifest.json`` holds the tables, ``sets.npz`` beside it the per-set arrays, so that plans need no data
read. The fingerprint names the data: it covers the schema, the data sets' names, the place and digest of
every block and the per-set arrays, but not the descriptions (source, licence, statistics).
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from adit_scale.errors import DataError

SCHEMA_VERSION = 1
SPLITS = ("train", "val", "test")
MANIFEST_FILE, SETS_FILE = "manifest.json", "sets.npz"


@dataclass(frozen=True)
class Shard:
    """One tar file. sha256 is of the whole file, so that it can be checked with ordinary tools."""

    file: str
    n_bytes: int
    sha256: str


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class SetTable:
    """Per-set arrays of a split, in its order on disk: atoms, data set index, domain label."""

    n_atoms: np.ndarray
    dataset: np.ndarray
    domain: np.ndarray


@dataclass(frozen=True)
class SplitIndex:
    """A split as a plan sees it. A set's index is its place in this order.

    sizes, dataset, domain, block_of_set: ``(n,)`` int64. block_bytes: ``(n_blocks,)`` int64, on disk.
    """

    name: str
    sizes: np.ndarray
    dataset: np.ndarray
    domain: np.ndarray
    block_of_set: np.ndarray
    block_bytes: np.ndarray
    blocks: tuple[Block, ...]

    def __len__(self) -> int:
        return len(self.sizes)


@dataclass(frozen=True)
class Manifest:
    """datasets: names in index order. descriptions: statistics, source and licence by name.

    sets_npz: the bytes of sets.npz, as written by ``encode_set_tables``.
    """

    datasets: list[str]
    descriptions: dict[str, dict[str, Any]]
    shards: dict[str, list[Shard]]
    blocks: dict[str, list[Block]]
    sets_npz: bytes

    @property
    def schema_version(self) -> int:
        return SCHEMA_VERSION

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of what the data set holds, in hex."""
        canonical = json.dumps(self._identity(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @cached_property
    def sets(self) -> dict[str, SetTable]:
        """The per-set arrays of each split."""
        with np.load(io.BytesIO(self.sets_npz), allow_pickle=False) as arrays:
            return {
                split: SetTable(**{f.name: arrays[f"{split}.{f.name}"] for f in fields(SetTable)})
                for split in SPLITS
            }

    def split(self, name: str) -> SplitIndex:
        """The index of "train", "val" or "test". Raises DataError for another name."""
        if name not in SPLITS:
            raise DataError(f"no split {name!r}; expected one of {', '.join(SPLITS)}")
        table, blocks = self.sets[name], self.blocks[name]
        return SplitIndex(
            name=name,
            sizes=table.n_atoms.astype(np.int64),
            dataset=table.dataset.astype(np.int64),
            domain=table.domain.astype(np.int64),
            block_of_set=np.repeat(np.arange(len(blocks)), [b.n_sets for b in blocks]),
            block_bytes=np.array([b.stop - b.start for b in blocks], dtype=np.int64),
            blocks=tuple(blocks),
        )

    def save(self, folder: Path) -> None:
        """Write manifest.json and sets.npz into ``folder``; the same bytes for the same data."""
        (folder / SETS_FILE).write_bytes(self.sets_npz)
        tree = {"fingerprint": self.fingerprint, **self._identity(), "descriptions": self.descriptions}
        (folder / MANIFEST_FILE).write_text(json.dumps(tree, indent=1, sort_keys=True) + "\n")

    @staticmethod
    def load(folder: Path) -> Manifest:
        """Read and check a manifest. Raises DataError when it is missing, damaged or of another schema."""
        path, cure = folder / MANIFEST_FILE, "build or copy the shards again"
        if not path.is_file():
            raise DataError(f"{path}: no such file; build the shards or set data.shards to their folder")
        try:
            tree = json.loads(path.read_text())
        except ValueError as error:
            raise DataError(f"{path}: not readable as JSON ({error}); {cure}") from error
        found = tree.get("schema_version") if isinstance(tree, dict) else None
        if found != SCHEMA_VERSION:
            raise DataError(f"{path}: schema version {found}; expected {SCHEMA_VERSION}: {cure}")
        try:
            manifest = Manifest(
                datasets=tree["datasets"],
                descriptions=tree["descriptions"],
                shards={s: [Shard(**row) for row in tree["splits"][s]["shards"]] for s in SPLITS},
                blocks={s: [Block(**row) for row in tree["splits"][s]["blocks"]] for s in SPLITS},
                sets_npz=_checked_bytes(folder / SETS_FILE, tree["sets_sha256"]),
            )
            expected = tree["fingerprint"]
        except (KeyError, TypeError) as error:
            raise DataError(f"{path}: damaged table ({error}); {cure}") from error
        if manifest.fingerprint != expected:
            raise DataError(
                f"{path}: expected fingerprint {expected}, found {manifest.fingerprint} in its tables; {cure}"
            )
        return manifest

    def _identity(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "datasets": self.datasets,
            "splits": {
                split: {
                    "shards": [asdict(shard) for shard in self.shards[split]],
                    "blocks": [asdict(block) for block in self.blocks[split]],
                }
                for split in SPLITS
            },
            "sets_sha256": hashlib.sha256(self.sets_npz).hexdigest(),
        }


def encode_set_tables(tables: dict[str, SetTable]) -> bytes:
    """The bytes of sets.npz: uncompressed and with fixed time stamps, so that they follow from the values."""
    arrays = {
        f"{split}.{f.name}": getattr(tables[split], f.name) for split in SPLITS for f in fields(SetTable)
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _checked_bytes(path: Path, expected: str) -> bytes:
    if not path.is_file():
        raise DataError(f"{path}: no such file; copy it with the shards or build them again")
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise DataError(f"{path}: expected sha256 {expected}, found {found}; build or copy the shards again")
    return data

"""What a data set is: its blocks and their digests, its splits, every set's size and origin.

``manifest.json`` holds the tables of shards and blocks; ``<split>.sets.npy`` beside it one row of SET_DTYPE a
set, so that plans need no data read. Rows are read a range at a time: a plan over 100 million sets holds a
window of them in memory. The fingerprint names the data: it covers the schema, the data sets' names, the
place and digest of every block and the digests of the rows, but not the descriptions (source, licence,
statistics).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import weakref
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from adit_scale.data.config import SPLITS, DataConfig
from adit_scale.data.storage import LocalFolder, Storage, open_storage, read_fully
from adit_scale.data.tables import Block, Shard, TableError, check_tables
from adit_scale.errors import DataError

__all__ = [
    "MANIFEST_FILE",
    "SET_DTYPE",
    "SPLITS",
    "Block",
    "Manifest",
    "Shard",
    "SplitIndex",
    "open_manifest",
    "sets_file",
]

SCHEMA_VERSION = 2
MANIFEST_FILE = "manifest.json"
# One set: atoms, data set (index into the manifest's ``datasets``), domain (atoms.CRYSTAL, MOLECULE).
SET_DTYPE = np.dtype([("n_atoms", "<u2"), ("dataset", "u1"), ("domain", "u1")])
MAX_SET_ATOMS, MAX_DATASETS = 2**16 - 1, 2**8
_ROWS_AT_ONCE = 1 << 20


def sets_file(split: str) -> str:
    return f"{split}.sets.npy"


class SplitIndex:
    """A split as a plan sees it. A set's index is its place in this order.

    first_set: ``(n_blocks + 1,)`` int64, the place of each block's first set, then their number.
    block_bytes: ``(n_blocks,)`` int64, on disk.
    rows: file of SET_DTYPE rows.
    """

    def __init__(self, name: str, blocks: list[Block], rows: Path) -> None:
        self.name = name
        self.blocks = tuple(blocks)
        self.first_set = np.array([b.first_set for b in blocks] + [sum(b.n_sets for b in blocks)], np.int64)
        self.block_bytes = np.array([b.stop - b.start for b in blocks], dtype=np.int64)
        self._rows, self._rows_start = rows, _npy_data_start(rows, len(self))
        # Kept open: a plan asks for the rows of block after block, and a bounded cache may drop the file.
        self._descriptor = os.open(rows, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def __len__(self) -> int:
        return int(self.first_set[-1])

    def rows(self, first: int, stop: int) -> np.ndarray:
        """SET_DTYPE rows of the sets at places first to stop, read from disk."""
        n_bytes = (stop - first) * SET_DTYPE.itemsize
        start = self._rows_start + first * SET_DTYPE.itemsize
        try:
            data = read_fully(self._descriptor, start, start + n_bytes)
        except OSError as error:
            raise DataError(f"{self._rows}: cannot be read ({error.strerror})") from error
        if len(data) != n_bytes:
            raise DataError(f"{self._rows}: shorter than when it was checked; copy it with the shards again")
        return np.frombuffer(data, SET_DTYPE)

    def block_of(self, set_index: np.ndarray) -> np.ndarray:
        """The block that holds each set, int64."""
        return np.searchsorted(self.first_set, set_index, side="right") - 1

    def chunks(self) -> Iterator[tuple[int, np.ndarray]]:
        """All rows, a bounded number at a time, each lot with the place of its first."""
        for first in range(0, len(self), _ROWS_AT_ONCE):
            yield first, self.rows(first, min(first + _ROWS_AT_ONCE, len(self)))

    # The whole split at once, for what is small or looks at everything.

    @cached_property
    def sizes(self) -> np.ndarray:
        """Atoms of every set, ``(n,)`` int64."""
        return self.rows(0, len(self))["n_atoms"].astype(np.int64)

    @cached_property
    def dataset(self) -> np.ndarray:
        """Data set of every set, ``(n,)`` int64."""
        return self.rows(0, len(self))["dataset"].astype(np.int64)

    @cached_property
    def domain(self) -> np.ndarray:
        """Domain of every set, ``(n,)`` int64."""
        return self.rows(0, len(self))["domain"].astype(np.int64)


@dataclass(frozen=True)
class Manifest:
    """datasets: names in index order. descriptions: statistics, source and licence by name.

    sets_sha256: by split, of its rows' file. storage: where the files lie; not part of the identity.
    """

    datasets: list[str]
    descriptions: dict[str, dict[str, Any]]
    shards: dict[str, list[Shard]]
    blocks: dict[str, list[Block]]
    sets_sha256: dict[str, str]
    storage: Storage

    @property
    def schema_version(self) -> int:
        return SCHEMA_VERSION

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of what the data set holds, in hex."""
        digest = hashlib.sha256()
        for piece in _canonical(self._identity()):
            digest.update(piece.encode())
        return digest.hexdigest()

    def split(self, name: str) -> SplitIndex:
        """The index of "train", "val" or "test". Raises DataError for another name."""
        if name not in SPLITS:
            raise DataError(f"no split {name!r}; expected one of {', '.join(SPLITS)}")
        return SplitIndex(name, self.blocks[name], self._rows_file(name))

    def n_sets(self, split: str) -> int:
        return sum(block.n_sets for block in self.blocks[split])

    def save(self, folder: Path) -> None:
        """Write manifest.json into ``folder``; the same bytes for the same data."""
        tree = {"fingerprint": self.fingerprint, **self._identity(), "descriptions": self.descriptions}
        text = json.dumps(tree, indent=1, sort_keys=True, default=asdict)
        (folder / MANIFEST_FILE).write_text(text + "\n")

    @staticmethod
    def load(place: Path | Storage) -> Manifest:
        """Read and check a manifest. Raises DataError when it is missing, damaged or of another schema."""
        storage = LocalFolder(place) if isinstance(place, Path) else place
        cure = "build or copy the shards again"
        if isinstance(storage, LocalFolder) and not (storage.folder / MANIFEST_FILE).is_file():
            where = storage.folder / MANIFEST_FILE
            raise DataError(f"{where}: no such file; build the shards or set data.shards to their folder")
        path = f"{storage}/{MANIFEST_FILE}"
        file = storage.local_file(MANIFEST_FILE)
        try:
            tree = json.loads(file.read_bytes(), object_hook=_table_row)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: not readable as JSON ({error}); {cure}") from error
        found = tree.get("schema_version") if isinstance(tree, dict) else None
        if found != SCHEMA_VERSION:
            raise DataError(f"{path}: schema version {found}; expected {SCHEMA_VERSION}: {cure}")
        try:
            manifest = Manifest(
                datasets=tree["datasets"],
                descriptions=tree["descriptions"],
                shards={s: tree["splits"][s]["shards"] for s in SPLITS},
                blocks={s: tree["splits"][s]["blocks"] for s in SPLITS},
                sets_sha256={s: tree["splits"][s]["sets_sha256"] for s in SPLITS},
                storage=storage,
            )
            expected = tree["fingerprint"]
            check_tables(manifest.datasets, manifest.descriptions, manifest.shards, manifest.blocks)
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: damaged table ({error}); {cure}") from error
        except TableError as error:
            raise DataError(f"{path}: {error}; {cure}") from error
        if manifest.fingerprint != expected:
            raise DataError(
                f"{path}: expected fingerprint {expected}, found {manifest.fingerprint} in its tables; {cure}"
            )
        for split in SPLITS:
            manifest._rows_file(split)
        return manifest

    def _rows_file(self, split: str) -> Path:
        """The file of a split's rows, here, with its digest checked."""
        name, expected = sets_file(split), self.sets_sha256[split]
        path = self.storage.local_file(name)
        if file_sha256(path) != expected and self.storage.forget(name):
            path = self.storage.local_file(name)
        found = file_sha256(path)
        if found != expected:
            raise DataError(
                f"{self.storage}/{name}: expected sha256 {expected}, found {found}; "
                f"build or copy the shards again"
            )
        return path

    def _identity(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "datasets": self.datasets,
            "splits": {
                split: {
                    "shards": self.shards[split],
                    "blocks": self.blocks[split],
                    "sets_sha256": self.sets_sha256[split],
                }
                for split in SPLITS
            },
        }


def open_manifest(data: DataConfig) -> Manifest:
    """Of the shards that ``data`` names. Raises DataError where there are none, or damaged ones."""
    return Manifest.load(open_storage(data.shards, data.cache, data.cache_gib))


def size_counts(index: SplitIndex, n_datasets: int, domain: int = 0) -> np.ndarray:
    """Sets by data set and number of atoms, ``(n_datasets, largest + 1)`` int64, in bounded memory.

    domain: count its sets alone; 0 counts all.
    """
    counts = np.zeros((n_datasets, 1), dtype=np.int64)
    for _, rows in index.chunks():
        if domain:
            rows = rows[rows["domain"] == domain]
        width = max(counts.shape[1], int(rows["n_atoms"].max(initial=0)) + 1)
        where = rows["dataset"].astype(np.int64) * width + rows["n_atoms"]
        part = np.bincount(where, minlength=n_datasets * width).reshape(n_datasets, width)
        part[:, : counts.shape[1]] += counts
        counts = part
    return counts


def file_sha256(path: Path) -> str:
    """sha256 of a file in hex, in little memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _table_row(tree: dict[str, Any]) -> Any:
    """Rows of the tables as soon as they are read: as dictionaries those of 100,000 blocks fill memory."""
    for kind in (Block, Shard):
        if tree.keys() == set(kind.__dataclass_fields__):
            return kind(**tree)
    return tree


def _canonical(tree: Any) -> Iterator[str]:
    """JSON without spaces, keys sorted, in pieces; tables row by row, so that no second copy is held."""
    if isinstance(tree, dict):
        for i, key in enumerate(sorted(tree)):
            yield f"{',' if i else '{'}{json.dumps(key)}:"
            yield from _canonical(tree[key])
        yield "}" if tree else "{}"
    elif isinstance(tree, list):
        for i, item in enumerate(tree):
            yield "," if i else "["
            yield json.dumps(item, sort_keys=True, separators=(",", ":"), default=asdict)
        yield "]" if tree else "[]"
    else:
        yield json.dumps(tree)


def _npy_data_start(path: Path, n_sets: int) -> int:
    """Where the rows begin in a file whose digest has been checked."""
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        assert version == (1, 0), version
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        if shape != (n_sets,) or dtype != SET_DTYPE:
            raise DataError(f"{path}: holds {shape} of {dtype}; expected {n_sets} rows of {SET_DTYPE}")
        return file.tell()


def encode_rows(rows: np.ndarray) -> bytes:
    """The bytes of ``<split>.sets.npy``."""
    buffer = io.BytesIO()
    np.lib.format.write_array(
        buffer, np.ascontiguousarray(rows, SET_DTYPE), version=(1, 0), allow_pickle=False
    )
    return buffer.getvalue()

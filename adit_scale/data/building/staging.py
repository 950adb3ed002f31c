"""What stands on disk while a data set is built: pieces of converted structures, whole or absent.

A piece is a file: sha256 of the rest, length of a JSON header, the header, arrays end to end.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from adit_scale.atoms import AtomSet
from adit_scale.data.building.keys import facts_of
from adit_scale.data.columns import SetColumns, cumulative
from adit_scale.data.sources import Rejected

_DIGEST_BYTES = 32


@dataclass(frozen=True)
class Lot:
    """S sets with T atoms, as a block stores them: what is written was rounded once, at conversion.

    sizes_s int64, numbers_t uint8, positions_t3 and cells_s33 float32, spacegroup_s int16, dataset_s uint16.
    ids: JSON strings end to end; ids_stop_s int64 is where each ends.
    """

    sizes_s: np.ndarray
    numbers_t: np.ndarray
    positions_t3: np.ndarray
    cells_s33: np.ndarray
    spacegroup_s: np.ndarray
    dataset_s: np.ndarray
    ids: np.ndarray
    ids_stop_s: np.ndarray

    def __len__(self) -> int:
        return len(self.sizes_s)

    @property
    def n_bytes_s(self) -> np.ndarray:
        """About what each set takes on disk."""
        return bytes_of_sets(self.sizes_s) + np.diff(self.ids_stop_s, prepend=0)

    def id_texts(self) -> list[str]:
        """The ids, one by one."""
        data, starts = self.ids.tobytes(), [0, *self.ids_stop_s.tolist()]
        return [data[start:stop].decode("utf-8", "surrogatepass") for start, stop in pairwise(starts)]

    def take(self, index: np.ndarray) -> Lot:
        """The sets at the given places, in the given order."""
        sizes, texts = self.sizes_s[index], np.diff(self.ids_stop_s, prepend=0)[index]
        atom = _spans(cumulative(self.sizes_s)[:-1][index], sizes)
        text = _spans((self.ids_stop_s - np.diff(self.ids_stop_s, prepend=0))[index], texts)
        return Lot(
            sizes_s=sizes,
            numbers_t=self.numbers_t[atom],
            positions_t3=self.positions_t3[atom],
            cells_s33=self.cells_s33[index],
            spacegroup_s=self.spacegroup_s[index],
            dataset_s=self.dataset_s[index],
            ids=self.ids[text],
            ids_stop_s=np.cumsum(texts),
        )

    @staticmethod
    def join(lots: Sequence[Lot]) -> Lot:
        """Several lots end to end. At least one."""
        if len(lots) == 1:
            return lots[0]
        joined = {f.name: np.concatenate([getattr(lot, f.name) for lot in lots]) for f in fields(Lot)}
        first = cumulative(np.array([len(lot.ids) for lot in lots]))[:-1]
        joined["ids_stop_s"] = joined["ids_stop_s"] + np.repeat(first, [len(lot) for lot in lots])
        return Lot(**joined)

    @staticmethod
    def from_sets(sets: Sequence[AtomSet], datasets: Sequence[str]) -> Lot:
        """``datasets`` gives each name its index."""
        texts = [s.id.encode("utf-8", "surrogatepass") for s in sets]
        ids = np.frombuffer(b"".join(texts), np.uint8)
        stops = np.cumsum([len(text) for text in texts], dtype=np.int64)
        if not sets:
            zero = np.zeros(0, np.int64)
            return Lot(
                zero, np.zeros(0, np.uint8), np.zeros((0, 3), np.float32), np.zeros((0, 3, 3), np.float32),
                np.zeros(0, np.int16), np.zeros(0, np.uint16), ids, zero,
            )  # fmt: skip
        columns = SetColumns.from_sets(sets, datasets)
        return Lot(
            sizes_s=columns.sizes_s,
            numbers_t=columns.numbers_t,
            positions_t3=columns.positions_t3,
            cells_s33=columns.cells_s33,
            spacegroup_s=columns.spacegroup_s,
            dataset_s=columns.dataset_s,
            ids=ids,
            ids_stop_s=stops,
        )

    def to_sets(self, datasets: Sequence[str]) -> list[AtomSet]:
        """The sets one by one, in float64."""
        columns = SetColumns.from_arrays(
            self.sizes_s, self.numbers_t, self.positions_t3, self.cells_s33, self.dataset_s, self.spacegroup_s
        )
        return columns.to_sets(datasets, self.id_texts())


def bytes_of_sets(sizes_s: np.ndarray) -> np.ndarray:
    """Bytes of sets of so many atoms, ids aside."""
    return np.asarray(sizes_s, np.int64) * 13 + 48


def _spans(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The places start, start + 1, ... of each span, end to end."""
    total = cumulative(lengths)
    return np.repeat(starts - total[:-1], lengths) + np.arange(total[-1])


@dataclass(frozen=True)
class Piece:
    """Some neighbouring structures of a source, converted.

    datasets: names that ``lot.dataset_s`` and ``facts`` point into. index_s: int64, each set's place in its
    source. rejected: what was left out among them, in the source's order. n_records: of the source, in all.
    """

    datasets: list[str]
    facts: np.ndarray
    index_s: np.ndarray
    lot: Lot
    rejected: list[Rejected]
    n_records: int

    @property
    def n_structures(self) -> int:
        return len(self.lot) + len(self.rejected)

    @staticmethod
    def of(items: Sequence[tuple[int, AtomSet | Rejected]], split: str, salt: str, n_records: int) -> Piece:
        """items: each with its place in its source. split: the publisher's, or ""."""
        sets = [item for _, item in items if not isinstance(item, Rejected)]
        datasets = sorted({s.dataset for s in sets})
        return Piece(
            datasets=datasets,
            facts=facts_of(sets, datasets, split, salt),
            index_s=np.array([i for i, item in items if not isinstance(item, Rejected)], np.int64),
            lot=Lot.from_sets(sets, datasets),
            rejected=[item for _, item in items if isinstance(item, Rejected)],
            n_records=n_records,
        )

    def save(self, path: Path) -> None:
        meta: dict[str, Any] = {
            "datasets": self.datasets,
            "rejected": [asdict(item) for item in self.rejected],
        }
        meta["n_records"] = self.n_records
        arrays = {"facts": self.facts, "index_s": self.index_s}
        write_whole(path, pack(meta, {**arrays, **vars(self.lot)}))

    @staticmethod
    def load(path: Path) -> Piece | None:
        """None where there is no such file, or not as it was written."""
        if not path.is_file():
            return None
        found = unpack(path.read_bytes())
        if found is None:
            return None
        meta, arrays = found
        facts, index_s = arrays.pop("facts"), arrays.pop("index_s")
        rejected = [Rejected(**row) for row in meta["rejected"]]
        return Piece(meta["datasets"], facts, index_s, Lot(**arrays), rejected, meta["n_records"])


def pack(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
    """A JSON header and arrays, behind their digest."""
    table = [[name, np.lib.format.dtype_to_descr(a.dtype), a.shape] for name, a in arrays.items()]
    header = json.dumps({"meta": meta, "arrays": table}).encode()
    parts = [len(header).to_bytes(8, "little"), header]
    parts += [np.ascontiguousarray(a).tobytes() for a in arrays.values()]
    body = b"".join(parts)
    return hashlib.sha256(body).digest() + body


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """What was packed; None where the digest disagrees."""
    body = memoryview(data)[_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != data[:_DIGEST_BYTES]:
        return None
    position = 8 + int.from_bytes(body[:8], "little")
    tree = json.loads(bytes(body[8:position]))
    arrays = {}
    for name, descr, shape in tree["arrays"]:
        dtype = np.dtype([tuple(part) for part in descr] if isinstance(descr, list) else descr)
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(body, dtype, count, position).reshape(shape)
        position += count * dtype.itemsize
    return tree["meta"], arrays


def write_whole(path: Path, data: bytes) -> None:
    """The file appears with all its bytes or, should the process end, not at all."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_bytes(data)
    temporary.replace(path)


def read_pieces(paths: Sequence[Path]) -> Iterator[Piece]:
    """Pieces that were whole a moment ago."""
    for path in paths:
        piece = Piece.load(path)
        if piece is None:
            raise OSError(5, "is no longer as it was written", str(path))
        yield piece

"""An order of all sets, brought about on disk: through files that each fit in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from adit_scale.data.building.staging import Lot, pack, read_pieces, unpack

_LOT_BYTES = _BUCKET_BYTES = 16 << 20
_MAX_BUCKETS = 1024


def bucket_bounds(bytes_s: np.ndarray, may_cut_s: np.ndarray) -> np.ndarray:
    """Places at which an order of sets is cut into buckets: ``(n_buckets + 1,)`` int64, 0 to their number.

    bytes_s: of each set, in the order. may_cut_s: bool, whether a bucket may begin at the set. A bucket holds
    about 16 MiB, or a thousandth of the whole.
    """
    n = len(bytes_s)
    if n == 0:
        return np.zeros(1, np.int64)
    starts = np.flatnonzero(may_cut_s)
    total = np.cumsum(bytes_s, dtype=np.int64)
    size = max(_BUCKET_BYTES, -(-int(total[-1]) // _MAX_BUCKETS))
    number = (total[starts] - bytes_s[starts]) // size
    return np.append(starts[np.flatnonzero(np.diff(number, prepend=-1))], n)


def distribute(
    pieces: Sequence[Path],
    place_s: np.ndarray,
    dataset_maps: Sequence[np.ndarray],
    bounds: np.ndarray,
    folder: Path,
) -> list[Path]:
    """Write every set into the file of its bucket.

    place_s: int64, of every set of the pieces, its place in the order wanted; -1 leaves it out.
    dataset_maps: of every piece, the final index of each of its data sets. Returns the files, by bucket.
    """
    files = [folder / f"{k:05d}.bucket" for k in range(len(bounds) - 1)]
    for path in files:
        path.write_bytes(b"")
    lots: list[Lot] = []
    places: list[np.ndarray] = []
    n_bytes = first = 0
    for piece, dataset_map in zip(read_pieces(pieces), dataset_maps, strict=True):
        place = place_s[first : first + len(piece.lot)]
        first += len(piece.lot)
        kept = np.flatnonzero(place >= 0)
        lot = piece.lot.take(kept)
        lots.append(Lot(**{**vars(lot), "dataset_s": dataset_map[lot.dataset_s].astype(np.uint16)}))
        places.append(place[kept])
        n_bytes += int(lot.n_bytes_s.sum())
        if n_bytes >= _LOT_BYTES:
            _append(files, bounds, Lot.join(lots), np.concatenate(places))
            lots, places, n_bytes = [], [], 0
    if lots:
        _append(files, bounds, Lot.join(lots), np.concatenate(places))
    return files


def _append(files: Sequence[Path], bounds: np.ndarray, lot: Lot, place_s: np.ndarray) -> None:
    order = np.argsort(place_s)
    cuts = np.searchsorted(place_s[order], bounds)
    for path, start, stop in zip(files, cuts[:-1], cuts[1:], strict=True):
        if start == stop:
            continue
        index = order[start:stop]
        data = pack({}, {"place_s": place_s[index], **vars(lot.take(index))})
        with path.open("ab") as file:
            file.write(len(data).to_bytes(8, "little") + data)


def load_bucket(path: Path) -> tuple[Lot, np.ndarray]:
    """The sets of a bucket in their order, and their places."""
    lots, places = [], []
    for arrays in _arrays(path):
        places.append(arrays.pop("place_s"))
        lots.append(Lot(**arrays))
    place_s = np.concatenate(places)
    order = np.argsort(place_s)
    return Lot.join(lots).take(order), place_s[order]


def _arrays(path: Path) -> Iterator[dict[str, np.ndarray]]:
    with path.open("rb") as file:
        while head := file.read(8):
            found = unpack(file.read(int.from_bytes(head, "little")))
            if found is None:
                raise OSError(5, "is no longer as it was written", str(path))
            yield found[1]

"""The reading of one block: tar headers and array headers by hand, arrays as views of the bytes.

A block is seven small members, and a general tar or npy reader spends longer on their headers than on their
contents. Only what the format says is read: known names in the block's own key, plain little-endian arrays in
C order of the stated types and shapes. Anything else is a DataError, never a guess.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass

import numpy as np

from adit_scale.data.columns import SetColumns
from adit_scale.errors import DataError

TAR_BLOCK = 512
END_OF_ARCHIVE = bytes(2 * TAR_BLOCK)
# By member: the dtype's name in the npy header, and the shape behind the first axis.
ARRAYS: dict[str, tuple[str, tuple[int, ...]]] = {
    "numbers.npy": ("|u1", ()),
    "positions.npy": ("<f4", (3,)),
    "offsets.npy": ("<i8", ()),
    "cells.npy": ("<f4", (3, 3)),
    "dataset.npy": ("<u2", ()),
    "spacegroup.npy": ("<i2", ()),
}
IDS = "ids.json"
_OCTAL = re.compile(rb"([0-7]{11})\0")
_NPY_START = b"\x93NUMPY\x01\x00"
_NPY_HEADER = re.compile(
    rb"\{'descr': '([^']+)', 'fortran_order': False, 'shape': \((\d+),(?: (\d+(?:, \d+)*))?\), \} *\n"
)


@dataclass(frozen=True)
class RawBlock:
    """The columns of a block as they stand in it: views of its bytes, not to be written to.

    arrays: by member name. ids_json: UTF-8 bytes, decoded only where ids are wanted.
    """

    key: str
    arrays: dict[str, np.ndarray]
    ids_json: bytes

    @property
    def n_sets(self) -> int:
        return len(self.arrays["offsets.npy"]) - 1

    def columns(self) -> SetColumns:
        arrays = self.arrays
        return SetColumns.from_arrays(
            sizes_s=np.diff(arrays["offsets.npy"]),
            numbers_t=arrays["numbers.npy"],
            positions_t3=arrays["positions.npy"],
            cells_s33=arrays["cells.npy"],
            dataset_s=arrays["dataset.npy"],
            spacegroup_s=arrays["spacegroup.npy"],
        )

    def ids(self) -> list[str]:
        """Raises DataError unless they are one string a set."""
        return decode_ids(self.ids_json, self.n_sets)


def parse_block(data: bytes) -> RawBlock:
    """The members of a block whose digest has been checked. Raises DataError for another format."""
    key, arrays, ids = "", {}, None
    for name, start, stop in _members(data):
        own_key, _, member = name.partition(".")
        key = key or own_key
        if own_key != key or (member != IDS and member not in ARRAYS) or member in arrays:
            raise DataError(f"unexpected tar member {name!r}; build the shards again")
        if member == IDS:
            ids = data[start:stop]
        else:
            arrays[member] = _array(data, start, stop, name)
    missing = [m for m in ARRAYS if m not in arrays] + ([] if ids is not None else [IDS])
    if missing or ids is None:
        raise DataError(f"no tar member {key}.{missing[0]}; build the shards again")
    _check_lengths(key, arrays)
    return RawBlock(key, arrays, ids)


def decode_block(data: bytes) -> tuple[SetColumns, list[str]]:
    """The columns and ids of a block whose digest has been checked. Raises DataError for another format."""
    block = parse_block(data)
    return block.columns(), block.ids()


def decode_ids(ids_json: bytes, n_sets: int) -> list[str]:
    """Raises DataError unless they are one string a set."""
    try:
        ids = json.loads(ids_json)
    except ValueError as error:
        raise DataError(f"{IDS} is not readable as JSON ({error}); build the shards again") from error
    if not isinstance(ids, list) or len(ids) != n_sets or not all(isinstance(i, str) for i in ids):
        raise DataError(f"{IDS} holds no list of {n_sets} strings; build the shards again")
    return ids


def _members(data: bytes) -> list[tuple[str, int, int]]:
    """Name, first byte and end of every member's contents."""
    members = []
    place, end = 0, len(data)
    while place < end:
        header = data[place : place + TAR_BLOCK]
        if header == bytes(TAR_BLOCK) and data[place:] == END_OF_ARCHIVE:
            break
        start = place + TAR_BLOCK
        size = _OCTAL.fullmatch(header[124:136])
        if header[257:263] != b"ustar\0" or header[156:157] != b"0" or size is None:
            raise DataError(f"no ustar header of a plain file at byte {place} of it; build the shards again")
        stop = start + int(size[1], 8)
        place = stop + -stop % TAR_BLOCK
        if place > end:
            raise DataError(f"a tar member runs past its end at byte {end}; build the shards again")
        members.append((header[:100].rstrip(b"\0").decode("ascii", "replace"), start, stop))
    return members


def _array(data: bytes, start: int, stop: int, name: str) -> np.ndarray:
    """The array of one npy member, of the type and shape the format gives it."""
    member = name.partition(".")[2]
    dtype, trailing = ARRAYS[member]
    first = start + 10 + int.from_bytes(data[start + 8 : start + 10], "little")
    header = _NPY_HEADER.fullmatch(data[start + 10 : min(first, stop)])
    if data[start : start + 8] != _NPY_START or header is None:
        raise DataError(f"{name} is no plain npy array of version 1.0; build the shards again")
    rows = int(header[2])
    shape = (rows, *(int(n) for n in (header[3] or b"").split(b", ") if n))
    count = math.prod(shape)
    if header[1].decode("ascii", "replace") != dtype or shape[1:] != trailing:
        found = f"{header[1].decode('ascii', 'replace')} {shape}"
        raise DataError(f"{name} holds {found}; expected {dtype} {('n', *trailing)}; build the shards again")
    if stop - first != count * np.dtype(dtype).itemsize:
        raise DataError(f"{name} is {stop - first} bytes long for {shape}; build the shards again")
    return np.frombuffer(data, dtype, count, first).reshape(shape)


def _check_lengths(key: str, arrays: dict[str, np.ndarray]) -> None:
    """Every column as long as the offsets say, and no set without atoms."""
    offsets = arrays["offsets.npy"]
    n_sets = len(offsets) - 1
    if n_sets < 1 or offsets[0] != 0 or not (np.diff(offsets) > 0).all():
        raise DataError(f"{key}.offsets.npy does not rise from 0; build the shards again")
    n_atoms = int(offsets[-1])
    for member, array in arrays.items():
        expected = {"numbers.npy": n_atoms, "positions.npy": n_atoms, "offsets.npy": n_sets + 1}.get(
            member, n_sets
        )
        if len(array) != expected:
            raise DataError(
                f"{key}.{member} has {len(array)} rows; expected {expected}; build the shards again"
            )

"""GEOM as published (Axelrod and Gómez-Bombarelli, Sci. Data 9, 185): ``drugs_crude.msgpack``, or in a tar.

The file is a stream of msgpack maps of about a thousand molecules each, from a SMILES to a map whose
``conformers`` hold ``xyz`` (a row ``[Z, x, y, z]`` an atom, hydrogens included, angstrom) and ``totalenergy``
(hartree). Charged molecules and those of several fragments are kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, BinaryIO

import msgpack
import numpy as np

from adit_scale.atoms import AtomSet
from adit_scale.data.config import DataConfig
from adit_scale.data.sources.source import (
    MAX_RECORD_BYTES,
    Format,
    Record,
    Rejected,
    Source,
    UnusableFile,
    UnusableStructure,
    bare_name,
    open_binary,
)
from adit_scale.data.sources.tar import Member, members

_READ_BYTES = 1 << 18
_MAX_SMILES_BYTES = 1 << 16
# Lengths beyond what a molecule can need within MAX_RECORD_BYTES.
_LIMITS = {
    "max_str_len": 1 << 20,
    "max_bin_len": 1 << 20,
    "max_array_len": 1 << 20,
    "max_map_len": 1 << 12,
    "max_ext_len": 0,
}
_NO_CELL = np.zeros((3, 3))


def _records(source: Source, config: DataConfig) -> Iterator[Record]:
    """A record a molecule; its payload is the msgpack of the value, untouched."""
    index = 0
    with open_binary(source.path) as stream:
        for part in _streams(source, stream):
            for smiles, payload in _molecules(part):
                yield Record(index, smiles, payload)
                index += 1
    if not index:
        raise UnusableFile("holds no molecules")


def _streams(source: Source, stream: BinaryIO) -> Iterator[BinaryIO | Member]:
    if bare_name(source.path)[1] == ".msgpack":
        yield stream
        return
    for member in members(stream):
        if member.fault:
            raise UnusableFile(member.fault)
        if member.name.endswith(".msgpack"):
            yield member


class _Window:
    """A stream that keeps what was read since ``drop``, so that the bytes of a value can be cut out."""

    def __init__(self, stream: BinaryIO | Member):
        self._stream = stream
        self._kept = bytearray()
        self._start = 0  # of what is kept, in the stream

    def read(self, n: int) -> bytes:
        data = self._stream.read(n)
        self._kept += data
        if len(self._kept) > MAX_RECORD_BYTES + 2 * _READ_BYTES:
            raise UnusableFile(
                f"a value from byte {self._start} on is longer than {MAX_RECORD_BYTES >> 20} MiB"
            )
        return data

    def cut(self, start: int, stop: int) -> bytes:
        return bytes(self._kept[start - self._start : stop - self._start])

    def drop(self, until: int) -> None:
        del self._kept[: until - self._start]
        self._start = until


def _molecules(stream: BinaryIO | Member) -> Iterator[tuple[str, bytes]]:
    """SMILES and raw value of each molecule. Raises UnusableFile."""
    window = _Window(stream)
    unpacker = msgpack.Unpacker(
        window,
        raw=True,
        read_size=_READ_BYTES,
        max_buffer_size=MAX_RECORD_BYTES + _READ_BYTES,
        **{
            **_LIMITS,
            "max_str_len": _MAX_SMILES_BYTES,
            "max_bin_len": _MAX_SMILES_BYTES,
            "max_map_len": 1 << 24,
        },
    )
    left = 0
    while True:
        start = unpacker.tell()
        window.drop(start)
        try:
            if left:
                yield _molecule(unpacker, window)
                left -= 1
            else:
                left = unpacker.read_map_header()
        except UnusableFile:
            raise
        except msgpack.OutOfData:
            if not left and not window.cut(start, start + 1):
                return
            raise _damaged(start, "it ends too early") from None
        except (ValueError, msgpack.UnpackException) as error:
            raise _damaged(start, str(error) or type(error).__name__) from error


def _molecule(unpacker: msgpack.Unpacker, window: _Window) -> tuple[str, bytes]:
    start = unpacker.tell()
    key = unpacker.unpack()
    smiles = key.decode("utf-8") if isinstance(key, bytes) else ""
    if not smiles:
        raise _damaged(start, f"expected a SMILES, found {str(key)[:40]!r}")
    begin = unpacker.tell()
    unpacker.skip()
    return smiles, window.cut(begin, unpacker.tell())


def _damaged(at: int, why: str) -> UnusableFile:
    return UnusableFile(f"damaged msgpack at byte {at} ({why[:100]}); copy the file again")


def _parse(record: Record, dataset: str, config: DataConfig) -> list[AtomSet | Rejected]:
    """The conformers of lowest energy, called SMILES#k with k their rank from 0."""
    try:
        molecule = msgpack.unpackb(record.payload, raw=False, strict_map_key=True, **_LIMITS)
    except (ValueError, msgpack.UnpackException) as error:
        raise UnusableStructure(f"unreadable msgpack ({str(error)[:100] or type(error).__name__})") from error
    conformers = molecule.get("conformers") if isinstance(molecule, dict) else None
    if not isinstance(conformers, list) or not conformers:
        raise UnusableStructure("no conformers")
    energies = [_energy(conformer) for conformer in conformers]
    order = sorted(range(len(conformers)), key=energies.__getitem__)  # stable: ties keep the file's order
    items: list[AtomSet | Rejected] = []
    for rank, i in enumerate(order[: config.conformers]):
        name = f"{record.name}#{rank}"
        try:
            items.append(_convert(conformers[i], dataset, name, record.name))
        except UnusableStructure as error:
            items.append(Rejected(dataset, record.index, name, str(error)))
    return items


def _energy(conformer: Any) -> float:
    energy = conformer.get("totalenergy") if isinstance(conformer, dict) else None
    if not isinstance(energy, float) or not math.isfinite(energy):
        raise UnusableStructure(f"totalenergy of a conformer is {str(energy)[:40]}; expected a number")
    return energy


def _convert(conformer: dict[str, Any], dataset: str, name: str, smiles: str) -> AtomSet:
    rows = conformer.get("xyz")
    if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == 4 for row in rows):
        raise UnusableStructure("xyz of a conformer is not rows of four numbers")
    if not all(type(value) in (float, int) for row in rows for value in row):
        raise UnusableStructure("xyz of a conformer holds what is no number")
    table = np.array([[float(value) for value in row] for row in rows]).reshape(-1, 4)
    numbers = table[:, 0]
    if not ((numbers >= 0) & (numbers < 1000) & (numbers == np.floor(numbers))).all():
        raise UnusableStructure("an atomic number of a conformer is not whole")
    return AtomSet(
        numbers.astype(np.int64),
        table[:, 1:].copy(),
        _NO_CELL,
        periodic=False,
        dataset=dataset,
        id=name,
        group=smiles,
    )


FORMAT = Format("GEOM msgpack", _records, _parse)

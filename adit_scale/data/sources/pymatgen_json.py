"""JSON as pymatgen writes it: structures and molecules, entries that hold one, lists of them, objects by id.

So also Alexandria's ``{"entries": [...]}`` and QMOF's ``[{"qmof_id": ..., "structure": ...}]``. The document
is cut while it is read. Numbers are taken from it directly: no class that it names is ever imported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn

import numpy as np

from adit_scale.atoms import AtomSet
from adit_scale.data.config import DataConfig
from adit_scale.data.sources.json_stream import JsonStream
from adit_scale.data.sources.source import (
    MAX_RECORD_BYTES,
    Format,
    Record,
    Rejected,
    Source,
    UnusableFile,
    UnusableStructure,
    open_binary,
    text_of,
)
from adit_scale.data.sources.structures import ATOMIC_NUMBERS, cartesian, cell_from_parameters

# Keys that say that the outermost object is a structure or an entry itself, not an object by id.
_OWN_KEYS = {
    "@module", "@class", "lattice", "sites", "structure", "molecule",
    "composition", "data", "parameters", "properties", "energy",
}  # fmt: skip
_HOLDERS = ("structure", "molecule")
_IDS = ("material_id", "mat_id", "qmof_id", "entry_id")
_SYMBOL = re.compile(r"([A-Z][a-z]?)(?:\d*\.?\d*[+-])?", re.ASCII)
# The place of an atom stands twice; a difference of more than this many angstrom is damage.
_AGREEMENT = 1e-2
_LARGE = f"larger than {MAX_RECORD_BYTES >> 20} MiB"


def records(source: Source, config: DataConfig) -> Iterator[Record]:
    """The structures of a file, one object each. Raises UnusableFile for what is not JSON."""
    with open_binary(source.path) as stream:
        yield from cut(stream, source, config)


def cut(stream: BinaryIO, source: Source, config: DataConfig) -> Iterator[Record]:
    """The structures of an open file; those of an object by id are named by their keys."""
    document = JsonStream(stream)
    first = document.peek()
    pairs: Iterator[tuple[str, bytes | None]]
    if first == b"[":
        pairs = (("", value) for value in document.values())
    elif first == b"{":
        pairs = _members(document)
    else:
        raise UnusableFile("expected JSON: a list or an object of structures")
    index = -1
    for index, (name, value) in enumerate(pairs):
        if value is None:
            yield Record.unusable(index, name or str(index), _LARGE)
        else:
            yield Record(index, name, value)
    document.end()
    if index < 0:
        raise UnusableFile("no structure in the JSON document")


def _members(document: JsonStream) -> Iterator[tuple[str, bytes | None]]:
    """Of the outermost object: itself where it is a structure, else the elements of a list it holds, else its
    values by their keys."""
    document.expect(b"{")
    parts: list[bytes] = []  # of a structure; plain values may come before the key that tells
    size, itself, fits = 0, False, True
    if document.peek() == b"}":
        raise UnusableFile("an empty JSON object; expected structures")
    while True:
        key = document.key()
        itself = itself or key in _OWN_KEYS
        kind = document.peek()
        if not itself and kind == b"[":
            yield from (("", value) for value in document.values())
        else:
            value = document.value()
            if not itself and kind == b"{":
                yield key, value
            elif fits:
                size += len(value or b"")
                fits = value is not None and size <= MAX_RECORD_BYTES
                parts = [*parts, json.dumps(key).encode() + b":" + (value or b"")] if fits else []
        if not document.more(b"}"):
            break
    if itself:
        yield "", b"{" + b",".join(parts) + b"}" if fits else None


def parse(record: Record, dataset: str, config: DataConfig) -> list[AtomSet | Rejected]:
    """The structure of an object. Raises UnusableStructure where it is not JSON."""
    try:
        found = json.loads(text_of(record.payload), parse_constant=_refuse_constant)
    except UnusableStructure:
        raise
    except RecursionError as error:
        raise UnusableStructure("JSON nested too deeply") from error
    except ValueError as error:
        raise UnusableStructure(f"unreadable JSON: {str(error)[:100]}") from error
    name = record.name or str(record.index)
    try:
        if not isinstance(found, dict):
            raise UnusableStructure(f"{str(found)[:40]!r} is no structure; expected an object")
        data = found["data"] if isinstance(found.get("data"), dict) else {}
        name = _name(found, data) or name
        return [_structure(found, data, dataset, name)]
    except UnusableStructure as error:
        return [Rejected(dataset, record.index, name, str(error))]


def _refuse_constant(word: str) -> NoReturn:
    raise UnusableStructure(f"{word} is no number of JSON")


def _name(found: dict[str, Any], data: dict[str, Any]) -> str:
    values = (place.get(key) for key in _IDS for place in (found, data))
    return next(
        (str(v) for v in values if isinstance(v, str | int) and not isinstance(v, bool) and str(v)), ""
    )


def _structure(found: dict[str, Any], data: dict[str, Any], dataset: str, name: str) -> AtomSet:
    holders = [key for key in _HOLDERS if key in found]
    inner = found if "sites" in found else found[holders[0]] if holders else None
    if not isinstance(inner, dict) or not isinstance(inner.get("sites"), list):
        raise UnusableStructure("no 'sites', and no 'structure' that has them")
    sites = inner["sites"]
    if not sites or not all(isinstance(site, dict) for site in sites):
        raise UnusableStructure("no atoms" if not sites else "a site is no object")
    numbers = np.array([_number(site, i) for i, site in enumerate(sites)])
    lattice = inner.get("lattice")
    if lattice is None:
        if "Structure" in str(inner.get("@class")) or any("abc" in site for site in sites):
            raise UnusableStructure("a structure without a lattice")
        cell = np.zeros((3, 3))
        positions = _triples(sites, "xyz")
    else:
        cell = _cell(lattice)
        positions = cartesian(_triples(sites, "abc"), cell)
        if any("xyz" in site for site in sites):
            apart = np.abs(positions - _triples(sites, "xyz")).max(axis=1)
            if not (apart <= _AGREEMENT).all():
                raise UnusableStructure(f"abc and xyz of atom {int(apart.argmax())} are not one place")
    return AtomSet(
        numbers=numbers,
        positions=positions,
        cell=cell,
        periodic=lattice is not None,
        dataset=dataset,
        spacegroup=_spacegroup(found, data) if lattice is not None else 0,
        id=name,
    )


def _number(site: dict[str, Any], index: int) -> int:
    if not isinstance(site.get("properties") or {}, dict):
        raise UnusableStructure(f"properties of site {index} are no object")
    species = site.get("species")
    if not isinstance(species, list) or not species or not all(isinstance(s, dict) for s in species):
        raise UnusableStructure(f"site {index} has no list of species")
    if len(species) > 1 or species[0].get("occu") != 1:
        raise UnusableStructure(f"partial or mixed occupancy of site {index}")
    symbol = species[0].get("element")
    match = _SYMBOL.fullmatch(symbol) if isinstance(symbol, str) else None
    number = (1 if match[1] in ("D", "T") else ATOMIC_NUMBERS.get(match[1])) if match else None
    if number is None:
        raise UnusableStructure(f"unknown element {str(symbol)[:40]!r}")
    return number


def _cell(lattice: Any) -> np.ndarray:
    if not isinstance(lattice, dict):
        raise UnusableStructure("lattice is no object")
    if lattice.get("pbc", [True] * 3) != [True] * 3:
        raise UnusableStructure(f"pbc is {str(lattice['pbc'])[:40]}; expected [true, true, true]")
    if "matrix" in lattice:
        return _reals(lattice["matrix"], (3, 3), "lattice.matrix")
    keys = ("a", "b", "c", "alpha", "beta", "gamma")
    parameters = _reals([lattice.get(key) for key in keys], (6,), "lattice").tolist()
    return cell_from_parameters(parameters[:3], parameters[3:])


def _triples(sites: list[dict[str, Any]], key: str) -> np.ndarray:
    return _reals([site.get(key) for site in sites], (len(sites), 3), f"{key} of the sites")


def _reals(values: Any, shape: tuple[int, ...], what: str) -> np.ndarray:
    try:
        array = np.array(values)
    except (ValueError, OverflowError) as error:
        raise UnusableStructure(f"{what} are not {shape} numbers") from error
    if array.shape != shape or array.dtype.kind not in "fiu":
        raise UnusableStructure(f"{what} are not {shape} numbers")
    return array.astype(np.float64)


def _spacegroup(found: dict[str, Any], data: dict[str, Any]) -> int:
    """Alexandria's ``data.spg``, or ``symmetry.number`` as the Materials Project gives it."""
    symmetry = found.get("symmetry")
    stated = data.get("spg", symmetry.get("number") if isinstance(symmetry, dict) else None)
    return stated if isinstance(stated, int) and not isinstance(stated, bool) else 0


FORMAT = Format("pymatgen json", records, parse)

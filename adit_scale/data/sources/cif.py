"""CIF: each data block is a crystal. Fully occupied sites only; symmetry operations are applied.

A block is read by the grammar of CIF 1.1, strictly: what is not understood is refused with the reason. The
form that most data sets hold, P1 as pymatgen writes it, takes a path that only splits words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from adit_scale.atoms import AtomSet
from adit_scale.data.config import DataConfig
from adit_scale.data.sources.cif_symmetry import (
    expand,
    operations_by_name,
    operations_of,
    spacegroup_number,
)
from adit_scale.data.sources.source import (
    MAX_RECORD_BYTES,
    Format,
    Record,
    Rejected,
    Source,
    UnusableFile,
    UnusableStructure,
    lines_of,
    open_binary,
    text_of,
)
from adit_scale.data.sources.structures import (
    ATOMIC_NUMBERS,
    MAX_SPACEGROUP,
    cartesian,
    cell_from_parameters,
)

_NUMBER = r"([-+.\deE]+)"
# A P1 block as pymatgen writes it, up to its atoms.
_P1_HEAD = re.compile(
    r"(?:#[^\n]*\n)?data_\S*\n_symmetry_space_group_name_H-M +'P 1'\n"
    rf"_cell_length_a +{_NUMBER}\n_cell_length_b +{_NUMBER}\n_cell_length_c +{_NUMBER}\n"
    rf"_cell_angle_alpha +{_NUMBER}\n_cell_angle_beta +{_NUMBER}\n_cell_angle_gamma +{_NUMBER}\n"
    r"_symmetry_Int_Tables_number +1\n_chemical_formula_structural +[\w()\[\].'+-]+\n"
    r"_chemical_formula_sum +[\w()\[\].'+ -]+\n_cell_volume +[\d.]+\n_cell_formula_units_Z +\d+\n"
    r"loop_\n _symmetry_equiv_pos_site_id\n _symmetry_equiv_pos_as_xyz\n  1  'x, y, z'\n"
    r"loop_\n _atom_site_type_symbol\n _atom_site_label\n _atom_site_symmetry_multiplicity\n"
    r" _atom_site_fract_x\n _atom_site_fract_y\n _atom_site_fract_z\n _atom_site_occupancy\n"
)
_TOKEN = re.compile(
    r"""\#[^\n]*
    | ^;(?P<text>.*?)^;(?=\s|\Z)
    | '(?P<single>[^\n]*?)'(?=\s|\Z)
    | "(?P<double>[^\n]*?)"(?=\s|\Z)
    | (?P<bare>\S+)""",
    re.VERBOSE | re.MULTILINE | re.DOTALL | re.ASCII,
)
_DECIMAL = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?:\(\d+\))?", re.ASCII)
_SYMBOL = re.compile(r"([A-Za-z]{1,2})(?:\d*[+-]|[+-]\d+|\d+)?", re.ASCII)
_LABEL = re.compile(r"([A-Z][a-z]?)(?![A-Za-z])", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_OPERATIONS = (
    "_space_group_symop_operation_xyz",
    "_space_group_symop.operation_xyz",
    "_symmetry_equiv_pos_as_xyz",
)
_NUMBERS = ("_space_group_it_number", "_symmetry_int_tables_number", "_space_group.it_number")
_SYMBOLS = ("_space_group_name_h-m_alt", "_symmetry_space_group_name_h-m", "_space_group.name_h-m_alt")
_THIRDS_TOLERANCE = 1e-4  # relative
_UNKNOWN = ("?", ".", "")


class Block(NamedTuple):
    """A crystal: numbers ``(n,)``, cell ``(3, 3)`` in angstrom, fractional coordinates ``(n, 3)``, and the
    spacegroup it states; P1 counts as none, since writers put it on everything."""

    numbers: np.ndarray
    cell: np.ndarray
    fractional: np.ndarray
    spacegroup: int = 0


def records(source: Source, config: DataConfig) -> Iterator[Record]:
    """The data blocks of a file, named by their codes. Raises UnusableFile when it holds none."""
    with open_binary(source.path) as stream:
        yield from cut(stream, source, config)


def cut(stream: BinaryIO, source: Source, config: DataConfig) -> Iterator[Record]:
    """The data blocks of an open file. A code that stands again gets its place in the file behind it."""
    seen: set[str] = set()
    index = 0
    for payload in _blocks(lines_of(stream)):
        code = payload.split(None, 1)[0][5:].decode("utf-8", "replace")
        name = f"{code}-{index}" if code in seen or not code else code
        seen.add(code)
        yield Record(index, name, payload)
        index += 1
    if not index:
        raise UnusableFile("no data_ block; expected a CIF file")


def _blocks(lines: Iterator[bytes]) -> Iterator[bytes]:
    """From each line that begins ``data_`` to the next, leaving alone those inside a text field."""
    block: list[bytes] = []
    size, inside = 0, False
    for line in lines:
        if line.startswith(b";"):
            inside = not inside
        elif not inside and line.lstrip()[:5].lower() == b"data_":
            if block:
                yield b"".join(block)
            block, size = [line], len(line)
            continue
        if block:
            block.append(line)
            size += len(line)
            if size > MAX_RECORD_BYTES:
                raise UnusableFile(f"a data block is larger than {MAX_RECORD_BYTES >> 20} MiB")
    if block:
        yield b"".join(block)


def parse(record: Record, dataset: str, config: DataConfig) -> list[AtomSet | Rejected]:
    """The crystal of a data block. Raises UnusableStructure."""
    block = parse_block(text_of(record.payload))
    return [
        AtomSet(
            numbers=block.numbers,
            positions=cartesian(block.fractional, block.cell),
            cell=block.cell,
            periodic=True,
            dataset=dataset,
            spacegroup=block.spacegroup,
            id=record.name or str(record.index),
        )
    ]


def parse_block(text: str) -> Block:
    """The crystal of the text of one data block. Raises UnusableStructure."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if odd := _CONTROL.search(text):
        raise UnusableStructure(f"unreadable CIF: control character {odd[0]!r}")
    return _parse_p1(text) or _parse_any(text)


def _parse_p1(text: str) -> Block | None:
    """A fully occupied P1 block in the form pymatgen writes; None for any other form."""
    head = _P1_HEAD.match(text)
    if head is None or not text.isascii():
        return None
    atoms = text[head.end() :]
    if any(mark in atoms for mark in "'\"#;_"):
        return None
    words = atoms.split()
    try:
        numbers = np.array([ATOMIC_NUMBERS[symbol] for symbol in words[0::7]])
        parameters = [float(x) for x in head.groups()]
        site = np.array([words[k::7] for k in (3, 4, 5, 2, 6)], dtype=float)
    except (KeyError, ValueError):
        return None
    if not len(numbers) or (site[3:] != 1).any():
        return None
    fractional = _thirds(site[:3].T)
    return Block(numbers, cell_from_parameters(parameters[:3], parameters[3:]), fractional)


def _thirds(fractional: np.ndarray) -> np.ndarray:
    """A third written with few digits is meant to be one; the same rule as pymatgen's."""
    for third in (1 / 3, 2 / 3):
        fractional = np.where(np.abs(fractional - third) <= _THIRDS_TOLERANCE * third, third, fractional)
    return fractional


def _parse_any(text: str) -> Block:
    if not text.strip():
        raise UnusableStructure("empty CIF")
    items = _items(text)
    parameters = [
        _decimal(items, f"_cell_{key}")
        for key in ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    ]
    cell = cell_from_parameters(parameters[:3], parameters[3:])
    numbers, fractional = _listed_atoms(items)
    stated = _stated(items)
    words = next((_column(items, tag) for tag in _OPERATIONS if tag in items), [])
    if words:
        operations = operations_of(tuple(word.lower().replace(" ", "") for word in words))
    else:
        operations = (
            operations_of(("x,y,z",))
            if stated.replace(" ", "").lower() in ("", "1", "p1")
            else operations_by_name(stated)
        )
    numbers, fractional = expand(numbers, fractional, cell, operations)
    spacegroup = int(stated) if stated.isdecimal() else spacegroup_number(stated)
    return Block(numbers, cell, fractional, spacegroup if spacegroup != 1 else 0)


def _stated(items: dict[str, str | list[str]]) -> str:
    """The spacegroup's number, else its symbol, else "". Raises UnusableStructure for a number of none."""
    for tag in _NUMBERS:
        number = _single(items, tag)
        if number not in _UNKNOWN:
            if not number.isdecimal() or not 1 <= int(number) <= MAX_SPACEGROUP:
                raise UnusableStructure(f"spacegroup number {number[:40]!r}; expected 1 to {MAX_SPACEGROUP}")
            return number
    symbols = (_single(items, tag) for tag in _SYMBOLS)
    return next((symbol for symbol in symbols if symbol not in _UNKNOWN), "")


def _listed_atoms(items: dict[str, str | list[str]]) -> tuple[np.ndarray, np.ndarray]:
    columns = {tag[11:]: _column(items, tag) for tag in items if tag.startswith("_atom_site_")}
    columns |= {tag[11:]: _column(items, tag) for tag in items if tag.startswith("_atom_site.")}
    missing = next((key for key in ("label", "fract_x", "fract_y", "fract_z") if key not in columns), None)
    if missing:
        raise UnusableStructure(f"no _atom_site_{missing} in the data block")
    n_atoms = len(columns["fract_x"])
    wanted = ("fract_y", "fract_z", "type_symbol", "label", "occupancy", *_MUST_BE)
    for key in wanted:
        if key in columns and len(columns[key]) != n_atoms:
            raise UnusableStructure(f"_atom_site_{key} has {len(columns[key])} values; expected {n_atoms}")
    for key, (allowed, meaning) in _MUST_BE.items():
        wrong = [word for word in columns.get(key, ()) if word.lower() not in allowed]
        if wrong:
            raise UnusableStructure(f"_atom_site_{key} is {wrong[0][:40]!r}: {meaning}")
    for i, word in enumerate(columns.get("occupancy", ())):
        if word != "?" and abs(_number(word, f"occupancy of atom {i}") - 1) > 1e-8:
            raise UnusableStructure(f"partial or mixed occupancy: {word[:40]} of atom {i}")
    if "type_symbol" in columns:
        numbers = [_element(word, _SYMBOL.fullmatch(word)) for word in columns["type_symbol"]]
    else:
        numbers = [_element(word, _LABEL.match(word)) for word in columns["label"]]
    fractional = np.array(
        [
            [
                _number(columns[key][i], f"_atom_site_{key} of atom {i}")
                for key in ("fract_x", "fract_y", "fract_z")
            ]
            for i in range(n_atoms)
        ]
    )
    return np.array(numbers), _thirds(fractional.reshape(-1, 3))


_MUST_BE = {
    "attached_hydrogens": (("0", *_UNKNOWN), "hydrogens without a place"),
    "disorder_group": (("0", *_UNKNOWN), "a disordered atom"),
    "calc_flag": (("d", "calc", "c", *_UNKNOWN), "no real atom"),
}


def _element(word: str, match: re.Match[str] | None) -> int:
    symbol = match[1].capitalize() if match else ""
    number = 1 if symbol == "D" else ATOMIC_NUMBERS.get(symbol)  # deuterium
    if number is None:
        raise UnusableStructure(f"unknown element {word[:40]!r}")
    return number


def _single(items: dict[str, str | list[str]], tag: str) -> str:
    value = items.get(tag, "")
    return value if isinstance(value, str) else value[0] if len(value) == 1 else ""


def _column(items: dict[str, str | list[str]], tag: str) -> list[str]:
    value = items[tag]
    return [value] if isinstance(value, str) else value


def _decimal(items: dict[str, str | list[str]], tag: str) -> float:
    if tag not in items:
        raise UnusableStructure(f"no {tag} in the data block")
    return _number(_single(items, tag), tag)


def _number(word: str, what: str) -> float:
    match = _DECIMAL.fullmatch(word)
    if match is None:
        raise UnusableStructure(f"{what} is {word[:40]!r}; expected a number")
    return float(match[1])


def _items(text: str) -> dict[str, str | list[str]]:
    """Values by tag in lower case; those of a loop as a list. Raises UnusableStructure."""
    items: dict[str, str | list[str]] = {}
    words = list(_words(text))
    if not words or not words[0].key.startswith("data_"):
        raise UnusableStructure("unreadable CIF: expected a data_ block")
    i = 1
    while i < len(words):
        key = words[i].key
        if key == "loop_":
            tags: list[str] = []
            i += 1
            while i < len(words) and words[i].key.startswith("_"):
                tags.append(words[i].key)
                i += 1
            start = i
            while i < len(words) and not words[i].key:
                i += 1
            values = [word.value for word in words[start:i]]
            if not tags or not values or len(values) % len(tags):
                name = tags[0] if tags else "nothing"
                raise UnusableStructure(
                    f"loop of {len(tags)} columns from {name[:60]} holds {len(values)} values"
                )
            for k, tag in enumerate(tags):
                _put(items, tag, values[k :: len(tags)])
        elif key.startswith("_"):
            if i + 1 == len(words) or words[i + 1].key:
                raise UnusableStructure(f"{key[:60]} has no value")
            _put(items, key, words[i + 1].value)
            i += 2
        else:
            raise UnusableStructure(f"unreadable CIF: {(words[i].value or key)[:40]!r} belongs to nothing")
    return items


def _put(items: dict[str, str | list[str]], tag: str, value: str | list[str]) -> None:
    if tag in items:
        raise UnusableStructure(f"{tag[:60]} stands twice in the data block")
    items[tag] = value


class _Word(NamedTuple):
    """key: a tag or a reserved word in lower case, "" for a value."""

    key: str
    value: str


def _words(text: str) -> Iterator[_Word]:
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup
        if kind is None:
            continue  # a comment
        value = match[kind]
        if kind != "bare":
            yield _Word("", value)
        elif value[0] in "'\"" or (value[0] == ";" and text[match.start() - 1 : match.start()] in ("", "\n")):
            raise UnusableStructure(f"unreadable CIF: {value[:40]!r} opens a text that does not end")
        else:
            lower = value.lower()
            reserved = lower[0] == "_" or lower.startswith(("data_", "save_"))
            reserved = reserved or lower in ("loop_", "stop_", "global_")
            if reserved and not lower.isascii():
                raise UnusableStructure(f"unreadable CIF: {value[:40]!r} is no name")
            yield _Word(lower if reserved else "", value)


FORMAT = Format("cif", records, parse)

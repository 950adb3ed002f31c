"""Reference entries of a convex hull, from JSON that may come from anywhere.

Two forms are read, plain or gzipped: pymatgen's (a list of ``ComputedEntry``/``ComputedStructureEntry``
dictionaries, as its ``as_dict`` and the Materials Project's files have it) and a short one
(``[{"composition": "NaCl", "energy_ev": -6.8}, …]``, energy of the composition as written, or
``energy_ev_per_atom``). Both may stand under the key "entries" of an object with a text "energies" that says
which energies they are. Fields are read by hand: pymatgen's own decoder imports whatever "@module" names.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymatgen.core import Composition, Element

from adit_scale.errors import DataError

# Energies of these are more than energy + correction, or not at 0 K.
_PLAIN_CLASSES = ("ComputedEntry", "ComputedStructureEntry", "PDEntry")
_MAX_BYTES = 8 * 2**30
EXPECTED = 'expected {"composition": …, "energy_ev": …} or a ComputedEntry as pymatgen writes it'


@dataclass(frozen=True)
class Entry:
    """amounts: of a composition, by symbol. energy: eV/atom, corrections included."""

    amounts: tuple[tuple[str, float], ...]
    energy: float
    id: str = ""

    @property
    def system(self) -> frozenset[str]:
        """The elements."""
        return frozenset(symbol for symbol, _ in self.amounts)


@dataclass(frozen=True)
class EntryFile:
    """entries: in the file's order. name, digest: of the file. energies: what it says they are. model: the
    energy model that made them, as ``Potential.describe`` has it; "" where it does not say."""

    entries: tuple[Entry, ...]
    name: str
    digest: str
    energies: str
    model: str = ""

    def describe(self) -> str:
        said = f", {self.energies}" if self.energies else ""
        return f"{self.name} ({len(self.entries)} entries, sha256 {self.digest}{said})"


def read_entries(path: Path) -> EntryFile:
    """Raises DataError, naming the entry, for anything that is neither form."""
    raw = _read(path)
    try:
        tree = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error}); expected reference entries of a hull") from error
    about = tree if isinstance(tree, dict) else {"entries": tree}
    found = about.get("entries")
    if not isinstance(found, list) or not found:
        raise DataError(f"{path}: expected a list of entries, or an object with one under 'entries'")
    entries = []
    for number, item in enumerate(found):
        try:
            entries.append(_entry(item))
        except (ValueError, TypeError, LookupError, OverflowError) as error:
            raise DataError(f"{path}: entry {number}: {_line(error)}; {EXPECTED}") from error
    said, model = about.get("energies"), about.get("model")
    return EntryFile(
        tuple(entries),
        name=path.name,
        digest=hashlib.sha256(raw).hexdigest()[:12],
        energies=said if isinstance(said, str) else _run_types(found),
        model=model if isinstance(model, str) else "",
    )


def _read(path: Path) -> bytes:
    """The file's content, unpacked where it is gzipped."""
    try:
        with path.open("rb") as stream:
            packed = stream.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if packed else path.open("rb") as stream:
            raw = stream.read(_MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; expected reference entries of a hull as JSON") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: damaged gzip file ({error})") from error
    if len(raw) > _MAX_BYTES:
        raise DataError(f"{path}: more than 8 GiB of JSON; expected fewer entries, without structures")
    return raw


def _entry(item: Any) -> Entry:
    if not isinstance(item, dict):
        raise ValueError(f"is a {type(item).__name__}")
    amounts = _amounts(item)
    n_atoms = sum(amounts.values())
    if "energy_ev_per_atom" in item:
        energy = _number(item, "energy_ev_per_atom")
    elif "energy_ev" in item:
        energy = _number(item, "energy_ev") / n_atoms
    else:
        energy = (_number(item, "energy") + _correction(item)) / n_atoms
    identity = item.get("entry_id", item.get("id", ""))
    return Entry(tuple(sorted(amounts.items())), energy, "" if identity is None else str(identity))


def _correction(item: Mapping[str, Any]) -> float:
    """eV of the whole entry. pymatgen writes the sum of its adjustments as "correction" beside them."""
    kind = item.get("@class", "ComputedEntry")
    if kind not in _PLAIN_CLASSES:
        raise ValueError(f"is a {kind}")
    if item.get("correction") is None:
        if item.get("energy_adjustments"):
            raise ValueError("has energy_adjustments but no 'correction', their sum")
        return 0.0
    return _number(item, "correction")


def _amounts(item: Mapping[str, Any]) -> dict[str, float]:
    """Atoms by symbol, of a formula or of a mapping from elements (oxidation states are dropped)."""
    given = item["composition"]
    if isinstance(given, str):
        composition = Composition(given)
    elif isinstance(given, dict):
        composition = Composition({str(k): _positive(v) for k, v in given.items()})
    else:
        raise ValueError(f"composition is a {type(given).__name__}")
    amounts = {Element(str(e)).symbol: float(n) for e, n in composition.element_composition.items()}
    if not amounts or not all(math.isfinite(n) and n > 0 for n in amounts.values()):
        raise ValueError(f"composition is {given!r}")
    return amounts


def _positive(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e9:
        raise ValueError(f"an amount is {value!r}")
    return float(value)


def _number(item: Mapping[str, Any], key: str) -> float:
    value = item[key]
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{key} is {value!r}")
    return float(value)


def _run_types(items: Sequence[Any]) -> str:
    """Which calculations the entries say they are, such as "GGA, GGA+U"."""
    parameters = (item.get("parameters") for item in items)
    kinds = {str(p["run_type"]) for p in parameters if isinstance(p, dict) and p.get("run_type")}
    return f"run types {', '.join(sorted(kinds)[:6])}" if kinds else ""


def _line(error: Exception) -> str:
    text = f"has no {error}" if isinstance(error, KeyError) else str(error)
    return (text.strip() or type(error).__name__).splitlines()[0][:200]

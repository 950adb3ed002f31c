"""The JSON reader: published shapes, damage, and documents larger than memory."""

from __future__ import annotations

import bz2
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Molecule, Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry

from adit_scale.data.sources import json_stream
from adit_scale.errors import DataError
from tests.data.crystal_files import json_text, structures
from tests.data.test_sources_crystals import ids, is_niggli_of, read, reasons, write

_, QUARTZ, LOW, ONE = structures()


class Pieces:
    """A stream that counts nothing and ends like a file."""

    def __init__(self, data: bytes):
        self._data = data

    def read(self, n: int) -> bytes:
        piece, self._data = self._data[:n], self._data[n:]
        return piece


def alexandria_entry(structure: Structure, name: str, spacegroup: int) -> dict:
    entry = ComputedStructureEntry(
        structure, -1.5, data={"mat_id": name, "spg": spacegroup, "e_above_hull": 0.0}
    )
    return entry.as_dict()


def test_alexandria(tmp_path: Path) -> None:
    entries = [alexandria_entry(QUARTZ, "agm002", 152), alexandria_entry(LOW, "agm003", 1)]
    data = bz2.compress(json.dumps({"entries": entries}).encode())
    items = read(write(tmp_path / "alexandria_000.json.bz2", data))
    assert [(i.id, i.spacegroup) for i in items] == [("agm002", 152), ("agm003", 1)]
    assert is_niggli_of(items[0], QUARTZ)


def test_qmof(tmp_path: Path) -> None:
    found = [{"qmof_id": "qmof-0a", "name": "ABC_FSR", "structure": LOW.as_dict()}]
    items = read(write(tmp_path / "qmof_structure_data.json", json.dumps(found)))
    assert ids(items) == ["qmof-0a"]
    assert is_niggli_of(items[0], LOW)


def test_other_shapes(tmp_path: Path) -> None:
    water = Molecule(["O", "H", "H"], [[0, 0, 0], [0, 0.8, 0.6], [0, -0.8, 0.6]])
    path = tmp_path / "a.json"
    assert ids(read(write(path, json_text(LOW)))) == ["0"]
    assert ids(read(write(path, json.dumps({"m-1": LOW.as_dict(), "m-2": water.as_dict()})))) == [
        "m-1",
        "m-2",
    ]
    indented = json.dumps([water.as_dict(), {"material_id": 5, "structure": ONE.as_dict()}], indent=1)
    first, second = read(write(path, "\ufeff" + indented))
    assert (first.id, first.periodic, first.numbers.tolist()) == ("0", False, [8, 1, 1])
    assert second.id == "5"
    assert is_niggli_of(second, ONE)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"occu": 1}', '"occu": 0.5}', "partial or mixed occupancy of site 0"),
        ('"occu": 1}', '"occu": 1}, {"element": "Zn", "occu": 1}', "partial or mixed occupancy"),
        ('"element": "Mg"', '"element": "Mx"', "unknown element 'Mx'"),
        ('"abc": [0.1,', '"abc": [NaN,', "NaN is no number of JSON"),
        ('"abc": [0.1,', '"abc": ["0.1",', "are not (1, 3) numbers"),
        ('"abc": [0.1,', '"abc": [0.4,', "abc and xyz of atom 0 are not one place"),
        ('"abc": [0.1,', '"abc": [', "are not (1, 3) numbers"),
        ('"abc": [0.1,', '"abc": [1e308,', "position of atom 0"),
        ('[true, true, true]', '[true, true, false]', "pbc is"),
        ('"lattice"', '"lattices"', "a structure without a lattice"),
        ('"sites"', '"places"', "no 'sites'"),
    ],
)  # fmt: skip
def test_bad_structures(tmp_path: Path, old: str, new: str, reason: str) -> None:
    text = json_text(ONE)
    assert old in text
    items = read(write(tmp_path / "a.json", f"[{text.replace(old, new)}, {text}]"))
    assert reason in reasons(items)[0]
    assert reasons(items)[1] == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected JSON"),
        ("[]", "no structure in the JSON document"),
        ("{}", "an empty JSON object"),
        ('[{"a": 1}', r"expected ','|expected '\]'"),
        ('[{"a": "', "cut off or damaged"),
        ("[{}] x", "goes on behind its end"),
        ("{1: {}}", "expected a key in quotes"),
    ],
)
def test_bad_documents(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        read(write(tmp_path / "a.json", text))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.recursive(
            st.none() | st.integers() | st.floats(allow_nan=False) | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=12,
        ),
        min_size=1,
    ),
    st.integers(1, 40),
)
def test_cutting_is_jsons_own(values: list, chunk: int) -> None:
    """Any document, read in pieces of any size, is cut into the values that json.loads gives."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK_BYTES", chunk)
        for ascii_only in (True, False):
            data = json.dumps(values, ensure_ascii=ascii_only).encode()
            document = json_stream.JsonStream(Pieces(data))
            assert [json.loads(value or b"") for value in document.values()] == values
            document.end()


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "MAX_RECORD_BYTES", 1000)
    monkeypatch.setattr(json_stream, "_CHUNK_BYTES", 64)
    large = json.dumps([{"x": list(range(50))} for _ in range(40)])
    document = json_stream.JsonStream(Pieces(f'[{{"a": {large}}}, {{"b": 1}}]'.encode()))
    assert list(document.values()) == [None, b'{"b": 1}']

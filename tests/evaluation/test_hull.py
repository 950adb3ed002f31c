"""Reference entries and energies above their hull, against pymatgen's own reading and hand calculations."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from pymatgen.analysis.phase_diagram import PhaseDiagram
from pymatgen.core import Lattice, Structure
from pymatgen.entries.computed_entries import (
    CompositionEnergyAdjustment,
    ComputedEntry,
    ComputedStructureEntry,
    ConstantEnergyAdjustment,
)

from adit_scale.errors import DataError
from adit_scale.evaluation.energies.entries import read_entries
from adit_scale.evaluation.energies.hull import TOO_MANY_ELEMENTS, Hull

SALT = [
    {"composition": "Na", "energy_ev": -1.3, "id": "Na-bcc"},
    {"composition": "Cl2", "energy_ev": -3.6},
    {"composition": {"Na": 1, "Cl": 1}, "energy_ev_per_atom": -3.4},
    {"composition": "NaCl3", "energy_ev": -6.0},  # above the hull
]


def write(folder: Path, tree: object, name: str = "entries.json") -> Path:
    path = folder / name
    text = json.dumps(tree)
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def test_distance_from_the_hull_by_hand(tmp_path: Path) -> None:
    hull = Hull.read(write(tmp_path, SALT))
    salt = hull.place(np.array([11, 17]), -3.5)
    assert salt.above_hull == pytest.approx(-0.1)  # below it: more stable than the reference
    assert salt.formation == pytest.approx(-3.5 - (-1.3 - 1.8) / 2)
    # Na3Cl lies on the line from Na to NaCl: half the atoms are of each.
    sodium_rich = hull.place(np.array([11, 11, 11, 17]), -2.0)
    assert sodium_rich.above_hull == pytest.approx(-2.0 - (-1.3 - 3.4) / 2)
    assert hull.place(np.array([17]), -1.7).above_hull == pytest.approx(0.1)
    assert "entries.json (4 entries, sha256 " in hull.describe()


def test_uncovered_system_is_a_reason(tmp_path: Path) -> None:
    hull = Hull.read(write(tmp_path, SALT))
    place = hull.place(np.array([11, 8, 6]), -5.0)
    assert place.fault == "no elemental reference: C, O"
    assert np.isnan([place.above_hull, place.formation]).all()
    assert hull.place(np.arange(1, 10), -5.0).fault == TOO_MANY_ELEMENTS


def test_entries_as_pymatgen_writes_them_give_its_own_hull(tmp_path: Path) -> None:
    cell = Structure(Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    adjustments = [ConstantEnergyAdjustment(-0.5), CompositionEnergyAdjustment(-0.614, 1)]
    entries = [
        ComputedEntry("Na1", -1.3, parameters={"run_type": "GGA"}),
        ComputedEntry("Cl2", -3.6, correction=-1.228, entry_id="mp-22848"),
        ComputedStructureEntry(cell, -6.8, energy_adjustments=adjustments, parameters={"run_type": "GGA+U"}),
    ]
    path = write(tmp_path, [entry.as_dict() for entry in entries], "entries.json.gz")
    hull, theirs = Hull.read(path), PhaseDiagram(entries)
    tested = ComputedEntry("Na2Cl", -9.0)
    ours = hull.place(np.array([11, 11, 17]), -3.0)
    above = theirs.get_e_above_hull(tested, allow_negative=True)
    assert above is not None
    assert ours.above_hull == pytest.approx(above)
    assert ours.formation == pytest.approx(theirs.get_form_energy_per_atom(tested))
    assert hull.energies == "run types GGA, GGA+U"


def test_elements_far_away_do_not_matter(tmp_path: Path) -> None:
    """Only entries of the system's own elements make its diagram."""
    others = [{"composition": e, "energy_ev": -2.0} for e in ("Fe", "O2", "Fe2O3")]
    small, large = (
        Hull.read(write(tmp_path, tree, name)) for tree, name in [(SALT, "a.json"), (SALT + others, "b.json")]
    )
    for numbers in ([11, 17], [11, 11, 17], [17]):
        assert small.place(np.array(numbers), -3.0) == large.place(np.array(numbers), -3.0)


def test_no_code_is_run_from_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pymatgen's decoder would import the module; here it is no more than text."""
    marker = tmp_path / "ran"
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')")
    evil = {"@module": "evil", "@class": "ComputedEntry"}
    hostile = evil | {"energy": -1.0, "composition": {"Na": 1}, "correction": 0, "parameters": {"x": evil}}
    assert read_entries(write(tmp_path, [hostile])).entries[0].energy == -1.0
    assert not marker.exists()


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ([], "expected a list of entries"),
        ({"entries": 3}, "expected a list of entries"),
        ([3], "entry 0: is a int"),
        ([SALT[0], {"composition": "Na"}], "entry 1: has no 'energy'"),
        ([{"composition": "Xx", "energy_ev": 1}], "entry 0: "),
        ([{"composition": "", "energy_ev": 1}], "entry 0: "),
        ([{"composition": {"Na": -1}, "energy_ev": 1}], "an amount is -1"),
        ([{"composition": {"Na": True}, "energy_ev": 1}], "an amount is True"),
        ([{"composition": "Na", "energy_ev": float("nan")}], "energy_ev is nan"),
        ([{"composition": "Na", "energy_ev": "low"}], "energy_ev is 'low'"),
        ([{"composition": "Na", "energy_ev": 10**400}], "entry 0"),
        ([{"composition": ["Na"], "energy_ev": 1}], "composition is a list"),
        ([{"@class": "GibbsComputedStructureEntry", "composition": "Na", "energy": 1}], "is a Gibbs"),
        ([{"composition": "Na", "energy": 1, "energy_adjustments": [{"value": 1}]}], "no 'correction'"),
    ],
)
def test_entries_that_are_none(tmp_path: Path, tree: object, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        read_entries(write(tmp_path, tree))
    assert "\n" not in str(error.value)


def test_files_that_hold_no_entries(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_entries(tmp_path / "none.json")
    (tmp_path / "text.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        read_entries(tmp_path / "text.json")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="not JSON"):
        read_entries(tmp_path / "deep.json")
    (tmp_path / "torn.gz").write_bytes(gzip.compress(json.dumps(SALT).encode())[:-9])
    with pytest.raises(DataError, match="damaged gzip"):
        read_entries(tmp_path / "torn.gz")

"""Hulls of published formation energies: the elements' energies are found again, mistakes refused."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from ase.io.cif import write_cif

from adit_scale import cli
from adit_scale.atoms import AtomSet
from adit_scale.evaluation.config import EnergyConfig
from adit_scale.evaluation.energies.element_fit import element_energies, held_out_residuals, of_elements
from adit_scale.evaluation.energies.entries import read_entries
from adit_scale.evaluation.energies.fitted import choose_crystals, fitted_entries
from adit_scale.evaluation.energies.hull import Hull
from adit_scale.evaluation.energies.potentials import Potential
from adit_scale.evaluation.energies.published import Published, read_published
from adit_scale.evaluation.energies.relaxation import to_ase
from tests.evaluation.energy_models import alloy, emt

REFERENCES = {"Cu": -1.25, "Ag": 0.4, "Au": 3.1}
COLUMN = "formation_energy_per_atom"
HEADER = ("", "material_id", COLUMN, "e_above_hull", "cif")


def alloys() -> list[AtomSet]:
    """Of copper, silver and gold, two or three metals each: no element stands alone."""
    words = ["".join(s) for s in product(("Cu", "Ag", "Au"), repeat=4) if len(set(s)) > 1]
    edges = np.linspace(3.85, 4.05, len(words))
    return [alloy(word, edge, id=f"a{i}") for i, (word, edge) in enumerate(zip(words, edges, strict=True))]


def emt_energy(crystal: AtomSet) -> float:
    """eV/atom."""
    atoms = to_ase(crystal)
    atoms.calc = emt()
    return float(atoms.get_potential_energy()) / len(atoms)


def formation(crystal: AtomSet) -> float:
    """As a publisher with these references would have it."""
    symbols = to_ase(crystal).get_chemical_symbols()
    return emt_energy(crystal) - float(np.mean([REFERENCES[s] for s in symbols]))


def cif(crystal: AtomSet, path: Path) -> str:
    write_cif(path, to_ase(crystal))
    return path.read_text()


def write_csv(path: Path, rows: list[tuple], header: tuple[str, ...] = HEADER) -> Path:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[tuple]:
    scratch = tmp_path_factory.mktemp("cif") / "one.cif"
    return [(i, c.id, formation(c), 0.0, cif(c, scratch)) for i, c in enumerate(alloys())]


def test_references_are_found_again(rows: list[tuple], tmp_path: Path) -> None:
    path, out = write_csv(tmp_path / "alloys.csv.gz", rows), tmp_path / "hull.json"
    published = read_published([str(path)], COLUMN)
    assert len(published.crystals) == 78
    report = fitted_entries(published, Potential("emt"), out, EnergyConfig(), n_fit=40, n_check=20)
    assert report.fit.energies == pytest.approx(REFERENCES, abs=1e-6)
    assert report.fit.held_out.n == 40
    assert report.fit.held_out.quantile95 < 1e-6
    assert len(report.fit.ids) == 40
    assert report.check is not None
    assert report.check.model.n == 20
    file = read_entries(out)
    assert len(file.entries) == 78 + 3
    hull = Hull(file)
    for crystal in alloys()[::13]:
        place = hull.place(crystal.numbers, emt_energy(crystal))
        assert place.formation == pytest.approx(formation(crystal), abs=1e-5)
    assert file.model == Potential("emt").describe()
    assert "published formation energies (formation_energy_per_atom) on fitted references" in hull.describe()
    [source] = json.loads(out.read_text())["sources"]
    assert source["name"] == "alloys.csv.gz"


def test_a_badly_wrong_crystal_pulls_little(rows: list[tuple], tmp_path: Path) -> None:
    wrong = [(i, id, f + (2.0 if i in (5, 40) else 0.0), a, text) for i, id, f, a, text in rows]
    published = read_published([str(write_csv(tmp_path / "alloys.csv", wrong))], COLUMN)
    report = fitted_entries(published, Potential("emt"), tmp_path / "h.json", n_fit=78)
    assert report.fit.energies == pytest.approx(REFERENCES, abs=1e-4)
    assert report.fit.held_out.median_absolute < 1e-4
    assert report.fit.held_out.mean_absolute == pytest.approx(2 * 2.0 / 78, rel=0.01)


def test_what_crystals_do_not_determine_has_no_energy() -> None:
    """Elements 3 and 4 come in one proportion only; element 2 in two crystals, of which one has a 4."""
    share = np.array(
        [[1.0, 0, 0, 0, 0], [0.5, 0.5, 0, 0, 0], [0.25, 0.75, 0, 0, 0], [0, 1, 0, 0, 0]]
        + [[0.5, 0, 0, 0.25, 0.25]] * 4
        + [[0, 0.5, 0.5, 0, 0], [0, 0, 0.5, 0.25, 0.25]]
    )
    energies = np.array([-1.0, 2, 3, 4, 5])
    found = element_energies(share, share @ energies)
    np.testing.assert_allclose(found, [-1, 2, np.nan, np.nan, np.nan], atol=1e-9)
    np.testing.assert_array_equal(np.isnan(of_elements(share, found)), [False] * 4 + [True] * 6)
    assert np.isnan(element_energies(share[4:8], share[4:8] @ energies)).all()
    residual = held_out_residuals(share[:4], share[:4] @ energies + [0, 0, 0, 1.0], np.arange(4), 4)
    assert residual[3] == pytest.approx(1.0)


def test_the_fit_takes_low_crystals_and_every_element() -> None:
    numbers = [[29, 79]] * 50 + [[29, 47]] * 4
    crystals = [
        AtomSet(np.array(z), np.zeros((2, 3)), np.eye(3), True, "d", id=str(i)) for i, z in enumerate(numbers)
    ]
    above = np.array([0.01 * (i % 10) for i in range(50)] + [0.5] * 4)
    of = Published(crystals, np.zeros(54), above, Counter(), COLUMN, [])
    chosen, rest = choose_crystals(of, 12, 20)
    assert len(chosen) == 12
    assert set(chosen) >= {50, 51, 52, 53}  # silver, however high
    assert {above[i] for i in chosen if i < 50} <= {0.0, 0.01}
    assert len(rest) == 20
    assert not set(rest) & set(chosen)


def test_from_the_command_line(rows: list[tuple], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Two files; the hull serves the model it was fitted to, and no other."""
    files = [write_csv(tmp_path / "a.csv", rows[:40]), write_csv(tmp_path / "b.csv", rows[40:])]
    hull = tmp_path / "hull.json"
    words = [*map(str, files), f"formation_energies={COLUMN}", "relax=emt", f"out={hull}"]
    assert cli.main(["evaluate", "hull-entries", *words, "fit=60", "check=10", "processes=1"]) == 0
    told = capsys.readouterr().out
    assert "81 entries, of which 3 elements" in told
    assert "fitted on 60 crystals" in told
    score = ["evaluate", "score", str(files[0]), f"hull={hull}", "limit=3", "processes=1"]
    assert cli.main([*score, "relax=tests.evaluation.energy_models:emt"]) == 2
    assert "hull was made with EMT of ASE" in capsys.readouterr().err
    inputs = tmp_path / "dft"
    assert cli.main(["evaluate", "dft-inputs", str(files[0]), f"out={inputs}", "choose=all", "limit=1"]) == 0
    assert cli.main(["evaluate", "dft-results", str(inputs), f"hull={hull}"]) == 2
    assert "a hull for energies of EMT of ASE" in capsys.readouterr().err
    assert cli.main([*score, "relax=emt", f"out={tmp_path / 'out'}"]) == 0
    table = (tmp_path / "out" / "table.md").read_text()
    [line] = [
        line for line in table.splitlines() if line.startswith("| crystal/stable |") and "EMT of" in line
    ]
    assert line.count("fitted references of EMT of ASE") == 1
    assert "off by 0 meV/atom" in line


MISTAKES = {
    "column": ("formation_energies=energy", "no column 'energy'; found , material_id, formation_energy_per"),
    "nan": ("nan", "a3: formation_energy_per_atom is 'nan'; expected eV/atom, -10 to 10"),
    "empty": ("", "a3: formation_energy_per_atom is ''; expected eV/atom"),
    "unit": ("-437.2", "a3: formation_energy_per_atom is '-437.2'; expected eV/atom, -10 to 10"),
}


@pytest.mark.parametrize(("said", "line"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_in_a_file_is_one_line(
    said: str, line: str, rows: list[tuple], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    column = said if "=" in said else f"formation_energies={COLUMN}"
    few = [
        (*row[:2], said if i == 3 and "=" not in said else row[2], *row[3:]) for i, row in enumerate(rows[:8])
    ]
    path = write_csv(tmp_path / "alloys.csv", few)
    words = [str(path), column, "relax=emt", f"out={tmp_path / 'h.json'}"]
    assert cli.main(["evaluate", "hull-entries", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert line in error


def test_other_kinds_of_mistakes(rows: list[tuple], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = str(write_csv(tmp_path / "alloys.csv", rows))
    mev = [(*row[:2], 0.1 * (row[0] % 7) * (-1) ** row[0], *row[3:]) for row in rows]  # nothing of the model
    noise = str(write_csv(tmp_path / "noise.csv", mev))
    xyz = tmp_path / "a.extxyz"
    xyz.write_text("")
    cases = {
        (noise, f"formation_energies={COLUMN}"): "expected formation energies in eV/atom",
        (str(xyz), f"formation_energies={COLUMN}"): "expected a .csv or .csv.gz",
        (path, f"formation_energies={COLUMN}", "fit=2"): "2 crystals determine no element's energy",
        (path, f"formation_energies={COLUMN}", "fit=0"): "fit is 0; expected 1 or more",
        (path, "fit=5"): "fit is of published energies",
        (str(tmp_path / "none.csv"), f"formation_energies={COLUMN}"): "none.csv: no such file",
    }
    for words, line in cases.items():
        out = f"out={tmp_path / 'h.json'}"
        assert cli.main(["evaluate", "hull-entries", *words, "relax=emt", out, "processes=1"]) == 2, words
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert line in error
    assert not (tmp_path / "h.json").exists()


def test_both_names_of_the_energy_above_hull(rows: list[tuple], tmp_path: Path) -> None:
    """MP20's and MPTS-52's; a row without a value is chosen last."""
    few = [(*row[:3], "" if i == 0 else 0.01 * i, row[4]) for i, row in enumerate(rows[:6])]
    header = (*HEADER[:3], "energy_above_hull", "cif")
    published = read_published([str(write_csv(tmp_path / "alloys.csv", few, header))], COLUMN)
    np.testing.assert_allclose(published.above_hull, [np.nan, 0.01, 0.02, 0.03, 0.04, 0.05])
    chosen, rest = choose_crystals(published, 5, 10)
    assert (sorted(chosen), rest) == ([1, 2, 3, 4, 5], [])


def test_a_file_without_energies_above_hull(rows: list[tuple], tmp_path: Path) -> None:
    short = [(row[1], row[2], row[4]) for row in rows]
    path = write_csv(tmp_path / "alloys.csv", short, ("material_id", COLUMN, "cif"))
    published = read_published([f"metals={path}"], COLUMN, limit=30)
    assert len(published.crystals) == 30
    assert published.names[0] == "metals/a0"
    report = fitted_entries(published, Potential("emt"), tmp_path / "h.json", n_fit=20)
    assert report.check is None
    assert report.n_entries == 33

"""The figures: every drawn number is in a CSV and is the verdicts' own; what is missing is left out."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from picture_samples import HOSTILE, diamond, rock_salt, scored

from adit_scale.atoms import CRYSTAL, MOLECULE
from adit_scale.errors import DataError
from adit_scale.evaluation.pictures.categories import counts_figure
from adit_scale.evaluation.pictures.figures import read_verdicts, write_figures
from adit_scale.evaluation.pictures.frames import Series, png_of
from adit_scale.evaluation.pictures.sampling_cost import (
    Measurement,
    cost_figure,
    read_measurements,
)
from adit_scale.evaluation.statistics import Rate, wilson_interval
from adit_scale.evaluation.verdicts import Check, Verdicts

MODEL = f"model {HOSTILE}"


def crystals(n: int, seed: int) -> Verdicts:
    return scored(CRYSTAL, [rock_salt(), diamond()] * (n // 2))


@pytest.fixture(scope="module")
def figures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("figures")
    write_figures({MODEL: {CRYSTAL: crystals(40, 0)}}, {CRYSTAL: crystals(60, 1)}, folder)
    return folder


def rows(path: Path, **wanted: str) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as stream:
        return [row for row in csv.DictReader(stream) if all(row[k] == v for k, v in wanted.items())]


def test_each_figure_is_a_picture_with_its_numbers(figures):
    names = {path.stem for path in figures.glob("*.png")}
    assert names == {"validity_by_size", "energies", "spacegroups", "n_elements", "elements_crystal",
                     "crystal_structure"}  # fmt: skip
    assert {path.stem for path in figures.glob("*.csv")} == names


def test_shares_and_intervals_are_the_verdicts(figures):
    ones, twos = rows(figures / "n_elements.csv", series=MODEL)
    assert (ones["bin"], ones["count"], ones["trials"]) == ("1", "20", "40")
    assert (twos["bin"], twos["count"]) == ("2", "20")
    lower, upper = wilson_interval(20, 40)
    assert (float(ones["lower"]), float(ones["upper"])) == (pytest.approx(lower), pytest.approx(upper))
    assert [row["trials"] for row in rows(figures / "n_elements.csv", series="real data")] == ["60", "60"]


def test_p1_stands_apart_from_triclinic(figures):
    systems = {row["bin"]: row for row in rows(figures / "spacegroups.csv", panel="system", series=MODEL)}
    assert (systems["P1"]["count"], systems["P-1"]["count"], systems["cubic"]["count"]) == ("20", "0", "20")
    shown = [row["bin"] for row in rows(figures / "spacegroups.csv", panel="spacegroup", series=MODEL)]
    assert shown == ["P1 (1)", "Fm-3m (225)"]


def test_values_that_were_not_asked_stay_out_of_a_histogram(figures):
    hull = rows(figures / "energies.csv", value="e_above_hull_ev_per_atom", series=MODEL)
    assert {row["trials"] for row in hull} == {"39"}  # of 40, the last without an energy
    assert 37 <= sum(int(row["count"]) for row in hull) <= 39  # a value at either end may be cut off


@pytest.mark.parametrize(("spread", "n_bins"), [(0.05, 9), (1.0, 20), (30.0, 9)])
def test_no_bin_lies_on_both_sides_of_a_threshold(tmp_path, spread, n_bins):
    """Energies above hull: what is left of "stable" and of "metastable" can be read off as whole bins."""
    above = np.linspace(-spread, spread, 64)
    verdicts = Verdicts(CRYSTAL, [f"c{i}" for i in range(64)], np.full(64, 2))
    verdicts.add_value("e_above_hull_ev_per_atom", above)
    write_figures({"model": {CRYSTAL: verdicts}}, None, tmp_path)
    with (tmp_path / "energies.csv").open() as stream:
        bins = [[float(edge) for edge in row["bin"].split(" to ")] for row in csv.DictReader(stream)]
    for threshold in (0.0, 0.1) if spread < 30 else (0.0,):
        assert not any(low + 1e-9 < threshold < high - 1e-9 for low, high in bins)
    assert len(bins) == n_bins


def test_validity_is_binned_by_the_same_sizes_for_every_series(tmp_path):
    def of(n_atoms: list[int], passed: list[int]) -> Verdicts:
        found = Verdicts(MOLECULE, [str(i) for i in range(len(n_atoms))], np.array(n_atoms))
        found.add_check("edm_valid", Check(np.array(passed), ["" if p else "no" for p in passed]))
        return found

    model, real = of([3, 3, 9, 9], [1, 0, 0, 0]), of([3] * 10 + [9] * 10, [1] * 20)
    write_figures({"m": {MOLECULE: model}}, {MOLECULE: real}, tmp_path)
    found = rows(tmp_path / "validity_by_size.csv", series="m")
    assert [(r["bin"], r["count"], r["trials"]) for r in found] == [
        ("3 to 3", "1", "2"),
        ("9 to 9", "0", "2"),
    ]
    assert [r["count"] for r in rows(tmp_path / "validity_by_size.csv", series="real data")] == ["10", "10"]


def test_no_name_becomes_markup_and_nothing_is_loaded(figures):
    page = (figures / "figures.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "onerror=alert" in page  # as text
    assert "<img src=x" not in page
    assert page.count('src="data:image/png;base64,') == 6
    assert not re.search(r"https?:", page)


@pytest.mark.parametrize("name", ["_hidden", r"$\frac{1$", "x" * 300, ""])
def test_any_name_can_stand_in_a_legend(name):
    drawn = counts_figure([Series(name, {CRYSTAL: crystals(4, 0)})])
    (text,) = (t.get_text() for t in drawn.figure.axes[0].get_legend().get_texts())
    assert text.endswith(" (n = 4)")
    assert len(text) < 50
    png_of(drawn.figure)


def test_without_a_reference_and_without_values(tmp_path):
    bare = Verdicts(CRYSTAL, ["0"], np.array([8]))
    paths = write_figures({"bare": {CRYSTAL: bare}}, None, tmp_path)
    assert sorted(path.name for path in paths) == [
        "crystal_structure.csv",
        "crystal_structure.png",
        "figures.html",
    ]
    with pytest.raises(DataError, match="no verdicts to draw"):
        write_figures({}, None, tmp_path)


def test_verdicts_of_a_scored_folder(tmp_path):
    crystals(8, 0).write_csv(tmp_path / "verdicts-crystal.csv")
    found = read_verdicts(tmp_path)
    assert list(found) == [CRYSTAL]
    assert len(found[CRYSTAL]) == 8
    write_figures({"a": found}, None, tmp_path / "out")
    assert {row["series"] for row in rows(tmp_path / "out" / "n_elements.csv")} == {"a"}


def test_a_folder_without_verdicts_is_named(tmp_path):
    with pytest.raises(DataError, match=re.escape(str(tmp_path))):
        read_verdicts(tmp_path)


def measurement(solver: str, steps: int, evaluations: int, valid: int) -> Measurement:
    return Measurement(
        solver, steps, evaluations, 0.1 * evaluations, 50, {"crystal/validity": Rate(valid, 50)}
    )


def test_time_and_validity_against_steps():
    found = [measurement("euler", n, n, v) for n, v in ((10, 5), (100, 40))] + [
        measurement("heun", 10, 18, 30)
    ]
    again = [Measurement.from_json(m.to_json(), "x") for m in found]
    assert again == found
    drawn = cost_figure(
        found, ["crystal/validity", "molecule/edm_validity"], {"crystal/validity": Rate(46, 50)}
    )
    assert [axes.get_xlabel() for axes in drawn.figure.axes] == [
        "sampling steps",
        "evaluations of the denoiser a sample",
    ]
    assert drawn.rows[1]["crystal/validity"] == pytest.approx(0.8)
    times = drawn.figure.axes[0].lines[0].get_xydata()
    assert times.tolist() == [[10, pytest.approx(0.02)], [100, pytest.approx(0.2)]]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"rows": [{}]}', '{"rows": [{"measurement": {"rates": 3}}]}']
)
def test_measurements_that_are_none_are_named(tmp_path, text):
    path = tmp_path / "steps.json"
    if text:
        path.write_text(text)
    with pytest.raises(DataError, match=re.escape(str(path))):
        read_measurements(path)

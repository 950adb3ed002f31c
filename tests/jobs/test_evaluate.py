"""``adit evaluate`` as a user types it: scores, seeds, ceilings, comparisons, and words that are wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from adit_scale import cli
from adit_scale.atoms import CRYSTAL, AtomSet
from adit_scale.data.formats import extended_xyz
from adit_scale.evaluation.samples import SampleColumns, SampleFolder
from adit_scale.evaluation.score import Scores
from adit_scale.evaluation.statistics import SeedSpread
from adit_scale.evaluation.verdicts import Verdicts
from adit_scale.jobs.evaluate_score import read_runs
from adit_scale.jobs.evaluate_words import setting_names

CORNERS = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])


def methane(bond_angstrom: float = 1.09, name: str = "") -> AtomSet:
    positions = np.vstack([np.zeros(3), bond_angstrom / np.sqrt(3) * CORNERS])
    return AtomSet(np.array([6, 1, 1, 1, 1]), positions, np.zeros((3, 3)), False, "hand", id=name)


def rock_salt(name: str = "") -> AtomSet:
    cell = 2.82 * np.array([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]])
    places = np.array([[0, 0, 0], [0.5, 0.5, 0.5]]) @ cell
    return AtomSet(np.array([11, 17]), places, cell, True, "hand", id=name)


def write(path: Path, sets: list[AtomSet]) -> Path:
    path.write_text("".join(extended_xyz(one) for one in sets))
    return path


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """Twenty methanes, all valid."""
    return write(tmp_path / "good.extxyz", [methane(name=f"m{i}") for i in range(20)])


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """Twenty: half of them with a bond so long that hydrogens come off."""
    sets = [methane(1.09 if i % 2 else 1.9, name=f"m{i}") for i in range(20)]
    return write(tmp_path / "bad.extxyz", sets)


def evaluate(*words: object) -> int:
    return cli.main(["evaluate", *map(str, words)])


def test_score_writes_rates_verdicts_and_a_table(good: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert evaluate("score", good, f"out={out}", "protocols=edm", "processes=1") == 0
    printed = capsys.readouterr().out
    assert "molecule/edm_validity" in printed
    assert "100.0% (83.9 to 100.0)" in printed
    assert "20 / 20" in printed
    scores = Scores.from_json((out / "scores.json").read_text())
    assert scores.rates["molecule/edm_uniqueness"].successes == 1
    assert len(Verdicts.read_csv(out / "verdicts-molecule.csv")) == 20
    table = (out / "table.md").read_text()
    assert "| molecule/edm_molecule_stability | 100.0% (83.9 to 100.0) | 20 / 20 |" in table
    assert "distance table" in table


def test_the_same_words_again_judge_nothing_twice(good: Path, tmp_path: Path, monkeypatch) -> None:
    from adit_scale.evaluation import molecules

    words = ("score", good, f"out={tmp_path / 'out'}", "protocols=edm", "processes=1")
    assert evaluate(*words) == 0
    first = (tmp_path / "out" / "scores.json").read_text()
    monkeypatch.setattr(molecules, "judge_molecules", None)
    assert evaluate(*words) == 0
    assert (tmp_path / "out" / "scores.json").read_text() == first


def test_several_paths_are_seeds(good: Path, bad: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert evaluate("score", good, bad, f"out={out}", "protocols=edm", "processes=1") == 0
    printed = capsys.readouterr().out
    assert "mean of 2 seeds" in printed
    runs = read_runs(out)
    rates = [run.rates["molecule/edm_molecule_stability"] for run in runs]
    assert [rate.successes for rate in rates] == [20, 10]
    spread = SeedSpread.of(rates)
    assert f"{100 * spread.mean:.1f}%" in printed
    assert f"{100 * spread.sd:.2f} *" in printed  # far more than counting noise
    told = json.loads((out / "seeds.json").read_text())["rates"]["molecule/edm_molecule_stability"]
    assert told["mean"] == pytest.approx(0.75)
    assert [rate["successes"] for rate in told["rates"]] == [20, 10]


def test_against_real_data_and_training_set(good: Path, bad: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    words = (f"out={out}", f"against={good}", f"train={good}", "protocols=edm", "processes=1")
    assert evaluate("score", bad, *words) == 0
    printed = capsys.readouterr().out
    assert "real data" in printed
    row = next(line for line in printed.splitlines() if "edm_molecule_stability" in line)
    assert "-50.0" in row
    assert "differs" in row
    scores = Scores.from_json((out / "scores.json").read_text())
    assert scores.rates["molecule/edm_novelty"].successes == 1  # the wrecks are alike; methane is known
    assert (out / "against" / "scores.json").is_file()
    # Finished scores do as well as structures.
    assert evaluate("score", bad, f"against={out / 'against'}", "protocols=edm", "processes=1") == 0
    assert "-50.0" in capsys.readouterr().out


def test_compare(good: Path, bad: Path, tmp_path: Path, capsys) -> None:
    for path in (good, bad):
        assert evaluate("score", path, f"out={tmp_path / path.stem}", "protocols=edm", "processes=1") == 0
    capsys.readouterr()
    assert evaluate("compare", tmp_path / "good", tmp_path / "bad", f"out={tmp_path / 'c'}") == 0
    printed = capsys.readouterr().out
    assert "Compared with good" in printed
    assert "differs" in printed
    assert "within noise" in printed
    assert "one of these trained networks" in printed
    assert "| molecule/edm_molecule_stability |" in (tmp_path / "c" / "comparison.md").read_text()


def test_crystals_of_a_sample_folder(tmp_path: Path, capsys) -> None:
    """Two rock salts, one with a NaN: the folder of `adit sample` is read, the broken one counted."""
    cell = rock_salt().cell
    lengths = np.linalg.norm(cell, axis=1)
    fractional = np.array([[0, 0, 0], [0.5, 0.5, 0.5]] * 2, np.float32)
    fractional[3, 0] = np.nan
    columns = SampleColumns(
        CRYSTAL,
        index_s=np.arange(2),
        offsets=np.array([0, 2, 4]),
        spacegroup_s=np.zeros(2, np.int16),
        numbers_t=np.array([11, 17] * 2, np.uint8),
        positions_t3=np.zeros((4, 3), np.float32),
        fractional_t3=fractional,
        lengths_s3=np.tile(lengths, (2, 1)).astype(np.float32),
        angles_s3=np.full((2, 3), np.pi / 3, np.float32),
    )
    folder = SampleFolder.begin(tmp_path / "s", {"samples": {"crystal": 2}, "parts": 2}, {})
    assert evaluate("score", tmp_path / "s", f"out={tmp_path / 'o'}") == 2
    assert "2 of 2 parts are missing" in capsys.readouterr().err
    whole = SampleFolder.begin(tmp_path / "t", {"samples": {"crystal": 2}, "parts": 1}, {})
    whole.write(0, columns)
    assert folder.missing() == [0, 1]
    assert evaluate("score", tmp_path / "t", f"out={tmp_path / 'o'}", "processes=1") == 0
    assert "coordinates are not finite" in capsys.readouterr().out
    scores = Scores.from_json((tmp_path / "o" / "scores.json").read_text())
    assert (scores.rates["crystal/validity"].successes, scores.rates["crystal/validity"].trials) == (1, 2)


def test_a_structure_that_cannot_be_read_stays_in_the_denominator(good: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.extxyz"
    frames = good.read_text()
    torn.write_text(frames + frames.splitlines(keepends=True)[0] + "x\n" + "C nan nan nan\n" * 5)
    assert evaluate("score", torn, f"out={tmp_path / 'o'}", "protocols=edm", "processes=1") == 0
    scores = Scores.from_json((tmp_path / "o" / "scores.json").read_text())
    assert scores.rates["molecule/edm_validity"].trials == 21
    [reason] = scores.reasons["molecule/edm_validity"]
    assert reason.startswith("cannot be read: ")


WRONG: list[tuple[list[str], str]] = [
    (["scores"], "scores: no such command of adit evaluate; expected one of score, compare"),
    (["score"], "no PATH"),
    (["score", "{good}", "limt=3"], "limt=3: no such word of adit evaluate score; did you mean"),
    (["score", "{good}", "limit=3", "limit=4"], "limit is said twice"),
    (["score", "{good}", "limit=few"], "limit is 'few'; expected a whole number"),
    (["score", "{good}", "protocols=edm,xyz2mol"], "protocols has 'xyz2mol'; expected some of edm, rdkit"),
    (["score", "{good}", "oxidation_states=mp"], "oxidation_states is 'mp'; expected one of smact14"),
    (["score", "{good}", "confidence=95"], "confidence is 95"),
    (["score", "{good}", "crystalnn=maybe"], "crystalnn"),
    (["score", "{good}", "hull=e.json"], "hull is set, relax is empty"),
    (["score", "{good}", "domain=metal"], "domain is 'metal'; expected crystal or molecule"),
    (["score", "{good}", "domain=crystal"], "no crystal to score"),
    (["score", "{good}", "out={good}"], "is a file; expected a folder"),
    (["score", "{tmp}/none.cif"], "none.cif: no such file"),
    (["score", "{tmp}/empty"], "empty folder"),
    (["score", "{tmp}/notes.txt"], "notes.txt: unknown kind of file"),
    (["score", "{tmp}/nothing"], "nothing: no such file or folder"),
    (["score", "{tmp}/hollow.extxyz"], "hollow.extxyz: no structure can be read"),
    (["score", "{good}", "against={tmp}/none.json"], "none.json"),
    (["score", "{good}", "train={tmp}/none.extxyz"], "none.extxyz: no such file"),
    (["compare", "{tmp}/empty"], "one folder; expected two or more"),
    (["compare", "{tmp}/empty", "{tmp}/none"], "scores.json: no such file; expected a folder of"),
    (["compare", "{tmp}/empty", "{tmp}/none", "protocols=edm"], "no such word of adit evaluate compare"),
    (["gallery", "{good}", "out={tmp}/g"], "scores is missing"),
    (["dft-inputs", "{good}", "out={tmp}/d"], "no crystal to score"),
    (["dft-inputs", "{good}"], "out is missing; expected out=FOLDER"),
    (["dft-results", "{tmp}/empty"], "dft.json"),
    (["hull-entries", "{good}", "out={tmp}/e.json"], "relax is missing"),
    (["figures"], "no FOLDER of `adit evaluate score`"),
    (["figures", "{tmp}/empty"], "no verdicts"),
]


@pytest.mark.parametrize(("words", "line"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_a_mistake_is_one_line(words: list[str], line: str, good: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "hollow.extxyz").write_text("")
    said = [word.format(good=good, tmp=tmp_path) for word in words]
    assert evaluate(*said) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert line in error


def test_damaged_scores_are_told_by_name(good: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert evaluate("score", good, f"out={out}", "protocols=edm", "processes=1") == 0
    shutil.copytree(out, tmp_path / "other")
    (tmp_path / "other" / "scores.json").write_text("{")
    capsys.readouterr()
    assert evaluate("compare", out, tmp_path / "other") == 2
    assert "other/scores.json: expected scores written by evaluation" in capsys.readouterr().err


def test_gallery_and_dft_inputs_of_a_scored_file(tmp_path: Path, capsys) -> None:
    path = write(tmp_path / "salts.extxyz", [rock_salt(f"s{i}") for i in range(3)])
    out = tmp_path / "out"
    assert evaluate("score", path, f"out={out}", "processes=1", "limit=2") == 0
    assert evaluate("gallery", path, f"scores={out}", f"out={tmp_path / 'g'}") == 0
    assert {p.name for p in (tmp_path / "g").iterdir()} >= {"gallery.png", "gallery.html"}
    assert evaluate("figures", out, f"out={tmp_path / 'f'}") == 0
    assert list((tmp_path / "f").glob("*.png"))
    assert evaluate("dft-inputs", path, f"out={tmp_path / 'd'}", "ids=s1") == 0
    assert json.loads((tmp_path / "d" / "dft.json").read_text())["choice"] == "ids"
    capsys.readouterr()
    assert evaluate("dft-results", tmp_path / "d", "processes=1") == 0
    assert "not run: no vasprun.xml" in capsys.readouterr().out
    other = write(tmp_path / "others.extxyz", [rock_salt("t0"), rock_salt("t1")])
    assert evaluate("gallery", other, f"scores={out}", f"out={tmp_path / 'g'}") == 2
    assert "of other samples" in capsys.readouterr().err


def test_help_and_settings(capsys) -> None:
    assert evaluate("--help") == 0
    assert "adit evaluate score PATH" in capsys.readouterr().out
    names = setting_names()
    assert {"protocols", "relax", "energies.relax_samples"} <= set(names)
    assert "reference_sets" not in names

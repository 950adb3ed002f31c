"""Relaxations survive a kill; a scoring with energies and a hull, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from adit_scale import cli
from adit_scale.atoms import CRYSTAL, AtomSet
from adit_scale.data.formats import extended_xyz
from adit_scale.evaluation import kept_relaxations
from adit_scale.evaluation.config import EnergyConfig, EvaluationConfig
from adit_scale.evaluation.judging import judge
from adit_scale.evaluation.kept_relaxations import KeptRelaxations
from adit_scale.evaluation.score import Scores

pytest.importorskip("ase")
from adit_scale.evaluation.energies.potentials import Potential
from adit_scale.evaluation.energies.relaxation import Relaxation, relax_crystals

EMT = "tests.evaluation.energy_models:emt"


def copper(lattice_angstrom: float, name: str) -> AtomSet:
    cell = lattice_angstrom / 2 * np.array([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]])
    return AtomSet(np.array([29]), np.zeros((1, 3)), cell, True, "hand", id=name)


def overlapping(name: str) -> AtomSet:
    cell = np.eye(3) * 4
    return AtomSet(np.array([29, 29]), np.array([[0, 0, 0], [0.2, 0, 0]]), cell, True, "hand", id=name)


CRYSTALS = [copper(a, f"cu{i}") for i, a in enumerate((3.5, 3.6, 3.7, 3.8))]


def test_relaxations_are_made_once_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill after the first batch costs the second; a line cut short costs itself."""
    asked: list[int] = []

    def counted(crystals: list[AtomSet], *words: object) -> list[Relaxation]:
        asked.append(len(crystals))
        return relax_crystals(crystals, *words)

    monkeypatch.setattr(kept_relaxations, "relax_crystals", counted)
    monkeypatch.setattr(kept_relaxations, "BATCH_A_PROCESS", 2)
    relax, model, config = KeptRelaxations(tmp_path), Potential(EMT), EnergyConfig()
    told: list[int] = []
    first = relax(CRYSTALS, model, config, 0, told.append)
    assert asked == [2, 2]
    assert sum(told) == 4
    again = relax(CRYSTALS, model, config, 0)
    assert asked == [2, 2]
    for a, b, crystal in zip(first, again, CRYSTALS, strict=True):
        assert (a.fault, a.energy, a.relaxed_energy, a.rmsd) == (b.fault, b.energy, b.relaxed_energy, b.rmsd)
        assert b.relaxed is not None
        assert b.relaxed.id == crystal.id
        np.testing.assert_array_equal(a.relaxed.cell, b.relaxed.cell)
        assert np.linalg.norm(b.relaxed.cell[0]) == pytest.approx(3.59 / np.sqrt(2), abs=0.01)  # EMT's copper
    [file] = tmp_path.iterdir()
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:3]) + lines[3][:50])
    relax(CRYSTALS, model, config, 0)
    assert asked == [2, 2, 1]
    relax(CRYSTALS, model, EnergyConfig(fmax_ev_per_angstrom=0.01), 0)
    assert asked == [2, 2, 1, 2, 2]  # other settings: nothing of the old


def test_energies_are_added_to_verdicts(tmp_path: Path) -> None:
    samples = {CRYSTAL: [*CRYSTALS, overlapping("bad")]}
    config = EvaluationConfig(protocols=["edm"], relax=EMT, processes=1)
    judged = judge(samples, config, keep=tmp_path)
    assert len(judged.relaxed) == 4
    rate = judged.scores.rates["crystal/relaxed"]
    assert (rate.successes, rate.trials) == (4, 5)
    assert judged.scores.summaries["crystal/relaxed_energy_ev_per_atom"].n == 4
    assert {path.name for path in judged.write(tmp_path / "out")} >= {"relaxed.extxyz"}
    assert judge(samples, config, keep=tmp_path).scores == judged.scores


def test_hull_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Entries of a model's own energies, then samples above them."""
    path = tmp_path / "cu.extxyz"
    path.write_text("".join(extended_xyz(crystal) for crystal in CRYSTALS))
    hull, out = tmp_path / "hull.json", tmp_path / "out"
    words = [str(path), f"relax={EMT}", "processes=1"]
    assert cli.main(["evaluate", "hull-entries", *words, f"out={hull}", "limit=1"]) == 0
    assert "entries by" in capsys.readouterr().out
    assert json.loads(hull.read_text())["entries"]
    assert cli.main(["evaluate", "score", *words, f"hull={hull}", f"out={out}", f"train={path}"]) == 0
    scores = Scores.from_json((out / "scores.json").read_text())
    assert scores.rates["crystal/metastable"].successes == 4
    assert scores.rates["crystal/msun"].successes == 0  # all are known
    assert abs(scores.summaries["crystal/e_above_hull_ev_per_atom"].mean) < 0.01

"""VASP inputs written, results read back."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hand_made import crystal
from vasp_output import TITLES, vasprun

from adit_scale.atoms import CRYSTAL, AtomSet
from adit_scale.errors import ConfigError, DataError
from adit_scale.evaluation.config import EvaluationConfig
from adit_scale.evaluation.decode import Invalid
from adit_scale.evaluation.energies.dft_inputs import (
    MANIFEST,
    choose_samples,
    read_manifest,
    safe_name,
    write_dft_inputs,
)
from adit_scale.evaluation.energies.dft_results import (
    NO_ELECTRONIC,
    NO_ENERGY,
    NO_INPUTS,
    NO_IONIC,
    NOT_RUN,
    OTHER_ATOMS,
    TORN,
    read_dft_results,
)
from adit_scale.evaluation.verdicts import Check, Verdicts

SYMBOLS = ["Na", "Cl"]
ENERGY = -6.77  # eV a cell of NaCl, about what PBE gives
CL_CORRECTION = -0.614  # eV an atom of chloride, MP2020 (Wang et al. 2021, table 1)


def salt(edge: float = 5.64, id: str = "a/b c") -> AtomSet:
    cell = edge / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    return AtomSet(
        np.array([11, 17]), np.array([[0, 0, 0], [0.5, 0.5, 0.5]]) @ cell, cell, True, "test", id=id
    )


def hull_file(folder: Path, formation: float) -> Path:
    """Na, Cl2 and NaCl such that NaCl lies ``formation`` eV/atom below the elements."""
    path = folder / "hull.json"
    entries = [
        {"composition": "Na", "energy_ev": -1.3},
        {"composition": "Cl2", "energy_ev": -3.6},
        {"composition": "NaCl", "energy_ev": -1.3 - 1.8 + 2 * formation},
    ]
    path.write_text(json.dumps(entries))
    return path


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Inputs of three samples of rock salt."""
    folder = tmp_path / "dft"
    write_dft_inputs([salt(id=f"s{i}") for i in range(3)], [0, 1, 2], folder, "all")
    return folder


def test_inputs_are_the_materials_projects_settings(tmp_path: Path) -> None:
    samples = [salt(), Invalid(CRYSTAL, "cell is not finite", np.array([11])), salt(5.7, id="../../etc")]
    manifest = write_dft_inputs(samples, [0, 2], tmp_path / "dft", "valid", {"run": "r1"})
    assert [c.folder for c in manifest.calculations] == ["00000-a_b_c", "00001-etc"]
    folder = tmp_path / "dft" / "00000-a_b_c"
    assert sorted(p.name for p in folder.iterdir()) == ["INCAR", "KPOINTS", "POSCAR", "POTCAR.spec"]
    assert (folder / "POTCAR.spec").read_text().split() == ["Na_pv", "Cl"]
    assert "ENCUT = 520" in (folder / "INCAR").read_text()
    from pymatgen.core import Structure

    written = Structure.from_file(folder / "POSCAR")
    assert written.volume == pytest.approx(5.64**3 / 4)
    read = read_manifest(tmp_path / "dft")
    assert read == manifest
    assert (read.n_samples, read.choice, read.source) == (3, "valid", {"run": "r1"})
    with pytest.raises(ConfigError, match="already has inputs"):
        write_dft_inputs(samples, [0], tmp_path / "dft", "valid")


def test_element_without_settings_is_left_out_with_its_reason(tmp_path: Path) -> None:
    einsteinium = crystal([99], [[0, 0, 0]], np.eye(3) * 4)
    manifest = write_dft_inputs([einsteinium, salt()], [0, 1], tmp_path / "dft", "all")
    assert "MPRelaxSet fails" in manifest.calculations[0].reason
    assert manifest.calculations[1].reason == ""
    found = read_dft_results(tmp_path / "dft", EvaluationConfig(processes=1))
    assert found.verdicts.checks["relaxed"].reasons == [NO_INPUTS, NOT_RUN]


def test_choices() -> None:
    samples = [salt(id="0"), Invalid(CRYSTAL, "nan", np.array([1]), "1"), salt(id="2"), salt(id="3")]
    verdicts = Verdicts(CRYSTAL, ["0", "1", "2", "3"], np.array([2, 1, 2, 2]))
    verdicts.add_value("e_above_hull_ev_per_atom", [0.3, np.nan, 0.1, 0.2])
    verdicts.add_check("stable", Check(np.array([0, 0, 1, -1]), ["far", "nan", "", ""]))
    assert choose_samples(samples) == [0, 2, 3]
    assert choose_samples(samples, "best", 2, verdicts=verdicts) == [2, 3]
    assert choose_samples(samples, "stable", verdicts=verdicts) == [2]
    assert choose_samples(samples, ids=["3", "0", "3"]) == [3, 0]
    for arguments, message in [
        ({"choice": "worst"}, "choose is 'worst'"),
        ({"choice": "best"}, "needs verdicts"),
        ({"choice": "metastable", "verdicts": verdicts}, "needs the check 'metastable'"),
        ({"ids": ["7"]}, "'7'; expected ids of the 4 samples"),
        ({"ids": ["1"]}, "no structure"),
    ]:
        with pytest.raises(ConfigError, match=message):
            choose_samples(samples, **arguments)
    assert choose_samples([salt(id="3"), salt(id="2")], "best", verdicts=verdicts) == [1, 0]
    with pytest.raises(ConfigError, match="'9' is not among them"):
        choose_samples([salt(id="9")], "stable", verdicts=verdicts)


def test_names_of_folders() -> None:
    assert [safe_name(i) for i in ("../x", "a\n$(rm)", "", "é", "mp-1" * 30)] == [
        "x", "a_rm", "sample", "sample", ("mp-1" * 30)[:40],
    ]  # fmt: skip


def test_results_with_mp2020_corrections_are_placed_on_the_hull(inputs: Path, tmp_path: Path) -> None:
    steps = [(salt(5.7), ENERGY + 0.2), (salt(5.64), ENERGY)]
    (inputs / "00000-s0" / "vasprun.xml").write_text(vasprun(steps, SYMBOLS))
    higher = [(salt(5.64), ENERGY + 0.5)]
    with gzip.open(inputs / "00001-s1" / "vasprun.xml.gz", "wt") as stream:
        stream.write(vasprun(higher, SYMBOLS))
    expected = (ENERGY + CL_CORRECTION) / 2
    formation = expected - (-1.3 - 1.8) / 2
    known = [crystal([55, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], np.eye(3) * 4.1)]
    found = read_dft_results(
        inputs, EvaluationConfig(processes=1), hull_file(tmp_path, formation + 0.01), known=known
    )
    verdicts = found.verdicts
    assert verdicts.checks["relaxed"].verdict.tolist() == [1, 1, 0]
    assert verdicts.checks["relaxed"].reasons[2] == NOT_RUN
    np.testing.assert_allclose(
        verdicts.values["relaxed_energy_ev_per_atom"], [expected, expected + 0.25, np.nan], atol=1e-6
    )
    assert verdicts.values["energy_ev_per_atom"][0] == pytest.approx(expected + 0.1)
    np.testing.assert_allclose(verdicts.values["e_above_hull_ev_per_atom"], [-0.01, 0.24, np.nan], atol=1e-6)
    assert verdicts.values["formation_energy_ev_per_atom"][0] == pytest.approx(formation)
    assert verdicts.values["relaxation_volume_ratio"][0] == pytest.approx((5.64 / 5.7) ** 3)
    assert verdicts.values["relaxation_rmsd_angstrom"][0] == pytest.approx(0, abs=1e-6)
    assert verdicts.checks["stable"].verdict.tolist() == [1, 0, 0]
    assert verdicts.checks["sun"].verdict.tolist() == [1, 0, 0]
    assert "MP2020 corrections" in verdicts.checks["stable"].protocol
    assert "hull.json (3 entries, sha256" in verdicts.checks["stable"].protocol
    table, entries = found.write(tmp_path / "scores")
    assert Verdicts.read_csv(table).checks["stable"].verdict.tolist() == [1, 0, 0]
    assert [e["id"] for e in json.loads(entries.read_text())["entries"]] == ["s0", "s1"]


def test_uncorrected_energies(inputs: Path) -> None:
    (inputs / "00000-s0" / "vasprun.xml").write_text(vasprun([(salt(), ENERGY)], SYMBOLS))
    found = read_dft_results(inputs, EvaluationConfig(processes=1), corrections="none")
    assert found.verdicts.values["relaxed_energy_ev_per_atom"][0] == pytest.approx(ENERGY / 2)
    assert "without corrections" in found.verdicts.checks["relaxed"].protocol
    with pytest.raises(ConfigError, match="corrections is 'mp'"):
        read_dft_results(inputs, EvaluationConfig(), corrections="mp")


def test_what_is_wrong_with_a_calculation_is_its_reason(tmp_path: Path) -> None:
    good = vasprun([(salt(), ENERGY)], SYMBOLS)
    texts = {
        TORN: [
            good[: len(good) // 2], "", "<modeling></modeling>",
            good.replace("<modeling>", '<!DOCTYPE m [<!ENTITY x SYSTEM "/etc/hostname">]><modeling>'),
        ],
        NO_ELECTRONIC: [vasprun([(salt(), ENERGY)], SYMBOLS, electronic=100)],
        NO_IONIC: [vasprun([(salt(), ENERGY)] * 2, SYMBOLS, nsw=2)],
        NO_ENERGY: [good.replace(f"{ENERGY:.8f}", "***"), vasprun([(salt(), float("nan"))], SYMBOLS)],
        OTHER_ATOMS: [vasprun([(salt(), ENERGY)], ["Na", "Na"])],
    }  # fmt: skip
    cases = [(reason, text) for reason, group in texts.items() for text in group]
    folder = tmp_path / "dft"
    manifest = write_dft_inputs(
        [salt(id=str(i)) for i in range(len(cases) + 2)], range(len(cases) + 2), folder, "all"
    )
    for (_, text), calculation in zip(cases, manifest.calculations, strict=False):
        (folder / calculation.folder / "vasprun.xml").write_text(text)
    wrong_potential = vasprun([(salt(), ENERGY)], SYMBOLS, TITLES | {"Na": "PAW_PBE Na 08Apr2002"})
    (folder / manifest.calculations[-2].folder / "vasprun.xml").write_text(wrong_potential)
    (folder / manifest.calculations[-1].folder / "vasprun.xml.gz").write_bytes(
        gzip.compress(good.encode())[:-20]
    )
    reasons = read_dft_results(folder, EvaluationConfig(processes=1)).verdicts.checks["relaxed"].reasons
    assert reasons[: len(cases)] == [reason for reason, _ in cases]
    assert reasons[-2].startswith("MP2020 corrections do not apply: ")
    assert reasons[-1] == TORN


def test_manifests_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_manifest(tmp_path)
    calculation = {"folder": "../x", "id": "", "formula": "Na1", "n_atoms": 1, "reason": ""}
    tree = {"n_samples": 1, "choice": "all", "source": {}, "calculations": [calculation]}
    (tmp_path / MANIFEST).write_text(json.dumps(tree))
    with pytest.raises(DataError, match="no name of a folder"):
        read_manifest(tmp_path)
    (tmp_path / MANIFEST).write_text('{"calculations": 3}')
    with pytest.raises(DataError, match="not a manifest"):
        read_manifest(tmp_path)

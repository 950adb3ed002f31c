"""How far molecules are from the minima of MMFF94 and GFN2-xTB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hand_made import molecule

from adit_scale.atoms import MOLECULE, AtomSet
from adit_scale.evaluation.config import EnergyConfig, EvaluationConfig
from adit_scale.evaluation.decode import Invalid
from adit_scale.evaluation.energies import reasons
from adit_scale.evaluation.energies.judge import judge_energies
from adit_scale.evaluation.energies.molecules import relax_molecules
from adit_scale.evaluation.verdicts import Verdicts


def moved(sample: AtomSet, noise: float, seed: int = 0) -> AtomSet:
    positions = sample.positions + noise * np.random.default_rng(seed).normal(size=(len(sample), 3))
    return molecule(sample.numbers.tolist(), positions)


def turned(sample: AtomSet) -> AtomSet:
    quarter = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])
    return molecule(sample.numbers.tolist(), sample.positions @ quarter + [1, 2, 3])


def relax(samples: list[AtomSet | Invalid], method: str, **settings: object) -> list:
    return relax_molecules(samples, method, EnergyConfig(**settings), processes=0)


@pytest.mark.parametrize("method", ["mmff", "xtb"])
def test_minimum_stays_and_noise_goes(methane: AtomSet, method: str) -> None:
    if method == "xtb":
        pytest.importorskip("tblite")
    tight = {"xtb_fmax_ev_per_angstrom": 1e-3}
    (first,) = relax([moved(methane, 0.05)], method, **tight)
    assert first.fault is None
    minimum = molecule(methane.numbers.tolist(), first.positions)
    bond = np.linalg.norm(minimum.positions[1:] - minimum.positions[0], axis=1)
    np.testing.assert_allclose(bond, 1.09, atol=0.01)
    again, noisy = relax([turned(minimum), moved(minimum, 0.05, 1)], method, **tight)
    assert again.drop == pytest.approx(0, abs=1e-3)
    assert noisy.drop > 0.2  # kcal/mol per atom


def test_verdicts_of_molecules(methane: AtomSet, benzene: AtomSet) -> None:
    torn = molecule([6, 1, 1, 1, 1], np.vstack([methane.positions[:4], [[9, 9, 9]]]))
    hydroxyl = molecule([8, 1], [[0, 0, 0], [0, 0, 0.96]])
    samples: list[AtomSet | Invalid] = [
        moved(methane, 0.03), benzene, torn, Invalid(MOLECULE, "coordinates are not finite", np.array([6])),
        hydroxyl, methane,
    ]  # fmt: skip
    verdicts = Verdicts(MOLECULE, [str(i) for i in range(6)], np.array([len(s) for s in samples]))
    config = EvaluationConfig(relax_molecules=["mmff"], energies=EnergyConfig(relax_samples=5), processes=1)
    judge_energies(verdicts, samples, config)
    check = verdicts.checks["mmff_relaxed"]
    assert check.verdict.tolist() == [1, 1, 0, 0, 0, -1]
    assert check.reasons[3] == "coordinates are not finite"
    assert all(check.reasons[i] for i in (2, 4))
    rmsd = verdicts.values["mmff_rmsd_angstrom"]
    assert 0.005 < rmsd[0] < 0.1
    assert rmsd[1] < 0.03  # the geometry is a good one
    assert np.isnan(rmsd[2:]).all()
    assert verdicts.values["mmff_energy_drop_kcal_mol_per_atom"][0] > 0.05
    assert "MMFF94" in check.protocol


def test_faults_of_models() -> None:
    """A compound whose bonds are clear, without parameters in MMFF94; xTB that may not take a step."""
    borane = molecule([5, 1, 1, 1], [[0, 0, 0], [0, 0, 1.19], [0, 1.03, -0.6], [0, -1.03, -0.6]])
    assert relax([borane], "mmff")[0].fault == reasons.NO_PARAMETERS
    pytest.importorskip("tblite")
    squeezed = molecule([5, 1, 1, 1], 0.93 * borane.positions)
    assert relax([squeezed], "xtb", max_steps=1)[0].fault == "did not converge in 1 steps"


@pytest.mark.real_data
def test_qm9_lies_near_the_minima_of_both(shared: Path) -> None:
    """DFT geometries: a few hundredths of an angstrom from MMFF94's, less from GFN2-xTB's."""
    pytest.importorskip("tblite")
    from itertools import islice

    from adit_scale.data.config import DataConfig
    from adit_scale.data.sources import Source, read_source
    from adit_scale.evaluation.reconstruction import kabsch_rmsd

    source = Source.from_word(str(shared / "data" / "qm9_sample.extxyz.gz"))
    read = islice(read_source(source, DataConfig()), 100, 400, 30)
    samples: list[AtomSet | Invalid] = [s for s in read if isinstance(s, AtomSet)]
    median = {}
    for method in ("mmff", "xtb"):
        done = [(s, r) for s, r in zip(samples, relax(samples, method), strict=True) if r.fault is None]
        assert len(done) >= 0.7 * len(samples)
        rmsd = kabsch_rmsd([s.positions for s, _ in done], [r.positions for _, r in done])
        median[method] = float(np.median(rmsd))
        assert all(r.drop >= 0 for _, r in done)
    assert median["xtb"] < median["mmff"] < 0.2

"""Samples on disk are read back by the project's own reader."""

from __future__ import annotations

import numpy as np

from adit_scale.atoms import CRYSTAL, MOLECULE, AtomSet
from adit_scale.data.sources import read_source
from adit_scale.evaluation.decode import Invalid
from adit_scale.jobs.sampling import write_samples


def test_extxyz_round_trip(tmp_path):
    cell = np.array([[4.0, 0.0, 0.0], [0.5, 5.0, 0.0], [0.1, 0.2, 6.0]])
    crystal = AtomSet(np.array([11, 17]), np.array([[0.0, 0, 0], [2, 2.5, 3]]), cell, True, "sampled", id="7")
    molecule = AtomSet(
        np.array([8, 1, 1]),
        np.array([[0, 0, 0.2], [0, 0.8, -0.1], [0, -0.8, -0.1]]),
        np.zeros((3, 3)),
        False,
        "sampled",
    )
    broken = Invalid(CRYSTAL, "cell is not finite", np.array([1]), "3")
    paths = write_samples({CRYSTAL: [broken, crystal], MOLECULE: [molecule]}, tmp_path)
    assert [path.name for path in paths] == ["crystals.extxyz", "molecules.extxyz"]
    found = [item for path in paths for item in read_source(path)]
    assert [isinstance(item, AtomSet) for item in found] == [True, True]
    assert [item.periodic for item in found] == [True, False]
    assert found[0].numbers.tolist() == [11, 17]
    np.testing.assert_allclose(abs(np.linalg.det(found[0].cell)), abs(np.linalg.det(cell)), rtol=1e-6)
    np.testing.assert_allclose(found[1].positions, molecule.positions, atol=1e-6)

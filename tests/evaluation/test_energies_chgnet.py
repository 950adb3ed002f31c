"""CHGNet: loaded without unpickling, alike to its own loading, and sound on structures that are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hand_made import crystal

from adit_scale.atoms import AtomSet
from adit_scale.evaluation.config import EnergyConfig
from adit_scale.evaluation.energies import reasons
from adit_scale.evaluation.energies.potentials import Potential
from adit_scale.evaluation.energies.relaxation import relax_crystal, to_ase

pytest.importorskip("chgnet")
CHGNET = Potential("chgnet")


def salt(edge: float) -> AtomSet:
    return crystal(
        [11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], edge / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    )


def test_weights_are_read_as_tensors_and_give_chgnets_own_energies(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    import torch
    from chgnet.model import CHGNet
    from pymatgen.core import Lattice, Structure

    own = CHGNet.load(use_device="cpu", verbose=False)
    cell = Lattice.from_parameters(3.9, 4.1, 4.3, 80, 95, 100)
    structure = Structure(cell, ["Fe", "O"], [[0, 0, 0], [0.45, 0.45, 0.45]])
    prediction = own.predict_structure(structure)
    assert isinstance(prediction, dict)
    capsys.readouterr()
    trusted = []
    load = torch.load

    def spy(*args: Any, **kwargs: Any) -> Any:
        trusted.append(not kwargs["weights_only"])
        return load(*args, **kwargs)

    monkeypatch.setattr(torch, "load", spy)
    from adit_scale.evaluation.energies.potentials import _chgnet

    sites = AtomSet(np.array([26, 8]), structure.cart_coords, cell.matrix.copy(), True, "test")
    atoms = to_ase(sites)
    atoms.calc = _chgnet("chgnet", "cpu")
    assert atoms.get_potential_energy() / 2 == pytest.approx(float(prediction["e"]), abs=1e-5)
    assert trusted == [False]
    assert capsys.readouterr().out == ""
    assert CHGNET.describe().startswith("CHGNet 0.3.0 (chgnet ")


def test_rock_salt_relaxes_to_its_cell() -> None:
    """CHGNet follows PBE, whose NaCl has an edge of 5.69 Å, at -3.4 eV/atom before MP2020's -0.31."""
    found = relax_crystal(salt(5.3), CHGNET, EnergyConfig())
    assert found.fault is None
    assert found.relaxed is not None
    edge = (4 * abs(np.linalg.det(found.relaxed.cell))) ** (1 / 3)
    assert edge == pytest.approx(5.69, abs=0.06)
    assert found.relaxed_energy == pytest.approx(-3.4 - 0.307, abs=0.06)


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (crystal([29, 29], np.zeros((2, 3)), np.eye(3) * 4), reasons.NON_FINITE_ENERGY),
        (crystal([11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], np.eye(3) * 30), reasons.NO_NEIGHBOURS),
        # A cell whose neighbour lists would fill the memory.
        (crystal([11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], np.eye(3) * 0.6), reasons.COLLAPSED),
    ],
)
def test_structures_that_are_none(sample: AtomSet, reason: str) -> None:
    assert relax_crystal(sample, CHGNET, EnergyConfig(max_steps=100)).fault == reason


def test_r2scan_weights_say_another_scale() -> None:
    other = Potential("chgnet-r2scan")
    assert "r2SCAN" in other.scale
    assert "MP2020" in CHGNET.scale
    assert other.describe() != CHGNET.describe()

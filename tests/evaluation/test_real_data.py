"""Real data score as published, and spoiled data far lower: the table of docs on a small part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from adit_scale.atoms import CRYSTAL, MOLECULE, AtomSet
from adit_scale.evaluation.config import EvaluationConfig
from adit_scale.evaluation.crystals.composition import compositional_fault
from adit_scale.evaluation.crystals.structure import structural_fault
from adit_scale.evaluation.judging import judge
from adit_scale.evaluation.reading import read_structures
from tests.evaluation.mutated_table import FILES, NOISE_ANGSTROM, exchanged, real_sets, score_mutations

EDM = EvaluationConfig(protocols=["edm"])
NOISED = f"positions + {NOISE_ANGSTROM:g} Å"


@pytest.mark.real_data
def test_qm9_by_the_distance_table(shared: Path) -> None:
    """2,000 molecules: 99.5, 96.3, 98.0 and 100%, each within 0.2 points."""
    rates = judge(read_structures(str(shared / "data" / FILES[MOLECULE])), EDM).scores.rates
    expected = {
        "edm_atom_stability": 0.995,
        "edm_molecule_stability": 0.963,
        "edm_validity": 0.980,
        "edm_uniqueness": 1.0,
    }
    for name, share in expected.items():
        assert rates[f"molecule/{name}"].value == pytest.approx(share, abs=0.002), name


@pytest.mark.real_data
def test_mp20_by_structure_and_composition(shared: Path) -> None:
    """1,000 crystals by the judge's two rules alone; its spacegroups would take a minute."""
    crystals = real_sets(shared / "data", CRYSTAL, 1000)
    assert [structural_fault(crystal) for crystal in crystals] == [None] * 1000
    assert neutral(crystals) == pytest.approx(0.886, abs=0.015)
    # SMACT knows many oxidation states and takes any alloy: random compositions often pass.
    assert neutral(exchanged(crystals)) < neutral(crystals) - 0.1


def neutral(crystals: Sequence[AtomSet]) -> float:
    return sum(compositional_fault(crystal) is None for crystal in crystals) / len(crystals)


@pytest.mark.real_data
def test_spoiled_molecules_score_far_lower(shared: Path) -> None:
    scores = score_mutations(shared / "data", MOLECULE, 300, EDM)
    for name in ("edm_molecule_stability", "edm_valid_and_connected"):
        real = scores["real"].rates[f"molecule/{name}"]
        for spoiled in (NOISED, "species shuffled within", "species exchanged between"):
            rate = scores[spoiled].rates[f"molecule/{name}"]
            assert rate.value < real.value - 0.6, (name, spoiled, rate.value)
            assert scores[spoiled].compare(scores["real"])[f"molecule/{name}"].verdict == "differs"


@pytest.mark.real_data
def test_spoiled_crystals_lose_their_symmetry(shared: Path) -> None:
    """Noise keeps half an angstrom between atoms, so structural validity hardly falls; all become P1."""
    config = EvaluationConfig(crystal_uniqueness=False, novelty=False)
    scores = score_mutations(shared / "data", CRYSTAL, 60, config)
    real, noised = scores["real"].rates, scores[NOISED].rates
    assert real["crystal/structural_validity"].value == 1.0
    assert real["crystal/p1_share_0.1"].value < 0.1
    assert noised["crystal/p1_share_0.1"].value > 0.9
    assert noised["crystal/compositional_validity"] == real["crystal/compositional_validity"]

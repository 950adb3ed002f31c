from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hand_made import crystal
from hypothesis import assume, given
from hypothesis import strategies as st
from pymatgen.core import Lattice
from torch import Tensor

from adit_scale.atoms import CRYSTAL, MOLECULE, AtomSet, PackedLayout
from adit_scale.evaluation import decode
from adit_scale.evaluation.decode import Invalid, cell_fault, cell_matrix, decode_sets, to_pymatgen


@dataclass
class Output:
    atom_type_logits_t100: Tensor
    positions_t3: Tensor
    fractional_t3: Tensor
    lengths_s3: Tensor
    angles_s3: Tensor


def output(numbers: list[int], n_sets: int) -> Output:
    n = len(numbers)
    generator = torch.Generator().manual_seed(0)
    return Output(
        atom_type_logits_t100=5.0 * torch.nn.functional.one_hot(torch.tensor(numbers), 100).float(),
        positions_t3=torch.randn(n, 3, generator=generator),
        fractional_t3=torch.randn(n, 3, generator=generator),
        lengths_s3=torch.full((n_sets, 3), 4.0),
        angles_s3=torch.full((n_sets, 3), torch.pi / 2),
    )


def test_sets_come_out_by_domain_and_without_the_tail():
    layout = PackedLayout.from_sizes([3, 2], capacity_atoms=8, capacity_sets=4)
    decoded = output([6, 1, 1, 11, 17, 9, 9, 9], n_sets=4)
    first, second = decode_sets(decoded, layout, torch.tensor([MOLECULE, CRYSTAL, 0, 0]), ids=["a", "b"])
    assert isinstance(first, AtomSet)
    assert isinstance(second, AtomSet)
    assert (first.numbers.tolist(), first.periodic, first.id) == ([6, 1, 1], False, "a")
    assert first.positions.mean(axis=0) == pytest.approx([0, 0, 0], abs=1e-12)
    bond = decoded.positions_t3[1] - decoded.positions_t3[0]
    assert first.positions[1] - first.positions[0] == pytest.approx(bond.numpy(), abs=1e-6)
    assert (second.numbers.tolist(), second.periodic, second.id) == ([11, 17], True, "b")
    assert second.cell == pytest.approx(np.eye(3) * 4, abs=1e-6)
    assert second.fractional == pytest.approx(decoded.fractional_t3[3:5].numpy() % 1, abs=1e-6)


def test_the_mask_class_is_never_an_element():
    decoded = output([0], n_sets=1)
    decoded.atom_type_logits_t100[0, 7] = 1.0
    (only,) = decode_sets(decoded, PackedLayout.from_sizes([1]), torch.tensor([MOLECULE]))
    assert only.numbers.tolist() == [7]


@pytest.mark.parametrize(
    ("field", "index", "value", "reason"),
    [
        ("lengths_s3", (0, 1), float("nan"), decode.NON_FINITE_CELL),
        ("lengths_s3", (0, 1), 0.0, decode.NON_POSITIVE_LENGTH),
        ("lengths_s3", (0, 1), -4.0, decode.NON_POSITIVE_LENGTH),
        ("angles_s3", (0, 2), float("inf"), decode.NON_FINITE_CELL),
        ("angles_s3", (0, 2), 3.2, decode.OPEN_ANGLES),
        ("angles_s3", (0, 2), -1.0, decode.OPEN_ANGLES),
        ("fractional_t3", (1, 0), float("nan"), decode.NON_FINITE_COORDINATES),
        ("atom_type_logits_t100", (1, 5), float("nan"), decode.NON_FINITE_TYPES),
    ],
)
def test_a_crystal_that_cannot_be_is_invalid_with_its_reason(field, index, value, reason):
    decoded = output([11, 17], n_sets=1)
    getattr(decoded, field)[index] = value
    (sample,) = decode_sets(decoded, PackedLayout.from_sizes([2]), torch.tensor([CRYSTAL]), ids=["x"])
    assert isinstance(sample, Invalid)
    assert (sample.domain, sample.reason, sample.id, len(sample)) == (CRYSTAL, reason, "x", 2)
    known = reason != decode.NON_FINITE_TYPES
    assert sample.numbers.tolist() == [11, 17 if known else 0]


@pytest.mark.parametrize("field", ["positions_t3", "atom_type_logits_t100"])
def test_a_molecule_with_nan_is_invalid_and_ignores_its_cell(field):
    decoded = output([6, 1], n_sets=1)
    decoded.lengths_s3[:] = float("nan")
    layout, domain = PackedLayout.from_sizes([2]), torch.tensor([MOLECULE])
    assert isinstance(decode_sets(decoded, layout, domain)[0], AtomSet)
    getattr(decoded, field)[0, 1] = float("nan")
    assert isinstance(decode_sets(decoded, layout, domain)[0], Invalid)


def test_angles_that_close_no_cell():
    # Three edges in a plane, and a sum of angles above 360 degrees.
    lengths = np.ones(3)
    assert cell_fault(lengths, np.radians([120, 120, 120])) == decode.OPEN_ANGLES
    assert cell_fault(lengths, np.radians([130, 120, 120])) == decode.OPEN_ANGLES
    assert cell_fault(lengths, np.radians([30, 40, 80])) == decode.OPEN_ANGLES  # 30 + 40 < 80
    assert cell_fault(lengths, np.radians([119, 120, 120])) is None


lengths_st = st.lists(st.floats(0.1, 50), min_size=3, max_size=3).map(np.array)
angles_st = st.lists(st.floats(0.05, 3.1), min_size=3, max_size=3).map(np.array)


@given(lengths_st, angles_st)
def test_cell_matrix_has_the_given_lengths_and_angles(lengths, angles):
    assume(cell_fault(lengths, angles) is None)
    lattice = Lattice(cell_matrix(lengths, angles))
    assert lattice.lengths == pytest.approx(lengths, rel=1e-9)
    assert np.radians(lattice.angles) == pytest.approx(angles, abs=1e-6)
    assert np.linalg.det(lattice.matrix) > 0


def test_pymatgen_structure(rock_salt):
    structure = to_pymatgen(rock_salt)
    assert structure.composition.reduced_formula == "NaCl"
    assert structure.volume == pytest.approx(5.64**3)
    assert structure.get_distance(0, 4) == pytest.approx(np.sqrt(3) * 2.82)
    assert to_pymatgen(crystal([11], [[0.1, 0.2, 0.3]], np.eye(3) * 4)).frac_coords[0] == pytest.approx(
        [0.1, 0.2, 0.3]
    )

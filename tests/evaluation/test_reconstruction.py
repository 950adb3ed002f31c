from __future__ import annotations

import math

import pytest
import torch

from adit_scale.atoms import CRYSTAL, MOLECULE, PackedBatch, PackedLayout
from adit_scale.evaluation.reconstruction import Reconstruction, compare_reconstruction
from adit_scale.models.autoencoder import Decoded


def batch_and_copy(capacity_atoms: int | None = None) -> tuple[PackedBatch, Decoded]:
    """A molecule of 3 atoms and crystals of 2 and 4, and a decoder that gives back exactly these."""
    layout = PackedLayout.from_sizes([3, 2, 4], capacity_atoms=capacity_atoms)
    t, s = layout.n_atoms, layout.n_sets
    generator = torch.Generator().manual_seed(1)
    fractional = torch.rand(t, 3, generator=generator)
    cells = torch.diag_embed(3 + torch.rand(s, 3, generator=generator))
    index = torch.arange(s)
    batch = PackedBatch(
        layout=layout,
        numbers_t=torch.randint(1, 100, (t,), generator=generator),
        positions_t3=torch.randn(t, 3, generator=generator),
        fractional_t3=fractional,
        cells_s33=cells,
        domain_s=torch.tensor([MOLECULE, CRYSTAL, CRYSTAL, 0][:s]),
        dataset_s=index * 0,
        spacegroup_s=index * 0,
        set_index_s=index,
        epoch_s=index * 0,
        repetition_s=index * 0,
    )
    logits = torch.nn.functional.one_hot(batch.numbers_t, 100).float()
    logits[:, 0] = 9.0  # the mask class takes no part
    decoded = Decoded(
        atom_type_logits_t100=logits,
        positions_t3=batch.positions_t3 + 7.0,  # the origin means nothing
        fractional_t3=fractional + 2.0,  # nor do whole cells
        lengths_s3=batch.lengths_s3.clone(),
        angles_s3=batch.angles_s3.clone(),
    )
    return batch, decoded


@pytest.mark.parametrize("capacity_atoms", [None, 16])
def test_a_perfect_copy_has_no_error(capacity_atoms):
    batch, decoded = batch_and_copy(capacity_atoms)
    if capacity_atoms:  # whatever stands in the padding is not looked at
        decoded.positions_t3[9:] = 100.0
        decoded.atom_type_logits_t100[9:] = 0.0
    result = compare_reconstruction(decoded, batch)
    assert (result.n_sets, result.n_atoms, result.molecule_atoms, result.crystal_atoms) == (3, 9, 3, 6)
    metrics = result.metrics()
    assert metrics["reconstruction/atom_type_accuracy"] == 1.0
    assert metrics["reconstruction/exact_types"] == 1.0
    assert metrics["reconstruction/molecule/position_rmsd_angstrom"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["reconstruction/crystal/fractional_rmsd"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["reconstruction/crystal/lengths_mae_angstrom"] == 0.0
    assert metrics["reconstruction/crystal/angles_mae_degree"] == 0.0


def test_known_errors():
    batch, decoded = batch_and_copy()
    decoded.positions_t3[:3] += torch.tensor([[0.3, 0, 0], [-0.3, 0, 0], [0, 0, 0]])
    decoded.positions_t3[3:] += torch.randn(6, 3)  # a crystal has no decoded positions
    decoded.fractional_t3[3] += torch.tensor([0.9, 0, 0])  # a tenth of a cell, the other way
    decoded.lengths_s3[1:] += torch.tensor([[0.1, -0.2, 0.3], [0.0, 0.0, 0.0]])
    decoded.angles_s3[2] += math.radians(3)
    decoded.atom_type_logits_t100[0, int(batch.numbers_t[0]) % 99 + 1] = 5.0
    metrics = compare_reconstruction(decoded, batch).metrics()
    assert metrics["reconstruction/molecule/position_rmsd_angstrom"] == pytest.approx(math.sqrt(0.18 / 3))
    assert metrics["reconstruction/crystal/fractional_rmsd"] == pytest.approx(math.sqrt(0.01 / 6), rel=1e-4)
    assert metrics["reconstruction/crystal/lengths_mae_angstrom"] == pytest.approx(0.1, rel=1e-5)
    assert metrics["reconstruction/crystal/angles_mae_degree"] == pytest.approx(1.5, rel=1e-5)
    assert metrics["reconstruction/atom_type_accuracy"] == pytest.approx(8 / 9)
    assert metrics["reconstruction/exact_types"] == pytest.approx(2 / 3)


def test_batches_add_up():
    batch, decoded = batch_and_copy()
    decoded.positions_t3[0, 0] += 0.3
    once = compare_reconstruction(decoded, batch)
    twice = once + once
    assert twice.n_sets == 6
    assert twice.metrics() == pytest.approx(once.metrics())
    assert once + Reconstruction() == once


def test_nan_is_not_hidden():
    batch, decoded = batch_and_copy()
    decoded.positions_t3[1, 0] = float("nan")
    decoded.atom_type_logits_t100[4, 3] = float("nan")
    metrics = compare_reconstruction(decoded, batch).metrics()
    assert math.isnan(metrics["reconstruction/molecule/position_rmsd_angstrom"])
    assert metrics["reconstruction/atom_type_accuracy"] == pytest.approx(8 / 9)


def test_an_absent_domain_has_no_metrics():
    assert Reconstruction().metrics() == {}

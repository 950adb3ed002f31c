"""The autoencoder's ceiling: raw errors by batch, and match rates and distances of whole structures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from adit_scale.atoms import CRYSTAL, MOLECULE, AtomSet, PackedBatch, PackedLayout
from adit_scale.evaluation.config import EvaluationConfig
from adit_scale.evaluation.decode import NON_FINITE_COORDINATES, NON_POSITIVE_LENGTH, Invalid
from adit_scale.evaluation.limited import OVER_TIME
from adit_scale.evaluation.reconstruction import (
    FAR,
    OTHER_TYPES,
    Reconstruction,
    compare_reconstruction,
    compare_reconstructions,
    kabsch_rmsd,
    reconstruct_sets,
    reconstructions,
)
from adit_scale.evaluation.reconstruction_match import NO_MAPPING, match_crystal
from adit_scale.models.autoencoder import Autoencoder, Decoded
from adit_scale.models.config import AutoencoderConfig


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


# -- whole structures ------------------------------------------------------------------------------------

MOLECULE_RATES = (
    "match_rate",
    "rmsd_below_0.05_angstrom",
    "rmsd_below_0.1_angstrom",
    "rmsd_below_0.5_angstrom",
)


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def molecule(numbers: list[int], positions: np.ndarray) -> AtomSet:
    return AtomSet(np.array(numbers), positions, np.zeros((3, 3)), False, "made", 0, "m")


def perovskite(a: float = 3.9, shift: np.ndarray | None = None, centre: int = 22) -> AtomSet:
    """SrTiO3: 5 atoms of a cubic cell. shift: ``(5, 3)`` angstrom."""
    fractional = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    positions = fractional * a + (0 if shift is None else shift)
    return AtomSet(np.array([38, centre, 8, 8, 8]), positions, np.eye(3) * a, True, "made", 221, "c")


@pytest.mark.parametrize("flat", [False, True])
def test_kabsch_finds_known_rotations_of_many_molecules_at_once(flat):
    rng = np.random.default_rng(3)
    true, found, expected = [], [], []
    for n in [*range(1, 30)] * 3:
        p = rng.normal(0, 2, (n, 3)) * ([1, 1, 0] if flat else 1)
        p -= p.mean(axis=0)
        # A uniform swelling leaves the best rotation where it is and moves each atom by a known part.
        s = rng.uniform(0, 0.2)
        true.append(p + rng.normal(0, 5, 3))
        found.append((1 + s) * p @ random_rotation(rng) + rng.normal(0, 5, 3))
        expected.append(s * math.sqrt((p**2).sum() / n))
    np.testing.assert_allclose(kabsch_rmsd(true, found), expected, atol=1e-12)


def test_a_mirror_image_is_not_a_copy():
    """Four different neighbours of a carbon; against its mirror image no rotation brings it to rest."""
    rng = np.random.default_rng(5)
    p = np.array([[0, 0, 0], [1.1, 1.1, 1.1], [1.2, -1.2, -1.2], [-1.3, 1.3, -1.3], [-1.4, -1.4, 1.4]])
    (rmsd,) = kabsch_rmsd([p], [p * [1, 1, -1] @ random_rotation(rng)])
    best = min(
        math.sqrt(
            (
                ((p - p.mean(0)) @ random_rotation(rng) - (p * [1, 1, -1] - (p * [1, 1, -1]).mean(0))) ** 2
            ).sum()
            / 5
        )
        for _ in range(4_000)
    )
    assert rmsd > 0.8
    assert rmsd <= best < rmsd + 0.15  # nothing among random rotations is better


def test_molecules_are_counted_over_all_of_them():
    rng = np.random.default_rng(0)
    p = rng.normal(0, 1.5, (6, 3))
    water = [8, 1, 1, 8, 1, 1]
    off = np.array([1.0, -1, 1, -1, 1, -1])[:, None] * [[0.2, 0, 0]]
    pairs = [
        (molecule(water, p), molecule(water, p @ random_rotation(rng))),
        (molecule(water, p), molecule(water, p + off)),
        (molecule(water, p), molecule([8, 1, 1, 8, 1, 6], p)),
        (molecule(water, p), molecule(water, p + 10 * off)),
        (molecule(water, p), Invalid(MOLECULE, NON_FINITE_COORDINATES, np.array(water))),
    ]
    report = compare_reconstructions(pairs, EvaluationConfig())
    rates = {name.removeprefix("reconstruction/molecule/"): rate for name, rate in report.rates.items()}
    assert {name: rate.successes for name, rate in rates.items() if name in MOLECULE_RATES} == dict(
        zip(MOLECULE_RATES, (2, 2, 2, 3), strict=True)
    )
    assert all(rates[name].trials == 5 for name in MOLECULE_RATES)
    assert (rates["exact_types"].successes, rates["decodable"].successes) == (4, 4)
    assert (rates["atom_type_accuracy"].successes, rates["atom_type_accuracy"].trials) == (29, 30)
    reasons = {OTHER_TYPES: 1, FAR: 1, NON_FINITE_COORDINATES: 1}
    assert report.reasons["reconstruction/molecule/match_rate"] == reasons
    distances = kabsch_rmsd([p] * 4, [s.positions for _, s in pairs if isinstance(s, AtomSet)])
    assert report.metrics["reconstruction/molecule/rmsd_angstrom"] == pytest.approx(distances.mean())
    values = report.flat_values()
    name = "reconstruction/molecule/match_rate"
    assert values[f"{name}_lower"] < values[name] == 0.4 < values[f"{name}_upper"]
    assert values[f"{name}_trials"] == 5
    assert not [name for name in values if "crystal" in name]


def test_crystals_are_matched_at_the_tolerances_of_the_field():
    rng = np.random.default_rng(1)
    true, rotation = perovskite(), random_rotation(rng)
    moved = np.zeros((5, 3))
    moved[0] = [0.4, 0, 0]
    rotated = AtomSet(true.numbers, true.positions @ rotation, true.cell @ rotation, True, "made")
    pairs = [
        (true, rotated),
        (true, perovskite(a=4.3)),  # the matcher scales volumes
        (true, perovskite(shift=moved)),
        (true, perovskite(shift=rng.normal(0, 1.5, (5, 3)))),
        (true, perovskite(centre=40)),
        (true, Invalid(CRYSTAL, NON_POSITIVE_LENGTH, true.numbers)),
    ]
    report = compare_reconstructions(pairs, EvaluationConfig(), processes=0)
    rate = report.rates["reconstruction/crystal/match_rate"]
    assert (rate.successes, rate.trials) == (3, 6)
    reasons = {NO_MAPPING: 1, OTHER_TYPES: 1, NON_POSITIVE_LENGTH: 1}
    assert report.reasons["reconstruction/crystal/match_rate"] == reasons
    # One atom of five moved by d, the centroid by d/5: 2/5 d, in units of (V/n)^(1/3).
    expected = 2 / 5 * 0.4 / (3.9**3 / 5) ** (1 / 3)
    assert match_crystal(pairs[2]) == pytest.approx(expected, rel=1e-3)
    assert match_crystal(pairs[0]) == pytest.approx(0, abs=1e-6)
    mean = report.metrics["reconstruction/crystal/rmsd_normalised"]
    assert mean == pytest.approx(expected / 3, rel=1e-3)  # over matched crystals alone


def test_a_crystal_over_the_time_limit_counts_against_the_rate():
    """A cell of 480 atoms of one kind in disorder keeps the matcher busy for long."""
    rng = np.random.default_rng(2)
    cell, numbers = np.eye(3) * 20, np.full(480, 14)
    glass = [AtomSet(numbers, rng.random((480, 3)) @ cell, cell, True, "made", 0, "g") for _ in range(2)]
    config = EvaluationConfig(call_limit_s=2.0)
    pairs = [(glass[0], glass[1]), (perovskite(), perovskite(a=4.0))]
    report = compare_reconstructions(pairs, config, processes=1)
    rate = report.rates["reconstruction/crystal/match_rate"]
    assert (rate.successes, rate.trials) == (1, 2)
    assert report.reasons["reconstruction/crystal/match_rate"] == {OVER_TIME: 1}


def test_sets_come_back_in_the_order_they_were_given():
    torch.manual_seed(0)
    small = AutoencoderConfig(width=16, encoder_depth=1, decoder_depth=1, heads=2, feedforward=32)
    autoencoder = Autoencoder(small).eval()
    rng = np.random.default_rng(4)
    sets = [
        molecule([6] * n, rng.normal(0, 2, (n, 3))) if n % 2 else perovskite(4 + n / 10)
        for n in (5, 2, 9, 4, 1)
    ]
    pairs = reconstruct_sets(autoencoder, sets, batch_atoms=10)
    assert all(original is given for (original, _), given in zip(pairs, sets, strict=True))
    assert [len(decoded) for _, decoded in pairs] == [len(s) for s in sets]
    alone = [reconstruct_sets(autoencoder, [s])[0][1] for s in sets]
    for (_, decoded), one in zip(pairs, alone, strict=True):
        assert type(decoded) is type(one)
        np.testing.assert_array_equal(decoded.numbers, one.numbers)
        if isinstance(decoded, AtomSet):
            np.testing.assert_allclose(decoded.positions, one.positions, atol=1e-4)
    assert len(reconstructions(pairs, CRYSTAL)) == 2
    assert len(reconstructions(pairs, MOLECULE)) == 3

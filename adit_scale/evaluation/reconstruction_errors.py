"""Errors of the autoencoder's output atom by atom, as sums over batches.

Atoms keep their order through the autoencoder, so decoded and true atoms correspond one to one: no
alignment and no assignment is made. Errors are sums, so that batches and ranks add up before dividing.
A NaN in the output makes its errors NaN: it is not hidden.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from adit_scale.atoms import MAX_ATOMIC_NUMBER, PackedBatch, PackedLayout
from adit_scale.evaluation.decode import DecodedBatch


@dataclass(frozen=True)
class Reconstruction:
    """Sums over sets; add two to join batches. Angstrom, radians, and cell fractions."""

    n_atoms: int = 0
    n_sets: int = 0
    correct_types: int = 0
    exact_type_sets: int = 0
    molecule_atoms: int = 0
    position_error_squared: float = 0.0
    crystal_atoms: int = 0
    fractional_error_squared: float = 0.0
    crystals: int = 0
    length_error: float = 0.0
    angle_error: float = 0.0

    def __add__(self, other: Reconstruction) -> Reconstruction:
        return Reconstruction(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Reconstruction)}
        )

    def metrics(self) -> dict[str, float]:
        """Flat metrics; those of a domain without sets are left out.

        ``molecule/position_rmsd_angstrom``: root mean square length of an atom's displacement, both
        molecules centred. ``crystal/fractional_rmsd``: the same in fractional coordinates modulo 1.
        ``crystal/lengths_mae_angstrom``, ``crystal/angles_mae_degree``: mean over the three components.
        ``exact_types``: share of sets with every atom type right.
        """
        metrics = {}
        if self.n_sets:
            metrics["reconstruction/atom_type_accuracy"] = self.correct_types / self.n_atoms
            metrics["reconstruction/exact_types"] = self.exact_type_sets / self.n_sets
        if self.molecule_atoms:
            mean_square = self.position_error_squared / self.molecule_atoms
            metrics["reconstruction/molecule/position_rmsd_angstrom"] = math.sqrt(mean_square)
        if self.crystals:
            mean_square = self.fractional_error_squared / self.crystal_atoms
            metrics["reconstruction/crystal/fractional_rmsd"] = math.sqrt(mean_square)
            metrics["reconstruction/crystal/lengths_mae_angstrom"] = self.length_error / (3 * self.crystals)
            angles_mae = math.degrees(self.angle_error / (3 * self.crystals))
            metrics["reconstruction/crystal/angles_mae_degree"] = angles_mae
        return metrics


def compare_reconstruction(decoded: DecodedBatch, batch: PackedBatch) -> Reconstruction:
    """Errors of a decoded batch against the batch it was encoded from; padding sets are left out."""
    layout = batch.layout
    crystal_s = batch.periodic_s & layout.real_s
    crystal_t = crystal_s[layout.set_of_atom_t]
    molecule_t = layout.real_t & ~crystal_t

    logits = decoded.atom_type_logits_t100[:, 1 : MAX_ATOMIC_NUMBER + 1]
    # A NaN logit is a wrong type, though argmax would name an element.
    right_t = (logits.argmax(dim=1) + 1 == batch.numbers_t) & logits.isfinite().all(dim=1)
    wrong_s = _sum_by_set((~right_t).double(), layout)

    displacement = _centred(decoded.positions_t3, layout) - _centred(batch.positions_t3, layout)
    shift = decoded.fractional_t3.double() - batch.fractional_t3.double()
    shift = shift - shift.round()  # the nearest image, in [−1/2, 1/2]

    return Reconstruction(
        n_atoms=int(layout.real_t.sum()),
        n_sets=int(layout.real_s.sum()),
        correct_types=int((right_t & layout.real_t).sum()),
        exact_type_sets=int(((wrong_s == 0) & layout.real_s).sum()),
        molecule_atoms=int(molecule_t.sum()),
        position_error_squared=float((displacement[molecule_t] ** 2).sum()),
        crystal_atoms=int(crystal_t.sum()),
        fractional_error_squared=float((shift[crystal_t] ** 2).sum()),
        crystals=int(crystal_s.sum()),
        length_error=_absolute_error(decoded.lengths_s3, batch.lengths_s3, crystal_s),
        angle_error=_absolute_error(decoded.angles_s3, batch.angles_s3, crystal_s),
    )


def _absolute_error(decoded_s3: Tensor, true_s3: Tensor, mask_s: Tensor) -> float:
    return float((decoded_s3.double() - true_s3.double())[mask_s].abs().sum())


def _centred(positions_t3: Tensor, layout: PackedLayout) -> Tensor:
    positions = positions_t3.double()
    atoms_s = layout.sizes_s.clamp(min=1)[:, None]
    return positions - (_sum_by_set(positions, layout) / atoms_s)[layout.set_of_atom_t]


def _sum_by_set(values: Tensor, layout: PackedLayout) -> Tensor:
    """Sum over the atoms of each set, ``(S, ...)``."""
    sums = torch.zeros((layout.n_sets, *values.shape[1:]), dtype=values.dtype, device=values.device)
    return sums.index_add_(0, layout.set_of_atom_t, values)

"""Random rotations and translations, one a visit, addressed by who the set is and which visit it is."""

from __future__ import annotations

import torch
from torch import Tensor

from adit_scale.atoms import PackedBatch
from adit_scale.randomness import normal, set_keys, uniform


def augment(batch: PackedBatch, seed: int) -> PackedBatch:
    """The batch with every set turned at random and every crystal also shifted in its cell.

    Rotations are uniform on SO(3) and turn positions and cell; shifts are uniform in the cell, after
    which fractional coordinates are taken mod 1 and positions are ``fractional @ cell``. A molecule
    stays centred. Computed in float64, without matrix products, so that a set's result does not depend
    in a single bit on what else is in the batch.
    """
    who = (batch.epoch_s, batch.repetition_s, batch.set_index_s)
    set_of_atom_t = batch.layout.set_of_atom_t
    rotation_s33 = rotation_matrices(normal(set_keys(seed, "rotation", *who), 4))
    shift_s3 = uniform(set_keys(seed, "translation", *who), 3).double()

    cells_s33 = _turn(batch.cells_s33.double(), rotation_s33[:, None])
    shifted_t3 = torch.remainder(batch.fractional_t3.double() + shift_s3[set_of_atom_t], 1.0).float()
    shifted_t3 = torch.where(shifted_t3 >= 1.0, 0.0, shifted_t3)  # rounding to float32 may reach 1
    periodic_t1 = batch.periodic_s[set_of_atom_t][:, None]
    fractional_t3 = torch.where(periodic_t1, shifted_t3, batch.fractional_t3)
    in_cell_t3 = _turn(fractional_t3.double(), cells_s33[set_of_atom_t].transpose(1, 2))
    turned_t3 = _turn(batch.positions_t3.double(), rotation_s33[set_of_atom_t])
    return batch.replace(
        positions_t3=torch.where(periodic_t1, in_cell_t3, turned_t3).float(),
        fractional_t3=fractional_t3,
        cells_s33=cells_s33.float(),
    )


def rotation_matrices(quaternion_s4: Tensor) -> Tensor:
    """Rotation matrices ``(S, 3, 3)`` float64 of quaternions of any length.

    Four independent normals give a rotation uniform on SO(3) (Muller 1959; Shoemake 1992).
    """
    w, x, y, z = (quaternion_s4.double() / quaternion_s4.double().norm(dim=1, keepdim=True)).unbind(1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def _turn(vectors: Tensor, matrices: Tensor) -> Tensor:
    """Each vector ``(…, 3)`` times its matrix ``(…, 3, 3)`` from the left, in a fixed order of sums."""
    terms = [matrices[..., k] * vectors[..., k, None] for k in range(3)]
    return terms[0] + terms[1] + terms[2]

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
    matrix_s33 = rotation_s33.transpose(1, 2)  # a molecule is turned, a crystal laid out in its turned cell
    if _certainly_molecules(batch):
        turned_t3 = _times(batch.positions_t3.double(), matrix_s33, set_of_atom_t)
        return batch.replace(positions_t3=turned_t3.float())

    periodic_s11 = batch.periodic_s[:, None, None]
    periodic_t1 = batch.periodic_s[set_of_atom_t][:, None]
    cells_s33 = torch.where(periodic_s11, _turn(batch.cells_s33.double(), rotation_s33[:, None]), 0.0)
    shift_s3 = uniform(set_keys(seed, "translation", *who), 3).double()
    sum_t3 = batch.fractional_t3.double() + shift_s3[set_of_atom_t]
    shifted_t3 = (sum_t3 - sum_t3.floor()).float()
    shifted_t3 = torch.where(shifted_t3 >= 1.0, 0.0, shifted_t3)  # rounding to float32 may reach 1
    vector_t3 = torch.where(periodic_t1, shifted_t3, batch.positions_t3)
    matrix_s33 = torch.where(periodic_s11, cells_s33, matrix_s33)
    return batch.replace(
        positions_t3=_times(vector_t3.double(), matrix_s33, set_of_atom_t).float(),
        fractional_t3=torch.where(periodic_t1, shifted_t3, batch.fractional_t3),
        cells_s33=cells_s33.float(),
    )


def _certainly_molecules(batch: PackedBatch) -> bool:
    """Whether there is no crystal; asked only where the answer costs no wait for a device."""
    return batch.domain_s.device.type == "cpu" and not bool(batch.periodic_s.any())


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


def _times(vector_t3: Tensor, matrix_s33: Tensor, set_of_atom_t: Tensor) -> Tensor:
    """Each row vector times the matrix of its set, in a fixed order of sums: products and sums rounded one
    by one, whatever a fused multiply-add or a BLAS would do."""
    matrix_t9 = matrix_s33.reshape(-1, 9).index_select(0, set_of_atom_t)
    total_t3 = vector_t3[:, :1] * matrix_t9[:, :3]
    total_t3 += vector_t3[:, 1:2] * matrix_t9[:, 3:6]
    total_t3 += vector_t3[:, 2:] * matrix_t9[:, 6:]
    return total_t3

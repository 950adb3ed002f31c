"""The vocabulary of the project: one system of atoms, and what a device sees of many.

Shape suffixes, here and everywhere: ``_t`` atoms of a batch, ``_s`` sets of a batch, ``_d`` features,
``_3`` a vector in space, ``_33`` a cell whose rows are lattice vectors. Lengths are in angstrom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

MAX_ATOMIC_NUMBER = 99  # the models' vocabulary; 0 is the mask
CRYSTAL, MOLECULE = 1, 2  # conditioning labels; 0 is the null label of classifier-free guidance
DOMAIN_NAMES = {CRYSTAL: "crystal", MOLECULE: "molecule"}


@dataclass(frozen=True)
class AtomSet:
    """One molecule or crystal.

    numbers: ``(n,)`` int atomic numbers, 1 to 99.
    positions: ``(n, 3)`` float64, angstrom.
    cell: ``(3, 3)`` float64, angstrom, rows are lattice vectors; zeros where not periodic.
    dataset: the name of the data set it came from.
    spacegroup: international number; 0 = unknown or not periodic.
    id: unique within its data set.
    group: sets of one group stay in one split, such as the conformers of a molecule; "" is a group of its
        own. Known while data are built, not stored.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    periodic: bool
    dataset: str
    spacegroup: int = 0
    id: str = ""
    group: str = ""

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def fractional(self) -> np.ndarray:
        """Fractional coordinates ``(n, 3)`` in [0, 1); zeros where not periodic."""
        if not self.periodic:
            return np.zeros_like(self.positions)
        return wrap(self.positions @ np.linalg.inv(self.cell))


def wrap(fractional: np.ndarray) -> np.ndarray:
    """Fractional coordinates mapped to [0, 1), also where ``x mod 1`` rounds up to 1."""
    wrapped = fractional % 1.0
    return np.where(wrapped >= 1.0, 0.0, wrapped)


@dataclass(frozen=True)
class PackedLayout:
    """Where each set of a flat batch lies: T atoms of S sets end to end, nothing between them.

    offsets: ``(S+1,)`` int32, as attention's kernels take it: first atom of each set, then T.
    set_of_atom_t, index_in_set_t: ``(T,)`` int64.
    real_s, real_t: bool; False on the tail that fills fixed capacities (the tail is sets of its own, never
        part of a real one) and on the one dummy atom of an empty micro-batch.
    groups_s2: ``(S, 2)`` int64, always in the host's memory: runs of neighbouring sets of equal size as
        (atoms a set, number of sets), in order, then rows of zeros. A tensor, so that compiled code does not
        depend on the mix of sizes.
    max_atoms: a bound on the size of a set, tail sets too, as a Python int that no kernel has to read from
        the device. Compiled code is made for one bound.
    """

    offsets: Tensor
    set_of_atom_t: Tensor
    index_in_set_t: Tensor
    real_s: Tensor
    real_t: Tensor
    groups_s2: Tensor
    max_atoms: int

    @property
    def n_atoms(self) -> int:
        """T, the tail included."""
        return self.set_of_atom_t.shape[0]

    @property
    def n_sets(self) -> int:
        """S, the tail included."""
        return self.offsets.shape[0] - 1

    @property
    def sizes_s(self) -> Tensor:
        """Atoms of each set, ``(S,)`` int64."""
        return self.offsets.diff().long()

    @staticmethod
    def from_sizes(
        sizes: Sequence[int] | np.ndarray,
        capacity_atoms: int | None = None,
        capacity_sets: int | None = None,
        max_atoms: int | None = None,
        tail_atoms: int | None = None,
    ) -> PackedLayout:
        """Lay sets of the given sizes end to end, in the given order.

        With capacities, T and S are exactly those: spare atoms form one tail set, or as many of at most
        ``tail_atoms`` as it takes (attention costs the square of a set), and spare sets are empty. Without
        capacities, T and S are what the sizes need. No sizes at all give one dummy atom.
        max_atoms: the least that the layout's bound may be; tail sets keep to it unless ``tail_atoms`` is
        given.
        """
        real = np.asarray(sizes, dtype=np.int64).reshape(-1)
        assert (real >= 1).all(), f"a set needs at least one atom: {real.tolist()}"
        spare = (capacity_atoms or 0) - int(real.sum())
        if capacity_atoms is not None:
            assert spare >= 0, f"{real.sum()} atoms do not fit capacity {capacity_atoms}"
        if not len(real) and capacity_atoms is None:
            spare = 1
        tail = [] if spare <= 0 else [spare]
        tail_atoms = tail_atoms or max_atoms
        if spare > 0 and tail_atoms is not None:
            tail = [tail_atoms] * (spare // tail_atoms) + [spare % tail_atoms] * (spare % tail_atoms > 0)
        padded = np.append(real, np.array(tail, dtype=np.int64))
        if capacity_sets is not None:
            assert len(padded) <= capacity_sets, f"{len(padded)} sets over {capacity_sets}"
            padded = np.append(padded, np.zeros(capacity_sets - len(padded), dtype=np.int64))
        offsets = np.zeros(len(padded) + 1, dtype=np.int32)
        np.cumsum(padded, out=offsets[1:])
        set_of_atom_t = np.repeat(np.arange(len(padded)), padded)
        return PackedLayout(
            offsets=torch.from_numpy(offsets),
            set_of_atom_t=torch.from_numpy(set_of_atom_t),
            index_in_set_t=torch.from_numpy(np.arange(len(set_of_atom_t)) - np.repeat(offsets[:-1], padded)),
            real_s=torch.arange(len(padded)) < len(real),
            real_t=torch.arange(len(set_of_atom_t)) < int(real.sum()),
            groups_s2=torch.from_numpy(_runs(padded)),
            max_atoms=max(int(padded.max(initial=0)), max_atoms or 0),
        )

    def to(self, device: torch.device | str, non_blocking: bool = True) -> PackedLayout:
        return replace(self, **_tensors_moved(self, device, non_blocking))

    def pin_memory(self) -> PackedLayout:
        return replace(self, **_tensors_pinned(self))


@dataclass(frozen=True)
class PackedBatch:
    """A flat micro-batch: a layout and what stands at each place of it. Float32, angstrom.

    domain_s: 1 crystal, 2 molecule. dataset_s: index into the manifest's data sets.
    set_index_s, epoch_s, repetition_s: who the set is and which visit this is; they address random draws.
    """

    layout: PackedLayout
    numbers_t: Tensor
    positions_t3: Tensor
    fractional_t3: Tensor
    cells_s33: Tensor
    domain_s: Tensor
    dataset_s: Tensor
    spacegroup_s: Tensor
    set_index_s: Tensor
    epoch_s: Tensor
    repetition_s: Tensor

    @property
    def periodic_s(self) -> Tensor:
        return self.domain_s == CRYSTAL

    @property
    def lengths_s3(self) -> Tensor:
        """Cell edge lengths, angstrom; zeros where not periodic."""
        return self.cells_s33.norm(dim=-1)

    @property
    def angles_s3(self) -> Tensor:
        """Cell angles alpha, beta, gamma in radians; zeros where not periodic."""
        a, b, c = self.cells_s33.unbind(dim=1)
        cosines = torch.stack([_cosine(b, c), _cosine(a, c), _cosine(a, b)], dim=-1)
        return torch.where(self.periodic_s[:, None], torch.arccos(cosines.clamp(-1, 1)), 0.0)

    def to(self, device: torch.device | str, non_blocking: bool = True) -> PackedBatch:
        layout = self.layout.to(device, non_blocking)
        return replace(self, layout=layout, **_tensors_moved(self, device, non_blocking))

    def pin_memory(self) -> PackedBatch:
        """The batch in page-locked memory, from which copies to a CUDA device run beside its work."""
        return replace(self, layout=self.layout.pin_memory(), **_tensors_pinned(self))

    def replace(self, **changes: Any) -> PackedBatch:
        return replace(self, **changes)


def _cosine(u: Tensor, v: Tensor) -> Tensor:
    return (u * v).sum(-1) / (u.norm(dim=-1) * v.norm(dim=-1)).clamp(min=1e-12)


def _runs(sizes: np.ndarray) -> np.ndarray:
    """Run-length encoding of set sizes, ``(S, 2)``; empty sets hold no atoms and are left out."""
    runs_s2 = np.zeros((len(sizes), 2), dtype=np.int64)
    sizes = sizes[sizes > 0]
    starts = np.flatnonzero(np.diff(sizes, prepend=-1))
    runs_s2[: len(starts), 0] = sizes[starts]
    runs_s2[: len(starts), 1] = np.diff(starts, append=len(sizes))
    return runs_s2


def _device_tensors(value: PackedLayout | PackedBatch) -> dict[str, Tensor]:
    """The tensors of ``value`` that follow it to a device, by field name."""
    parts = {f.name: getattr(value, f.name) for f in fields(value) if f.name != "groups_s2"}
    return {name: part for name, part in parts.items() if isinstance(part, Tensor)}


def _tensors_moved(value: PackedLayout | PackedBatch, device: torch.device | str, non_blocking: bool) -> Any:
    return {name: t.to(device, non_blocking=non_blocking) for name, t in _device_tensors(value).items()}


def _tensors_pinned(value: PackedLayout | PackedBatch) -> Any:
    return {name: t.pin_memory() for name, t in _device_tensors(value).items()}

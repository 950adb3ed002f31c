"""Many atom sets as a few flat arrays: the form of shards' blocks and of everything on the way to a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np

from adit_scale.atoms import CRYSTAL, MOLECULE, AtomSet

# Float32 positions give fractional coordinates back to about 1e-7: what should be 0 may come back as
# 0.9999999. Anything this close to 1 is taken for 0, so that an atom at the origin stays there.
FRACTIONAL_SNAP = 1e-6


@dataclass(frozen=True)
class SetColumns:
    """S sets with T atoms laid end to end. Angstrom.

    sizes_s: int64. numbers_t: uint8. positions_t3, fractional_t3, cells_s33: float32.
    domain_s: uint8, 1 crystal, 2 molecule. dataset_s: uint16, index into the manifest's data sets.
    spacegroup_s: int16, 0 = unknown or not periodic.
    """

    sizes_s: np.ndarray
    numbers_t: np.ndarray
    positions_t3: np.ndarray
    fractional_t3: np.ndarray
    cells_s33: np.ndarray
    domain_s: np.ndarray
    dataset_s: np.ndarray
    spacegroup_s: np.ndarray

    def __len__(self) -> int:
        return len(self.sizes_s)

    @property
    def n_bytes(self) -> int:
        return sum(getattr(self, f.name).nbytes for f in fields(self))

    @property
    def offsets(self) -> np.ndarray:
        """First atom of each set, then T: ``(S+1,)`` int64."""
        return cumulative(self.sizes_s)

    def take(self, index: np.ndarray) -> SetColumns:
        """The sets at the given places, in the given order."""
        sizes = self.sizes_s[index]
        atom = atoms_of(self.offsets[:-1][index], sizes)
        taken = {
            f.name: getattr(self, f.name)[atom if "_t" in f.name else index]
            for f in fields(self)
            if f.name != "sizes_s"
        }
        return SetColumns(sizes_s=sizes, **taken)

    @staticmethod
    def join(pieces: Sequence[SetColumns]) -> SetColumns:
        """Several lots of sets laid end to end. At least one."""
        if len(pieces) == 1:
            return pieces[0]
        return SetColumns(
            **{f.name: np.concatenate([getattr(p, f.name) for p in pieces]) for f in fields(SetColumns)}
        )

    @staticmethod
    def from_arrays(
        sizes_s: np.ndarray,
        numbers_t: np.ndarray,
        positions_t3: np.ndarray,
        cells_s33: np.ndarray,
        dataset_s: np.ndarray,
        spacegroup_s: np.ndarray,
    ) -> SetColumns:
        """Columns as they stand in a block. A set is periodic where its cell is not zero.

        Fractional coordinates are computed in float64, and a crystal's positions from them, so that
        ``positions = fractional @ cell`` holds with every fractional coordinate in [0, 1).
        """
        sizes_s = np.asarray(sizes_s, dtype=np.int64)
        cells_s33 = np.asarray(cells_s33, dtype=np.float32)
        domain_s = np.where(cells_s33.any(axis=(1, 2)), CRYSTAL, MOLECULE).astype(np.uint8)
        return SetColumns.from_coordinates(
            sizes_s=sizes_s,
            numbers_t=np.asarray(numbers_t, dtype=np.uint8),
            coordinates_t3=coordinates(sizes_s, positions_t3, cells_s33, domain_s),
            cells_s33=cells_s33,
            domain_s=domain_s,
            dataset_s=np.asarray(dataset_s, dtype=np.uint16),
            spacegroup_s=np.asarray(spacegroup_s, dtype=np.int16),
        )

    @staticmethod
    def from_coordinates(
        sizes_s: np.ndarray,
        numbers_t: np.ndarray,
        coordinates_t3: np.ndarray,
        cells_s33: np.ndarray,
        domain_s: np.ndarray,
        dataset_s: np.ndarray,
        spacegroup_s: np.ndarray,
    ) -> SetColumns:
        """From ``coordinates``: the fractional ones of crystals, the positions of molecules."""
        positions_t3, fractional_t3 = coordinates_t3, np.zeros_like(coordinates_t3)
        periodic_s = domain_s == CRYSTAL
        if periodic_s.any():
            own_t, set_of_atom = _atoms_in(periodic_s, sizes_s)
            cells = cells_s33.astype(np.float64)
            positions_t3 = coordinates_t3.copy()
            fractional_t3[own_t] = coordinates_t3[own_t]
            positions_t3[own_t] = _rows_times(fractional_t3[own_t].astype(np.float64), cells, set_of_atom)
        return SetColumns(
            sizes_s=sizes_s,
            numbers_t=numbers_t,
            positions_t3=positions_t3,
            fractional_t3=fractional_t3,
            cells_s33=cells_s33,
            domain_s=domain_s,
            dataset_s=dataset_s,
            spacegroup_s=spacegroup_s,
        )

    @staticmethod
    def from_sets(sets: Sequence[AtomSet], datasets: Sequence[str]) -> SetColumns:
        """At least one set; ``datasets`` gives each name its index."""
        index = {name: i for i, name in enumerate(datasets)}
        return SetColumns.from_arrays(
            sizes_s=np.array([len(s) for s in sets]),
            numbers_t=np.concatenate([s.numbers for s in sets]),
            positions_t3=np.concatenate([s.positions for s in sets]),
            cells_s33=np.stack([s.cell if s.periodic else np.zeros((3, 3)) for s in sets]),
            dataset_s=np.array([index[s.dataset] for s in sets]),
            spacegroup_s=np.array([s.spacegroup for s in sets]),
        )

    def to_sets(self, datasets: Sequence[str], ids: Sequence[str]) -> list[AtomSet]:
        """The sets one by one, in float64."""
        bounds = self.offsets
        return [
            AtomSet(
                numbers=self.numbers_t[start:stop].astype(np.int64),
                positions=self.positions_t3[start:stop].astype(np.float64),
                cell=self.cells_s33[i].astype(np.float64),
                periodic=bool(self.domain_s[i] == CRYSTAL),
                dataset=datasets[self.dataset_s[i]],
                spacegroup=int(self.spacegroup_s[i]),
                id=ids[i],
            )
            for i, (start, stop) in enumerate(pairwise(bounds))
        ]


def coordinates(
    sizes_s: np.ndarray, positions_t3: np.ndarray, cells_s33: np.ndarray, domain_s: np.ndarray
) -> np.ndarray:
    """Fractional coordinates of crystals and positions of molecules: ``(T, 3)`` float32, newly made.

    Computed in float64; every fractional coordinate is in [0, 1).
    """
    found_t3 = np.array(positions_t3, dtype=np.float32)
    periodic_s = domain_s == CRYSTAL
    if periodic_s.any():
        own_t, set_of_atom = _atoms_in(periodic_s, sizes_s)
        inverse_s33 = np.zeros((len(sizes_s), 3, 3))
        inverse_s33[periodic_s] = inverse(cells_s33[periodic_s].astype(np.float64))
        exact = _rows_times(found_t3[own_t].astype(np.float64), inverse_s33, set_of_atom)
        found_t3[own_t] = snap(exact - np.floor(exact))
    return found_t3


def _atoms_in(chosen_s: np.ndarray, sizes_s: np.ndarray) -> tuple[np.ndarray | slice, np.ndarray]:
    """Which atoms belong to the chosen sets, and the set of each."""
    set_of_atom = np.repeat(np.arange(len(sizes_s)), sizes_s)
    if chosen_s.all():
        return slice(None), set_of_atom
    own_t = chosen_s[set_of_atom]
    return own_t, set_of_atom[own_t]


def cumulative(sizes: np.ndarray) -> np.ndarray:
    """Running totals from 0: ``(n+1,)`` int64."""
    totals = np.zeros(len(sizes) + 1, dtype=np.int64)
    np.cumsum(sizes, out=totals[1:])
    return totals


def snap(fractional: np.ndarray) -> np.ndarray:
    """Wrapped fractional coordinates with those within FRACTIONAL_SNAP of 1 set to 0."""
    return np.where(fractional > 1 - FRACTIONAL_SNAP, 0.0, fractional)


def atoms_of(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Places of the atoms of sets that begin at ``starts``, set by set: ``(sum of sizes,)`` int64."""
    total = cumulative(sizes)
    return np.repeat(starts - total[:-1], sizes) + np.arange(total[-1])


def inverse(cells_s33: np.ndarray) -> np.ndarray:
    """Inverses of float64 cells by cofactors: the same bits on every machine, unlike a LAPACK's.

    Infinite or not a number where a cell is flat.
    """
    a, b, c = cells_s33[:, 0], cells_s33[:, 1], cells_s33[:, 2]
    cofactors_s33 = np.stack([_cross(b, c), _cross(c, a), _cross(a, b)], axis=2)
    volume_s = a[:, 0] * cofactors_s33[:, 0, 0] + a[:, 1] * cofactors_s33[:, 1, 0]
    volume_s = volume_s + a[:, 2] * cofactors_s33[:, 2, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        return cofactors_s33 / volume_s[:, None, None]


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return u[:, [1, 2, 0]] * v[:, [2, 0, 1]] - u[:, [2, 0, 1]] * v[:, [1, 2, 0]]


def _rows_times(vectors_n3: np.ndarray, matrices_m33: np.ndarray, which_n: np.ndarray) -> np.ndarray:
    """Each row vector times its own matrix, written out so that no BLAS decides the last bits."""
    total = vectors_n3[:, :1] * matrices_m33[:, 0][which_n]
    for k in (1, 2):
        total += vectors_n3[:, k, None] * matrices_m33[:, k][which_n]
    return total

"""From sets to flat micro-batches: laying them end to end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from adit_scale.atoms import MOLECULE, AtomSet, PackedBatch, PackedLayout
from adit_scale.data.columns import SetColumns


def pack(
    columns: SetColumns | None,
    set_index: np.ndarray,
    epoch: np.ndarray,
    repetition: np.ndarray,
    capacity_atoms: int | None = None,
    capacity_sets: int | None = None,
    max_atoms: int | None = None,
) -> PackedBatch:
    """A micro-batch of the given sets, in their order. ``columns`` is None where there are none.

    set_index, epoch, repetition: ``(S,)``, who each set is and which visit this is.
    With capacities T and S are exactly those. Tail atoms have number 0 at the origin, tail sets are
    molecules without a cell. max_atoms: as in ``PackedLayout.from_sizes``.
    """
    nothing = np.zeros(0, dtype=np.int64)
    layout = PackedLayout.from_sizes(
        columns.sizes_s if columns is not None else nothing, capacity_atoms, capacity_sets, max_atoms
    )
    t, s = layout.n_atoms, layout.n_sets

    def column(name: str) -> np.ndarray | None:
        return getattr(columns, name) if columns is not None else None

    return PackedBatch(
        layout=layout,
        numbers_t=_padded(column("numbers_t"), torch.int64, t),
        positions_t3=_padded(column("positions_t3"), torch.float32, t, 3),
        fractional_t3=_padded(column("fractional_t3"), torch.float32, t, 3),
        cells_s33=_padded(column("cells_s33"), torch.float32, s, 3, 3),
        domain_s=_padded(column("domain_s"), torch.int64, s, fill=MOLECULE),
        dataset_s=_padded(column("dataset_s"), torch.int64, s),
        spacegroup_s=_padded(column("spacegroup_s"), torch.int64, s),
        set_index_s=_padded(set_index, torch.int64, s),
        epoch_s=_padded(epoch, torch.int64, s),
        repetition_s=_padded(repetition, torch.int64, s),
    )


def _padded(values: np.ndarray | None, dtype: torch.dtype, *shape: int, fill: int = 0) -> Tensor:
    """A tensor of its own that begins with the values and goes on with ``fill``."""
    n_values = 0 if values is None else len(values)
    tensor = torch.empty(shape, dtype=dtype)
    if values is not None and n_values:
        # torch copies uint16 slower than numpy does, and has it only in part
        tensor[:n_values] = torch.from_numpy(values.astype(np.int64) if values.dtype == np.uint16 else values)
    tensor[n_values:] = fill
    return tensor


def pack_sets(
    sets: Sequence[AtomSet],
    datasets: Sequence[str] | None = None,
    capacity_atoms: int | None = None,
    capacity_sets: int | None = None,
) -> PackedBatch:
    """A batch of structures held in memory, in the given order, as first visits of sets 0, 1, 2, …"""
    names = sorted({s.dataset for s in sets}) if datasets is None else datasets
    index = np.arange(len(sets))
    columns = SetColumns.from_sets(sets, names) if len(sets) else None
    return pack(columns, index, np.zeros_like(index), np.zeros_like(index), capacity_atoms, capacity_sets)

"""From the sets of a step to flat micro-batches: dealing them out, laying them end to end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from adit_scale.atoms import MOLECULE, AtomSet, PackedBatch, PackedLayout
from adit_scale.data.columns import SetColumns
from adit_scale.errors import ConfigError


def deal(
    sizes: np.ndarray, world_size: int, capacity_atoms: int, capacity_sets: int | None = None
) -> list[list[np.ndarray]]:
    """Deal a step's sets into micro-batches: rounds × ranks × places in ``sizes``.

    As few rounds as the atoms need, and one more while something does not fit. Sets go out largest
    first, a hand (one for each micro-batch) at a time, the largest of a hand to the emptiest
    micro-batch. So atoms are level to within about the smallest set and counts of sets to within one.
    Inside a micro-batch sets stand in order of size, equal sizes in order of place; it may be empty.

    Raises ConfigError when a set is larger than a micro-batch.
    """
    sizes = np.asarray(sizes, dtype=np.int64)
    if len(sizes) and sizes.max() > capacity_atoms:
        raise ConfigError(
            f"a set has {sizes.max()} atoms and a micro-batch holds {capacity_atoms}; "
            f"raise parallel.micro_batch_atoms to at least {sizes.max()} or rebuild with data.max_atoms"
        )
    n_rounds = max(1, -(-int(sizes.sum()) // (capacity_atoms * world_size)))
    while True:
        bin_of_set, loads = _deal_into(sizes, n_rounds * world_size)
        counts = np.bincount(bin_of_set, minlength=len(loads))
        if loads.max() <= capacity_atoms and (capacity_sets is None or counts.max() <= capacity_sets):
            break
        n_rounds += 1
    order = np.lexsort((np.arange(len(sizes)), sizes, bin_of_set))
    bins = np.split(order, np.cumsum(counts)[:-1])
    return [bins[r * world_size : (r + 1) * world_size] for r in range(n_rounds)]


def _deal_into(sizes: np.ndarray, n_bins: int) -> tuple[np.ndarray, np.ndarray]:
    """The bin of each set, ``(n,)``, and the atoms in each bin, ``(n_bins,)``."""
    loads = np.zeros(n_bins, dtype=np.int64)
    bin_of_set = np.zeros(len(sizes), dtype=np.int64)
    if n_bins == 1:
        return bin_of_set, loads + sizes.sum()
    largest_first = np.argsort(-sizes, kind="stable")
    for start in range(0, len(sizes), n_bins):
        hand = largest_first[start : start + n_bins]
        emptiest = np.argsort(loads, kind="stable")[: len(hand)]
        bin_of_set[hand] = emptiest
        loads[emptiest] += sizes[hand]
    return bin_of_set, loads


def pack(
    columns: SetColumns | None,
    set_index: np.ndarray,
    epoch: np.ndarray,
    repetition: np.ndarray,
    capacity_atoms: int | None = None,
    capacity_sets: int | None = None,
) -> PackedBatch:
    """A micro-batch of the given sets, in their order. ``columns`` is None where there are none.

    set_index, epoch, repetition: ``(S,)``, who each set is and which visit this is.
    With capacities T and S are exactly those. Tail atoms have number 0 at the origin, tail sets are
    molecules without a cell.
    """
    sizes = columns.sizes_s if columns is not None else np.zeros(0, dtype=np.int64)
    layout = PackedLayout.from_sizes(sizes, capacity_atoms, capacity_sets)
    n_atoms, n_sets = layout.n_atoms, layout.n_sets
    batch = PackedBatch(
        layout=layout,
        numbers_t=torch.zeros(n_atoms, dtype=torch.int64),
        positions_t3=torch.zeros(n_atoms, 3),
        fractional_t3=torch.zeros(n_atoms, 3),
        cells_s33=torch.zeros(n_sets, 3, 3),
        domain_s=torch.full((n_sets,), MOLECULE, dtype=torch.int64),
        dataset_s=torch.zeros(n_sets, dtype=torch.int64),
        spacegroup_s=torch.zeros(n_sets, dtype=torch.int64),
        set_index_s=torch.zeros(n_sets, dtype=torch.int64),
        epoch_s=torch.zeros(n_sets, dtype=torch.int64),
        repetition_s=torch.zeros(n_sets, dtype=torch.int64),
    )
    if columns is None:
        return batch
    for name, values in (
        ("numbers_t", columns.numbers_t),
        ("positions_t3", columns.positions_t3),
        ("fractional_t3", columns.fractional_t3),
        ("cells_s33", columns.cells_s33),
        ("domain_s", columns.domain_s),
        ("dataset_s", columns.dataset_s.astype(np.int64)),
        ("spacegroup_s", columns.spacegroup_s),
        ("set_index_s", set_index),
        ("epoch_s", epoch),
        ("repetition_s", repetition),
    ):
        getattr(batch, name)[: len(values)] = torch.from_numpy(values)
    return batch


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

"""Which samples are drawn together.

The division is a function of sizes and capacities alone: rank r of w takes ``plans[r::w]``, and a run that
goes on later finds the same batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from adit_scale.atoms import PackedLayout
from adit_scale.diffusion.config import SamplingConfig
from adit_scale.errors import ConfigError

# Spare atoms are sets of this size: attention within them costs no more than within real ones.
TAIL_ATOMS = 32
LEAST_ATOMS = 256  # of a batch that is filled up


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """Samples of one domain, in the order in which they are laid end to end.

    number: of the batch, from 0 over all domains. places: ``(S,)`` int64, numbers of the samples within the
    domain. sizes, spacegroups: ``(S,)`` int64, of these samples; spacegroups None where there is no label.
    capacity_atoms, capacity_sets: what the batch is filled up to; 0 as large as its samples.
    """

    number: int
    domain: int
    places: np.ndarray
    sizes: np.ndarray
    spacegroups: np.ndarray | None
    capacity_atoms: int
    capacity_sets: int

    @property
    def n_atoms(self) -> int:
        """Real atoms."""
        return int(self.sizes.sum())

    @property
    def max_atoms(self) -> int:
        """Of the largest set of the padded layout, or more."""
        return max(int(self.sizes.max(initial=1)), TAIL_ATOMS)

    def layout(self) -> PackedLayout:
        """The samples' own layout, without a tail."""
        return PackedLayout.from_sizes(self.sizes)

    def padded_layout(self) -> PackedLayout:
        """The layout with its tail, as the networks see it."""
        if not self.capacity_atoms:
            return self.layout()
        tails = -(-self.capacity_atoms // TAIL_ATOMS)
        return PackedLayout.from_sizes(
            self.sizes, self.capacity_atoms, self.capacity_sets + tails, tail_atoms=TAIL_ATOMS
        )


def plan_batches(
    sizes: Mapping[int, np.ndarray],
    config: SamplingConfig,
    spacegroups: Mapping[int, np.ndarray | None] | None = None,
) -> list[BatchPlan]:
    """The batches of all samples: domains one after the other, within one by size, filled in order.

    sizes: by domain, ``(n,)`` atom counts. config: definite, from ``for_device``. spacegroups: by domain,
    ``(n,)``, from ``spacegroups_asked``. Raises ConfigError where a sample has no atoms.
    """
    assert config.batch_atoms > 0, "settings that for_device has not made definite"
    plans: list[BatchPlan] = []
    for domain, sizes_n in sizes.items():
        sizes_n = np.asarray(sizes_n, dtype=np.int64)
        if (sizes_n < 1).any():
            raise ConfigError(f"a sample of {int(sizes_n.min())} atoms is asked for; expected at least 1")
        labels_n = (spacegroups or {}).get(domain)
        capacity = filled_up_to(int(sizes_n.sum()), config.batch_atoms)
        for places in _divide(sizes_n, config.batch_atoms, config.batch_sets):
            chosen = sizes_n[places]
            room = max(capacity, int(chosen.sum())) if config.pad_batches else 0
            plans.append(
                BatchPlan(
                    number=len(plans),
                    domain=domain,
                    places=places,
                    sizes=chosen,
                    spacegroups=None if labels_n is None else np.asarray(labels_n, dtype=np.int64)[places],
                    capacity_atoms=room,
                    capacity_sets=min(room, config.batch_sets or room),
                )
            )
    return plans


def filled_up_to(n_atoms: int, batch_atoms: int) -> int:
    """Atoms of every batch of a domain whose samples have ``n_atoms`` in all.

    ``batch_atoms``; where all samples would not fill half a batch, the least power of two that holds them.
    """
    return min(batch_atoms, max(LEAST_ATOMS, 1 << (n_atoms - 1).bit_length()))


def _divide(sizes_n: np.ndarray, batch_atoms: int, batch_sets: int) -> list[np.ndarray]:
    """Places of samples, by size, in runs of at most so many atoms and sets (at least one sample)."""
    order = np.argsort(sizes_n, kind="stable")
    ends = np.cumsum(sizes_n[order])
    runs, start, atoms_before = [], 0, 0
    while start < len(order):
        stop = int(np.searchsorted(ends, atoms_before + batch_atoms, side="right"))
        if batch_sets:
            stop = min(stop, start + batch_sets)
        stop = max(stop, start + 1)
        runs.append(order[start:stop])
        start, atoms_before = stop, int(ends[stop - 1])
    return runs

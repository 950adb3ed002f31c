"""One rank's micro-batches of a step: planned, dealt, read and packed, in whichever process this runs."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from adit_scale.atoms import PackedBatch
from adit_scale.data.columns import SetColumns, cumulative
from adit_scale.data.config import DOMAINS, DataConfig
from adit_scale.data.dealing import deal, micro_batches
from adit_scale.data.manifest import open_manifest, size_counts
from adit_scale.data.packing import pack
from adit_scale.data.plan import WINDOW_BYTES, SamplePlan
from adit_scale.data.shards import ShardReader
from adit_scale.errors import ConfigError, DataError

# Held blocks take no more than their bytes on disk: all of one window and of the next, and a little to spare.
_CACHE_BYTES = 2 * WINDOW_BYTES + (16 << 20)
# With fixed capacities a micro-batch has room for this many times the sets of mean size that its atoms hold.
_SPARE_SETS = 1.5
# FlashAttention works on 128 rows of a set at a time, so bounds in between would save it nothing.
_ROUND_MAX_ATOMS_TO = 128


@dataclass(frozen=True)
class StepBatches:
    """One rank's part of a step.

    batches: n_rounds micro-batches, not augmented. sizes: ``(n_sets,)`` int64 atoms of each set of the whole
    step, all ranks; n_sets and n_atoms are their number and sum. cursor: where the next step begins, for
    ``BatchLoader.seek``.
    """

    batches: list[PackedBatch]
    sizes: np.ndarray
    n_sets: int
    n_atoms: int
    n_rounds: int
    cursor: dict[str, int]


@dataclass(frozen=True)
class StepOptions:
    """What the micro-batches of a step follow from, beside the data; see BatchLoader."""

    seed: int
    atom_budget: int
    micro_batch_atoms: int
    rank: int = 0
    world_size: int = 1
    capacity: bool = False


class StepMaker:
    """Makes the steps of one rank, each when it is asked for.

    Raises ConfigError when a set is larger than a micro-batch, DataError for an empty split or damaged
    shards. Not for use from several threads at once.
    """

    def __init__(self, data: DataConfig, options: StepOptions) -> None:
        assert 0 <= options.rank < options.world_size, f"rank {options.rank} of {options.world_size}"
        self.manifest = open_manifest(data)
        self._options = options
        index = self.manifest.split("train")
        if len(index) == 0:
            raise DataError(f"{data.shards}: split 'train' is empty; add structures or lower the fractions")
        self.plan = SamplePlan(
            index,
            self.manifest.datasets,
            fingerprint=self.manifest.fingerprint,
            seed=options.seed,
            atom_budget=options.atom_budget,
            repeat=data.repeat,
            domain=DOMAINS[data.domain],
            domain_match=data.domain_match,
        )
        repeat = np.array([data.repeat.get(name, 1.0) for name in self.manifest.datasets])
        visits = repeat @ size_counts(index, len(repeat), DOMAINS[data.domain])
        self.visits_by_size = visits
        check_capacity(int(np.flatnonzero(visits)[-1]), options.micro_batch_atoms)
        self._limit_atoms, self._n_rounds = options.micro_batch_atoms, 1
        self._limit_sets: int | None = None
        self._capacities: dict[str, int] = {}
        if options.capacity:
            self._set_capacities(visits)
        self._reader = ShardReader(self.manifest, "train", cache_bytes=_CACHE_BYTES)

    def step(self, step: int) -> StepBatches:
        """This rank's micro-batches of a step, counted from 0; the same whenever they are asked for."""
        visits = self.plan.step(step)
        dealing = deal(
            visits.sizes,
            self._options.world_size,
            self._limit_atoms,
            self._limit_sets,
            visits.home,
            self._n_rounds,
        )
        rounds = dealing.of_rank(self._options.rank)
        own = np.concatenate(rounds)
        # Read at once, so that a block is needed once a step, however many micro-batches hold sets of it.
        columns = self._reader.read_columns(visits.set_index[own]) if len(own) else None
        batches = []
        bounds = cumulative(np.array([len(places) for places in rounds]))
        for places, first, stop in zip(rounds, bounds[:-1], bounds[1:], strict=True):
            batches.append(
                pack(
                    _part(columns, int(first), int(stop)) if columns is not None and len(places) else None,
                    visits.set_index[places],
                    visits.epoch[places],
                    visits.repetition[places],
                    **self._capacities,
                )
            )
        return StepBatches(
            batches,
            visits.sizes,
            n_sets=len(visits.sizes),
            n_atoms=int(visits.sizes.sum()),
            n_rounds=len(rounds),
            cursor=self.plan.cursor(step + 1),
        )

    def _set_capacities(self, visits: np.ndarray) -> None:
        """Room for the atoms of an equal share, for no more sets than could fill it, and for any tail.

        The bound on the size of a set is one for the whole run, for code compiled for it; tails are cut into
        sets of that size.
        """
        sizes = np.flatnonzero(visits)
        mean = float(visits @ np.arange(len(visits)) / visits.sum())
        options = self._options
        self._n_rounds, self._limit_atoms = micro_batches(
            options.atom_budget, options.world_size, options.micro_batch_atoms, mean, int(sizes[-1])
        )
        spare = int(np.ceil(_SPARE_SETS * self._limit_atoms / mean))
        self._limit_sets = max(1, min(self._limit_atoms // int(sizes[0]), spare))
        largest = int(sizes[-1])
        max_atoms = min(self._limit_atoms, largest + -largest % _ROUND_MAX_ATOMS_TO)
        self._capacities = {
            "capacity_atoms": self._limit_atoms,
            "capacity_sets": self._limit_sets + -(-self._limit_atoms // max_atoms),
            "max_atoms": max_atoms,
        }


def check_capacity(largest_atoms: int, capacity_atoms: int) -> None:
    """Raises ConfigError unless a micro-batch holds the largest set."""
    if largest_atoms > capacity_atoms:
        raise ConfigError(
            f"the largest set has {largest_atoms} atoms; parallel.micro_batch_atoms is {capacity_atoms}: "
            f"raise it to at least {largest_atoms}, or rebuild the shards with a lower data.max_atoms"
        )


def _part(columns: SetColumns, first: int, stop: int) -> SetColumns:
    """Sets first to stop of them, as views."""
    sets = slice(first, stop)
    atoms = slice(int(columns.sizes_s[:first].sum()), int(columns.sizes_s[:stop].sum()))
    names = [f.name for f in fields(SetColumns)]
    return SetColumns(**{n: getattr(columns, n)[atoms if "_t" in n else sets] for n in names})

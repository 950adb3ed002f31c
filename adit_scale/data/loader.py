"""What a training process asks of its data: the micro-batches of a step, of validation, and references."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adit_scale.atoms import AtomSet, PackedBatch
from adit_scale.data.config import DataConfig
from adit_scale.data.manifest import Manifest
from adit_scale.data.packing import deal, pack
from adit_scale.data.plan import WINDOW_BYTES, SamplePlan
from adit_scale.data.shards import ShardReader
from adit_scale.errors import ConfigError, DataError

# Decoded blocks take about twice their bytes on disk, and a step may touch two windows.
_CACHE_BYTES = 6 * WINDOW_BYTES
# With fixed capacities a micro-batch has room for this many times the sets of mean size that its atoms hold.
_SPARE_SETS = 1.5


@dataclass(frozen=True)
class StepBatches:
    """One rank's part of a step.

    batches: n_rounds micro-batches, not augmented. sizes: atoms of each set of the whole step, all ranks;
    n_sets and n_atoms are their number and sum.
    """

    batches: list[PackedBatch]
    sizes: np.ndarray
    n_sets: int
    n_atoms: int
    n_rounds: int


class BatchLoader:
    """The training order of one rank, open at any step.

    capacity: give every micro-batch the same number of atoms (micro_batch_atoms) and of sets, for
        compiled code; the tail is masked.
    The batches of the step after the one asked for are prepared in a background thread.
    Raises ConfigError when a set is larger than a micro-batch, DataError for damaged shards.
    """

    def __init__(
        self,
        data: DataConfig,
        *,
        seed: int,
        atom_budget: int,
        micro_batch_atoms: int,
        rank: int = 0,
        world_size: int = 1,
        capacity: bool = False,
    ) -> None:
        assert 0 <= rank < world_size, f"rank {rank} of {world_size}"
        self._folder = Path(data.shards)
        self.manifest = Manifest.load(self._folder)
        index = self.manifest.split("train")
        if len(index) == 0:
            raise DataError(f"{self._folder}: split 'train' is empty; add structures or lower the fractions")
        self._plan = SamplePlan(
            index,
            self.datasets,
            fingerprint=self.fingerprint,
            seed=seed,
            atom_budget=atom_budget,
            repeat=data.repeat,
        )
        _check_capacity(index.sizes, micro_batch_atoms)
        self._sizes = index.sizes
        self._reader = ShardReader(self._folder, self.manifest, "train", cache_bytes=_CACHE_BYTES)
        self._rank, self._world_size = rank, world_size
        self._capacity_atoms = micro_batch_atoms
        self._capacity_sets = _set_capacity(index.sizes, micro_batch_atoms) if capacity else None
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._ahead: tuple[int, Future[StepBatches]] | None = None

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    @property
    def datasets(self) -> list[str]:
        return self.manifest.datasets

    def step(self, step: int) -> StepBatches:
        """This rank's micro-batches of a step, counted from 0; the same whenever they are asked for."""
        if self._ahead is not None and self._ahead[0] == step:
            future = self._ahead[1]
        else:
            future = self._worker.submit(self._prepare, step)
        result = future.result()
        self.prefetch(step + 1)
        return result

    def prefetch(self, step: int) -> None:
        """Begin to prepare a step in the background; an error in it is raised when the step is asked for."""
        self._ahead = (step, self._worker.submit(self._prepare, step))

    def close(self) -> None:
        """Stop the background thread."""
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _prepare(self, step: int) -> StepBatches:
        visits = self._plan.step(step)
        sizes = self._sizes[visits.set_index]
        rounds = deal(sizes, self._world_size, self._capacity_atoms, self._capacity_sets)
        batches = []
        for ranks in rounds:
            own = ranks[self._rank]
            set_index = visits.set_index[own]
            batches.append(
                pack(
                    self._reader.read_columns(set_index) if len(own) else None,
                    set_index,
                    visits.epoch[own],
                    visits.repetition[own],
                    capacity_atoms=self._capacity_atoms if self._capacity_sets else None,
                    capacity_sets=self._capacity_sets + 1 if self._capacity_sets else None,
                )
            )
        return StepBatches(batches, sizes, n_sets=len(sizes), n_atoms=int(sizes.sum()), n_rounds=len(rounds))

    def validation_batches(self, max_sets: int, capacity_atoms: int) -> list[PackedBatch]:
        """Held-out sets for the validation loss, the same on all ranks and in every run on these data.

        At most max_sets, the first of each data set in shares as equal as the data sets' sizes allow.
        Raises ConfigError when nothing is held out.
        """
        index = self.manifest.split("val")
        if len(index) == 0:
            raise ConfigError(
                f"{self._folder}: split 'val' is empty; raise data.validation_fraction and rebuild"
            )
        _check_capacity(index.sizes, capacity_atoms)
        reader = ShardReader(self._folder, self.manifest, "val")
        chosen = _fair_shares(index.dataset, max_sets)
        batches = []
        for (places,) in deal(index.sizes[chosen], 1, capacity_atoms):
            own = chosen[places]
            zeros = np.zeros_like(own)
            batches.append(pack(reader.read_columns(own), own, zeros, zeros))
        return batches


def reference_sets(data: DataConfig, split: str, domain: int, n: int) -> list[AtomSet]:
    """The first n real structures of a domain (atoms.CRYSTAL or MOLECULE) in a split, or all it has."""
    folder = Path(data.shards)
    manifest = Manifest.load(folder)
    chosen = np.flatnonzero(manifest.split(split).domain == domain)[:n]
    return ShardReader(folder, manifest, split).read_sets(chosen)


def size_histogram(manifest: Manifest, domain: int) -> np.ndarray:
    """Training sets of a domain by number of atoms: ``(largest + 1,)`` int64; one 0 if there are none."""
    index = manifest.split("train")
    return np.bincount(index.sizes[index.domain == domain], minlength=1)


def _check_capacity(sizes: np.ndarray, capacity_atoms: int) -> None:
    if sizes.max() > capacity_atoms:
        raise ConfigError(
            f"the largest set has {sizes.max()} atoms; parallel.micro_batch_atoms is {capacity_atoms}: "
            f"raise it to at least {sizes.max()}, or rebuild the shards with a lower data.max_atoms"
        )


def _set_capacity(sizes: np.ndarray, capacity_atoms: int) -> int:
    """Sets in a fixed-capacity micro-batch: at most what the smallest sets could fill, and seldom reached."""
    return int(min(capacity_atoms // sizes.min(), np.ceil(_SPARE_SETS * capacity_atoms / sizes.mean())))


def _fair_shares(dataset: np.ndarray, max_sets: int) -> np.ndarray:
    """Places of at most max_sets sets, the data sets taking turns until theirs run out; in order of place."""
    turn = np.zeros(len(dataset), dtype=np.int64)
    for name in np.unique(dataset):
        own = np.flatnonzero(dataset == name)
        turn[own] = np.arange(len(own))
    first = np.lexsort((dataset, turn))[:max_sets]
    return np.sort(first)

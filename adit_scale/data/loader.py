"""What a training process asks of its data: the micro-batches of a step, of validation, and references."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np

from adit_scale.atoms import AtomSet, PackedBatch
from adit_scale.data.config import DataConfig
from adit_scale.data.dealing import deal
from adit_scale.data.manifest import Manifest, SplitIndex
from adit_scale.data.packing import pack
from adit_scale.data.shards import ShardReader
from adit_scale.data.steps import StepBatches, StepMaker, StepOptions, check_capacity, open_manifest
from adit_scale.data.workers import Preparer, ProcessPreparer, ThreadPreparer
from adit_scale.errors import ConfigError

__all__ = ["BatchLoader", "StepBatches", "reference_sets", "size_histogram"]


class BatchLoader:
    """The training order of one rank, open at any step.

    atom_budget: atoms of a step, over all ranks. micro_batch_atoms: the most a micro-batch holds.
    capacity: give every micro-batch the same number of atoms (see dealing.micro_batches) and of sets, for
        compiled code; the tail is masked.
    pin_memory: in page-locked memory, for copies to a CUDA device.
    The steps after the one asked for are prepared ahead, in data.workers processes or, for 0, in a thread;
    what they hold does not depend on it. Use ``close`` or ``with`` to end them.
    Raises ConfigError when a set is larger than a micro-batch, DataError for damaged shards or a dead worker.
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
        pin_memory: bool = False,
    ) -> None:
        options = StepOptions(seed, atom_budget, micro_batch_atoms, rank, world_size, capacity)
        self._maker = StepMaker(data, options)
        self.manifest = self._maker.manifest
        self._data, self._options, self._pin_memory = data, options, pin_memory
        self._started: Preparer | None = None
        self._ahead: dict[int, Future[StepBatches]] = {}
        self._cursors: dict[int, dict[str, int]] = {}

    def __enter__(self) -> BatchLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    @property
    def datasets(self) -> list[str]:
        return self.manifest.datasets

    @property
    def visits_by_size(self) -> np.ndarray:
        """Visits an epoch to training sets by number of atoms: ``(largest + 1,)`` float64."""
        return self._maker.visits_by_size

    def step(self, step: int) -> StepBatches:
        """This rank's micro-batches of a step, counted from 0; the same whenever they are asked for."""
        wanted = range(step, step + 1 + self._preparer.ahead)
        self._forget([s for s in self._ahead if s not in wanted])
        for s in wanted:
            if s not in self._ahead:
                self._ahead[s] = self._preparer.request(s)
        result = self._ahead.pop(step).result()
        # That of this step too: the next one may be asked for before this one is done.
        self._cursors = {s: c for s, c in self._cursors.items() if s == step} | {step + 1: result.cursor}
        return result

    def ready(self, step: int) -> bool:
        """Whether ``step`` would answer without a wait."""
        return step in self._ahead and self._ahead[step].done()

    def cursor(self, step: int) -> dict[str, int]:
        """Where the step asked for last or the one after it begins, for ``seek``; empty for another step."""
        return self._cursors.get(step, {})

    def seek(self, step: int, cursor: dict[str, int]) -> None:
        """Let a resumed run begin at a step without walking to it; the step is the same without."""
        if cursor:
            self._preparer.seek(step, cursor)
            self._cursors = {step: cursor}

    def close(self) -> None:
        """End what prepares steps ahead."""
        self._forget(list(self._ahead))
        if self._started:
            self._started.close()

    @property
    def _preparer(self) -> Preparer:
        """Started when it is first needed: who asks for validation alone needs none."""
        if self._started is None:
            self._started = (
                ProcessPreparer(self._data.workers, self._data, self._options, self._pin_memory)
                if self._data.workers
                else ThreadPreparer(self._maker, self._pin_memory)
            )
        return self._started

    def _forget(self, steps: list[int]) -> None:
        for step in steps:
            self._ahead.pop(step).cancel()

    def validation_batches(self, max_sets: int, capacity_atoms: int) -> list[PackedBatch]:
        """Held-out sets for the validation loss, the same on all ranks and in every run on these data.

        At most max_sets, the first of each data set in shares as equal as the data sets' sizes allow.
        Raises ConfigError when nothing is held out.
        """
        index = self.manifest.split("val")
        if len(index) == 0:
            raise ConfigError(
                f"{self._data.shards}: split 'val' is empty; raise data.validation_fraction and rebuild"
            )
        chosen, sizes = _fair_shares(index, len(self.datasets), max_sets)
        check_capacity(int(sizes.max()), capacity_atoms)
        reader = ShardReader(self.manifest, "val")
        batches = []
        for places in deal(sizes, 1, capacity_atoms).of_rank(0):
            own = chosen[places]
            zeros = np.zeros_like(own)
            batches.append(pack(reader.read_columns(own), own, zeros, zeros))
        return batches


def reference_sets(data: DataConfig, split: str, domain: int, n: int) -> list[AtomSet]:
    """The first n real structures of a domain (atoms.CRYSTAL or MOLECULE) in a split, or all it has."""
    manifest = open_manifest(data)
    chosen: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]
    for first, rows in manifest.split(split).chunks():
        chosen.append(first + np.flatnonzero(rows["domain"] == domain))
        if sum(map(len, chosen)) >= n:
            break
    return ShardReader(manifest, split).read_sets(np.concatenate(chosen)[:n])


def size_histogram(manifest: Manifest, domain: int) -> np.ndarray:
    """Training sets of a domain by number of atoms: ``(largest + 1,)`` int64; one 0 if there are none."""
    counts = np.zeros(1, dtype=np.int64)
    for _, rows in manifest.split("train").chunks():
        part = np.bincount(rows["n_atoms"][rows["domain"] == domain], minlength=len(counts))
        part[: len(counts)] += counts
        counts = part
    return counts


def _fair_shares(index: SplitIndex, n_datasets: int, max_sets: int) -> tuple[np.ndarray, np.ndarray]:
    """Places and sizes of at most max_sets sets, the data sets taking turns; in order of place."""
    places, sizes, datasets, turns = [], [], [], []
    seen = np.zeros(n_datasets, dtype=np.int64)
    for first, rows in index.chunks():
        for d in np.flatnonzero(seen < max_sets):
            own = np.flatnonzero(rows["dataset"] == d)[: max_sets - seen[d]]
            places.append(first + own)
            sizes.append(rows["n_atoms"][own])
            datasets.append(np.full(len(own), d))
            turns.append(seen[d] + np.arange(len(own)))
            seen[d] += len(own)
    place = np.concatenate(places)
    taken = np.lexsort((place, np.concatenate(datasets), np.concatenate(turns)))[:max_sets]
    taken = taken[np.argsort(place[taken])]
    return place[taken], np.concatenate(sizes)[taken].astype(np.int64)

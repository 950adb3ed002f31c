"""Splits made up for tests of the order: rows in memory, no files."""

from __future__ import annotations

from collections import Counter

import numpy as np

from adit_scale.data.columns import cumulative
from adit_scale.data.manifest import SET_DTYPE, SplitIndex
from adit_scale.data.plan import SamplePlan

NAMES = ["a", "b", "c"]


class MemoryIndex(SplitIndex):
    """A split of the given rows in blocks of the given numbers of sets."""

    def __init__(self, rows: np.ndarray, block_sets: np.ndarray, block_bytes: np.ndarray) -> None:
        self.name, self.blocks = "train", ()
        self.first_set = cumulative(block_sets)
        self.block_bytes = np.asarray(block_bytes, dtype=np.int64)
        self.all_rows = rows
        self.rows_at_once = 0

    def rows(self, first: int, stop: int) -> np.ndarray:
        self.rows_at_once = max(self.rows_at_once, stop - first)
        return self.all_rows[first:stop]


def make_index(rng: np.random.Generator, n_sets: int, block_sets: int = 7) -> MemoryIndex:
    rows = np.empty(n_sets, SET_DTYPE)
    rows["n_atoms"], rows["dataset"], rows["domain"] = (
        rng.integers(1, 40, n_sets),
        rng.integers(0, 3, n_sets),
        1,
    )
    n_blocks = -(-n_sets // block_sets)
    counts = np.full(n_blocks, block_sets)
    counts[-1] = n_sets - block_sets * (n_blocks - 1)
    return MemoryIndex(rows, counts, rng.integers(1000, 2000, n_blocks))


def make_plan(index: SplitIndex, **changes) -> SamplePlan:
    settings_ = {"fingerprint": "f", "seed": 0, "atom_budget": 200, "window_bytes": 4000} | changes
    return SamplePlan(index, NAMES, **settings_)


def epoch_visits(plan: SamplePlan, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Set index and repetition of all visits of an epoch, in order."""
    windows = [plan.order.window(epoch, w) for w in range(plan.order.epoch(epoch).n_windows)]
    return (
        np.concatenate([w.set_index_v for w in windows]),
        np.concatenate([w.repetition_v for w in windows]),
    )


def counted(values: np.ndarray) -> Counter[int]:
    return Counter(values.tolist())

"""Claim: fixed micro-batches of 1,024 atoms are at least 97% full, and 98.5% at 16,384.

    python benchmarks/data_packing.py

Real atoms over capacity, with tails, empty micro-batches and spare rounds counted, over 200 steps of the
planned order on 4 and on 1,000 blocks of 1,024 made-up sets with sizes of real data. The atom budget of a
step is the rule's: ranks · rounds · (capacity - 4), or the capacity where there is one micro-batch. The
baseline is the usual lane a micro-batch: each takes every so-manieth visit of the order and closes when the
next does not fit. Prints JSON and writes it to benchmarks/results/. The last row is the cost of dealing one
large step.
"""

from __future__ import annotations

import argparse
import heapq
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from data_splits import BLOCK_SETS, MIXTURES, draw_rows, write_split
from record import RESULTS, record, row, write

from adit_scale.data.dealing import deal, micro_batches
from adit_scale.data.manifest import SplitIndex
from adit_scale.data.plan import SamplePlan


def efficiency(index: SplitIndex, world_size: int, n_rounds: int, capacity: int, n_steps: int) -> dict:
    """Shares: of the capacity that is filled, by dealing and by lanes; of steps with a spare round."""
    n_bins = world_size * n_rounds
    budget = n_bins * (capacity - 4) if n_bins > 1 else capacity
    mean, largest = float(index.sizes.mean()), int(index.sizes.max())
    assert micro_batches(budget, world_size, capacity, mean, largest) == (n_rounds, capacity)
    plan = SamplePlan(index, ["qm9", "mp20"], fingerprint="f", seed=0, atom_budget=budget)
    real = room = spare = 0
    order = []
    for step in range(n_steps):
        visits = plan.step(step)
        dealing = deal(visits.sizes, world_size, capacity, home=visits.home, n_rounds=n_rounds)
        real += int(visits.sizes.sum())
        room += capacity * world_size * dealing.n_rounds
        spare += dealing.n_rounds > n_rounds
        order.append(visits.sizes)
    return {
        "filled": real / room,
        "spare": spare / n_steps,
        "lanes": lanes(np.concatenate(order), n_bins, capacity),
    }


def lanes(sizes: np.ndarray, n_lanes: int, capacity: int) -> float:
    """All lanes close a micro-batch together, at each step, as their ranks do."""
    ends = [np.concatenate([[0], np.cumsum(sizes[lane::n_lanes])]) for lane in range(n_lanes)]
    at = np.zeros(n_lanes, dtype=np.int64)
    real = room = 0
    while True:
        stop = np.array(
            [np.searchsorted(e, e[i] + capacity, side="right") - 1 for e, i in zip(ends, at, strict=True)]
        )
        if any(i + 1 >= len(e) for e, i in zip(ends, stop, strict=True)):
            return real / max(1, room)
        real += sum(int(e[j] - e[i]) for e, i, j in zip(ends, at, stop, strict=True))
        room += n_lanes * capacity
        at = stop


def dealing_speed(n_sets: int = 1_000_000, world_size: int = 1024) -> dict:
    """Sets a second dealt to the ranks, of processor time; beside it largest first by a heap."""
    rng = np.random.default_rng(0)
    sizes = draw_rows(rng, MIXTURES[0], n_sets)["n_atoms"].astype(np.int64)
    home = rng.integers(0, 1 << 24, n_sets)
    seconds = []
    for _ in range(5):
        start_s = time.process_time()
        dealing = deal(sizes, world_size, 17_000, home=home)
        seconds.append(time.process_time() - start_s)
    start_s = time.process_time()
    heap = [(0, rank) for rank in range(world_size)]
    for size in sorted(sizes.tolist(), reverse=True):
        load, rank = heapq.heappop(heap)
        heapq.heappush(heap, (load + size, rank))
    heap_s = time.process_time() - start_s
    loads = dealing.loads.ravel()
    return row(
        f"dealing {n_sets:,} sets to {world_size:,} ranks",
        n_sets / statistics.median(seconds),
        "largest first by a heap, without regard to blocks",
        n_sets / heap_s,
        "sets/s",
        milliseconds=1000 * statistics.median(seconds),
        largest_over_mean_load_atoms=float(loads.max() - loads.mean()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    args = parser.parse_args()
    rows = []
    for mixture in MIXTURES:
        for n_blocks in (4, 1000):
            with tempfile.TemporaryDirectory() as folder:
                index = write_split(Path(folder), mixture, n_blocks * BLOCK_SETS)
                for capacity in (1024, 16384):
                    for world_size, n_rounds in ((1, 1), (8, 1), (64, 1), (8, 4)):
                        steps = args.steps if capacity * world_size * n_rounds < 10**6 else args.steps // 4
                        found = efficiency(index, world_size, n_rounds, capacity, steps)
                        shape = f"{world_size} ranks x {n_rounds} micro-batches of {capacity}"
                        what = f"{mixture}, {n_blocks} blocks, {shape}"
                        rows.append(
                            row(what, 100 * found["filled"], "a lane a micro-batch", 100 * found["lanes"],
                                "% full", spare_rounds_percent=100 * found["spare"], steps=steps)
                        )  # fmt: skip
    rows.append(dealing_speed())
    write("data_packing", record("data_packing", ["numpy"], rows), args.out)


if __name__ == "__main__":
    main()

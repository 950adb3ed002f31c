"""Claim: on 1,000 blocks and 64 ranks a rank reads at most 4 times the bytes it uses.

    python benchmarks/data_amplification.py

Bytes read over bytes used, of all ranks over an epoch: a rank reads a block once while it stays in its cache
(of 192 MiB decoded, as the loader's, blocks used longest ago dropped first), and uses of it what the sets
take that it was dealt. Blocks are of 1,024 made-up sets with sizes of real data. The baseline is the same
order dealt
without regard to blocks: visit i of a step to rank i modulo ranks. Prints JSON and writes it to
benchmarks/results/.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
from data_splits import ATOM_BYTES, BLOCK_SETS, MIXTURES, SET_BYTES, write_split
from record import RESULTS, record, row, write

from adit_scale.data.dealing import deal
from adit_scale.data.manifest import SplitIndex
from adit_scale.data.plan import WINDOW_BYTES, SamplePlan

CACHE_BYTES = 3 * WINDOW_BYTES // 2  # on disk; decoded they take twice as much


class Rank:
    """Reads blocks through a cache of bounded size and counts bytes."""

    def __init__(self, block_bytes: np.ndarray) -> None:
        self.block_bytes = block_bytes
        self.cached: OrderedDict[int, int] = OrderedDict()
        self.held = self.read = 0

    def need(self, blocks: np.ndarray) -> None:
        for block in blocks.tolist():
            if block not in self.cached:
                self.cached[block] = int(self.block_bytes[block])
                self.read += self.cached[block]
                self.held += self.cached[block]
            self.cached.move_to_end(block)
        while self.held > CACHE_BYTES:
            self.held -= self.cached.popitem(last=False)[1]


def amplification(index: SplitIndex, world_size: int, micro_batch_atoms: int, by_block: bool) -> float:
    plan = SamplePlan(
        index,
        ["qm9", "mp20"],
        fingerprint="f",
        seed=0,
        atom_budget=max(1, world_size * (micro_batch_atoms - 4)),
    )
    ranks = [Rank(index.block_bytes) for _ in range(world_size)]
    used, step = 0, 0
    # Past the epoch's end by a step at most; with steps longer than an epoch, several epochs.
    while step < 4 or plan.cursor(step)["epoch"] == 0:
        visits = plan.step(step)
        block = index.block_of(visits.set_index)
        used += int((SET_BYTES + ATOM_BYTES * visits.sizes).sum())
        if by_block:
            dealing = deal(visits.sizes, world_size, micro_batch_atoms, home=visits.home)
            own = [np.concatenate(dealing.of_rank(r)) for r in range(world_size)]
        else:
            own = [np.arange(r, len(block), world_size) for r in range(world_size)]
        for rank, places in zip(ranks, own, strict=True):
            rank.need(np.unique(block[places]))
        step += 1
    return sum(rank.read for rank in ranks) / used


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--blocks", type=int, default=1000)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 8, 64, 1024])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    args = parser.parse_args()
    rows = []
    for mixture in MIXTURES:
        with tempfile.TemporaryDirectory() as folder:
            index = write_split(Path(folder), mixture, args.blocks * BLOCK_SETS)
            for micro_batch_atoms in (1024, 16384):
                for world_size in args.ranks:
                    found, baseline = (
                        amplification(index, world_size, micro_batch_atoms, by_block)
                        for by_block in (True, False)
                    )
                    what = f"{mixture}, {world_size} ranks, {micro_batch_atoms} atoms a micro-batch"
                    rows.append(row(what, found, "dealt without regard to blocks", baseline, "bytes/byte"))
    write(
        "data_amplification",
        record("data_amplification", ["numpy"], rows) | {"blocks": args.blocks},
        args.out,
    )


if __name__ == "__main__":
    main()

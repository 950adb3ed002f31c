"""Claim: the order of an epoch of 100 million sets takes under 10 s and under 2 GiB on one core.

    python benchmarks/data_order.py

The sets are made up (sizes of QM9 and MP20, blocks of 1,024); their rows, 400 MB, lie in a file as those of a
real split do. Timed is all of an epoch: blocks permuted, rows read, visits keyed and mixed, and cut into
steps of a million atoms. Beside it the two usual ways, on as many sets as fit: one permutation of the whole
epoch (``numpy.random.permutation``; no windows, no cutting), and a shuffle buffer of 100,000 in Python. Times
are of the processor, so that other processes count little; the wall clock's stand beside them. Prints JSON
and writes it to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from data_splits import write_split
from record import RESULTS, record, row, write

from adit_scale.data.plan import SamplePlan

BUDGET = 1_000_000


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def walk_epoch(plan: SamplePlan) -> int:
    """Go through all steps that begin in the first epoch; their visits."""
    visits, step = 0, 0
    while plan.cursor(step)["epoch"] == 0:
        visits += len(plan.step(step).set_index)
        step += 1
    return visits


def shuffle_buffer(n: int, size: int = 100_000) -> Iterator[int]:
    generator = random.Random(0)
    buffer: list[int] = []
    for item in range(n):
        if len(buffer) < size:
            buffer.append(item)
            continue
        place = generator.randrange(size)
        yield buffer[place]
        buffer[place] = item
    generator.shuffle(buffer)
    yield from buffer


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sets", type=int, default=100_000_000)
    parser.add_argument("--buffer-sets", type=int, default=2_000_000, help="sets through the shuffle buffer")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        index = write_split(Path(folder), "QM9+MP20", args.sets)
        before_mib = peak_mib()
        plan = SamplePlan(index, ["qm9", "mp20"], fingerprint="f", seed=0, atom_budget=BUDGET)
        wall_s, processor_s = time.perf_counter(), time.process_time()
        visits = walk_epoch(plan)
        wall_s, processor_s = time.perf_counter() - wall_s, time.process_time() - processor_s
    peak = peak_mib()
    start_s = time.process_time()
    np.random.default_rng(0).permutation(args.sets)
    permutation_s = time.process_time() - start_s
    start_s = time.process_time()
    for _ in shuffle_buffer(args.buffer_sets):
        pass
    buffer_rate = args.buffer_sets / (time.process_time() - start_s)
    rate = visits / processor_s
    rows = [
        row("order of an epoch", rate, "one permutation of it", args.sets / permutation_s, "sets/s"),
        row("order of an epoch", rate, "shuffle buffer of 100,000", buffer_rate, "sets/s"),
    ]
    result = record("data_order", ["numpy"], rows) | {
        "sets": args.sets,
        "visits": visits,
        "epoch_processor_s": processor_s,
        "epoch_wall_s": wall_s,
        "peak_resident_mib": peak,
        "resident_before_mib": before_mib,
        "peak_resident_of_permutation_mib": peak_mib(),
    }
    write("data_order", result, args.out)


if __name__ == "__main__":
    main()

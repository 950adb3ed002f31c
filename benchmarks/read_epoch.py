"""Read an epoch of shards in the order of training; print the memory of this process, in MiB, and the sets.

python benchmarks/read_epoch.py FOLDER ATOMS_A_STEP     a part of data_throughput.py, with few imports
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from adit_scale.data.config import DataConfig
from adit_scale.data.loader import BatchLoader


def main() -> None:
    before = mib("VmRSS")
    atoms = int(sys.argv[2])
    loader = BatchLoader(DataConfig(shards=sys.argv[1]), seed=0, atom_budget=atoms, micro_batch_atoms=atoms)
    n_sets, step = 0, 0
    while n_sets < loader.manifest.n_sets("train"):
        n_sets += loader.step(step).n_sets
        step += 1
    loader.close()
    print(json.dumps({"after_imports_mib": before, "peak_mib": mib("VmHWM"), "sets_read": n_sets}))


def mib(key: str) -> float:
    """A line of this process's memory, as Linux tells it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


if __name__ == "__main__":
    main()

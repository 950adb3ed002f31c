"""Loss parity over everything that must not change the numbers, as a table.

    python -m tests.training.parity_table [--worlds 1,2,4] [--steps 20] [--out FOLDER]

One tiny diffusion run a cell: ZeRO 0 to 3 in fp32 and 1 to 3 in bf16, on 1, 2 and 4 ranks, with micro-batches
of 60 and of 24 atoms, blocks compiled or not, activations recomputed in every third cell. Reported is the
largest relative deviation of any step's loss from the plain fp32 run on one rank (ZeRO 0, 60 atoms, eager),
and for bf16 also from the bf16 run of ZeRO 1. Exits with 1 where a bound is passed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adit_scale.tracking.journal import read_journal, series
from tests.training import runs

# fp32 runs differ in the order of sums only. bf16 keeps 8 bits a product, so its bounds are loose.
FP32_BOUND, BF16_BOUND = 1e-4, 3e-2
PACKINGS = (60, 24)
COLUMNS = ("precision", "zero", "ranks", "micro-batch", "compiled", "recomputed", "from fp32", "from bf16")


@dataclass(frozen=True)
class Cell:
    precision: str
    zero_stage: int
    world_size: int
    micro_batch_atoms: int
    compiled: bool
    recomputed: bool = False

    @property
    def name(self) -> str:
        words = f"{self.precision}-zero{self.zero_stage}-world{self.world_size}-micro{self.micro_batch_atoms}"
        return words + "-compiled" * self.compiled + "-recomputed" * self.recomputed

    def prepare(self, root: Path, shards: Path, steps: int) -> Path:
        config = runs.small_study(
            shards,
            steps,
            precision=self.precision,
            zero_stage=self.zero_stage,
            world_size=self.world_size,
            micro_batch_atoms=self.micro_batch_atoms,
            compile=self.compiled,
            activation_checkpointing=self.recomputed,
        )
        return runs.prepare(root / self.name, config, "diffusion")


def cells(worlds: list[int]) -> list[Cell]:
    kinds = [("fp32", stage) for stage in range(4)] + [("bf16", stage) for stage in (1, 2, 3)]
    plain = [
        Cell(precision, stage, world, atoms, compiled)
        for world in worlds
        for precision, stage in kinds
        for atoms in PACKINGS
        for compiled in (False, True)
    ]
    return [
        Cell(c.precision, c.zero_stage, c.world_size, c.micro_batch_atoms, c.compiled, i % 3 == 2)
        for i, c in enumerate(plain)
    ]


def losses(folder: Path) -> np.ndarray:
    return np.array(series(read_journal(folder), "train/loss")[1])


def deviation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.max(np.abs(a - b) / np.abs(b)))


def table(worlds: list[int], steps: int, root: Path) -> tuple[list[dict], bool]:
    """A row a cell, and whether every bound is kept."""
    shards = runs.small_data(root / "shards")
    autoencoder = root / "autoencoder"
    runs.run([runs.prepare(autoencoder, runs.small_study(shards, 8), "autoencoder")], 1)
    # Eager, one rank, not recomputed: what all others are held against.
    references = {
        "fp32": Cell("fp32", 0, 1, PACKINGS[0], False),
        "bf16": Cell("bf16", 1, 1, PACKINGS[0], False),
    }
    everything = cells(worlds)
    folders = [c.prepare(root / "references", shards, steps) for c in references.values()]
    runs.run(folders, 1, autoencoder / "weights")
    fp32, bf16 = (losses(folder) for folder in folders)
    rows, kept = [], True
    for world in worlds:
        here = [c for c in everything if c.world_size == world]
        for at in range(0, len(here), 4):
            some = [c.prepare(root, shards, steps) for c in here[at : at + 4]]
            runs.run(some, world, autoencoder / "weights", timeout_s=1800)
            for cell, folder in zip(here[at : at + 4], some, strict=True):
                found = losses(folder)
                assert len(found) == steps, cell
                row = {**vars(cell), "from_fp32": deviation(found, fp32)}
                if cell.precision == "bf16":
                    row["from_bf16"] = deviation(found, bf16)
                kept &= row["from_fp32"] <= (FP32_BOUND if cell.precision == "fp32" else BF16_BOUND)
                rows.append(row)
                print(_line(row), flush=True)
    return rows, kept


def _line(row: dict) -> str:
    last = f"{row['from_bf16']:.1e}" if "from_bf16" in row else ""
    words = (
        row["precision"],
        row["zero_stage"],
        row["world_size"],
        row["micro_batch_atoms"],
        "yes" if row["compiled"] else "no",
        "yes" if row["recomputed"] else "no",
        f"{row['from_fp32']:.1e}",
        last,
    )
    return "| " + " | ".join(map(str, words)) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--worlds", default="1,2,4")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, help="folder for parity_table.json")
    args = parser.parse_args()
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    with tempfile.TemporaryDirectory() as folder:
        rows, kept = table([int(w) for w in args.worlds.split(",")], args.steps, Path(folder))
    result = {"bounds": {"fp32": FP32_BOUND, "bf16": BF16_BOUND}, "steps": args.steps, "rows": rows}
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "parity_table.json").write_text(json.dumps(result, indent=1) + "\n")
    print("every bound kept" if kept else f"a bound is passed (fp32 {FP32_BOUND}, bf16 {BF16_BOUND})")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())

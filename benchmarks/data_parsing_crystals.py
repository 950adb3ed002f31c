"""Claim: CDVAE CSV becomes parsed structures at least 3 times as fast as through pymatgen.

    python benchmarks/data_parsing_crystals.py ../shared/data/mp20_biternary_val.csv.gz --rows 2000

Crystals a CPU second of one core. Both sides start from the same CSV in memory and cut it into rows
themselves (ours with its checks, pymatgen's by csv.DictReader); both end with atomic numbers, cell and
positions, before reduction and symmetry. They take turns on batches of rows, in changing order, so that
a busy machine slows both. Then the positions of every crystal are compared. Standard form (Niggli reduction,
checks) and spglib are timed too, since a build also does them. Prints JSON and writes it to
benchmarks/results/.
"""

from __future__ import annotations

import argparse
import csv
import io
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Structure
from record import RESULTS, record, row, write

from adit_scale.atoms import AtomSet
from adit_scale.data.config import DataConfig
from adit_scale.data.sources import Source, cdvae_csv
from adit_scale.data.sources.source import open_binary
from adit_scale.data.sources.structures import standardise
from adit_scale.data.sources.symmetry import find_spacegroup

BATCHES = 20


def batches_of(path: Path, rows: int) -> list[bytes]:
    """Small CSV files of the first rows of a large one."""
    csv.field_size_limit(1 << 26)
    with open_binary(path) as stream:
        table = csv.reader(io.TextIOWrapper(stream, encoding="utf-8", newline=""))
        header, *body = [line for line, _ in zip(table, range(rows + 1), strict=False)]
    size = max(1, len(body) // BATCHES)
    return [_csv([header, *body[i : i + size]]) for i in range(0, len(body), size)]


def _csv(lines: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(lines)
    return text.getvalue().encode()


def ours(data: bytes) -> list[AtomSet]:
    config, source = DataConfig(), Source(Path("bench.csv"), "bench")
    found = [cdvae_csv.parse(r, "bench", config)[0] for r in cdvae_csv.cut(io.BytesIO(data), source, config)]
    return [item for item in found if isinstance(item, AtomSet)]


def pymatgens(data: bytes) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    found = []
    for line in csv.DictReader(io.StringIO(data.decode(), newline="")):
        structure = Structure.from_str(line["cif"], fmt="cif")
        numbers = np.array([site.specie.Z for site in structure])
        found.append((numbers, structure.lattice.matrix, structure.frac_coords))
    return found


def difference(item: AtomSet, other: tuple[np.ndarray, np.ndarray, np.ndarray]) -> float:
    """Largest distance of corresponding atoms in angstrom, ours turned into pymatgen's axes; of cells too.

    Corresponding are atoms of one element in turn: ours stand in the file's order, pymatgen sorts elements.
    """
    numbers, matrix, fractional = other
    ours, theirs = np.argsort(item.numbers, kind="stable"), np.argsort(numbers, kind="stable")
    assert (item.numbers[ours] == numbers[theirs]).all(), item.id
    turn = np.linalg.solve(item.cell, matrix)
    stretch = np.abs(turn @ turn.T - np.eye(3)).max() * np.linalg.norm(matrix, axis=1).max()
    parts = item.positions[ours] @ turn @ np.linalg.inv(matrix) - fractional[theirs]
    apart = np.linalg.norm((parts - np.rint(parts)) @ matrix, axis=1)
    return max(float(apart.max()), float(stretch))


def timed(function: Callable[[Any], Any], argument: object) -> tuple[float, Any]:
    start = time.process_time()
    result = function(argument)
    return time.process_time() - start, result


def measure(path: Path, rows: int) -> dict[str, Any]:
    batches = batches_of(path, rows)
    rates: dict[str, list[float]] = {"ours": [], "pymatgen": [], "standard form": [], "spglib": []}
    largest, n_crystals = 0.0, 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours(batches[0]), pymatgens(batches[0])  # both warm
        for i, data in enumerate(batches):
            sides = [("ours", ours), ("pymatgen", pymatgens)]
            results = {}
            for name, function in sides if i % 2 else sides[::-1]:
                elapsed, results[name] = timed(function, data)
                rates[name].append(len(results[name]) / elapsed)
            assert len(results["ours"]) == len(results["pymatgen"])
            pairs = zip(results["ours"], results["pymatgen"], strict=True)
            largest = max(largest, *(difference(a, b) for a, b in pairs))
            n_crystals += len(results["ours"])
            elapsed, standard = timed(lambda sets: [standardise(s) for s in sets], results["ours"])
            rates["standard form"].append(len(standard) / elapsed)
            some = standard[::5]
            elapsed, _ = timed(lambda sets: [find_spacegroup(s, 0.01) for s in sets], some)
            rates["spglib"].append(len(some) / elapsed)
    each = [a / b for a, b in zip(rates["ours"], rates["pymatgen"], strict=True)]
    middle = {name: statistics.median(values) for name, values in rates.items()}
    what = "CDVAE CSV, parsed"
    line = row(what, middle["ours"], "pymatgen.Structure.from_str", middle["pymatgen"], "crystals/s")
    assert largest < 1e-6, f"positions differ by {largest} angstrom"
    return {
        "rows": [line | {"ratio_range": [min(each), max(each)]}],
        "file": path.name,
        "crystals": n_crystals,
        "largest_position_difference_angstrom": largest,
        "standard_form_ms_a_crystal": 1e3 / middle["standard form"],
        "spglib_ms_a_crystal": 1e3 / middle["spglib"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, help="a CDVAE CSV file, also compressed")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    args = parser.parse_args()
    measured = measure(args.file, args.rows)
    result = record("data_parsing_crystals", ["pymatgen", "numpy", "spglib"], measured.pop("rows"))
    write(f"data_parsing_crystals-{args.file.name.split('.')[0]}", result | measured, args.out)


if __name__ == "__main__":
    main()

"""Molecules a second a core, from files in the forms their data sets are published in to standard form.

    python benchmarks/data_parsing.py [--molecules 20000] [--repeats 3]

The molecules are those of ``../shared/data/qm9_sample.extxyz.gz`` where it is, else of ASE's collection, over
and over. Each reader (decompressing, cutting, parsing, checking, centring) stands beside the
usual library on the same file, which neither checks nor centres. Seconds are those of the processor.
Prints JSON and writes it to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import bz2
import io
import itertools
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import ase.io
import msgpack
import numpy as np
from ase import Atoms
from ase.build import molecule
from rdkit import Chem
from record import RESULTS, record, row, write

from adit_scale.atoms import AtomSet
from adit_scale.data.config import DataConfig
from adit_scale.data.sources import read_source

SAMPLE = Path(__file__).resolve().parents[2] / "shared/data/qm9_sample.extxyz.gz"
CONFORMERS_A_MOLECULE, CONFORMERS_KEPT = 20, 5


def molecules(n: int) -> list[Atoms]:
    found: Any = ase.io.read(SAMPLE, index=":") if SAMPLE.is_file() else [molecule("CH4"), molecule("C6H6")]
    return list(itertools.islice(itertools.cycle(found), n))


def write_qm9(path: Path, sample: list[Atoms]) -> None:
    """A tar of QM9's form, with charges and frequencies that compress no better than real ones."""
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w:bz2") as tar:
        for i, atoms in enumerate(sample, start=1):
            rows = [
                "\t".join([symbol, *(f"{x:.10f}" for x in position), f"{charge:.6f}"])
                for symbol, position, charge in zip(
                    atoms.get_chemical_symbols(), atoms.positions, rng.normal(size=len(atoms)), strict=True
                )
            ]
            rows[-1] += "*^-1"
            properties = "\t".join(f"{x:.4f}" for x in rng.normal(size=15) * 100)
            frequencies = "\t".join(f"{x:.4f}" for x in np.sort(rng.uniform(50, 3500, 3 * len(atoms) - 6)))
            lines = [
                str(len(atoms)),
                f"gdb {i}\t{properties}",
                *rows,
                frequencies,
                "C\tC",
                "InChI=1S/C\tInChI=1S/C",
            ]
            data = ("\n".join(lines) + "\n").encode()
            info = tarfile.TarInfo(f"dsgdb9nsd_{i:06d}.xyz")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write_sdf(path: Path, sample: list[Atoms]) -> None:
    with path.open("w") as file:
        for i, atoms in enumerate(sample):
            rows = [
                f"{x:10.4f}{y:10.4f}{z:10.4f} {symbol:<3} 0  0  0  0  0  0  0  0  0  0  0  0\n"
                for symbol, (x, y, z) in zip(atoms.get_chemical_symbols(), atoms.positions, strict=True)
            ]
            bonds = [f"{j:3d}{j + 1:3d}  1  0\n" for j in range(1, len(atoms))]
            counts = f"{len(atoms):3d}{len(bonds):3d}  0  0  0  0  0  0  0  0999 V2000\n"
            file.write(f"m{i}\n  made              3D\n\n{counts}{''.join(rows + bonds)}M  END\n$$$$\n")


def write_geom(path: Path, sample: list[Atoms]) -> None:
    batch = {
        f"C{i}": {
            "conformers": [
                {"totalenergy": -float(k), "xyz": np.column_stack([atoms.numbers, atoms.positions]).tolist()}
                for k in range(CONFORMERS_A_MOLECULE)
            ]
        }
        for i, atoms in enumerate(sample)
    }
    path.write_bytes(msgpack.packb(batch))


def ours(path: Path) -> Iterator[Any]:
    config = DataConfig(qm9_uncharacterized=True, conformers=CONFORMERS_KEPT)
    for item in read_source(path, config):
        assert isinstance(item, AtomSet), item
        yield item


def by_ase(path: Path) -> Iterator[Any]:
    """As is usual: the standard library takes a file out, its exponents are mended, ASE reads the frame."""
    with tarfile.open(path) as tar:
        for info in tar:
            member = tar.extractfile(info)
            assert member is not None
            lines = member.read().decode().replace("*^", "e").split("\n")
            frame = "\n".join([lines[0], "", *lines[2 : 2 + int(lines[0])]]) + "\n"
            yield ase.io.read(io.StringIO(frame), format="extxyz")


def by_rdkit(path: Path) -> Iterator[Any]:
    for mol in Chem.SDMolSupplier(str(path), sanitize=False, removeHs=False):
        yield mol.GetConformer().GetPositions(), [atom.GetAtomicNum() for atom in mol.GetAtoms()]


def by_msgpack(path: Path) -> Iterator[Any]:
    for batch in msgpack.Unpacker(path.open("rb"), max_buffer_size=0):
        for value in batch.values():
            ranked = sorted(value["conformers"], key=lambda conformer: conformer["totalenergy"])
            yield from (np.array(conformer["xyz"]) for conformer in ranked[:CONFORMERS_KEPT])


def rate(read: Callable[[], Iterator[Any]], repeats: int) -> float:
    """Structures a processor second, the best of several times."""
    best = 0.0
    for _ in range(repeats):
        start = time.process_time()
        n = sum(1 for _ in read())
        best = max(best, n / (time.process_time() - start))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--molecules", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    arguments = parser.parse_args()
    sample = molecules(arguments.molecules)
    few = sample[: max(1, len(sample) // 10)]  # for what is slow
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        qm9, xyz, sdf, geom = (folder / n for n in ("dsgdb9nsd.xyz.tar.bz2", "a.xyz", "a.sdf", "a.msgpack"))
        write_qm9(qm9, sample)
        ase.io.write(xyz, few, format="extxyz")
        write_sdf(sdf, sample)
        write_geom(geom, few)
        repeats = arguments.repeats
        lowest = f"GEOM msgpack, {CONFORMERS_KEPT} of {CONFORMERS_A_MOLECULE} conformers"
        rivals: list[tuple[str, Path, str, Callable[[Path], Iterator[Any]], str]] = [
            ("QM9 as published (tar.bz2)", qm9, "tarfile and ase.io.read", by_ase, "molecules/s"),
            ("extended xyz", xyz, "ase.io.iread", lambda path: iter(ase.io.iread(path)), "molecules/s"),
            ("SDF V2000", sdf, "RDKit SDMolSupplier, unsanitised", by_rdkit, "molecules/s"),
            (lowest, geom, "msgpack.Unpacker of whole batches", by_msgpack, "conformers/s"),
        ]
        results = [
            row(
                what, rate(partial(ours, path), repeats), baseline, rate(partial(theirs, path), repeats), unit
            )
            for what, path, baseline, theirs, unit in rivals
        ]
        results[0]["bz2_alone"] = len(sample) * rate(
            lambda: iter([bz2.decompress(qm9.read_bytes())]), repeats
        )
    sample_name = SAMPLE.name if SAMPLE.is_file() else "ASE's CH4 and C6H6"
    for result in results:
        result.update(molecules=len(sample), sample=sample_name)
    write(
        "data_parsing", record("data_parsing", ["numpy", "ase", "rdkit", "msgpack"], results), arguments.out
    )


if __name__ == "__main__":
    main()

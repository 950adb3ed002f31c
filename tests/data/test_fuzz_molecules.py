"""2,000 damaged files a reader: every structure taken is what another parser reads from the same bytes."""

from __future__ import annotations

import gzip
import io
import random
import re
import tarfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ase.io
import msgpack
import numpy as np
import pytest
from ase.build import molecule
from ase.data import atomic_numbers, chemical_symbols
from rdkit import Chem, RDLogger

from adit_scale.atoms import AtomSet
from adit_scale.data.config import DataConfig
from adit_scale.data.sources import Record, Rejected, Source, convert, format_of, records_of
from adit_scale.errors import DataError
from tests.conftest import REPO
from tests.data.fuzzing import mutants
from tests.data.molecule_files import (
    BY_NUMBER,
    PLAIN,
    SALT,
    geom_value,
    molblock,
    qm9_file,
    tar_of,
    xyz_frame,
)

COUNT = 2000
Structure = tuple[np.ndarray, np.ndarray]  # numbers (n,), positions (n, 3)


@pytest.fixture(scope="module")
def structures() -> list[Structure]:
    """Molecules of QM9 and QM7 where the real files are at hand, else of ASE's collection."""
    found: list[Any] = []
    for name in ("qm9_sample", "qm7"):
        path = REPO.parent / f"shared/data/{name}.extxyz.gz"
        if path.is_file():
            with gzip.open(path, "rt") as file:
                found += list(ase.io.read(file, index=":900:30", format="extxyz"))
    found = found or [
        molecule(name) for name in ("CH4", "CH3CH2OH", "C6H6", "HCOOH", "CH3CONH2", "SiH4", "CO2")
    ]
    small = sorted(found, key=len)[:24]  # the smaller, the more often damage hits something that counts
    return [(atoms.numbers, atoms.positions) for atoms in small]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    RDLogger.EnableLog("rdApp.*")  # type: ignore[attr-defined]


def read_all(path: Path) -> list[tuple[Record, list[AtomSet]]]:
    """What is taken from each record. The rest must come with a reason; a whole file with one clear line."""
    source = Source(path, "fuzz")
    config = DataConfig(conformers=2)
    form = format_of(source)
    taken, refusal = [], f"{path}: refused"
    try:
        records = list(records_of(source, config))
    except DataError as error:
        records, refusal = [], str(error)
    assert str(path) in refusal
    assert len(refusal) < 600
    for record in records:
        items = convert(record, source, form, config)
        assert items
        reasons = [item.reason for item in items if isinstance(item, Rejected)]
        assert all(0 < len(reason) < 300 for reason in reasons), reasons
        taken.append((record, [item for item in items if isinstance(item, AtomSet)]))
    return taken


def same(ours: AtomSet, theirs: Structure) -> bool:
    numbers, positions = theirs
    if len(numbers) != len(ours) or not np.array_equal(numbers, ours.numbers):
        return False
    scale = max(1.0, float(np.abs(positions).max()) * 1e-6)  # beyond 1e6 Å float64 ends before 1e-6 Å
    return float(np.abs(positions - positions.mean(axis=0) - ours.positions).max()) < 1e-6 * scale


def test_xyz_agrees_with_ase(structures: list[Structure], tmp_path: Path) -> None:
    originals = []
    for i, (numbers, positions) in enumerate(structures):
        real = xyz_frame(numbers, positions, f'Properties=species:S:1:pos:R:3 id=m{i} pbc="F F F"')
        originals.append((real + (SALT, PLAIN, BY_NUMBER)[i % 3]).encode())
    path = tmp_path / "a.xyz"
    n_taken = 0
    for number, damaged in enumerate(mutants(originals, COUNT)):
        path.write_bytes(damaged)
        whole = ase_read(damaged, ":") if number % 10 == 0 else None  # slow
        for record, items in read_all(path):
            for item in items:
                n_taken += 1
                (alone,) = ase_read(record.payload, 0) or [None]
                assert alone is not None, record.payload
                assert equals_ase(item, alone), record.payload
                # ASE takes an empty line for the end of the file
                if whole is not None and not re.search(rb"\n\s*\n|^\s*\n", damaged):
                    assert any(equals_ase(item, atoms) for atoms in whole), damaged
    assert n_taken > COUNT / 2


def ase_read(data: bytes, index: Any) -> list[Any] | None:
    try:
        if not re.search(rb"(?<!\S)Properties=Z:I:1", data):  # only then does ASE take atomic numbers
            data = re.sub(rb"(?m)^([ \t]*)(\d{1,2})(?=[ \t]+\S+[ \t]+\S+[ \t]+\S)", symbol_of, data)
        text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8")
        found = ase.io.read(text, index=index, format="extxyz")
    except Exception:  # noqa: BLE001  (whatever ASE raises, it did not read it)
        return None
    return found if isinstance(found, list) else [found]


def symbol_of(match: re.Match[bytes]) -> bytes:
    return match[1] + chemical_symbols[min(int(match[2]), 118)].encode()


def equals_ase(ours: AtomSet, atoms: Any) -> bool:
    if not ours.periodic:
        return not atoms.pbc.any() and same(ours, (atoms.numbers, atoms.positions))
    if atoms.cell.rank < 3 or len(ours) != len(atoms):
        return False
    theirs = atoms.get_volume() / len(atoms)
    volume = abs(float(np.linalg.det(ours.cell))) / len(ours)
    return (
        bool(atoms.pbc.all())
        and np.array_equal(ours.numbers, atoms.numbers)
        and abs(theirs / volume - 1) < 1e-9
    )


def naive_qm9(data: bytes) -> dict[str, Structure]:
    """By name, what two lines of Python make of each file of an archive read by the standard library."""
    found: dict[str, Structure] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for info in tar:
            member = tar.extractfile(info)
            if member is None:
                continue
            try:
                lines = member.read().decode().replace("*^", "e").replace("\r\n", "\n").split("\n")
                rows = [line.split() for line in lines[2 : 2 + int(lines[0])]]
                numbers = np.array([atomic_numbers.get(row[0]) or int(row[0]) for row in rows])
                name = "gdb_" + lines[1].split()[1]
                found[name] = numbers, np.array([[float(x) for x in row[1:4]] for row in rows])
            except (ValueError, IndexError, tarfile.TarError):
                continue
    return found


def test_qm9_agrees_with_a_naive_reading(structures: list[Structure], tmp_path: Path) -> None:
    (tmp_path / "uncharacterized.txt").write_text("Index\n  999 C C\n")
    path = tmp_path / "dsgdb9nsd.xyz.tar"
    rng = random.Random(1)
    n_taken = 0
    pairs = list(zip(structures, structures[1:] + structures[:1], strict=True))
    originals = [(qm9_file(*a, 1), qm9_file(*b, 2)) for a, b in pairs]
    for number in range(COUNT):
        first, second = originals[number % len(originals)]
        if number % 2:  # half of the files are damaged inside, half in the archive around them
            first = next(mutants([first], 1, seed=number))
        data = tar_of({"dsgdb9nsd_000001.xyz": first, "dsgdb9nsd_000002.xyz": second})
        if not number % 2:
            data = next(mutants([data], 1, seed=rng.randrange(1 << 30)))
        path.write_bytes(data)
        taken = [(record, item) for record, items in read_all(path) for item in items]
        if taken:
            theirs = naive_qm9(data)
            for _, item in taken:
                assert same(item, theirs[item.id]), data
        n_taken += len(taken)
    assert n_taken > COUNT / 2


def rdkit_read(payload: bytes) -> Structure | None:
    text = payload.decode("latin-1").replace("\r\n", "\n")
    mol = Chem.MolFromMolBlock(text, sanitize=False, removeHs=False, strictParsing=True)
    if mol is None or not mol.GetNumConformers():
        return None
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    return numbers, mol.GetConformer().GetPositions()


def test_sdf_agrees_with_rdkit(structures: list[Structure], tmp_path: Path) -> None:
    originals = []
    for i, (numbers, positions) in enumerate(structures):
        blocks = [molblock(numbers, positions, v3000=bool(i % 2)), molblock(*structures[0], v3000=i % 4 > 1)]
        originals.append("".join(f"mol{block}>  <ID>\nx{i}\n\n$$$$\n" for block in blocks).encode())
    path = tmp_path / "a.sdf"
    n_taken = 0
    for damaged in mutants(originals, COUNT):
        path.write_bytes(damaged)
        for record, items in read_all(path):
            for item in items:
                n_taken += 1
                theirs = rdkit_read(record.payload)
                assert theirs is not None, record.payload
                assert same(item, theirs), record.payload
    assert n_taken > COUNT / 2


def naive_geom(data: bytes) -> dict[str, Structure]:
    found: dict[str, Structure] = {}
    options: Any = {
        "strict_map_key": False,
        "unicode_errors": "replace",
        "ext_hook": lambda code, data: None,
        "object_pairs_hook": lambda pairs: {k: v for k, v in pairs if isinstance(k, str)},
    }
    for batch in msgpack.Unpacker(io.BytesIO(data), **options):
        for smiles, value in batch.items():
            try:
                rows = [(c["totalenergy"], i, c.get("xyz")) for i, c in enumerate(value["conformers"])]
                ranked = sorted(rows)[:2]
            except (TypeError, LookupError, AttributeError):
                continue
            for rank, (_, _, xyz) in enumerate(ranked):
                try:
                    table = np.array(xyz, dtype=float)
                except (TypeError, ValueError):
                    continue
                if table.ndim == 2:
                    found[f"{smiles}#{rank}"] = table[:, 0].astype(int), table[:, 1:]
    return found


def test_geom_agrees_with_a_naive_reading(structures: list[Structure], tmp_path: Path) -> None:
    energies = [-5.0, -5.5, -5.25]
    originals = [
        msgpack.packb({"CCO": geom_value(*structures[0], energies)})
        + msgpack.packb(
            {"C#N": geom_value(*structure, energies[:2]), "[Na+].[Cl-]": geom_value(*structure, [1.0])}
        )
        for structure in structures
    ]
    path = tmp_path / "drugs_crude.msgpack"
    n_taken = 0
    for damaged in mutants(originals, COUNT):
        path.write_bytes(damaged)
        taken = [item for _, items in read_all(path) for item in items]
        theirs = naive_geom(damaged) if taken else {}
        for item in taken:
            assert item.id in theirs, damaged
            assert same(item, theirs[item.id]), damaged
        n_taken += len(taken)
    assert n_taken > COUNT / 2

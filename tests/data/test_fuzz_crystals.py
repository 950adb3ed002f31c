"""Damaged crystal files: each is what pymatgen or ASE reads from the same bytes, or refused with a reason."""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
import tarfile
from array import array
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import ase.db
import numpy as np
import pytest
from pymatgen.core.structure import StructureError

from adit_scale.atoms import AtomSet
from adit_scale.data.config import DataConfig
from adit_scale.data.sources import Source, format_of, records_of
from adit_scale.data.sources.source import UNUSABLE, Rejected, UnusableStructure
from adit_scale.data.sources.structures import standardise
from adit_scale.errors import DataError
from tests.data.crystal_files import (
    Crystal,
    json_text,
    p1_cif,
    poscar,
    read_cif,
    read_poscar,
    read_structure,
    same,
    structures,
    symmetric_cif,
    write_ase_db,
    zipped,
)
from tests.data.fuzzing import mutants

N_MUTANTS = 2000
CONFIG = DataConfig()
# What pymatgen and ASE were seen to raise on damaged files.
PARSER_ERRORS = (
    ValueError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError, RuntimeError,
    Warning, StructureError,
)  # fmt: skip


def accepted(path: Path) -> list[AtomSet]:
    """Structures of a file as they stand in it, if they have a standard form; none of a refused file.

    Fails on anything but a structure or a reason.
    """
    source = Source(path, "d")
    form = format_of(source)
    found: list[AtomSet | Rejected] = []
    reasons: list[str] = []
    try:
        for record in records_of(source, CONFIG):
            if record.kind == UNUSABLE:
                reasons.append(record.payload.decode())
            else:
                try:
                    found += form.parse(record, "d", CONFIG)
                except UnusableStructure as error:
                    reasons.append(str(error))
    except DataError as error:
        reasons.append(str(error))
        found = []
    reasons += [item.reason for item in found if isinstance(item, Rejected)]
    good = [item for item in found if isinstance(item, AtomSet) and not _fault(item)]
    assert good or reasons or found
    assert all(reasons)
    return good


def _fault(item: AtomSet) -> str:
    try:
        standardise(item)
    except UnusableStructure as error:
        return str(error)
    return ""


def check(
    path: Path, originals: list[bytes], read: Callable[[bytes], list[Crystal]], count: int = N_MUTANTS
) -> None:
    """``read`` is the independent parser; it may raise on what we refuse, never on what we take."""
    n_accepted = 0
    for original in originals:
        path.write_bytes(original)
        assert len(accepted(path)) >= 1
    for number, data in enumerate(mutants(originals, count)):
        path.write_bytes(data)
        ours = accepted(path)
        if not ours:
            continue
        theirs = read(data)
        n_accepted += 1
        for item in ours:
            assert any(same(item, other) for other in theirs), f"mutant {number}: {item}"
    assert n_accepted > count / 20


def text(data: bytes) -> str:
    return data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")


def test_cif(tmp_path: Path) -> None:
    _, quartz, low, one = structures()
    originals = [p1_cif(quartz), p1_cif(low), p1_cif(one), symmetric_cif(quartz)]
    check(tmp_path / "a.cif", [t.encode() for t in originals], lambda data: read_cif(text(data)))


def test_poscar(tmp_path: Path) -> None:
    originals = [poscar(s).encode() for s in structures()]
    check(tmp_path / "POSCAR", originals, lambda data: read_poscar(text(data)))


def test_json(tmp_path: Path) -> None:
    _, quartz, low, one = structures()
    entries = [{"qmof_id": f"qmof-{i}", "structure": s.as_dict()} for i, s in enumerate((low, one))]
    originals = [json_text(quartz), json_text(low), json.dumps(entries), json.dumps({"entries": entries})]

    def read(data: bytes) -> list[Crystal]:
        """The structures at each brace; so also those of a file that is damaged elsewhere."""
        t, decoder = data.decode("utf-8", "replace"), json.JSONDecoder()
        found: list[Crystal] = []
        for at in (match.start() for match in re.finditer(r'\{[^{}\[\]]{0,200}"lattice', t)):
            try:
                found.append(read_structure(decoder.raw_decode(t, at)[0]))
            except PARSER_ERRORS:
                continue  # one that we are to refuse
        return found

    check(tmp_path / "a.json", [t.encode() for t in originals], read)


def test_csv(tmp_path: Path) -> None:
    _, _, low, one = structures()
    stream = io.StringIO()
    table = csv.writer(stream)
    table.writerow(["", "material_id", "cif", "spacegroup.number"])
    table.writerows([i, f"mp-{i}", p1_cif(s), 1] for i, s in enumerate((one, low, one)))

    def read(data: bytes) -> list[Crystal]:
        found: list[Crystal] = []
        for row in csv.DictReader(io.StringIO(data.decode("utf-8", "replace"), newline="")):
            try:
                found += read_cif(row["cif"].replace("\r\n", "\n").replace("\r", "\n"))
            except PARSER_ERRORS:
                continue  # one that we are to refuse
        return found

    check(tmp_path / "a.csv", [stream.getvalue().encode()], read)


def test_ase_db(tmp_path: Path) -> None:
    _, quartz, low, one = structures()
    original = write_ase_db(tmp_path / "whole.db", [quartz, low, one]).read_bytes()
    path = tmp_path / "a.db"

    def read(data: bytes) -> list[Crystal]:
        found = []
        for i in range(1, 4):
            try:
                atoms = ase.db.connect(path, use_lock_file=False).get_atoms(id=i)
                found.append((atoms.numbers, atoms.cell.array, atoms.get_scaled_positions(wrap=False)))
            except (*PARSER_ERRORS, sqlite3.Error, OSError):
                found += _documented_columns(path, i)  # damage elsewhere hides the atoms from ASE
        return found

    check(path, [original], read)


def _documented_columns(path: Path, i: int) -> list[Crystal]:
    try:
        with closing(sqlite3.connect(path)) as database:
            query = "SELECT numbers, positions, cell FROM systems WHERE id = ?"
            numbers, positions, cell = database.execute(query, (i,)).fetchone()
        box = np.array(array("d", cell)).reshape(3, 3)
        places = np.array(array("d", positions)).reshape(-1, 3)
        return [(np.array(array("i", numbers)), box, places @ np.linalg.inv(box))]
    except (*PARSER_ERRORS, sqlite3.Error):
        return []  # one that we are to refuse


def test_zip(tmp_path: Path) -> None:
    """Members have checksums: what is taken is always an original."""
    _, quartz, low, one = structures()
    members = {"a/one.cif": p1_cif(one), "POSCAR_low": poscar(low), "q.json": json_text(quartz), "README": ""}
    original = zipped({name: t.encode() for name, t in members.items()})
    wanted = [*read_cif(p1_cif(one)), *read_poscar(poscar(low)), read_structure(quartz.as_dict())]
    check(tmp_path / "a.zip", [original], lambda data: wanted, N_MUTANTS)


def test_tar(tmp_path: Path) -> None:
    _, _, low, one = structures()
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, t in (("one.cif", p1_cif(one)), ("b/POSCAR", poscar(low))):
            member = tarfile.TarInfo(name)
            member.size = len(t.encode())
            archive.addfile(member, io.BytesIO(t.encode()))
    whole = stream.getvalue()

    def read(data: bytes) -> list[Crystal]:
        found: list[Crystal] = []
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                content = archive.extractfile(member)
                t = text(content.read()) if content else ""
                for parser in (read_cif, read_poscar):
                    try:
                        found += parser(t)
                    except PARSER_ERRORS:
                        continue
        return found

    # Most of an archive is padding; cut it down so that the damage falls on what is read.
    check(tmp_path / "a.tar", [whole[: 512 * 8] + b"\0" * 1024], read, N_MUTANTS)


@pytest.mark.parametrize("depth", [200, 100_000])
def test_deeply_nested_json(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"sites":' + "[" * depth + "]" * depth + "}]")
    assert accepted(path) == []

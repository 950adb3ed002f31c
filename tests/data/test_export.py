"""Structures written back out, read by ASE, pymatgen, RDKit and by our own readers."""

from __future__ import annotations

import csv
import gzip
import re
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import ase.io
import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifParser
from rdkit import Chem

from adit_scale.atoms import AtomSet
from adit_scale.data.build import build, build_from_sets
from adit_scale.data.config import DataConfig
from adit_scale.data.formats import sdf
from adit_scale.data.manifest import SPLITS, Manifest
from adit_scale.data.shards import ShardReader
from adit_scale.data.sources import Rejected, Source, read_source
from adit_scale.data.sources.structures import ELEMENT_SYMBOLS
from adit_scale.data.tools.export import Selection, export, export_list, selected
from adit_scale.errors import ConfigError, DataError
from tests.data.conftest import crystal, molecule

ODD_IDS = [
    "two words",
    "it's",
    'say "hi"',
    "both ' and \"",
    "Grüße-分子",
    "C/C=C\\C#1",
    "a,b;c|d[1]{2}",
    "x=1 y",
]
WATER = AtomSet(
    np.array([8, 1, 1]),
    np.array([[0.0, 0, 0.1173], [0, 0.7572, -0.4692], [0, -0.7572, -0.4692]]),
    np.zeros((3, 3)),
    periodic=False,
    dataset="mols",
    id="water",
)


@pytest.fixture(scope="module")
def small(small_data: Path) -> Manifest:
    return Manifest.load(small_data)


def stored(manifest: Manifest, split: str, dataset: str = "") -> list[AtomSet]:
    sets = ShardReader(manifest, split).read_sets(np.arange(manifest.n_sets(split)))
    return [s for s in sets if not dataset or s.dataset == dataset]


def data_of(sets: list[AtomSet], folder: Path) -> Manifest:
    """A data set in which all are of the train split."""
    return build_from_sets(sets, folder, DataConfig(validation_fraction=0, test_fraction=0))


def test_extxyz_read_by_ase(small: Manifest, tmp_path: Path) -> None:
    to = tmp_path / "train.extxyz"
    sets = stored(small, "train")
    assert export(small, Selection("train"), to) == f"{len(sets):,} structures"
    read = list(ase.io.iread(to, format="extxyz"))
    assert len(read) == len(sets)
    for atoms, atom_set in zip(read, sets, strict=True):
        assert atoms.info["id"] == atom_set.id
        assert atoms.info["dataset"] == atom_set.dataset
        assert atoms.info.get("spacegroup", 0) == atom_set.spacegroup
        assert atoms.pbc.tolist() == [atom_set.periodic] * 3
        assert atoms.numbers.tolist() == atom_set.numbers.tolist()
        assert np.abs(atoms.positions - atom_set.positions).max() < 1e-7
        assert np.abs(atoms.cell.array - atom_set.cell).max() < 1e-7


def test_gzip_and_plain_endings_hold_the_same(small: Manifest, tmp_path: Path) -> None:
    chosen = Selection("val")
    export(small, chosen, tmp_path / "a.xyz")
    export(small, chosen, tmp_path / "b.extxyz.gz")
    assert gzip.decompress((tmp_path / "b.extxyz.gz").read_bytes()) == (tmp_path / "a.xyz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.xyz", "b.extxyz.gz"]


def test_cif_read_by_pymatgen(small: Manifest, tmp_path: Path) -> None:
    to = tmp_path / "x.cif"
    sets = stored(small, "val", "xtals")
    export(small, Selection("val", dataset="xtals"), to)
    blocks = to.read_text().split("data_")[1:]
    assert [unquote(block.split("\n")[0]) for block in blocks] == [s.id for s in sets]
    assert len(sets) > 10
    for block, atom_set in zip(blocks, sets, strict=True):
        (structure,) = CifParser.from_str("data_" + block).parse_structures(primitive=False)
        assert np.allclose(structure.lattice.parameters, Lattice(atom_set.cell).parameters, atol=1e-6)
        places = {site.label: site for site in structure}  # in an order of pymatgen's own
        seen: Counter[str] = Counter()
        for z, fractional in zip(atom_set.numbers, atom_set.fractional, strict=True):
            symbol = ELEMENT_SYMBOLS[z]
            seen[symbol] += 1
            site = places.pop(f"{symbol}{seen[symbol]}")
            assert z == site.specie.Z
            apart = site.frac_coords - fractional
            assert np.abs((apart - np.round(apart)) @ atom_set.cell).max() < 1e-5
        assert not places


def test_sdf_read_by_rdkit(small: Manifest, tmp_path: Path) -> None:
    to = tmp_path / "m.sdf"
    sets = stored(small, "val", "mols")
    report = export(small, Selection("val", dataset="mols"), to)
    assert re.fullmatch(
        rf"{len(sets)} structures, \d+ of them without bonds; positions have 4 decimals", report
    )
    read = list(Chem.SDMolSupplier(str(to), removeHs=False, sanitize=False))
    assert len(read) == len(sets) > 10
    for mol, atom_set in zip(read, sets, strict=True):
        assert mol.GetProp("_Name") == atom_set.id
        assert mol.GetProp("dataset") == "mols"
        assert [atom.GetAtomicNum() for atom in mol.GetAtoms()] == atom_set.numbers.tolist()
        assert np.abs(mol.GetConformer().GetPositions() - atom_set.positions).max() < 1e-4


def test_sdf_has_the_bonds_of_a_real_molecule(tmp_path: Path) -> None:
    benzene = Chem.AddHs(Chem.MolFromSmiles("c1ccccc1C#N"))
    from rdkit.Chem import rdDistGeom

    rdDistGeom.EmbedMolecule(benzene, randomSeed=7)
    nitrile = AtomSet(
        np.array([a.GetAtomicNum() for a in benzene.GetAtoms()]),
        benzene.GetConformer().GetPositions(),
        np.zeros((3, 3)),
        periodic=False,
        dataset="mols",
        id="nitrile",
    )
    manifest = data_of([WATER, nitrile], tmp_path / "d")
    assert export(manifest, Selection("train"), tmp_path / "m.sdf").startswith(
        "2 structures, 0 of them without"
    )
    found = {
        mol.GetProp("_Name"): Chem.MolToSmiles(Chem.RemoveHs(mol))
        for mol in Chem.SDMolSupplier(str(tmp_path / "m.sdf"), removeHs=False)
    }
    assert found == {"water": "O", "nitrile": "N#Cc1ccccc1"}


@pytest.mark.parametrize("ending", [".extxyz", ".sdf"])
def test_odd_ids_of_molecules_survive(ending: str, tmp_path: Path) -> None:
    manifest = data_of([replace(WATER, id=name) for name in ODD_IDS], tmp_path / "d")
    to = tmp_path / f"m{ending}"
    export(manifest, Selection("train"), to)
    expected = [s.id for s in stored(manifest, "train")]
    if ending == ".extxyz":
        found = [atoms.info["id"] for atoms in ase.io.iread(to, format="extxyz")]
    else:
        found = [mol.GetProp("_Name") for mol in Chem.SDMolSupplier(str(to), sanitize=False)]
    assert found == expected
    assert sorted(found) == sorted(ODD_IDS)
    assert [s.id for s in read_source(Source(to, "mols"))] == expected


def test_odd_ids_of_crystals_survive_percent_encoded(tmp_path: Path) -> None:
    names = [*ODD_IDS, "new\nline", " around "]
    rng = np.random.default_rng(5)
    manifest = data_of([crystal(rng, 3, name) for name in names], tmp_path / "d")
    to = tmp_path / "x.cif"
    export(manifest, Selection("train"), to)
    assert to.read_text().isascii()
    found = [unquote(s.id) for s in read_source(Source(to, "xtals")) if not isinstance(s, Rejected)]
    assert found == [s.id for s in stored(manifest, "train")]
    assert sorted(found) == sorted(names)


@pytest.mark.parametrize("name", ["new\nline", "tab\tbed", "line\u2028", "bell\x07", " around "])
@pytest.mark.parametrize("ending", [".extxyz", ".sdf"])
def test_ids_that_a_line_cannot_hold_are_refused(name: str, ending: str, tmp_path: Path) -> None:
    manifest = data_of([replace(WATER, id=name)], tmp_path / "d")
    with pytest.raises(DataError, match=r"^mols .* its id, which a line of text does not keep; use --to"):
        export(manifest, Selection("train"), tmp_path / f"m{ending}")
    assert not list(tmp_path.glob("m*"))
    with pytest.raises(DataError, match="its id"):
        export_list(manifest, Selection("train"), tmp_path / "ids.txt")


def test_what_a_format_cannot_hold_is_named_with_the_cure(small: Manifest, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    large = data_of([molecule(rng, 1000, "big")], tmp_path / "large")
    mols, xtals = Selection("val", dataset="mols"), Selection("val", dataset="xtals")
    for manifest, chosen, name, says in (
        (small, mols, "m.cif", r"mols 'm\d+' is a molecule, .*FILE.sdf or FILE.extxyz"),
        (small, xtals, "x.sdf", r"xtals 'x\d+' is a crystal, .*FILE.cif or FILE.extxyz"),
        (large, Selection("train"), "m.sdf", r"mols 'big' has 1000 atoms; .* 999; use --to FILE.extxyz"),
        (small, mols, "m.pdb", r"m.pdb: unknown kind of file; expected .extxyz, .xyz, .cif, .sdf"),
        (small, Selection("val", dataset="qm8"), "m.xyz", r"no data set 'qm8'.*expected one of mols, xtals"),
        (small, Selection("val", start=10_000), "m.xyz", r"no structure chosen: val has \d+; check --range"),
        (small, Selection("val", names=frozenset({("", "nope")})), "m.xyz", r"no 'nope' in val; it may be"),
    ):
        with pytest.raises(DataError, match=says):
            export(manifest, chosen, tmp_path / name)
        assert not list(tmp_path.glob("*.*"))


def test_sdf_columns_are_not_overrun() -> None:
    with pytest.raises(DataError, match=r"mols 'water' reaches beyond 9999.9999 angstrom; use"):
        sdf(replace(WATER, positions=WATER.positions * 20_000))
    with pytest.raises(DataError, match="ends a record of SDF"):
        sdf(replace(WATER, id="a$$$$b"))


def test_ranges_ids_and_lists(small: Manifest, tmp_path: Path) -> None:
    everything = stored(small, "train")

    def ids(*words: Any) -> list[str]:
        return [s.id for s in selected(small, Selection.from_words("train", *words))]

    assert ids("3:45") == [s.id for s in everything[3:45]]
    assert ids("150:") == [s.id for s in everything[150:]]
    assert ids(":5") == [s.id for s in everything[:5]]
    assert ids("0:100000") == [s.id for s in everything]
    some = [everything[70], everything[2]]
    assert ids("", ",".join(s.id for s in some)) == [everything[2].id, everything[70].id]
    chosen = Selection.from_words("train", "10:30", dataset="mols")
    assert [s.id for s in selected(small, chosen)] == [s.id for s in everything[10:30] if s.dataset == "mols"]

    assert export_list(small, Selection("train"), tmp_path / "ids.txt") == len(everything)
    assert (tmp_path / "ids.txt").read_text().splitlines() == [f"{s.dataset}\t{s.id}" for s in everything]
    assert ids("", "", tmp_path / "ids.txt") == [s.id for s in everything]
    (tmp_path / "ids.txt").write_text("\n")
    wrong: tuple[Any, ...] = (("1",), ("a:b",), ("-3:5",), ("", "", tmp_path / "ids.txt"))
    for words in wrong:
        with pytest.raises((ConfigError, DataError), match=r"--range is|holds no ids"):
            Selection.from_words("train", *words)


def test_a_list_freezes_the_split(
    small: Manifest, some_sets: list[AtomSet], small_config: DataConfig, tmp_path: Path
) -> None:
    lists = {}
    for split in ("val", "test"):
        export_list(small, Selection(split), tmp_path / f"{split}.txt")
        lists[split] = str(tmp_path / f"{split}.txt")
    config = replace(small_config, split_lists=lists, validation_fraction=0, test_fraction=0)
    again = build_from_sets(some_sets, tmp_path / "again", config)
    for split in SPLITS:
        assert {s.id for s in stored(again, split)} == {s.id for s in stored(small, split)}


def test_real_structures_come_back_as_they_were(shared: Path, tmp_path: Path) -> None:
    with gzip.open(shared / "data/qm9_sample.extxyz.gz", "rt") as stream:
        frames = stream.read(40_000).rsplit("\n", 1)[0].splitlines()
    starts = [i for i, line in enumerate(frames) if line.strip().isdigit()][:41]
    (tmp_path / "qm9.extxyz").write_text("\n".join(frames[: starts[-1]]) + "\n")
    with gzip.open(shared / "data/mp20_biternary_val.csv.gz", "rt", newline="") as stream:
        rows = list(islice(csv.reader(stream), 41))
    with (tmp_path / "mp20.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    sources = [Source.from_word(str(tmp_path / name)) for name in ("qm9.extxyz", "mp20.csv")]
    config = DataConfig(validation_fraction=0, test_fraction=0, build_workers=1)
    manifest = build(sources, tmp_path / "d", config)
    export(manifest, Selection("train", dataset="qm9"), tmp_path / "out.extxyz")
    before = {a.info["id"]: a for a in ase.io.iread(tmp_path / "qm9.extxyz", format="extxyz")}
    after = {a.info["id"]: a for a in ase.io.iread(tmp_path / "out.extxyz", format="extxyz")}
    assert before.keys() == after.keys()
    assert len(after) == 40
    for name, atoms in before.items():
        assert (atoms.numbers == after[name].numbers).all()
        assert np.abs(atoms.positions - atoms.positions.mean(0) - after[name].positions).max() < 1e-5
    export(manifest, Selection("train", dataset="mp20"), tmp_path / "out.cif")
    crystals = {s.id: s for s in read_source(Source(tmp_path / "mp20.csv", "mp20"))}
    structures = CifParser(tmp_path / "out.cif").parse_structures(primitive=False)
    names = re.findall(r"data_(\S+)", (tmp_path / "out.cif").read_text())
    assert (
        len(names) == len(structures) == len([c for c in crystals.values() if isinstance(c, AtomSet)]) == 40
    )
    for name, structure in zip(names, structures, strict=True):
        source = crystals[unquote(name)]
        given = Structure(Lattice(source.cell), source.numbers, source.fractional)
        assert StructureMatcher().fit(given, structure)

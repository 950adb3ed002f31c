"""Held-out structures that stand in the training data, found by what they are."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from adit_scale.atoms import AtomSet
from adit_scale.data.build import build_from_sets
from adit_scale.data.config import DataConfig
from adit_scale.data.leakage import keys_of
from adit_scale.data.tools.commands import main as data_command
from adit_scale.evaluation.leakage import Leak, find_leaks, molecule_key
from adit_scale.jobs.evaluate_commands import leakage as leakage_command


def conformers(smiles: str, n: int, dataset: str = "m") -> list[AtomSet]:
    """Geometries of one molecule, the atoms of each in another order."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMultipleConfs(mol, n, randomSeed=1)
    rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol)
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    rng = np.random.default_rng(0)
    sets = []
    for i, conformer in enumerate(mol.GetConformers()):
        order = rng.permutation(len(numbers))
        positions = conformer.GetPositions()[order]
        sets.append(AtomSet(numbers[order], positions, np.zeros((3, 3)), False, dataset, id=f"{smiles}-{i}"))
    return sets


def rock_salt(name: str, edge: float = 5.64, n: int = 1, anion: int = 17) -> AtomSet:
    """NaCl's conventional cell, repeated n times along one axis."""
    one = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    fractional = np.concatenate([one, (one + 0.5) % 1])
    sites = np.concatenate([fractional + np.array([i, 0, 0]) for i in range(n)])
    numbers = np.tile(np.repeat([11, anion], 4), n)
    return AtomSet(numbers, sites * edge, np.diag([edge * n, edge, edge]), True, "x", 225, id=name)


def caesium_chloride(name: str, edge: float) -> AtomSet:
    positions = np.array([[0, 0, 0], [0.5, 0.5, 0.5]]) * edge
    return AtomSet(np.array([11, 17]), positions, np.eye(3) * edge, True, "x", 221, id=name)


@pytest.mark.parametrize("smiles", ["C[C@H](O)CC", "C/C=C/CO", "C[C@H]1CC[C@@H](O)CC1", "C/C(F)=N\\O"])
def test_conformers_share_a_key(smiles: str):
    assert len({molecule_key(conformer) for conformer in conformers(smiles, 5)}) == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("C[C@H](O)CC", "C[C@@H](O)CC"),  # mirror images
        ("C/C=C/CO", "C/C=C\\CO"),
        ("C/C(F)=N/O", "C/C(F)=N\\O"),
        ("C[C@H]1CC[C@@H](O)CC1", "C[C@H]1CC[C@H](O)CC1"),  # cis and trans on a ring
        ("CCCO", "CC(C)O"),
        ("OC=C", "CC=O"),  # tautomers
    ],
)
def test_isomers_have_keys_of_their_own(first: str, second: str):
    (a,), (b,) = conformers(first, 1), conformers(second, 1)
    assert sorted(a.numbers.tolist()) == sorted(b.numbers.tolist())
    assert molecule_key(a) != molecule_key(b)


def test_compositions_of_crystals_are_reduced_and_those_of_molecules_are_not():
    ethylene, butene = conformers("C=C", 1)[0], conformers("C=CCC", 1)[0]
    keys = keys_of([rock_salt("a"), rock_salt("b", n=2), rock_salt("c", anion=35), ethylene, butene])
    assert keys.dtype == np.uint64
    assert keys[0] == keys[1]
    assert len(set(keys.tolist())) == 4


def _data(folder: Path, train: list[AtomSet], val: list[AtomSet]) -> DataConfig:
    """Shards of which ``val`` is the validation split."""
    listed = folder / "val.txt"
    listed.write_text("".join(f"{s.id}\n" for s in val))
    config = DataConfig(
        validation_fraction=0, test_fraction=0, split_lists={"val": str(listed)}, build_workers=1
    )
    build_from_sets([*train, *val], folder / "shards", config)
    return dataclasses.replace(config, shards=str(folder / "shards"))


def test_leaks_are_counted_and_named_and_look_alikes_are_not(tmp_path: Path):
    seen, unseen = conformers("C[C@H](O)C#N", 3), conformers("OCCC#N", 1)
    train = [*seen[:2], *conformers("NCCO", 1), rock_salt("salt"), caesium_chloride("dense", 2.9)]
    val = [
        seen[2],
        *unseen,
        rock_salt("supercell", n=2),
        rock_salt("swollen", edge=6.0),  # 20% more volume
        rock_salt("bromide", anion=35),
    ]
    data = _data(tmp_path, train, val)
    found = find_leaks(data)
    assert found["molecule"].n_leaked == 1
    assert found["molecule"].examples == ["m/C[C@H](O)C#N-2"]
    assert found["crystal"] == Leak(3, 3, 1, 2, 2, ["x/supercell"])
    assert found["crystal"].describe("crystal", "val") == (
        "1 of 3 val crystals stand in the training data: x/supercell"
    )
    assert find_leaks(data, "test") == {}


def test_a_search_out_of_time_says_so(tmp_path: Path):
    data = _data(tmp_path, conformers("C[C@H](O)C#N", 3), conformers("OCCC#N", 1))
    leak = find_leaks(data, limit_s=-1)["molecule"]
    assert (leak.n_read, leak.n_training) == (0, 3)
    assert leak.describe("molecule", "val").endswith("; only 0 of 3 training molecules were read")


def test_the_command_tells_leaks_by_its_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    seen = conformers("C[C@H](O)C#N", 2)
    data = _data(tmp_path, seen[:1], seen[1:])
    assert leakage_command([data.shards], "adit evaluate leakage") == 1
    assert capsys.readouterr().out.startswith(
        "1 of 1 val molecules stand in the training data: m/C[C@H](O)C#N-1"
    )


def test_real_samples_leak_by_id_and_not_by_composition(shared: Path, tmp_path: Path):
    """QM7 and QM9 share molecules; splitting by composition keeps their copies together."""
    sources = [f"{name}={shared}/data/{name}{end}" for name, end in (("qm9", "_sample.extxyz.gz"),)]
    sources.append(f"qm7={shared}/data/qm7.extxyz.gz")
    shares = {}
    for split_by in ("id", "composition"):
        out = tmp_path / split_by
        words = ["build", *sources, "--out", str(out), "--split-by", split_by, "--workers", "1"]
        assert data_command(words) == 0
        data = DataConfig(shards=str(out))
        shares[split_by] = [find_leaks(data, split)["molecule"].n_leaked for split in ("val", "test")]
    assert shares == {"id": [1, 5], "composition": [0, 0]}

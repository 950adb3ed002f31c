"""Molecules of SMILES with positions, for the tests of molecules' protocols."""

from __future__ import annotations

import numpy as np
from hand_made import molecule
from rdkit import Chem
from rdkit.Chem.rdDistGeom import EmbedMolecule
from rdkit.Chem.rdForceFieldHelpers import MMFFOptimizeMolecule

from adit_scale.atoms import AtomSet


def embedded(smiles: str) -> AtomSet:
    """One conformer, relaxed by MMFF, all hydrogens explicit."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert EmbedMolecule(mol, randomSeed=7) == 0
    MMFFOptimizeMolecule(mol)
    return molecule([atom.GetAtomicNum() for atom in mol.GetAtoms()], mol.GetConformer().GetPositions())


def noisy(atom_set: AtomSet, scale_angstrom: float, seed: int = 0) -> AtomSet:
    """Gaussian noise on every coordinate."""
    noise = np.random.default_rng(seed).normal(0, scale_angstrom, atom_set.positions.shape)
    return molecule(atom_set.numbers, atom_set.positions + noise)


def tangle() -> AtomSet:
    """23 atoms of a graphene flake with C, N, O, P and S at random and no hydrogen: RDKit's search for bond
    orders tries combinations without end."""
    edge = 1.42
    sheet = []
    for i in range(4):
        for j in range(4):
            corner = np.array([1.5 * edge * i, (j + 0.5 * (i % 2)) * edge * 3**0.5, 0])
            sheet += [corner, corner + np.array([0.5 * edge, edge * 3**0.5 / 2, 0])]
    rng = np.random.default_rng(6)
    numbers, kept = rng.choice([6, 7, 8, 16, 15], len(sheet)), rng.random(len(sheet)) < 0.8
    positions = np.array(sheet)[kept] + rng.normal(0, 0.05, (kept.sum(), 3))
    return molecule(numbers[kept], positions)

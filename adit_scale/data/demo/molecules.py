"""Small organic molecules, enumerated and embedded here: H, C, N, O and the halogens, at most nine atoms.

Trees of single bonds are grown atom by atom, then bonds are raised and at most one ring is closed in every
way the valences allow, in every stereoisomer; a molecule is known by its canonical isomeric SMILES. What a
chemist would not keep in a bottle is left out. ETKDGv3 with a fixed seed and MMFF94 give the geometry.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from functools import cache

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers
from rdkit.Chem.EnumerateStereoisomers import EnumerateStereoisomers, StereoEnumerationOptions

from adit_scale.atoms import AtomSet

DATASET = "demo_molecules"
MAX_HEAVY_ATOMS = 6
# Hydrogens included. A molecule is stable only if every distance in it is right to about 0.1 angstrom: small
# denoisers make whole molecules only where these are small.
MAX_ATOMS = 9
EMBEDDING_SEED = 20250

VALENCES = {"C": 4, "N": 3, "O": 2, "F": 1, "Cl": 1, "Br": 1, "I": 1}
BOND_TYPES = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}

# Kept out of the corpus, by SMARTS.
UNWANTED = (
    "*=*=*",  # cumulenes
    "[r]#[r]",  # a triple bond in a ring
    "[r3]=*",  # a double bond in or at a three-membered ring
    "[r4]=[r4]",  # a double bond in a four-membered ring
    "[#7,#8;r3][#7,#8;r3]",  # a three-membered ring with two heteroatoms
    "[r4]1[#7,#8][#7,#8]*1",  # a four-membered ring with neighbouring heteroatoms
    "N=[N,O]",  # azo and nitroso
    "[CX3]=[NX2H]",  # imines that bear hydrogen
    "[CX4]([#7,#8;!H0])[#7,#8,#9,#17,#35,#53]",  # hemiacetals, hemiaminals, geminal diols, halohydrins
    "[CX4]([#9,#17,#35,#53])[#7,#8]",  # alpha-halo ethers and amines
    "C=C[#7,#8;!H0]",  # enols and enamines that bear hydrogen
    "[#6](=[#7])[OH]",  # imidic acids
    "C(=O)([OH])[#7,#8]",  # carbonic and carbamic acids
    "[#9,#17,#35,#53][#6](=*)[#7,#8]",  # haloformates and their like
    "C#C[#7,#8,#9,#17,#35,#53]",  # ynols, ynamines, haloalkynes
    "N#C[#7,#8,#9,#17,#35,#53]",  # cyanamides, cyanates, cyanogen halides
    "O=C[r3;#7,#8]",  # acyl epoxides through the ring's heteroatom
    "O=*1*[#8,#7]1",  # alpha-lactones
)

# Distances in picometres below which two atoms count as bonded once, twice, three times: the EDM table
# (Hoogeboom et al. 2022) with its margins, for the elements of this corpus; no such bond where it has none.
BOND_LIMITS_PM: dict[str, tuple[int, ...]] = {
    "Br-Br": (238,),
    "Br-C": (204,),
    "Br-Cl": (224,),
    "Br-F": (188,),
    "Br-H": (151,),
    "Br-I": (),
    "Br-N": (224,),
    "Br-O": (182,),
    "C-C": (164, 139, 123),
    "C-Cl": (187,),
    "C-F": (145,),
    "C-H": (119,),
    "C-I": (224,),
    "C-N": (157, 134, 119),
    "C-O": (153, 125, 116),
    "Cl-Cl": (209,),
    "Cl-F": (176,),
    "Cl-H": (137,),
    "Cl-I": (),
    "Cl-N": (185,),
    "Cl-O": (174,),
    "F-F": (152,),
    "F-H": (102,),
    "F-I": (197,),
    "F-N": (146,),
    "F-O": (152,),
    "H-H": (84,),
    "H-I": (171,),
    "H-N": (111,),
    "H-O": (106,),
    "I-I": (276,),
    "I-N": (232,),
    "I-O": (204,),
    "N-N": (155, 130, 113),
    "N-O": (150, 126),
    "O-O": (158, 126),
}
# How far inside its limits every distance must lie, so that the verdict is not a coin toss.
CLEARANCE_PM = 2.0

Graph = tuple[tuple[str, ...], dict[tuple[int, int], int]]  # elements; bond order by (i, j), i < j


def generate_molecules(count: int, max_heavy_atoms: int = MAX_HEAVY_ATOMS) -> Iterator[AtomSet]:
    """Up to ``count`` molecules: every small one that qualifies, then a fixed choice of the largest.

    The choice goes by the hash of the SMILES, so that a smaller corpus is a part of a larger one. Molecules
    are centred on their mean position, heavy atoms first in SMILES order.
    """
    made = 0
    for smiles in candidate_smiles(max_heavy_atoms):
        if made == count:
            return
        molecule = embed(smiles)
        if molecule is not None:
            made += 1
            yield molecule


def candidate_smiles(max_heavy_atoms: int = MAX_HEAVY_ATOMS) -> list[str]:
    """Canonical isomeric SMILES in the order of the corpus, fewest atoms first, before any geometry."""
    n_atoms: dict[str, int] = {}
    for trees in _grow_trees(max_heavy_atoms):
        for smiles in _raise_bonds(trees):
            if _is_sensible(smiles):
                for isomer in _stereoisomers(smiles):
                    n_atoms[isomer] = Chem.AddHs(Chem.MolFromSmiles(isomer)).GetNumAtoms()
    return sorted(n_atoms, key=lambda s: (n_atoms[s], hashlib.sha256(s.encode()).digest()))


def embed(smiles: str) -> AtomSet | None:
    """The molecule in space, or None where embedding fails or a distance does not say what the bond is."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    # RDKit's defaults for the rest are those of ETKDGv3.
    if rdDistGeom.EmbedMolecule(mol, randomSeed=EMBEDDING_SEED, ETversion=2) != 0:
        return None
    if mol.GetNumAtoms() > 1 and not _minimise(mol):
        return None
    positions = mol.GetConformer().GetPositions()
    positions = np.round(positions - positions.mean(axis=0), 4) + 0.0  # no negative zeros in the bytes
    if not bonds_are_clear(mol, positions):
        return None
    return AtomSet(
        numbers=np.array([a.GetAtomicNum() for a in mol.GetAtoms()]),
        positions=positions,
        cell=np.zeros((3, 3)),
        periodic=False,
        dataset=DATASET,
        id=smiles,
    )


def bonds_are_clear(mol: Chem.Mol, positions: np.ndarray, clearance_pm: float = CLEARANCE_PM) -> bool:
    """Whether every pair's distance gives the bond order of the graph, with room to spare.

    mol: with explicit hydrogens. positions: ``(n, 3)`` angstrom. Orders are those of one Kekule structure.
    """
    mol = Chem.Mol(mol)
    Chem.Kekulize(mol, clearAromaticFlags=True)
    symbols = [a.GetSymbol() for a in mol.GetAtoms()]
    order = {(b.GetBeginAtomIdx(), b.GetEndAtomIdx()): int(b.GetBondTypeAsDouble()) for b in mol.GetBonds()}
    order.update({(j, i): o for (i, j), o in order.items()})
    distance_pm = 100 * np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    for i in range(len(symbols)):
        for j in range(i):
            limits = BOND_LIMITS_PM["-".join(sorted((symbols[i], symbols[j])))]
            expected = order.get((i, j), 0)
            for shift_pm in (-clearance_pm, clearance_pm):
                if sum(distance_pm[i, j] + shift_pm < limit for limit in limits) != expected:
                    return False
    return True


def _minimise(mol: Chem.Mol) -> bool:
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol, mmffVariant="MMFF94")
    if properties is None:
        return False
    field = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, properties)
    # A tight tolerance: the end point must not depend on the last digits of the start.
    return field.Minimize(maxIts=5000, forceTol=1e-6, energyTol=1e-10) == 0


def _grow_trees(max_heavy_atoms: int) -> list[dict[str, Graph]]:
    """Molecules of single bonds without rings, by SMILES, a level for each number of heavy atoms."""
    levels: list[dict[str, Graph]] = [{_smiles(((e,), {})): ((e,), {}) for e in VALENCES}]
    for n in range(1, max_heavy_atoms):
        level: dict[str, Graph] = {}
        for elements, bonds in levels[-1].values():
            free = _free_valences((elements, bonds))
            for i in range(n):
                for element in VALENCES if free[i] else ():
                    graph = ((*elements, element), {**bonds, (i, n): 1})
                    if _heteroatoms_are_apart(graph):
                        level.setdefault(_smiles(graph), graph)
        levels.append(level)
    return levels


def _raise_bonds(trees: dict[str, Graph]) -> dict[str, Graph]:
    """The trees, and all that comes of them by raising bond orders and closing at most one ring."""
    found = dict(trees)
    queue = deque(trees.values())
    while queue:
        elements, bonds = queue.popleft()
        n = len(elements)
        free = _free_valences((elements, bonds))
        for i in range(n):
            for j in range(i + 1, n):
                order = bonds.get((i, j), 0)
                has_ring = len(bonds) == n
                if not (free[i] and free[j]) or order == 3 or (order == 0 and has_ring):
                    continue
                graph = (elements, {**bonds, (i, j): order + 1})
                if not _heteroatoms_are_apart(graph) or _has_cumulene(graph):
                    continue
                smiles = _smiles(graph)
                if smiles not in found:
                    found[smiles] = graph
                    queue.append(graph)
    return found


def _stereoisomers(smiles: str) -> set[str]:
    options = StereoEnumerationOptions(onlyUnassigned=True, unique=True)
    return {Chem.MolToSmiles(m) for m in EnumerateStereoisomers(Chem.MolFromSmiles(smiles), options)}


def _free_valences(graph: Graph) -> list[int]:
    elements, bonds = graph
    free = [VALENCES[e] for e in elements]
    for (i, j), order in bonds.items():
        free[i] -= order
        free[j] -= order
    return free


def _heteroatoms_are_apart(graph: Graph) -> bool:
    """At most one bond between heteroatoms, and that one N-N or N-O."""
    elements, bonds = graph
    pairs = [elements[i] + elements[j] for i, j in bonds if "C" not in (elements[i], elements[j])]
    return not pairs or pairs in (["NN"], ["NO"], ["ON"])


def _has_cumulene(graph: Graph) -> bool:
    """Whether an atom takes part in two multiple bonds."""
    multiple = [i for pair, order in graph[1].items() if order > 1 for i in pair]
    return len(multiple) != len(set(multiple))


def _smiles(graph: Graph) -> str:
    elements, bonds = graph
    mol = Chem.RWMol()
    for element in elements:
        mol.AddAtom(Chem.Atom(element))
    for (i, j), order in bonds.items():
        mol.AddBond(i, j, BOND_TYPES[order])
    Chem.SanitizeMol(mol)
    return Chem.MolToSmiles(mol)


@cache
def _unwanted_patterns() -> tuple[Chem.Mol, ...]:
    return tuple(Chem.MolFromSmarts(s) for s in UNWANTED)


def _is_sensible(smiles: str) -> bool:
    mol = Chem.MolFromSmiles(smiles)
    symbols = {a.GetSymbol() for a in mol.GetAtoms()}
    n_atoms = Chem.AddHs(mol).GetNumAtoms()
    if n_atoms > MAX_ATOMS or (mol.GetNumAtoms() > 1 and "C" not in symbols):
        return False
    # Patterns speak of double bonds where a ring such as furan's is perceived as aromatic.
    Chem.Kekulize(mol, clearAromaticFlags=True)
    return not any(mol.HasSubstructMatch(p) for p in _unwanted_patterns())

"""Held-out structures that stand in the training data: their loss measures memory.

Crystals are the same when their reduced compositions are equal, their volumes an atom agree to 2% and the
matcher of uniqueness and novelty says so. Molecules are the same when all their atoms, hydrogens included,
are bonded alike, with equal stereochemistry: conformers of one molecule are, isomers and mirror images are
not. Atoms are bonded that are nearer than their covalent radii and 0.4 angstrom.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rdkit import Chem

from adit_scale.atoms import CRYSTAL, DOMAIN_NAMES, AtomSet
from adit_scale.data.building.duplicates import VOLUME_TOLERANCE
from adit_scale.data.config import DataConfig
from adit_scale.data.leakage import Search, keys_of, training_sets_of
from adit_scale.data.loader import reference_sets
from adit_scale.data.manifest import Manifest, open_manifest
from adit_scale.evaluation.bonds import bond_orders
from adit_scale.evaluation.crystals.candidates import bucket_key
from adit_scale.evaluation.crystals.components import Components, Matcher, Pairs
from adit_scale.evaluation.crystals.composition import Composition, reduced_composition
from adit_scale.evaluation.crystals.matching import TOLERANCES
from adit_scale.evaluation.crystals.reduction import ReducedCell, reduce_crystal
from adit_scale.evaluation.crystals.structure import structural_fault
from adit_scale.evaluation.decode import rdkit_molecule
from adit_scale.evaluation.limited import map_limited
from adit_scale.evaluation.molecules.common import Limits, sample_fault

BOND_MARGIN_ANGSTROM = 0.4
MAX_HELD_OUT = 2000  # of a domain; what a validation looks at is less
NAMED = 5
CALL_LIMIT_S = 10.0
LIMIT_S = 300.0
INLINE_SETS = 20_000
Progress = Callable[[str, int, int], object]


@dataclass(frozen=True)
class Leak:
    """Of one domain. n_held_out: held-out structures looked at, of n_split in the split. n_leaked: those that
    stand in the training data; examples: the first few, as DATA SET/ID. n_training: training structures,
    n_read: those looked at; where these are fewer, n_leaked is a lower bound."""

    n_held_out: int
    n_split: int
    n_leaked: int
    n_training: int
    n_read: int
    examples: list[str]

    @property
    def share(self) -> float:
        return self.n_leaked / self.n_held_out if self.n_held_out else 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def describe(self, domain: str, split: str) -> str:
        """One line for a terminal."""
        of = f" (the first of {self.n_split:,})" if self.n_held_out < self.n_split else ""
        found = f"{self.n_leaked:,} of {self.n_held_out:,} {split} {domain}s{of} stand in the training data"
        named = f": {', '.join(self.examples)}{', ...' if self.n_leaked > NAMED else ''}"
        least = f"; only {self.n_read:,} of {self.n_training:,} training {domain}s were read"
        return found + (named if self.examples else "") + (least if self.n_read < self.n_training else "")


def find_leaks(
    data: DataConfig,
    split: str = "val",
    *,
    processes: int = 0,
    limit_s: float = LIMIT_S,
    progress: Progress | None = None,
) -> dict[str, Leak]:
    """By domain's name, for every domain that the split holds.

    processes: for the chemistry of large sets; 0 is inline. limit_s: for each domain. Raises DataError for
    missing or damaged shards.
    """
    manifest, found = open_manifest(data), {}
    for domain, name in sorted(DOMAIN_NAMES.items(), key=lambda item: item[1]):
        held_out = reference_sets(data, split, domain, MAX_HELD_OUT)
        if held_out:
            search = _Search(manifest, domain, held_out, processes, limit_s, _said(progress, name))
            leaked = search.crystals() if domain == CRYSTAL else search.molecules()
            n_split = sum(int((rows["domain"] == domain).sum()) for _, rows in manifest.split(split).chunks())
            examples = [f"{s.dataset}/{s.id}" for s in leaked[:NAMED]]
            state = search.state
            found[name] = Leak(len(held_out), n_split, len(leaked), state.n_training, state.n_read, examples)
    return found


def _said(progress: Progress | None, name: str) -> Callable[[int, int], object] | None:
    return None if progress is None else lambda done, total: progress(f"leakage of {name}s", done, total)


def molecule_key(molecule: AtomSet) -> str:
    """A canonical text: which atoms are bonded, the handedness of centres, cis or trans at double bonds.

    The same for conformers of one molecule, another for its isomers and for its mirror image.
    """
    numbers, positions = molecule.numbers, molecule.positions
    radius = Chem.GetPeriodicTable().GetRcovalent
    reach = np.array([radius(z) for z in numbers.tolist()])
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    bonded = distance < reach[:, None] + reach + BOND_MARGIN_ANGSTROM
    np.fill_diagonal(bonded, False)
    # Orders of bonds change with the geometry: all count as single, and what they decide is found below.
    mol = rdkit_molecule(numbers, positions, bonded.astype(np.int64))
    for atom in mol.GetAtoms():
        atom.SetNoImplicit(True)
    mol.UpdatePropertyCache(strict=False)
    Chem.FastFindRings(mol)
    Chem.AssignAtomChiralTagsFromStructure(mol)
    Chem.AssignStereochemistry(mol, cleanIt=True, force=True)
    ranks = np.array(list(Chem.CanonicalRankAtoms(mol, breakTies=False)))
    double = (bond_orders(numbers, positions) > 1) & bonded
    return f"{Chem.MolToSmiles(mol)} {' '.join(_cis_trans(mol, positions, double, ranks))}".rstrip()


def _cis_trans(mol: Chem.Mol, positions: np.ndarray, double: np.ndarray, ranks: np.ndarray) -> list[str]:
    """Of double bonds outside of rings, both of whose ends have neighbours that differ: on which side the
    first neighbours lie. ranks: of the atoms, whatever their order in the molecule."""
    found = []
    for bond in mol.GetBonds():
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if not double[i, j] or bond.IsInRing():
            continue
        first, second = (_leading_neighbour(mol, end, other, ranks) for end, other in ((i, j), (j, i)))
        if first is None or second is None:
            continue
        axis = positions[j] - positions[i]
        u, v = positions[first] - positions[i], positions[second] - positions[j]
        side = np.dot(np.cross(u, axis), np.cross(v, axis))
        low, high = sorted((int(ranks[i]), int(ranks[j])))
        found.append(f"{low}{'c' if side > 0 else 't'}{high}")
    return sorted(found)


def _leading_neighbour(mol: Chem.Mol, atom: int, other: int, ranks: np.ndarray) -> int | None:
    """The neighbour of the highest rank beside ``other``; None where there is none, or two of one rank."""
    beside = [n.GetIdx() for n in mol.GetAtomWithIdx(atom).GetNeighbors() if n.GetIdx() != other]
    if not 1 <= len(beside) <= 2 or len({int(ranks[n]) for n in beside}) < len(beside):
        return None
    return max(beside, key=lambda n: int(ranks[n]))


class _Search:
    """For the held-out sets of one domain."""

    def __init__(
        self,
        manifest: Manifest,
        domain: int,
        held_out: Sequence[AtomSet],
        processes: int,
        limit_s: float,
        progress: Callable[[int, int], object] | None,
    ) -> None:
        self.held_out, self.processes, self.state = held_out, processes, Search()
        keys = set(keys_of(held_out).tolist())
        self._chunks = training_sets_of(manifest, domain, keys, self.state, limit_s, progress)

    def molecules(self) -> list[AtomSet]:
        """The held-out molecules that stand in training."""
        own = self._keys(self.held_out)
        wanted, seen = {key for key in own if key}, set[str]()
        for chunk in self._chunks:
            seen |= wanted & set(self._keys(chunk))
        return [s for s, key in zip(self.held_out, own, strict=True) if key in seen]

    def _keys(self, sets: Sequence[AtomSet]) -> list[str]:
        """Nothing for what is no molecule, and for what takes too long."""
        limits = Limits(CALL_LIMIT_S, self.processes if len(sets) > INLINE_SETS else 0)
        found = limits.map(_key, sets, [sample_fault(s) for s in sets])
        return [answer[0] if isinstance(answer, tuple) else "" for answer in found]

    def crystals(self) -> list[AtomSet]:
        """The held-out crystals that stand in training."""
        by_composition: dict[Composition, list[int]] = defaultdict(list)
        for i, crystal in enumerate(self.held_out):
            by_composition[reduced_composition(crystal.numbers)].append(i)
        volumes = [_log_volume(crystal) for crystal in self.held_out]
        own: dict[int, ReducedCell] = {}
        leaked: set[int] = set()
        for chunk in self._chunks:
            pairs = [
                (i, j)
                for j, crystal in enumerate(chunk)
                for i in by_composition.get(reduced_composition(crystal.numbers), ())
                if abs(_log_volume(crystal) - volumes[i]) <= math.log1p(VOLUME_TOLERANCE)
            ]
            own |= self._reduced(self.held_out, {i for i, _ in pairs} - set(own))
            others = self._reduced(chunk, {j for _, j in pairs})
            leaked |= self._matched(own, others, [(i, j) for i, j in pairs if i in own and j in others])
        return [self.held_out[place] for place in sorted(leaked)]

    def _reduced(self, crystals: Sequence[AtomSet], places: set[int]) -> dict[int, ReducedCell]:
        """Of valid structures; what cannot be reduced, or not in time, is compared with nothing."""
        usable = [i for i in sorted(places) if structural_fault(crystals[i]) is None]
        cells = map_limited(
            reduce_crystal,
            [crystals[i] for i in usable],
            limit_s=CALL_LIMIT_S,
            processes=self.processes,
        )
        return {i: cell for i, cell in zip(usable, cells, strict=True) if isinstance(cell, ReducedCell)}

    def _matched(
        self, own: dict[int, ReducedCell], others: dict[int, ReducedCell], pairs: list[tuple[int, int]]
    ) -> set[int]:
        """The first places of pairs that are one structure."""
        alike = [(i, j) for i, j in pairs if bucket_key(own[i].numbers) == bucket_key(others[j].numbers)]
        if not alike:
            return set()
        place = {j: len(self.held_out) + k for k, j in enumerate(others)}
        cells = {**own, **{place[j]: cell for j, cell in others.items()}}
        dense = {node: k for k, node in enumerate(cells)}
        unlike = [np.abs(own[i].profile - others[j].profile).max() for i, j in alike]
        first, second = np.array([(dense[i], dense[place[j]]) for i, j in alike]).T
        training = len(self.held_out)  # the node that stands for the training set
        nodes = np.array([node if node < training else training for node in cells])
        components = Components(training + 1)
        matcher = Matcher(TOLERANCES["default"], CALL_LIMIT_S, self.processes)
        matcher.join(list(cells.values()), nodes, Pairs(first, second, np.array(unlike)), components)
        return {i for i, _ in alike if components.root(i) == components.root(training)}


def _key(molecule: AtomSet) -> tuple[str]:
    """Told apart from the reason of a call that was cut off."""
    return (molecule_key(molecule),)


def _log_volume(crystal: AtomSet) -> float:
    """Log of the volume an atom; NaN, which is near to nothing, for a cell without volume."""
    volume = abs(float(np.linalg.det(crystal.cell)))
    return math.log(volume / len(crystal)) if volume > 0 else math.nan

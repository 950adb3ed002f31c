"""What the protocols share: which samples are no molecule at all, RDKit's errors, limited calls."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from rdkit import Chem

from adit_scale.atoms import MAX_ATOMIC_NUMBER, AtomSet
from adit_scale.evaluation.decode import NON_FINITE_COORDINATES, Invalid, rdkit_molecule
from adit_scale.evaluation.limited import Overrun, map_limited

T = TypeVar("T")
R = TypeVar("R")
Sample = AtomSet | Invalid

NO_ATOMS = "no atoms"
NO_ELEMENT = f"atomic number outside 1 to {MAX_ATOMIC_NUMBER}"
FAR_COORDINATES = "coordinates beyond a micrometre"
BAD_VALENCE = "valence not possible"
NOT_KEKULISED = "rings cannot be kekulised"
NOT_SANITISED = "does not sanitise"
FRAGMENTS = "more than one fragment"

# Squares of distances stay finite below it, in RDKit's C++ as well; no molecule comes near.
MAX_COORDINATE_ANGSTROM = 1e4

_SANITISE_FAULTS = {
    Chem.SanitizeFlags.SANITIZE_PROPERTIES: BAD_VALENCE,
    Chem.SanitizeFlags.SANITIZE_KEKULIZE: NOT_KEKULISED,
}


class Importing(Generic[T, R]):
    """A function of a package that takes seconds to import.

    Unpickled in the process that forks the workers it imports the package there, once, and outside of every
    call's time limit. The sending process itself never imports it.
    """

    def __init__(self, package: str, function: Callable[[T], R]) -> None:
        self.package, self.function = package, function

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        importlib.import_module(self.package)

    def __call__(self, item: T) -> R:
        return self.function(item)


@dataclass(frozen=True)
class Limits:
    """Of calls into chemistry packages: wall seconds of one call, and processes; 0 runs them inline."""

    limit_s: float
    processes: int

    def map(
        self,
        function: Callable[[Any], R],
        items: Sequence[Any],
        reasons: Sequence[str | None],
        progress: Callable[[int], object] | None = None,
    ) -> list[R | str]:
        """``function`` of each item whose reason is None; in place of the others, and of calls that were
        cut off, the reason."""
        asked = [i for i, reason in enumerate(reasons) if reason is None]
        found: list[R | str] = [reason or "" for reason in reasons]
        if progress is not None and len(asked) < len(items):
            progress(len(items) - len(asked))
        answers = map_limited(
            function,
            [items[i] for i in asked],
            limit_s=self.limit_s,
            processes=self.processes,
            progress=progress,
        )
        for i, answer in zip(asked, answers, strict=True):
            found[i] = answer.reason if isinstance(answer, Overrun) else answer
        return found


def sample_fault(sample: Sample) -> str | None:
    """Why the sample is no molecule under any protocol, or None."""
    if isinstance(sample, Invalid):
        return sample.reason
    if not len(sample):
        return NO_ATOMS
    if (sample.numbers < 1).any() or (sample.numbers > MAX_ATOMIC_NUMBER).any():
        return NO_ELEMENT
    # No comparison with NaN holds, so a molecule of NaNs would pass as lone atoms.
    if not np.isfinite(sample.positions).all():
        return NON_FINITE_COORDINATES
    if np.abs(sample.positions).max() > MAX_COORDINATE_ANGSTROM:
        return FAR_COORDINATES
    return None


def unbonded(sample: AtomSet) -> Chem.RWMol:
    """The atoms at their positions, without bonds."""
    return rdkit_molecule(sample.numbers, sample.positions, np.zeros((0, 0), dtype=np.int64))


def sanitise_fault(mol: Chem.Mol) -> str | None:
    """RDKit's full sanitisation in place; the fault where a step fails."""
    failed = Chem.SanitizeMol(mol, catchErrors=True)
    if failed == Chem.SanitizeFlags.SANITIZE_NONE:
        return None
    return _SANITISE_FAULTS.get(failed, NOT_SANITISED)


def formula(numbers: np.ndarray) -> str:
    """Hill's formula (C, H, then by letter; without carbon all by letter); "" where an element is unknown."""
    if not len(numbers) or numbers.min() < 1 or numbers.max() > MAX_ATOMIC_NUMBER:
        return ""
    symbol = Chem.GetPeriodicTable().GetElementSymbol
    counts = Counter(symbol(number) for number in numbers.tolist())
    first = [s for s in ("C", "H") if s in counts] if "C" in counts else []
    rest = sorted(set(counts) - set(first))
    return "".join(f"{s}{counts[s] if counts[s] > 1 else ''}" for s in (*first, *rest))

"""Compositional validity by SMACT's rules (Davies et al. 2019), as CDVAE's protocol applies them.

A composition is valid when it is one element, or an alloy of metals only, or when some choice of one
oxidation state an element is neutral in total and gives every cation a lower electronegativity than every
anion. The verdicts are those of ``smact.screening.smact_validity``, from the same tables. SMACT tries every
combination of states, which does not end for the ten-element compositions of a barely trained model; here
the reachable total charges are enumerated instead, which takes milliseconds at any size.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Iterable, Sequence
from importlib.metadata import version

import numpy as np
import smact
from rdkit import Chem

from adit_scale.atoms import MAX_ATOMIC_NUMBER, AtomSet
from adit_scale.evaluation.decode import NON_FINITE_TYPES, Invalid

NO_ATOMS = "no atoms"
NO_ELEMENT = f"atomic number outside 1 to {MAX_ATOMIC_NUMBER}"
NO_OXIDATION_STATES = "an element has no oxidation states in the list"
NOT_NEUTRAL = "no neutral choice of oxidation states"
WRONG_POLARITY = "no neutral choice with anions more electronegative than cations"

_ATTRIBUTE_OF_LIST = {
    "smact14": "oxidation_states_smact14",
    "icsd24": "oxidation_states_icsd24",
    "pymatgen_sp": "oxidation_states_sp",
}

Composition = tuple[tuple[int, int], ...]  # (atomic number, count), by atomic number, counts coprime


def reduced_composition(numbers: np.ndarray) -> Composition:
    """The composition of ``numbers (n,)`` divided by its greatest common factor."""
    elements, counts = np.unique(numbers, return_counts=True)
    factor = math.gcd(*counts.tolist())
    return tuple(zip(elements.tolist(), (counts // factor).tolist(), strict=True))


def compositional_fault(crystal: AtomSet | Invalid, oxidation_states: str = "smact14") -> str | None:
    """Why SMACT's rules refuse the composition, or None. A sample without a cell still has one."""
    fault = elements_fault(crystal.numbers)
    return fault or composition_fault(reduced_composition(crystal.numbers), oxidation_states)


def elements_fault(numbers: np.ndarray) -> str | None:
    """Why ``numbers (n,)`` are no atoms, or None. A sample whose types are not finite holds zeros."""
    if not len(numbers):
        return NO_ATOMS
    if not np.all(numbers):
        return NON_FINITE_TYPES
    if numbers.min() < 1 or numbers.max() > MAX_ATOMIC_NUMBER:
        return NO_ELEMENT
    return None


def composition_protocol(oxidation_states: str) -> str:
    """One line that names the rule, its list and its package."""
    return (
        f"SMACT {version('smact')}: neutral with anions more electronegative than cations, or one element, "
        f"or metals only; oxidation states {oxidation_states}"
    )


@functools.lru_cache(maxsize=100_000)
def formula(composition: Composition) -> str:
    """Reduced formula as pymatgen writes it, such as ``LiFePO4``."""
    from pymatgen.core import Composition as Formula  # heavy
    from pymatgen.core import Element

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of noble gases, which have no electronegativity to be sorted by
        return Formula({Element.from_Z(number): count for number, count in composition}).reduced_formula


@functools.cache
def _element(atomic_number: int) -> smact.Element:
    return smact.Element(Chem.GetPeriodicTable().GetElementSymbol(atomic_number))


@functools.lru_cache(maxsize=100_000)
def composition_fault(composition: Composition, oxidation_states: str = "smact14") -> str | None:
    """Why the composition is invalid with this list of oxidation states, or None where it is valid."""
    elements = [_element(number) for number, _ in composition]
    counts = [count for _, count in composition]
    if len(elements) == 1 or all(element.symbol in smact.metals for element in elements):
        return None
    states = [getattr(element, _ATTRIBUTE_OF_LIST[oxidation_states]) for element in elements]
    if not all(states):
        return NO_OXIDATION_STATES
    if not _reaches_zero(counts, states):
        return NOT_NEUTRAL
    known = (element.pauling_eneg for element in elements)
    electronegativities = [value for value in known if value is not None]
    if len(electronegativities) < len(elements):
        return WRONG_POLARITY
    # With the most electronegative cation at `limit`, every anion lies above it: so below and at the
    # limit no element is negative, above it none is positive.
    for limit in set(electronegativities):
        polar = [
            [state for state in of_element if (state >= 0 if value <= limit else state <= 0)]
            for of_element, value in zip(states, electronegativities, strict=True)
        ]
        if _reaches_zero(counts, polar):
            return None
    return WRONG_POLARITY


def _reaches_zero(counts: Sequence[int], states: Sequence[Iterable[int]]) -> bool:
    """Whether one state an element can be chosen so that Σ count·state = 0."""
    totals = {0}
    for count, of_element in zip(counts, states, strict=True):
        totals = {total + count * state for total in totals for state in of_element}
    return 0 in totals

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Composition, Element
from smact.screening import smact_validity

from adit_scale.evaluation.config import OXIDATION_LISTS
from adit_scale.evaluation.crystals.composition import (
    NO_OXIDATION_STATES,
    NOT_NEUTRAL,
    WRONG_POLARITY,
    composition_fault,
    reduced_composition,
)


def fault(formula: str, oxidation_states: str = "smact14") -> str | None:
    numbers = [z for z, n in _counts(formula) for _ in range(n)]
    return composition_fault(reduced_composition(np.array(numbers)), oxidation_states)


def _counts(formula: str) -> list[tuple[int, int]]:
    return [(element.Z, int(n)) for element, n in Composition(formula).items()]


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("NaCl", None),
        ("Na4Cl4", None),
        ("LiFePO4", None),
        ("Si", None),  # one element
        ("Cl", None),
        ("MgHg2", None),  # metals only
        ("NaCl2", NOT_NEUTRAL),
        ("HeO", NO_OXIDATION_STATES),
    ],
)
def test_verdicts(formula, expected):
    assert fault(formula) == expected


def test_reduced_composition():
    assert reduced_composition(np.array([17, 11, 17, 11])) == ((11, 1), (17, 1))
    assert reduced_composition(np.array([8] * 6 + [26] * 4)) == ((8, 3), (26, 2))


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.integers(1, 99), st.integers(1, 9), min_size=1, max_size=4),
    st.sampled_from(OXIDATION_LISTS),
)
def test_verdict_is_that_of_smact(counts, oxidation_states):
    numbers = np.array([z for z, n in counts.items() for _ in range(n)])
    ours = composition_fault(reduced_composition(numbers), oxidation_states) is None
    composition = Composition({Element.from_Z(z): n for z, n in counts.items()})
    assert ours == smact_validity(composition, oxidation_states_set=oxidation_states)


def test_polarity_is_judged_after_neutrality():
    """Among real pairs of elements some are neutral only with the anion on the wrong side."""
    reasons = {composition_fault(((a, 1), (b, 1))) for a in range(1, 90) for b in range(a + 1, 90)}
    assert reasons == {None, NOT_NEUTRAL, WRONG_POLARITY, NO_OXIDATION_STATES}


def test_sixteen_elements_take_milliseconds():
    """SMACT would try every one of more than 10^9 combinations of oxidation states: none is neutral."""
    metals = [22, 23, 24, 25, 26, 27, 28, 29, 42, 44, 74, 75, 76, 77]
    composition = ((1, 1), *((z, 7) for z in metals), (99, 7))
    start = time.perf_counter()
    assert composition_fault(composition) == NOT_NEUTRAL
    assert time.perf_counter() - start < 0.5

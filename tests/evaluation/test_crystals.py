"""The verdicts of whole sets of crystals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hand_made import crystal
from hypothesis import given, settings
from hypothesis import strategies as st

from adit_scale.atoms import CRYSTAL, AtomSet
from adit_scale.data.sources import read_source
from adit_scale.evaluation.config import EvaluationConfig
from adit_scale.evaluation.crystals import judge_crystals
from adit_scale.evaluation.crystals.composition import NO_ATOMS, NO_ELEMENT, NOT_NEUTRAL
from adit_scale.evaluation.crystals.distinct import KNOWN, REPEATED
from adit_scale.evaluation.crystals.environments import environment_fault
from adit_scale.evaluation.crystals.structure import ELONGATED, EMPTY, LARGE_CELL, OVERLAP, SMALL_VOLUME
from adit_scale.evaluation.crystals.symmetry import P1, spacegroups
from adit_scale.evaluation.decode import NON_FINITE_TYPES, OPEN_ANGLES, Invalid
from adit_scale.evaluation.verdicts import OVER_TIME

ALWAYS = ("structural", "smact14", "icsd24", "valid", "p1_not_0.1", "p1_not_0.01", "unique")


def named(atom_set: AtomSet, id: str) -> AtomSet:
    return AtomSet(atom_set.numbers, atom_set.positions, atom_set.cell, True, "hand", id=id)


def shaken(atom_set: AtomSet, sigma_angstrom: float, seed: int = 0) -> AtomSet:
    noise = np.random.default_rng(seed).normal(0, sigma_angstrom, (len(atom_set), 3))
    return AtomSet(atom_set.numbers, atom_set.positions + noise, atom_set.cell, True, "hand")


@pytest.fixture
def samples(rock_salt, rock_salt_primitive) -> list[AtomSet | Invalid]:
    squeezed = crystal(rock_salt.numbers, rock_salt.fractional, rock_salt.cell * 0.1)
    sodium_chlorine_2 = crystal([11, 17, 17], [[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0]], np.eye(3) * 6)
    caesium = crystal([55, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], np.eye(3) * 4.12)
    crystals = [rock_salt, squeezed, sodium_chlorine_2, rock_salt_primitive, caesium]
    open_cell = Invalid(CRYSTAL, OPEN_ANGLES, np.array([11, 17]), "5")
    return [*(named(c, str(i)) for i, c in enumerate(crystals)), open_cell]


def test_every_sample_has_a_verdict_and_a_reason(samples, rock_salt_primitive):
    """In processes, with limits, as users call it."""
    done: list[int] = []
    caesium = crystal([55, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], np.eye(3) * 4.3)
    verdicts = judge_crystals(samples, EvaluationConfig(processes=2), [caesium], done.append)
    passed = {name: check.passed.astype(int).tolist() for name, check in verdicts.checks.items()}
    assert passed == {
        "structural": [1, 0, 1, 1, 1, 0],
        "smact14": [1, 1, 0, 1, 1, 1],
        "icsd24": [1, 1, 0, 1, 1, 1],
        "valid": [1, 0, 0, 1, 1, 0],
        "p1_not_0.1": [1, 0, 1, 1, 1, 0],
        "p1_not_0.01": [1, 0, 1, 1, 1, 0],
        "unique": [1, 0, 0, 0, 1, 0],
        "novel": [1, 0, 0, 1, 0, 0],
    }
    reasons = {name: check.reasons for name, check in verdicts.checks.items()}
    assert reasons["valid"] == ["", OVERLAP, NOT_NEUTRAL, "", "", OPEN_ANGLES]
    assert reasons["unique"] == ["", OVERLAP, NOT_NEUTRAL, REPEATED, "", OPEN_ANGLES]
    assert reasons["novel"] == ["", OVERLAP, NOT_NEUTRAL, "", KNOWN, OPEN_ANGLES]
    assert verdicts.labels["group"] == ["0", "", "", "0", "4", ""]
    assert verdicts.labels["formula"] == ["NaCl", "NaCl", "NaCl2", "NaCl", "CsCl", "NaCl"]
    assert verdicts.values["spacegroup_0.1"].tolist() == [225, 0, 123, 225, 221, 0]
    assert verdicts.values["n_elements"].tolist() == [2] * 6
    density = verdicts.values["density_g_cm3"]
    assert density[0] == pytest.approx(2.164, abs=0.002)  # rock salt weighs 2.17 g/cm³
    assert density[3] == pytest.approx(density[0])
    assert density[1] == pytest.approx(1000 * density[0])
    assert np.isnan(density[5])
    assert verdicts.values["volume_a3_per_atom"][0] == pytest.approx(5.64**3 / 8)
    assert sum(done) == len(samples)
    assert "ltol 0.2, stol 0.3, angle_tol 5°" in verdicts.checks["unique"].protocol
    assert "1 training crystals" in verdicts.checks["novel"].protocol


def test_what_is_not_asked_is_not_there(samples):
    config = EvaluationConfig(crystal_uniqueness=False, novelty=False, oxidation_states="pymatgen_sp")
    verdicts = judge_crystals(samples, config, samples[:1], processes=0)
    assert {"unique", "novel", "crystalnn"}.isdisjoint(verdicts.checks)
    assert {"smact14", "icsd24", "pymatgen_sp"} <= set(verdicts.checks)
    nothing = judge_crystals([], EvaluationConfig(), [], processes=0)
    assert len(nothing) == 0
    assert set(nothing.checks) == {*ALWAYS, "novel"}


def test_a_call_over_the_limit_fails_with_that_reason(rock_salt):
    """A thousand atoms take spglib and the reduction longer than the limit."""
    edge = np.array(list(itertools.product(range(5), repeat=3)))
    fractional = ((rock_salt.fractional[:, None] + edge) / 5).reshape(-1, 3)
    large = crystal(np.repeat(rock_salt.numbers, 125), fractional, rock_salt.cell * 5)
    config = EvaluationConfig(processes=1, call_limit_s=0.05)
    verdicts = judge_crystals([large, large], config)
    assert verdicts.checks["structural"].passed.all()
    assert verdicts.checks["p1_not_0.1"].reasons == [OVER_TIME] * 2
    assert verdicts.checks["unique"].reasons == [OVER_TIME] * 2
    assert verdicts.values["spacegroup_0.01"].tolist() == [0, 0]


def test_the_tolerance_decides_on_symmetry(rock_salt):
    assert spacegroups(rock_salt) == (225, 225)
    assert spacegroups(shaken(rock_salt, 0.02)) == (225, 1)
    config = EvaluationConfig(crystal_uniqueness=False)
    verdicts = judge_crystals([shaken(rock_salt, 0.3)], config, processes=0)
    assert verdicts.checks["p1_not_0.1"].reasons == [P1]


def test_crystalnn_finds_the_neighbours_of_salt(rock_salt_primitive):
    config = EvaluationConfig(crystalnn=True, crystal_uniqueness=False)
    verdicts = judge_crystals([rock_salt_primitive], config, processes=0)
    assert verdicts.checks["crystalnn"].passed.all()
    assert environment_fault(rock_salt_primitive) is None


def edge_cases() -> list[tuple[AtomSet | Invalid, str | None]]:
    """Odd samples and their structural fault."""

    def at(numbers, fractional, cell):
        cell = np.array(cell, dtype=float)
        return AtomSet(np.array(numbers), np.array(fractional, dtype=float) @ cell, cell, True, "odd")

    def bare(numbers, cell):
        return AtomSet(np.array(numbers, dtype=int), np.zeros((len(numbers), 3)), cell, True, "odd")

    origin = [[0.0, 0, 0]]
    many = np.random.default_rng(0)
    return [
        (at([11, 17], origin * 2, np.eye(3) * 5), OVERLAP),
        (at([11], origin, np.zeros((3, 3))), SMALL_VOLUME),
        (at([11], origin, [[3, 0, 0], [0, 3, 0], [3, 3, 0]]), SMALL_VOLUME),
        (at([11], origin, np.eye(3) * 1e-3), SMALL_VOLUME),
        (at([11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], np.eye(3) * 1e6), None),
        (at([11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], np.diag([1e4, 1, 1])), None),
        (at([11], origin, np.eye(3) * 1e300), LARGE_CELL),
        (bare([11], np.full((3, 3), np.inf)), "cell is not finite"),
        (at([11], [[np.nan, 0, 0]], np.eye(3) * 4), "coordinates are not finite"),
        (at([0], origin, np.eye(3) * 4), NON_FINITE_TYPES),
        (at([120], origin, np.eye(3) * 4), NO_ELEMENT),
        (bare([], np.eye(3) * 4), NO_ATOMS),
        (Invalid(CRYSTAL, "decoder says no", np.zeros(0, int)), "decoder says no"),
        (Invalid(CRYSTAL, NON_FINITE_TYPES, np.array([0, 17])), NON_FINITE_TYPES),
        (at([29], origin, np.eye(3) * 2.5), None),
        (at([2, 10, 18], [[0, 0, 0], [0.3, 0.3, 0.3], [0.6, 0.6, 0.6]], np.eye(3) * 6), None),
        (at([14] * 60, many.random((60, 3)), np.eye(3) * 40), None),
    ]


def test_odd_samples_are_judged():
    samples, faults = zip(*edge_cases() * 2, strict=True)  # twice, so that each has company to be matched
    verdicts = judge_crystals(samples, EvaluationConfig(), samples[14:17], processes=0)
    reasons = verdicts.checks["structural"].reasons
    assert [reason or None for reason in reasons] == list(faults)
    unsound = np.array([fault is not None for fault in faults])
    for name, check in verdicts.checks.items():
        assert name in ("smact14", "icsd24") or not check.passed[unsound].any()
        assert all(bool(reason) != ok for reason, ok in zip(check.reasons, check.passed, strict=True))
    assert verdicts.checks["p1_not_0.1"].reasons[4:6] == [EMPTY, ELONGATED]
    assert verdicts.checks["unique"].reasons[4:6] == [EMPTY, ELONGATED]
    assert verdicts.checks["novel"].reasons[14:17] == [KNOWN, verdicts.checks["valid"].reasons[15], KNOWN]


lengths = st.floats(1e-3, 1e6) | st.floats(0.5, 8)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 99), min_size=1, max_size=6),
    st.tuples(lengths, lengths, lengths),
    st.lists(st.floats(-3, 3), min_size=3, max_size=3),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_no_crystal_is_an_error(numbers, edges, shears, seed, on_grid):
    rng = np.random.default_rng(seed)
    fractional = rng.integers(0, 4, (len(numbers), 3)) / 4 if on_grid else rng.random((len(numbers), 3))
    cell = np.diag(edges)
    cell[1, 0], cell[2, 0], cell[2, 1] = np.array(shears) * np.array(edges)[[0, 0, 1]]
    sample = AtomSet(np.array(numbers), fractional @ cell, cell, True, "odd", id="a")
    verdicts = judge_crystals([sample, sample], EvaluationConfig(), [sample], processes=0)
    valid = verdicts.checks["valid"].passed
    assert valid[0] == valid[1]
    # A copy is a copy, and known, whatever its cell, unless it cannot be reduced.
    assert not verdicts.checks["unique"].passed[1]
    assert not verdicts.checks["novel"].passed.any()


@pytest.mark.real_data
def test_mp20_scores_as_measured_with_smact(shared):
    """The first 500 of mp20_biternary_val: the ceiling of composition is not 100%."""
    stream = read_source(shared / "data" / "mp20_biternary_val.csv.gz")
    sets = [s for s in itertools.islice(stream, 500) if isinstance(s, AtomSet)]
    assert len(sets) == 500
    config = EvaluationConfig(crystal_uniqueness=False)
    invalid = [Invalid(CRYSTAL, OPEN_ANGLES, s.numbers) for s in sets]  # composition is all that is asked
    verdicts = judge_crystals(invalid, config, processes=0)
    assert 100 * verdicts.rate("smact14").value == pytest.approx(88.6, abs=0.3)
    assert 100 * verdicts.rate("icsd24").value == pytest.approx(88.6, abs=0.3)
    some = judge_crystals(sets[:60], config, processes=0)
    assert some.rate("structural").successes == 60
    assert some.passed("valid").tolist() == some.passed("smact14").tolist()
    assert some.rate("p1_not_0.1").value > 0.9

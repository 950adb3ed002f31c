from __future__ import annotations

import itertools
import json
import time

import numpy as np
import pytest
from hand_made import crystal

from adit_scale.atoms import CRYSTAL, MOLECULE, AtomSet
from adit_scale.data.sources import read_source
from adit_scale.errors import DataError
from adit_scale.evaluation.config import EvaluationConfig
from adit_scale.evaluation.decode import OPEN_ANGLES, Invalid
from adit_scale.evaluation.score import Scores, score_sets
from adit_scale.evaluation.statistics import Rate

CRYSTAL_NAMES = {
    "crystal/structural_validity",
    "crystal/compositional_validity",
    "crystal/validity",
    "crystal/uniqueness",
}
MOLECULE_NAMES = {
    "molecule/edm_atom_stability",
    "molecule/edm_molecule_stability",
    "molecule/edm_validity",
    "molecule/edm_valid_and_connected",
    "molecule/edm_uniqueness",
    "molecule/edm_valid_and_unique",
}


@pytest.fixture
def scores(methane, benzene, rock_salt, rock_salt_primitive) -> Scores:
    molecules = [methane, benzene, Invalid(MOLECULE, "coordinates are not finite", np.array([6]))]
    crystals = [rock_salt, rock_salt_primitive, Invalid(CRYSTAL, OPEN_ANGLES, np.array([11, 17]))]
    return score_sets(molecules, crystals, EvaluationConfig())


def test_names_and_counts(scores):
    assert set(scores.rates) == MOLECULE_NAMES | CRYSTAL_NAMES
    counts = {name: (rate.successes, rate.trials) for name, rate in scores.rates.items()}
    assert counts["molecule/edm_validity"] == (2, 3)
    assert counts["molecule/edm_molecule_stability"] == (1, 3)
    assert counts["molecule/edm_atom_stability"] == (11, 18)
    assert counts["crystal/structural_validity"] == (2, 3)
    assert counts["crystal/compositional_validity"] == (3, 3)
    assert counts["crystal/uniqueness"] == (1, 2)
    assert scores.reasons["crystal/validity"] == {OPEN_ANGLES: 1}


def test_reasons_account_for_every_failure(scores):
    for name, reasons in scores.reasons.items():
        rate = scores.rates[name]
        assert sum(reasons.values()) == rate.trials - rate.successes


def test_json_both_ways(scores):
    text = scores.to_json()
    assert Scores.from_json(text) == scores
    entry = json.loads(text)["rates"]["molecule/edm_validity"]
    assert entry["value"] == pytest.approx(2 / 3)
    assert (entry["lower"], entry["upper"]) == pytest.approx(Rate(2, 3).interval)


def test_a_rate_without_trials_is_written_and_left_out_of_the_journal():
    broken = Invalid(CRYSTAL, OPEN_ANGLES, np.array([11, 17]))
    scores = score_sets([], [broken], EvaluationConfig())
    assert set(scores.rates) == CRYSTAL_NAMES
    assert scores.rates["crystal/uniqueness"].trials == 0
    assert Scores.from_json(scores.to_json()) == scores
    values = scores.flat_values()
    assert "crystal/uniqueness" not in values
    assert values["crystal/validity"] == 0.0
    assert values["crystal/validity_trials"] == 1.0
    assert values["crystal/validity_upper"] == pytest.approx(0.7935, abs=1e-4)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"rates": {"a": 3}, "reasons": {}, "oxidation_states": ""}']
)
def test_foreign_json_is_refused_by_name(text):
    with pytest.raises(DataError, match=r"^run/scores\.json: expected scores"):
        Scores.from_json(text, "run/scores.json")


def test_config_is_obeyed(rock_salt, rock_salt_primitive):
    config = EvaluationConfig(oxidation_states="pymatgen_sp", confidence=0.68, crystal_uniqueness=False)
    scores = score_sets([], [rock_salt], config, known_crystals=[rock_salt_primitive])
    assert "crystal/uniqueness" not in scores.rates
    assert scores.rates["crystal/unique_and_novel"] == Rate(0, 1, 0.68)
    assert scores.oxidation_states == "pymatgen_sp"


def test_model_against_ceiling(rock_salt):
    squeezed = crystal(rock_salt.numbers, rock_salt.fractional, rock_salt.cell * 0.1)
    config = EvaluationConfig(crystal_uniqueness=False)
    ceiling = score_sets([], [rock_salt] * 50, config)
    model = score_sets([], [rock_salt] * 40 + [squeezed] * 10, config)
    verdicts = {name: comparison.verdict for name, comparison in model.compare(ceiling).items()}
    assert verdicts["crystal/structural_validity"] == "differs"
    assert verdicts["crystal/compositional_validity"] == "within noise"


@pytest.mark.real_data
def test_two_thousand_samples_take_seconds(shared):
    def first(name: str) -> list[AtomSet]:
        sets = (s for s in read_source(shared / "data" / name) if isinstance(s, AtomSet))
        return list(itertools.islice(sets, 1000))

    molecules, crystals = first("qm9_sample.extxyz.gz"), first("mp20_biternary_test.csv.gz")
    start = time.process_time()
    scores = score_sets(molecules, crystals, EvaluationConfig())
    assert time.process_time() - start < 5.0
    assert scores.rates["crystal/structural_validity"].value == 1.0
    assert scores.rates["crystal/uniqueness"].value > 0.99

"""Scores: which rates, over which samples, with which reasons; written, read, compared."""

from __future__ import annotations

import itertools
import json
import time

import numpy as np
import pytest

from adit_scale.atoms import CRYSTAL, MOLECULE, AtomSet
from adit_scale.data.sources import read_source
from adit_scale.errors import DataError
from adit_scale.evaluation.config import EvaluationConfig
from adit_scale.evaluation.decode import OPEN_ANGLES, Invalid
from adit_scale.evaluation.molecules import edm_smiles_of
from adit_scale.evaluation.rates import bins_by_atoms, definitions, quantile_edges
from adit_scale.evaluation.score import Scores, Summary, score, score_sets
from adit_scale.evaluation.statistics import Rate
from adit_scale.evaluation.verdicts import Check, Verdicts

EDM = EvaluationConfig(protocols=["edm"], processes=1)

CRYSTAL_NAMES = {
    "crystal/structural_validity",
    "crystal/compositional_validity",
    "crystal/compositional_validity_icsd24",
    "crystal/validity",
    "crystal/uniqueness",
    "crystal/p1_share_0.1",
    "crystal/p1_share_0.01",
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
    return score_sets(molecules, crystals, EDM)


def test_names_and_counts(scores):
    assert set(scores.rates) == MOLECULE_NAMES | CRYSTAL_NAMES
    counts = {name: (rate.successes, rate.trials) for name, rate in scores.rates.items()}
    assert counts["molecule/edm_validity"] == (2, 3)
    assert counts["molecule/edm_molecule_stability"] == (1, 3)
    assert counts["molecule/edm_atom_stability"] == (11, 18)
    assert counts["crystal/structural_validity"] == (2, 3)
    assert counts["crystal/compositional_validity"] == (3, 3)
    assert counts["crystal/uniqueness"] == (1, 2)
    assert counts["crystal/p1_share_0.1"] == (0, 2)
    assert scores.reasons["crystal/validity"] == {OPEN_ANGLES: 1}
    assert scores.samples == {"molecule": 3, "crystal": 3}


def test_reasons_account_for_every_failure(scores):
    assert scores.reasons
    for name, reasons in scores.reasons.items():
        rate = scores.rates[name]
        assert sum(reasons.values()) == rate.trials - rate.successes


def test_json_both_ways(scores):
    text = scores.to_json()
    assert Scores.from_json(text) == scores
    raw = json.loads(text)
    assert raw["format_version"] == 2
    entry = raw["rates"]["molecule/edm_validity"]
    assert entry["value"] == pytest.approx(2 / 3)
    assert (entry["lower"], entry["upper"]) == pytest.approx(Rate(2, 3).interval)
    assert "distance table" in raw["protocols"]["molecule/edm_valid"]
    assert raw["definitions"]["crystal/uniqueness"]["given"] == ["valid"]
    assert raw["packages"]["rdkit"]


def test_scores_of_the_first_format_are_read():
    old = {"oxidation_states": "smact14", "reasons": {}, "rates": {"crystal/validity": Rate(3, 4).to_dict()}}
    scores = Scores.from_json(json.dumps(old))
    assert scores.rates == {"crystal/validity": Rate(3, 4)}
    assert scores.rules("crystal/validity") == ()


def test_values_are_summed_up(scores):
    """Two rock salts at 2.16 g/cm³; the broken cell has no density, but two elements."""
    density = scores.summaries["crystal/density_g_cm3"]
    assert density.n == 2
    assert density.mean == pytest.approx(2.164, abs=0.005)
    assert scores.summaries["crystal/n_elements"].median == 2
    assert Summary.of(np.array([np.nan, np.inf])) is None
    assert Summary.of(np.array([1.0, 2.0, 3.0, np.nan])) == Summary(3, 2.0, 1.0, 1.0, 1.5, 2.0, 2.5, 3.0)


def test_a_rate_without_trials_is_written_and_left_out_of_the_journal():
    broken = Invalid(CRYSTAL, OPEN_ANGLES, np.array([11, 17]))
    scores = score_sets([], [broken], EDM)
    assert set(scores.rates) == CRYSTAL_NAMES
    assert scores.rates["crystal/uniqueness"].trials == 0
    assert Scores.from_json(scores.to_json()) == scores
    values = scores.flat_values()
    assert "crystal/uniqueness" not in values
    assert values["crystal/validity"] == 0.0
    assert values["crystal/validity_trials"] == 1.0
    assert values["crystal/validity_upper"] == pytest.approx(0.7935, abs=1e-4)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"rates": {"a": 3}, "reasons": {}, "oxidation_states": ""}',
        '{"rates": {}, "reasons": {}, "oxidation_states": "", "summaries": {"a": {"n": 1}}}',
        '{"format_version": 99}',
    ],
)
def test_foreign_json_is_refused_by_name(text):
    with pytest.raises(DataError, match=r"^run/scores\.json: (expected )?scores"):
        Scores.from_json(text, "run/scores.json")


def test_config_is_obeyed(rock_salt, rock_salt_primitive):
    config = EvaluationConfig(
        oxidation_states="pymatgen_sp", confidence=0.68, crystal_uniqueness=True, processes=1
    )
    scores = score_sets([], [rock_salt], config, known_crystals=[rock_salt_primitive])
    assert scores.rates["crystal/valid_unique_novel"] == Rate(0, 1, 0.68)
    assert scores.rates["crystal/novelty"] == Rate(0, 1, 0.68)
    assert scores.oxidation_states == "pymatgen_sp"
    assert "crystal/compositional_validity_smact14" in scores.rates
    plain = EvaluationConfig(crystal_uniqueness=False, novelty=False, processes=1)
    without = score_sets([], [rock_salt], plain)
    assert "crystal/uniqueness" not in without.rates


def test_novel_molecules_are_counted_over_all_samples(methane, benzene):
    """Of methane twice, benzene and a wreck: 3 valid, 2 unique, 1 of them known."""
    wreck = Invalid(MOLECULE, "coordinates are not finite", np.array([6]))
    known = frozenset(edm_smiles_of([methane], 0))
    scores = score_sets([methane, methane, benzene, wreck], [], EDM, known_molecules=known)
    counts = {n.partition("/")[2]: (r.successes, r.trials) for n, r in scores.rates.items()}
    assert counts["edm_uniqueness"] == (2, 3)
    assert counts["edm_novelty"] == (1, 2)
    assert counts["edm_valid_unique_novel"] == (1, 4)


def hand_counted() -> Verdicts:
    """Eight molecules of 1 to 8 atoms; the even ones are valid; PoseBusters was asked of six."""
    verdicts = Verdicts(MOLECULE, [str(n) for n in range(1, 9)], np.arange(1, 9))
    verdicts.add_check("edm_valid", Check.from_faults([None if n % 2 == 0 else "odd" for n in range(1, 9)]))
    asked = np.array([1, 0, 0, 1, 1, 1, -1, -1])
    for name in ("posebusters_bond_lengths", "posebusters"):
        verdicts.add_check(name, Check(asked, ["", "long", "long", "", "", "", "", ""]))
    return verdicts


def test_posebusters_on_all_and_on_valid():
    scores = score(hand_counted(), None, EDM)
    counts = {n.partition("/")[2]: (r.successes, r.trials) for n, r in scores.rates.items()}
    assert counts["posebusters_validity"] == (4, 6)
    assert counts["posebusters_given_edm_valid"] == (2, 3)
    assert counts["posebusters/bond_lengths"] == (4, 6)
    flat = scores.flat_values()
    assert "molecule/posebusters/bond_lengths" in flat
    assert "molecule/posebusters/bond_lengths_lower" not in flat
    assert "molecule/posebusters_validity_lower" in flat


def test_bins_by_hand():
    verdicts = hand_counted()
    assert quantile_edges(np.arange(1, 9), 4) == [1, 3, 5, 7]
    assert quantile_edges(np.full(9, 5)) == [5]
    bins = bins_by_atoms(verdicts, EDM, edges=[3, 6])["edm_validity"]
    assert [(b.low, b.high) for b in bins] == [(1, 5), (6, 8)]
    assert [(b.rate.successes, b.rate.trials) for b in bins] == [(2, 5), (2, 3)]
    for found in score(verdicts, None, EDM).bins.values():
        assert sum(b.rate.trials for b in found) in (8, 6)
        assert all(a.high + 1 == b.low for a, b in itertools.pairwise(found))


def test_a_check_no_table_names_still_gives_a_rate():
    verdicts = hand_counted()
    verdicts.add_check("chiral", Check.from_faults([None] * 8))
    assert "chiral" in {d.name for d in definitions(verdicts, EDM)}


def test_model_against_ceiling():
    def run(n_valid: int) -> Scores:
        verdicts = Verdicts(CRYSTAL, [str(i) for i in range(50)], np.full(50, 8))
        overlaps = [None] * n_valid + ["overlap"] * (50 - n_valid)
        verdicts.add_check("structural", Check.from_faults(overlaps))
        verdicts.add_check("smact14", Check.from_faults([None] * 50))
        return score(None, verdicts, EDM)

    found = {name: of.verdict for name, of in run(40).compare(run(50)).items()}
    assert found["crystal/structural_validity"] == "differs"
    assert found["crystal/compositional_validity"] == "within noise"


def test_rates_of_other_rules_do_not_compare(rock_salt):
    first = score_sets([], [rock_salt], EvaluationConfig(processes=1))
    second = score_sets([], [rock_salt], EvaluationConfig(oxidation_states="icsd24", processes=1))
    apart = first.incomparable(second)
    assert "crystal/compositional_validity" in apart
    assert "crystal/validity" in apart
    assert "crystal/structural_validity" not in apart
    assert "crystal/validity" not in first.compare(second)


@pytest.mark.real_data
def test_a_thousand_samples_take_seconds(shared):
    def first(name: str, n: int) -> list[AtomSet]:
        sets = (s for s in read_source(shared / "data" / name) if isinstance(s, AtomSet))
        return list(itertools.islice(sets, n))

    molecules = first("qm9_sample.extxyz.gz", 1000)
    start = time.process_time()
    scores = score_sets(molecules, [], EDM)
    assert time.process_time() - start < 5.0
    assert scores.rates["molecule/edm_validity"].value > 0.95

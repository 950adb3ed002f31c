"""Scores of a set of samples: the one function for generated samples and for real held-out structures.

Real data do not reach 100% by these rules, so their own score (the ceiling row) is printed beside a model's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from adit_scale.atoms import AtomSet
from adit_scale.errors import DataError
from adit_scale.evaluation.config import EvaluationConfig
from adit_scale.evaluation.crystals import score_crystals
from adit_scale.evaluation.decode import Invalid
from adit_scale.evaluation.molecules import DomainScores, score_molecules
from adit_scale.evaluation.novelty import unique_novelty, uniqueness
from adit_scale.evaluation.statistics import Comparison, Rate, compare_rates

Sample = AtomSet | Invalid


@dataclass(frozen=True)
class Scores:
    """rates: by flat name, ``molecule/edm_validity``; a domain without samples has none.
    reasons: of a rate, how many samples failed it for which reason, each sample once.
    oxidation_states: the list that compositional validity used; rates of two lists do not compare."""

    rates: dict[str, Rate]
    reasons: dict[str, dict[str, int]]
    oxidation_states: str

    def flat_values(self) -> dict[str, float]:
        """Numbers for the journal: each rate with any trials, its bounds and trials."""
        values: dict[str, float] = {}
        for name, rate in self.rates.items():
            if rate.trials:
                lower, upper = rate.interval
                values |= {name: rate.value, f"{name}_lower": lower, f"{name}_upper": upper}
                values[f"{name}_trials"] = float(rate.trials)
        return values

    def compare(self, other: Scores) -> dict[str, Comparison]:
        """This minus the other (the ceiling row, another model), for every rate both have."""
        assert self.oxidation_states == other.oxidation_states
        shared = [name for name in self.rates if name in other.rates]
        return {name: compare_rates(self.rates[name], other.rates[name]) for name in shared}

    def to_json(self) -> str:
        return json.dumps(
            {
                "oxidation_states": self.oxidation_states,
                "rates": {name: rate.to_dict() for name, rate in self.rates.items()},
                "reasons": self.reasons,
            },
            indent=1,
            allow_nan=False,
        )

    @staticmethod
    def from_json(text: str, source: str = "scores") -> Scores:
        """Scores written by :meth:`to_json`. Raises DataError, naming ``source``, for anything else."""
        try:
            raw = json.loads(text)
            rates = {name: Rate.from_dict(values) for name, values in raw["rates"].items()}
            return Scores(rates, raw["reasons"], raw["oxidation_states"])
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{source}: expected scores written by evaluation ({error!r})") from error


def score_sets(
    molecules: Sequence[Sample],
    crystals: Sequence[Sample],
    config: EvaluationConfig,
    known_crystals: Sequence[AtomSet] | None = None,
) -> Scores:
    """Score molecules and crystals, generated or real; invalid samples stay in every denominator.

    known_crystals: the training set, to add ``crystal/unique_and_novel`` against it.
    """
    domains: dict[str, DomainScores] = {}
    if molecules:
        domains["molecule"] = score_molecules(molecules, config.confidence)
    if crystals:
        domains["crystal"] = _score_crystals(crystals, config, known_crystals)
    return Scores(
        rates={f"{domain}/{name}": rate for domain, of in domains.items() for name, rate in of.rates.items()},
        reasons={f"{domain}/{name}": n for domain, of in domains.items() for name, n in of.reasons.items()},
        oxidation_states=config.oxidation_states,
    )


def _score_crystals(
    crystals: Sequence[Sample], config: EvaluationConfig, known: Sequence[AtomSet] | None
) -> DomainScores:
    scores = score_crystals(crystals, config.oxidation_states, config.confidence)
    rates = dict(scores.rates)
    samples = (crystals[i] for i in scores.valid)
    valid = [crystal for crystal in samples if isinstance(crystal, AtomSet)]
    if config.crystal_uniqueness:
        rates["uniqueness"] = uniqueness(valid, config.confidence)
    if known is not None:
        rates["unique_and_novel"] = unique_novelty(valid, known, len(crystals), config.confidence)
    return DomainScores(rates, scores.reasons, scores.valid)

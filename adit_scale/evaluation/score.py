"""Scores of a set of samples: the one way for generated samples and for real held-out structures.

Real data do not reach 100% by these rules, so their own score (the ceiling row) is printed beside a model's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from adit_scale.atoms import DOMAIN_NAMES, AtomSet
from adit_scale.errors import DataError
from adit_scale.evaluation.config import EvaluationConfig
from adit_scale.evaluation.rates import (
    PER_CHECK,
    Bin,
    Definition,
    all_definitions,
    bins_by_atoms,
    count_rates,
    reason_tables,
)
from adit_scale.evaluation.statistics import Comparison, Rate, compare_rates
from adit_scale.evaluation.verdicts import Verdicts

if TYPE_CHECKING:
    from adit_scale.evaluation.decode import Invalid

FORMAT_VERSION = 2

PACKAGES = ("adit-scale", "rdkit", "pymatgen", "smact", "spglib", "posebusters", "numpy", "scipy")
OPTIONAL_PACKAGES = ("openbabel-wheel", "tblite", "chgnet", "ase")
# Value columns without a mean: those that rates are made of already, and numbers that are names.
_NO_SUMMARY = ("edm_stable_atoms", "geom_stable_atoms", "spacegroup_")


@dataclass(frozen=True)
class Summary:
    """Of a value column: the ``n`` samples that have the value, its mean, quartiles and extremes."""

    n: int
    mean: float
    sd: float
    minimum: float
    lower_quartile: float
    median: float
    upper_quartile: float
    maximum: float

    @staticmethod
    def of(column: np.ndarray) -> Summary | None:
        """None where no sample has a finite value."""
        values = column[np.isfinite(column)]
        if not len(values):
            return None
        sd = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        return Summary(
            len(values), float(values.mean()), sd, *map(float, np.quantile(values, [0, 0.25, 0.5, 0.75, 1]))
        )


@dataclass(frozen=True)
class Scores:
    """rates: by flat name, ``molecule/edm_validity``; a domain without samples has none.
    reasons: of a rate over all samples, how many failed it for which reason, each sample once.
    oxidation_states: the list that compositional validity used; rates of two lists do not compare.
    definitions: of a rate, what it counts. protocols: of a check, its rules and packages. summaries: of value
    columns. bins: main rates by the number of atoms. samples: how many a domain. packages: versions."""

    rates: dict[str, Rate]
    reasons: dict[str, dict[str, int]]
    oxidation_states: str
    definitions: dict[str, Definition] = field(default_factory=dict)
    protocols: dict[str, str] = field(default_factory=dict)
    summaries: dict[str, Summary] = field(default_factory=dict)
    bins: dict[str, list[Bin]] = field(default_factory=dict)
    samples: dict[str, int] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)

    def flat_values(self) -> dict[str, float]:
        """Numbers for the journal: each rate with any trials, its bounds and trials; means of values.

        Of the single PoseBusters checks only the rates.
        """
        values: dict[str, float] = {}
        for name, rate in self.rates.items():
            if rate.trials:
                values[name] = rate.value
                if f"/{PER_CHECK}" not in name:
                    lower, upper = rate.interval
                    values |= {f"{name}_lower": lower, f"{name}_upper": upper}
                    values[f"{name}_trials"] = float(rate.trials)
        for name, summary in self.summaries.items():
            values[f"{name}_mean"] = summary.mean
        return values

    def compare(self, other: Scores) -> dict[str, Comparison]:
        """This minus the other (the ceiling row, another model), for every rate both have by one protocol."""
        apart = set(self.incomparable(other))
        shared = [name for name in self.rates if name in other.rates and name not in apart]
        return {name: compare_rates(self.rates[name], other.rates[name]) for name in shared}

    def incomparable(self, other: Scores) -> list[str]:
        """Rates that both have, counted by different rules."""
        return [name for name in self.rates if name in other.rates and self.rules(name) != other.rules(name)]

    def rules(self, name: str) -> tuple[str, ...]:
        """What the rate counts, and the protocols of its checks; empty where they were not written down."""
        if name not in self.definitions:
            return ()
        definition, domain = self.definitions[name], name.partition("/")[0]
        protocols = (self.protocols.get(f"{domain}/{check}", "") for check in definition.checks)
        return (definition.describe(), *protocols)

    def to_json(self) -> str:
        return json.dumps(
            {
                "format_version": FORMAT_VERSION,
                "oxidation_states": self.oxidation_states,
                "samples": self.samples,
                "rates": {name: rate.to_dict() for name, rate in self.rates.items()},
                "reasons": self.reasons,
                "summaries": {name: vars(summary) for name, summary in self.summaries.items()},
                "bins": {
                    name: [{"low": b.low, "high": b.high} | b.rate.to_dict() for b in bins]
                    for name, bins in self.bins.items()
                },
                "definitions": {name: asdict(definition) for name, definition in self.definitions.items()},
                "protocols": self.protocols,
                "packages": self.packages,
            },
            indent=1,
            allow_nan=False,
        )

    @staticmethod
    def from_json(text: str, source: str = "scores") -> Scores:
        """Scores written by :meth:`to_json`, of this format or of version 1 (rates and reasons alone).

        Raises DataError, naming ``source``, for anything else.
        """
        try:
            raw = json.loads(text)
            version = raw.get("format_version", 1)
            if version > FORMAT_VERSION:
                raise DataError(f"{source}: scores of format {version}; expected at most {FORMAT_VERSION}")
            return Scores(
                rates={name: Rate.from_dict(values) for name, values in raw["rates"].items()},
                reasons=raw["reasons"],
                oxidation_states=raw["oxidation_states"],
                definitions={name: _definition(d) for name, d in raw.get("definitions", {}).items()},
                protocols=raw.get("protocols", {}),
                summaries={name: Summary(**values) for name, values in raw.get("summaries", {}).items()},
                bins={name: [_bin(b) for b in bins] for name, bins in raw.get("bins", {}).items()},
                samples=raw.get("samples", {}),
                packages=raw.get("packages", {}),
            )
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{source}: expected scores written by evaluation ({error!r})") from error


def _definition(raw: Mapping[str, Any]) -> Definition:
    return Definition(raw["name"], tuple(raw["passes"]), tuple(raw["given"]), raw["of"])


def _bin(raw: Mapping[str, Any]) -> Bin:
    return Bin(raw["low"], raw["high"], Rate.from_dict(raw))


def score(
    molecules: Verdicts | None,
    crystals: Verdicts | None,
    config: EvaluationConfig,
    edges: Mapping[int, Sequence[int]] | None = None,
) -> Scores:
    """Count the rates of the verdicts. edges: by domain, the bins by atom count; default by quantiles."""
    scores = Scores({}, {}, config.oxidation_states, packages=package_versions())
    for verdicts in (molecules, crystals):
        if verdicts is None or not len(verdicts):
            continue
        name = DOMAIN_NAMES[verdicts.domain]
        scores.samples[name] = len(verdicts)
        scores.rates.update(_under(name, count_rates(verdicts, config).items()))
        scores.reasons.update(_under(name, reason_tables(verdicts, config).items()))
        definitions = all_definitions(verdicts, config)
        scores.definitions.update(_under(name, ((d.name, d) for d in definitions)))
        scores.protocols.update(_under(name, ((c, of.protocol) for c, of in verdicts.checks.items())))
        bins = bins_by_atoms(verdicts, config, (edges or {}).get(verdicts.domain))
        scores.bins.update(_under(name, bins.items()))
        columns = ((c, Summary.of(v)) for c, v in verdicts.values.items() if not c.startswith(_NO_SUMMARY))
        scores.summaries.update(_under(name, ((c, s) for c, s in columns if s is not None)))
    return scores


def _under(domain: str, items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {f"{domain}/{name}": value for name, value in items}


def score_sets(
    molecules: Sequence[AtomSet | Invalid],
    crystals: Sequence[AtomSet | Invalid],
    config: EvaluationConfig,
    known_crystals: Sequence[AtomSet] | None = None,
    known_molecules: frozenset[str] | None = None,
    progress: Callable[[int], object] | None = None,
) -> Scores:
    """Judge and score molecules and crystals, generated or real; invalid samples stay in every denominator.

    known_crystals, known_molecules: the training set's crystals and EDM SMILES, to add novelty.
    """
    from adit_scale.evaluation.crystals import judge_crystals  # heavy, and scores are read without
    from adit_scale.evaluation.molecules import judge_molecules

    return score(
        judge_molecules(molecules, config, known_molecules, progress) if molecules else None,
        judge_crystals(crystals, config, known_crystals, progress) if crystals else None,
        config,
    )


def package_versions() -> dict[str, str]:
    """Installed versions of what the checks call; an optional package that is absent is left out."""
    found = {}
    for name in (*PACKAGES, *OPTIONAL_PACKAGES):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found

"""Which rates are counted from which checks. Names are stable: plots, journals and studies know them.

Every rate is over all samples, invalid ones included, unless its name or ``given`` says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from adit_scale.atoms import CRYSTAL, MOLECULE
from adit_scale.evaluation.config import OXIDATION_LISTS, EvaluationConfig
from adit_scale.evaluation.statistics import Rate
from adit_scale.evaluation.verdicts import Check, Verdicts


@dataclass(frozen=True)
class Definition:
    """A rate: the share of ``of`` that pass all checks ``passes`` among those that pass all of ``given``."""

    name: str
    passes: tuple[str, ...]
    given: tuple[str, ...] = ()
    of: str = "samples"

    @property
    def checks(self) -> tuple[str, ...]:
        return (*self.passes, *self.given)

    def describe(self) -> str:
        """``share of samples that pass edm_unique, given edm_valid``."""
        text = f"share of {self.of} that pass {' and '.join(self.passes)}"
        return f"{text}, given {' and '.join(self.given)}" if self.given else text


_MOLECULE = (
    Definition("edm_molecule_stability", ("edm_stable",)),
    Definition("edm_validity", ("edm_valid",)),
    Definition("edm_valid_and_connected", ("edm_valid", "edm_connected")),
    Definition("edm_uniqueness", ("edm_unique",), ("edm_valid",)),
    Definition("edm_valid_and_unique", ("edm_valid", "edm_unique")),
    Definition("edm_novelty", ("edm_novel",), ("edm_valid", "edm_unique")),
    Definition("edm_valid_unique_novel", ("edm_valid", "edm_unique", "edm_novel")),
    Definition("rdkit_validity", ("rdkit_valid",)),
    Definition("adit_validity", ("adit_valid",)),
    Definition("geom_stability", ("geom_stable",)),
    Definition("posebusters_validity", ("posebusters",)),
    Definition("posebusters_given_edm_valid", ("posebusters",), ("edm_valid",)),
)
_CRYSTAL = (
    Definition("structural_validity", ("structural",)),
    Definition("validity", ("valid",)),
    Definition("uniqueness", ("unique",), ("valid",)),
    Definition("novelty", ("novel",), ("valid", "unique")),
    Definition("valid_unique_novel", ("valid", "unique", "novel")),
    Definition("crystalnn_constructible", ("crystalnn",)),
)
# Shares of stable atoms, by the value column that counts them; intervals are by molecules, whose atoms fail
# together.
_ATOM_STABILITY = {"edm_stable_atoms": "edm", "geom_stable_atoms": "geom"}
_P1 = "crystals with a spacegroup of 1, among those that have one: not those"
# Rates that are also given by the number of atoms.
BINNED = {
    MOLECULE: ("edm_molecule_stability", "edm_validity", "rdkit_validity", "posebusters_validity"),
    CRYSTAL: ("structural_validity", "compositional_validity", "validity"),
}
PER_CHECK = "posebusters/"  # rates below it are too many for a journal with all their bounds


def definitions(verdicts: Verdicts, config: EvaluationConfig) -> list[Definition]:
    """The rates that these verdicts can give, in the order of the tables; a check that no table names gives a
    rate of its own name."""
    known = list(_MOLECULE)
    if verdicts.domain == CRYSTAL:
        known = [*_CRYSTAL]
        known.insert(1, Definition("compositional_validity", (config.oxidation_states,)))
        known[2:2] = [
            Definition(f"compositional_validity_{name}", (name,))
            for name in OXIDATION_LISTS
            if name != config.oxidation_states
        ]
    named = {check for definition in known for check in definition.checks}
    for check in verdicts.checks:
        if check not in named and not check.startswith("p1_not_"):
            known.append(Definition(check.replace("posebusters_", PER_CHECK, 1), (check,)))
    return [d for d in known if all(check in verdicts.checks for check in d.checks)]


def count_rates(verdicts: Verdicts, config: EvaluationConfig) -> dict[str, Rate]:
    """Every rate of the domain, by name without the domain."""
    rates: dict[str, Rate] = {}
    for column, protocol in _ATOM_STABILITY.items():
        if column in verdicts.values:
            stable = np.nan_to_num(verdicts.values[column]).astype(int).tolist()
            rates[f"{protocol}_atom_stability"] = Rate.of_clusters(
                stable, verdicts.n_atoms.tolist(), config.confidence
            )
    for d in definitions(verdicts, config):
        rates[d.name] = verdicts.rate(*d.passes, given=d.given, confidence=config.confidence)
    for column, values in verdicts.values.items():
        if column.startswith("spacegroup_"):
            found = values[np.nan_to_num(values) > 0]  # of the crystals that have a spacegroup
            name = f"p1_share_{column.removeprefix('spacegroup_')}"
            rates[name] = Rate(int((found == 1).sum()), len(found), config.confidence)
    return rates


def all_definitions(verdicts: Verdicts, config: EvaluationConfig) -> list[Definition]:
    """What each rate of :func:`count_rates` counts."""
    atoms = [
        Definition(f"{protocol}_atom_stability", (f"{protocol}_stable",), of="atoms")
        for column, protocol in _ATOM_STABILITY.items()
        if column in verdicts.values
    ]
    tolerances = [c.partition("_")[2] for c in verdicts.values if c.startswith("spacegroup_")]
    p1 = [Definition(f"p1_share_{t}", (f"p1_not_{t}",), of=_P1) for t in tolerances]
    return [*atoms, *definitions(verdicts, config), *p1]


def reason_tables(verdicts: Verdicts, config: EvaluationConfig) -> dict[str, dict[str, int]]:
    """By rate over all samples: how many failed it for which reason, each once, the most frequent first."""
    return {
        d.name: reduce(_first_fault, (verdicts.checks[name] for name in d.passes)).reason_table()
        for d in definitions(verdicts, config)
        if not d.given
    }


def _first_fault(first: Check, second: Check) -> Check:
    """The check that passes where both do, with the reason of the first where that fails."""
    keep = first.verdict < second.verdict
    tie = first.verdict == second.verdict
    reasons = [
        a if k or t else b for a, b, k, t in zip(first.reasons, second.reasons, keep, tie, strict=True)
    ]
    return Check(np.minimum(first.verdict, second.verdict), reasons)


@dataclass(frozen=True)
class Bin:
    """A rate among samples of ``low`` to ``high`` atoms, both included."""

    low: int
    high: int
    rate: Rate


def quantile_edges(n_atoms: np.ndarray, n_bins: int = 5) -> list[int]:
    """First atom count of each bin, for bins of about equally many samples; fewer where sizes repeat."""
    if not len(n_atoms):
        return []
    at = np.quantile(n_atoms, np.linspace(0, 1, n_bins + 1)[:-1], method="higher")
    return sorted({int(edge) for edge in at})


def bins_by_atoms(
    verdicts: Verdicts, config: EvaluationConfig, edges: Sequence[int] | None = None
) -> dict[str, list[Bin]]:
    """The domain's main rates by the number of atoms.

    edges: the first atom count of each bin, rising; samples below the first are in the first, those above
    the last in the last. Default: :func:`quantile_edges`. To compare two sets give both the same edges.
    """
    firsts = list(edges) if edges else quantile_edges(verdicts.n_atoms)
    if not firsts:
        return {}
    place = np.clip(np.searchsorted(firsts, verdicts.n_atoms, side="right") - 1, 0, None)
    largest = max(int(verdicts.n_atoms.max()), firsts[-1])
    spans = [(low, high - 1) for low, high in zip(firsts, [*firsts[1:], largest + 1], strict=True)]
    spans[0] = (min(firsts[0], int(verdicts.n_atoms.min())), spans[0][1])
    found: dict[str, list[Bin]] = {}
    for d in definitions(verdicts, config):
        if d.name in BINNED[verdicts.domain]:
            asked = np.logical_and.reduce([verdicts.checks[name].asked for name in d.passes])
            passed = verdicts.passed(*d.passes)
            found[d.name] = [
                Bin(low, high, Rate(*_count(passed, asked & (place == b)), config.confidence))
                for b, (low, high) in enumerate(spans)
            ]
    return found


def _count(passed: np.ndarray, trials: np.ndarray) -> tuple[int, int]:
    return int((passed & trials).sum()), int(trials.sum())

"""The checks ``unique`` and ``novel``: groups of one structure among the valid samples, and which of them the
training set holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version

import numpy as np

from adit_scale.atoms import AtomSet
from adit_scale.evaluation.config import EvaluationConfig
from adit_scale.evaluation.crystals.components import Components, Matcher
from adit_scale.evaluation.crystals.composition import Composition, reduced_composition
from adit_scale.evaluation.crystals.grouping import group_crystals, join_references
from adit_scale.evaluation.crystals.matching import TOLERANCES
from adit_scale.evaluation.crystals.reduction import ReducedCell
from adit_scale.evaluation.crystals.references import ReferenceIndex, reference_index
from adit_scale.evaluation.decode import Invalid
from adit_scale.evaluation.limited import Overrun
from adit_scale.evaluation.verdicts import Check, Verdicts

REPEATED = "the same structure as an earlier sample"
KNOWN = "the structure of a training crystal"


class Distinct:
    """The groups of one set of samples.

    valid: ``(n,)`` bool; only these are compared. to_reduce: places of samples whose composition is not
    theirs alone: their reduced cells are asked for, the others are unique and novel as they are.
    processes: in place of the configured ones; 0 is inline.
    """

    def __init__(
        self,
        samples: Sequence[AtomSet | Invalid],
        valid: np.ndarray,
        config: EvaluationConfig,
        known: Sequence[AtomSet] | ReferenceIndex | None,
        processes: int | None = None,
    ) -> None:
        self._processes = config.worker_processes() if processes is None else processes
        self._samples, self._valid, self._config = samples, valid, config
        compositions = {i: reduced_composition(samples[i].numbers) for i in np.flatnonzero(valid).tolist()}
        self._index = _index(known, set(compositions.values()), config.call_limit_s, self._processes)
        held = Counter(compositions.values()) if config.crystal_uniqueness else Counter()
        company = {composition for composition, count in held.items() if count > 1}
        if self._index is not None:
            company |= {reduced_composition(cell.numbers) for cell in self._index.cells}
        self.to_reduce = [i for i, composition in compositions.items() if composition in company]

    def add_checks(self, verdicts: Verdicts, reduced: Mapping[int, ReducedCell | str | Overrun]) -> None:
        """Add ``unique`` with label ``group``, and ``novel``, as far as they are asked for."""
        config, n = self._config, len(self._samples)
        cells = {i: cell for i, cell in reduced.items() if isinstance(cell, ReducedCell)}
        faults = [None if ok else verdicts.checks["valid"].reasons[i] for i, ok in enumerate(self._valid)]
        for i, why in reduced.items():
            if not isinstance(why, ReducedCell):
                faults[i] = why.reason if isinstance(why, Overrun) else why
        tolerances = TOLERANCES[config.crystal_tolerances]
        matcher = Matcher(tolerances, config.call_limit_s, self._processes)
        protocol = f"pymatgen {version('pymatgen')} StructureMatcher, {tolerances}, volumes scaled"
        components = Components(n + 1)  # the last node stands for the training set
        if config.crystal_uniqueness:
            group_crystals(cells, components, matcher)
            roots = components.roots()
            repeated = [f or (REPEATED if roots[i] != i else None) for i, f in enumerate(faults)]
            text = f"valid, and first of its group: connected matches; {protocol}{_cut(matcher)}"
            verdicts.add_check("unique", Check.from_faults(repeated, text))
            verdicts.add_label(
                "group",
                ["" if f else self._samples[root].id for f, root in zip(faults, roots[:n], strict=True)],
            )
        if self._index is not None:
            matcher.n_cut = 0
            join_references(cells, self._index, components, matcher)
            known = components.root(n)
            found = [f or (KNOWN if components.root(i) == known else None) for i, f in enumerate(faults)]
            text = (
                "valid, and no member of its group matches one of "
                f"{self._index.n_crystals} training crystals; {protocol}{_cut(matcher)}"
            )
            verdicts.add_check("novel", Check.from_faults(found, text))


def _index(
    known: Sequence[AtomSet] | ReferenceIndex | None,
    compositions: set[Composition],
    limit_s: float,
    processes: int,
) -> ReferenceIndex | None:
    """Only references of the samples' compositions are reduced, unless they are already."""
    if known is None or isinstance(known, ReferenceIndex):
        return known
    return reference_index(known, processes, limit_s, compositions)


def _cut(matcher: Matcher) -> str:
    """What to add to the protocol's line where comparisons were cut off."""
    return f"; {matcher.n_cut} comparisons over the time limit count as no match" if matcher.n_cut else ""

"""Every check of crystals, of every sample."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rdkit import Chem

from adit_scale.atoms import CRYSTAL, AtomSet
from adit_scale.evaluation.config import EvaluationConfig
from adit_scale.evaluation.crystals.composition import (
    composition_protocol,
    compositional_fault,
    elements_fault,
    formula,
    reduced_composition,
)
from adit_scale.evaluation.crystals.distinct import Distinct
from adit_scale.evaluation.crystals.environments import environment_fault, environment_protocol
from adit_scale.evaluation.crystals.reduction import reduce_crystal
from adit_scale.evaluation.crystals.references import ReferenceIndex
from adit_scale.evaluation.crystals.structure import OVERLAP, STRUCTURAL_PROTOCOL, structural_fault
from adit_scale.evaluation.crystals.symmetry import (
    TOLERANCES_ANGSTROM,
    p1_fault,
    spacegroups,
    symmetry_protocol,
)
from adit_scale.evaluation.decode import Invalid
from adit_scale.evaluation.limited import Overrun, map_limited
from adit_scale.evaluation.verdicts import Check, Verdicts

Sample = AtomSet | Invalid

ALWAYS = ("smact14", "icsd24")  # oxidation states asked for whatever the configured list
_GRAM_PER_CM3 = 1.66053906660  # of one unified mass unit a cubic angstrom


def judge_crystals(
    samples: Sequence[Sample],
    config: EvaluationConfig,
    known: Sequence[AtomSet] | ReferenceIndex | None = None,
    progress: Callable[[int], object] | None = None,
    processes: int | None = None,
) -> Verdicts:
    """Verdicts of every crystal check, one row a sample, in order.

    known: the training crystals, or their index (``reference_index``), for the check ``novel``.
    progress: called with the number of samples just finished. processes: in place of the configured ones;
    0 calls everything inline, without time limits.
    """
    processes = config.worker_processes() if processes is None else processes
    verdicts = Verdicts(CRYSTAL, [sample.id for sample in samples], np.array([len(s) for s in samples]))
    structural = [structural_fault(sample) for sample in samples]
    verdicts.add_check("structural", Check.from_faults(structural, STRUCTURAL_PROTOCOL))
    for name in dict.fromkeys((*ALWAYS, config.oxidation_states)):
        faults = [compositional_fault(sample, name) for sample in samples]
        verdicts.add_check(name, Check.from_faults(faults, composition_protocol(name)))
    verdicts.joint("valid", ("structural", config.oxidation_states))
    _add_sizes(verdicts, samples, structural)
    groups = Distinct(samples, verdicts.passed("valid"), config, known if config.novelty else None, processes)
    found = _inspect(samples, structural, groups.to_reduce, config, processes, progress)
    _add_symmetry(verdicts, structural, found)
    if config.crystalnn:
        faults = _answers("environment", structural, found)
        verdicts.add_check("crystalnn", Check.from_faults(faults, environment_protocol()))
    groups.add_checks(verdicts, {i: found["reduce", i] for i in groups.to_reduce})
    return verdicts


def _add_sizes(verdicts: Verdicts, samples: Sequence[Sample], structural: Sequence[str | None]) -> None:
    """Formula, number of elements, density and volume; NaN where a sample has no atoms or no cell."""
    formulas, columns = [], []
    mass_of = Chem.GetPeriodicTable().GetAtomicWeight
    for sample, fault in zip(samples, structural, strict=True):
        n_elements = density = volume_per_atom = np.nan
        has_atoms = elements_fault(sample.numbers) is None
        formulas.append(formula(reduced_composition(sample.numbers)) if has_atoms else "")
        if has_atoms:
            n_elements = len(np.unique(sample.numbers))
        if has_atoms and isinstance(sample, AtomSet) and fault in (None, OVERLAP):
            volume = abs(np.linalg.det(sample.cell))
            density = _GRAM_PER_CM3 * sum(map(mass_of, sample.numbers.tolist())) / volume
            volume_per_atom = volume / len(sample)
        columns.append((n_elements, density, volume_per_atom))
    verdicts.add_label("formula", formulas)
    names = ("n_elements", "density_g_cm3", "volume_a3_per_atom")
    for name, column in zip(names, np.array(columns).reshape(-1, 3).T, strict=True):
        verdicts.add_value(name, column)


# --- What is asked in processes with a time limit ----------------------------------------------------------

_QUESTIONS: dict[str, Callable[[AtomSet], object]] = {
    "symmetry": spacegroups,
    "environment": environment_fault,
    "reduce": reduce_crystal,
}
Found = dict[tuple[str, int], Any]


def _ask(item: tuple[str, Sample]) -> Any:
    question, crystal = item
    assert isinstance(crystal, AtomSet), "an invalid sample is asked nothing"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen's, of elements without an electronegativity
        return _QUESTIONS[question](crystal)


def _inspect(
    samples: Sequence[Sample],
    structural: Sequence[str | None],
    to_reduce: Sequence[int],
    config: EvaluationConfig,
    processes: int,
    progress: Callable[[int], object] | None,
) -> Found:
    """Answers by question and place of the sample; an Overrun where the call was cut off."""
    sound = [i for i, fault in enumerate(structural) if fault is None]
    asked = [("reduce", i) for i in to_reduce] + [("symmetry", i) for i in sound]
    if config.crystalnn:
        asked += [("environment", i) for i in sound]
    items = [(question, samples[i]) for question, i in asked]
    told = _Told(len(items), len(samples), progress) if progress is not None else None
    answers = map_limited(_ask, items, limit_s=config.call_limit_s, processes=processes, progress=told)
    if told is not None:
        told.finish()
    return dict(zip(asked, answers, strict=True))


class _Told:
    """Passes progress over items on as progress over samples."""

    def __init__(self, n_items: int, n_samples: int, progress: Callable[[int], object]) -> None:
        self._n_items, self._n_samples, self._progress = n_items, n_samples, progress
        self._items = self._samples = 0

    def __call__(self, k: int) -> None:
        self._items += k
        self._tell(self._n_samples * self._items // self._n_items)

    def finish(self) -> None:
        self._tell(self._n_samples)

    def _tell(self, samples: int) -> None:
        if samples > self._samples:
            self._progress(samples - self._samples)
            self._samples = samples


def _answers(question: str, structural: Sequence[str | None], found: Found) -> list:
    """Of each sample its structural fault, or else the answer, or why the call was cut off."""
    answers = (fault or found[question, i] for i, fault in enumerate(structural))
    return [answer.reason if isinstance(answer, Overrun) else answer for answer in answers]


def _add_symmetry(verdicts: Verdicts, structural: Sequence[str | None], found: Found) -> None:
    answers = _answers("symmetry", structural, found)
    for place, symprec in enumerate(TOLERANCES_ANGSTROM):
        numbers = [0 if isinstance(answer, str) else answer[place] for answer in answers]
        faults = [
            answer if isinstance(answer, str) else p1_fault(number)
            for answer, number in zip(answers, numbers, strict=True)
        ]
        verdicts.add_value(f"spacegroup_{symprec:g}", numbers)
        protocol = symmetry_protocol(symprec)
        verdicts.add_check(f"p1_not_{symprec:g}", Check.from_faults(faults, protocol))

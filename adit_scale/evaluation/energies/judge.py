"""Energies as verdicts: one row a sample, what was not chosen for it stays out of the trials.

Asked are the first ``relax_samples`` samples by number, so that the choice knows nothing of their quality. Of
them the invalid ones fail with their reason; a rate over those asked estimates the rate over all samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from adit_scale.atoms import CRYSTAL, MOLECULE, AtomSet
from adit_scale.errors import ConfigError
from adit_scale.evaluation.config import EvaluationConfig
from adit_scale.evaluation.crystals.references import ReferenceIndex
from adit_scale.evaluation.crystals.structure import structural_fault
from adit_scale.evaluation.decode import Invalid
from adit_scale.evaluation.energies.hull import Hull, Place, kinds_note
from adit_scale.evaluation.energies.molecules import MMFF_PROTOCOL, relax_molecules
from adit_scale.evaluation.energies.potentials import Potential
from adit_scale.evaluation.energies.relaxation import Relaxation, relax_crystals
from adit_scale.evaluation.energies.sun import add_discovery
from adit_scale.evaluation.verdicts import FAILED, NOT_ASKED, PASSED, Check, Verdicts

Sample = AtomSet | Invalid


def judge_energies(
    verdicts: Verdicts,
    samples: Sequence[Sample],
    config: EvaluationConfig,
    known: Sequence[AtomSet] | ReferenceIndex | None = None,
    progress: Callable[[int], object] | None = None,
    relax: Callable[..., list[Relaxation]] = relax_crystals,
) -> list[AtomSet | None]:
    """Add what ``config`` asks of the domain to ``verdicts``; return the relaxed crystals, None elsewhere.

    Of crystals with ``relax``: check ``relaxed`` and energies; with ``hull`` also energies above it,
    ``stable`` and ``metastable``, ``sun`` and ``msun`` (novel among them only with ``known``, the training
    set). Of molecules: for each of ``relax_molecules`` a check ``<method>_relaxed``, RMSD and energy drop.
    relax: in place of ``relax_crystals``, such as one that keeps its results.
    Raises ConfigError or DataError for a model or hull that cannot be used, before anything is relaxed.
    """
    assert len(samples) == len(verdicts)
    relaxed: list[AtomSet | None] = [None] * len(samples)
    if verdicts.domain == CRYSTAL and config.relax:
        relaxed = judge_crystal_energies(verdicts, samples, config, known, progress, relax)
    if verdicts.domain == MOLECULE:
        for method in config.relax_molecules:
            judge_molecule_energies(verdicts, samples, method, config, progress)
    return relaxed


def asked_places(n: int, config: EvaluationConfig) -> int:
    """How many samples, from the first, are asked for energies."""
    return min(n, config.energies.relax_samples or n)


def judge_crystal_energies(
    verdicts: Verdicts,
    samples: Sequence[Sample],
    config: EvaluationConfig,
    known: Sequence[AtomSet] | ReferenceIndex | None = None,
    progress: Callable[[int], object] | None = None,
    relax: Callable[..., list[Relaxation]] = relax_crystals,
) -> list[AtomSet | None]:
    potential = Potential(config.relax, config.energies.device)
    hull = Hull.read(Path(config.hull)) if config.hull else None
    if hull is not None:
        check_model(hull, potential)
    asked = samples[: asked_places(len(samples), config)]
    found = [Relaxation(structural_fault(sample)) for sample in asked]
    whole = [i for i, relaxation in enumerate(found) if relaxation.fault is None]
    crystals = [crystal for i in whole if isinstance(crystal := samples[i], AtomSet)]
    if progress is not None:
        progress(len(asked) - len(whole))
    relaxations = relax(crystals, potential, config.energies, config.worker_processes(), progress)
    for i, relaxation in zip(whole, relaxations, strict=True):
        found[i] = relaxation
    protocol = relaxation_protocol(potential, config)
    add_relaxations(verdicts, found, protocol)
    relaxed = [r.relaxed for r in found] + [None] * (len(samples) - len(found))
    if hull is not None:
        places = [_place(hull, sample, r) for sample, r in zip(asked, found, strict=True)]
        # Of a hull that was made with this model the description says all.
        kinds = "" if hull.model else f"; {kinds_note(potential.scale, hull.energies)}"
        note = f"{protocol}; {hull.describe()}{kinds}"
        add_stability(verdicts, places, config, note)
        add_discovery(verdicts, relaxed, known, config)
    return relaxed


def check_model(hull: Hull, potential: Potential) -> None:
    """Raises ConfigError where the hull says that another model made it: their energies do not compare."""
    if hull.model and hull.model != potential.describe():
        raise ConfigError(
            f"evaluation.hull was made with {hull.model}, evaluation.relax is {potential.describe()}; "
            "expected one and the same, see adit evaluate hull-entries"
        )


def relaxation_protocol(potential: Potential, config: EvaluationConfig) -> str:
    energies = config.energies
    return (
        f"{potential.describe()}; {energies.optimizer} on positions and cell (FrechetCellFilter) to "
        f"{energies.fmax_ev_per_angstrom:g} eV/Å, at most {energies.max_steps} steps and "
        f"{energies.relax_limit_s:g} s; of the first {energies.relax_samples or 'all'} samples, those "
        "structurally valid; rmsd: atom by atom in fractional coordinates, less their mean"
    )


def add_relaxations(verdicts: Verdicts, found: Sequence[Relaxation], protocol: str) -> None:
    """Check ``relaxed`` and the energies of the first ``len(found)`` samples."""
    verdicts.add_check("relaxed", _check([r.fault for r in found], len(verdicts), protocol))
    for name, values in {
        "energy_ev_per_atom": [r.energy for r in found],
        "relaxed_energy_ev_per_atom": [r.relaxed_energy for r in found],
        "relaxation_rmsd_angstrom": [r.rmsd for r in found],
        "relaxation_volume_ratio": [r.volume_ratio for r in found],
        "relaxation_steps": [float(r.steps) if r.steps else np.nan for r in found],
    }.items():
        verdicts.add_value(name, _column(values, len(verdicts)))


def add_stability(
    verdicts: Verdicts, places: Sequence[Place], config: EvaluationConfig, protocol: str
) -> None:
    """Energies above hull of the first ``len(places)`` samples, checks ``stable`` and ``metastable``."""
    verdicts.add_value("e_above_hull_ev_per_atom", _column([p.above_hull for p in places], len(verdicts)))
    verdicts.add_value("formation_energy_ev_per_atom", _column([p.formation for p in places], len(verdicts)))
    energies = config.energies
    lowest = -energies.implausible_ev
    below = f"more than {energies.implausible_ev:g} eV/atom below hull: a phase is missing or the model fails"
    for name, limit in {"stable": energies.stable_ev, "metastable": energies.metastable_ev}.items():
        above = f"more than {limit:g} eV/atom above hull"
        faults = [
            p.fault or (above if p.above_hull > limit else below if p.above_hull < lowest else None)
            for p in places
        ]
        text = f"{lowest:g} to {limit:g} eV/atom above hull; {protocol}"
        verdicts.add_check(name, _check(faults, len(verdicts), text))


def judge_molecule_energies(
    verdicts: Verdicts,
    samples: Sequence[Sample],
    method: str,
    config: EvaluationConfig,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Check ``<method>_relaxed``, values ``<method>_rmsd_angstrom`` and
    ``<method>_energy_drop_kcal_mol_per_atom``."""
    from adit_scale.evaluation.reconstruction import kabsch_rmsd

    protocol = MMFF_PROTOCOL if method == "mmff" else xtb_protocol(config)
    asked = samples[: asked_places(len(samples), config)]
    found = relax_molecules(asked, method, config.energies, config.worker_processes(), progress)
    rmsd = np.full(len(asked), np.nan)
    done = [i for i, relaxation in enumerate(found) if relaxation.positions is not None]
    if done:
        before = [sample.positions for i in done if isinstance(sample := asked[i], AtomSet)]
        rmsd[done] = kabsch_rmsd(before, [p for i in done if (p := found[i].positions) is not None])
    n = len(verdicts)
    verdicts.add_check(f"{method}_relaxed", _check([r.fault for r in found], n, protocol))
    verdicts.add_value(f"{method}_rmsd_angstrom", _column(rmsd, n))
    verdicts.add_value(f"{method}_energy_drop_kcal_mol_per_atom", _column([r.drop for r in found], n))


def xtb_protocol(config: EvaluationConfig) -> str:
    energies = config.energies
    return (
        f"{Potential('xtb').describe()}, charge 0; BFGS to {energies.xtb_fmax_ev_per_angstrom:g} eV/Å, "
        f"at most {energies.max_steps} steps and {energies.relax_limit_s:g} s; those of the rdkit protocol"
    )


def _place(hull: Hull, sample: Sample, relaxation: Relaxation) -> Place:
    if relaxation.fault is not None:
        return Place(fault=relaxation.fault)
    return hull.place(sample.numbers, relaxation.relaxed_energy)


def _check(faults: Sequence[str | None], n: int, protocol: str) -> Check:
    """A check of the first ``len(faults)`` of ``n`` samples; the others were not asked."""
    verdict = np.full(n, NOT_ASKED, dtype=np.int8)
    verdict[: len(faults)] = [PASSED if fault is None else FAILED for fault in faults]
    return Check(verdict, [fault or "" for fault in faults] + [""] * (n - len(faults)), protocol)


def _column(values: Sequence[float] | np.ndarray, n: int) -> np.ndarray:
    column = np.full(n, np.nan)
    column[: len(values)] = values
    return column

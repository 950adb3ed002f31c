"""Samples to verdicts and scores, stage by stage, each stage's result kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from adit_scale.atoms import CRYSTAL, DOMAIN_NAMES, MOLECULE, AtomSet
from adit_scale.data.formats import extended_xyz
from adit_scale.evaluation.config import EvaluationConfig
from adit_scale.evaluation.decode import Invalid
from adit_scale.evaluation.kept import Kept, deciding, identity_of, replace_text, samples_identity
from adit_scale.evaluation.references import References
from adit_scale.evaluation.score import Scores, score
from adit_scale.evaluation.verdicts import Verdicts

SCORES, RELAXED = "scores.json", "relaxed.extxyz"
Sample = AtomSet | Invalid
Samples = Mapping[int, Sequence[Sample]]


class Progress(Protocol):
    """Called with the stage's name, how many samples are done, and of how many."""

    def __call__(self, stage: str, done: int, total: int | None = None) -> object: ...


@dataclass(frozen=True)
class Judged:
    """verdicts: by domain; only domains with samples. relaxed: crystals after relaxation, ids kept."""

    verdicts: dict[int, Verdicts]
    scores: Scores
    relaxed: list[AtomSet] = field(default_factory=list)

    def write(self, folder: Path) -> list[Path]:
        """``scores.json`` and ``verdicts-DOMAIN.csv``, one line a sample. Returns their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for domain, verdicts in self.verdicts.items():
            paths.append(folder / f"verdicts-{DOMAIN_NAMES[domain]}.csv")
            verdicts.write_csv(paths[-1])
        if self.relaxed:
            paths.append(folder / RELAXED)
            replace_text(paths[-1], "".join(extended_xyz(crystal) for crystal in self.relaxed))
        replace_text(folder / SCORES, self.scores.to_json() + "\n")
        return [*paths, folder / SCORES]


def judge(
    samples: Samples,
    config: EvaluationConfig,
    references: References | None = None,
    keep: Path | None = None,
    progress: Progress | None = None,
    edges: Mapping[int, Sequence[int]] | None = None,
) -> Judged:
    """Every check that the settings ask for, of every sample; invalid samples fail with their reason.

    references: for novelty. keep: folder of the stages' results; a second call with the same samples and
    settings goes on where the first was killed. edges: by domain, the bins by atom count.
    """
    stages = _Stages(config, references or References(), keep, progress)
    verdicts: dict[int, Verdicts] = {}
    relaxed: list[AtomSet | None] = []
    if samples.get(MOLECULE):
        verdicts[MOLECULE] = stages.molecules(samples[MOLECULE])
    if samples.get(CRYSTAL):
        verdicts[CRYSTAL], relaxed = stages.crystals(samples[CRYSTAL])
    scores = score(verdicts.get(MOLECULE), verdicts.get(CRYSTAL), config, edges)
    return Judged(verdicts, scores, [crystal for crystal in relaxed if crystal is not None])


@dataclass(frozen=True)
class _Stages:
    config: EvaluationConfig
    references: References
    keep: Path | None
    progress: Progress | None

    def molecules(self, samples: Sequence[Sample]) -> Verdicts:
        from adit_scale.evaluation.molecules import judge_molecules  # heavy

        config = self.config
        known = self.references.molecules if config.novelty else None
        about = self._about(samples, None if known is None else identity_of({"smiles": sorted(known)}))
        count = self._counter("molecules", samples)
        kept = Kept(self.keep)
        verdicts = kept.verdicts("molecules", about, lambda: judge_molecules(samples, config, known, count))
        if config.relax_molecules:
            relaxing = about | {"relax": config.relax_molecules, "energies": asdict(config.energies)}
            energies = kept.verdicts("molecule-energies", relaxing, lambda: self._energies(samples))
            for name, check in energies.checks.items():
                verdicts.add_check(name, check)
            for name, column in energies.values.items():
                verdicts.add_value(name, column)
        return verdicts

    def _energies(self, samples: Sequence[Sample]) -> Verdicts:
        """Those of molecules alone, to be kept."""
        from adit_scale.evaluation.energies.judge import judge_energies  # heavy

        n_atoms = np.array([len(sample) for sample in samples])
        verdicts = Verdicts(MOLECULE, [sample.id for sample in samples], n_atoms)
        count = self._counter("molecules relaxed", samples)
        judge_energies(verdicts, samples, self.config, progress=count)
        return verdicts

    def crystals(self, samples: Sequence[Sample]) -> tuple[Verdicts, list[AtomSet | None]]:
        from adit_scale.evaluation.crystals import judge_crystals  # heavy

        config = self.config
        known = self.references.crystals if config.novelty else None
        about = self._about(samples, None if known is None else samples_identity(known))
        count = self._counter("crystals", samples)
        verdicts = Kept(self.keep).verdicts(
            "crystals", about, lambda: judge_crystals(samples, config, known, count)
        )
        if not config.relax:
            return verdicts, []
        from adit_scale.evaluation.energies.judge import judge_energies
        from adit_scale.evaluation.energies.relaxation import relax_crystals
        from adit_scale.evaluation.kept_relaxations import KeptRelaxations

        relax = relax_crystals if self.keep is None else KeptRelaxations(self.keep)
        count = self._counter("crystals relaxed", samples[: config.energies.relax_samples or None])
        return verdicts, judge_energies(verdicts, samples, config, known, count, relax)

    def _about(self, samples: Sequence[Sample], known: str | None) -> dict[str, Any]:
        """What decides the verdicts, less the energies'."""
        decided = deciding(self.config)
        for key in ("relax", "hull", "relax_molecules", "energies"):
            decided["settings"].pop(key)
        return decided | {"samples": samples_identity(samples), "known": known}

    def _counter(self, stage: str, samples: Sequence[Sample]) -> Callable[[int], object] | None:
        progress, total, done = self.progress, len(samples), 0
        if progress is None:
            return None

        def count(more: int) -> None:
            nonlocal done
            done += more
            progress(stage, min(done, total), total)

        count(0)
        return count

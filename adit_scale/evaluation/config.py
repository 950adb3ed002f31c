"""Settings of evaluation. No heavy imports."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from adit_scale.errors import ConfigError, check_range

OXIDATION_LISTS = ("smact14", "icsd24", "pymatgen_sp")
# Of pymatgen's StructureMatcher: its defaults, with which novelty is quoted, and those of match rates.
CRYSTAL_TOLERANCES = ("default", "match_rate")
MOLECULE_PROTOCOLS = ("edm", "rdkit", "adit", "posebusters", "geom")
# Fields that decide how long scoring takes but not what it finds. A call's limit is not one of them: what it
# cuts off is counted as failed.
OPERATIONAL = ("processes",)

OPTIMIZERS = ("FIRE", "BFGS")
MOLECULE_RELAXATIONS = ("mmff", "xtb")


@dataclass
class EnergyConfig:
    """How structures are relaxed and what counts as stable.

    relax_samples: crystals or molecules of a sample set that are asked for energies, the first by number; 0
    asks all. relax_limit_s: wall seconds of one relaxation; over it the sample fails with "time limit".
    optimizer: of ASE, FIRE or BFGS, on cell and positions (FrechetCellFilter). fmax_ev_per_angstrom: largest
    force on an atom or on the cell at which a crystal counts as relaxed. max_steps: before it counts as not
    converged. device: of CHGNet; other models choose their own.
    stable_ev, metastable_ev: largest energy above hull, eV/atom, to count as such. implausible_ev: a crystal
    further below the hull than this counts as neither: the hull lacks a phase, or the model fails there.
    xtb_fmax_ev_per_angstrom: as above, for molecules.
    """

    relax_samples: int = 1000
    relax_limit_s: float = 120.0
    optimizer: str = "FIRE"
    fmax_ev_per_angstrom: float = 0.05
    max_steps: int = 500
    device: str = "cpu"
    stable_ev: float = 0.0
    metastable_ev: float = 0.1
    implausible_ev: float = 0.2
    xtb_fmax_ev_per_angstrom: float = 0.01

    def validate(self, group: str) -> None:
        check_range(f"{group}.relax_samples", self.relax_samples, 0)
        check_range(f"{group}.relax_limit_s", self.relax_limit_s, 0.1)
        if self.optimizer not in OPTIMIZERS:
            raise ConfigError(
                f"{group}.optimizer is {self.optimizer!r}; expected one of {', '.join(OPTIMIZERS)}"
            )
        for key in ("fmax_ev_per_angstrom", "xtb_fmax_ev_per_angstrom"):
            check_range(f"{group}.{key}", getattr(self, key), 1e-6, 10)
        check_range(f"{group}.max_steps", self.max_steps, 1)
        check_range(f"{group}.stable_ev", self.stable_ev, -1, 10)
        check_range(f"{group}.metastable_ev", self.metastable_ev, self.stable_ev, 10)
        check_range(f"{group}.implausible_ev", self.implausible_ev, max(0.0, -self.stable_ev))


@dataclass
class EvaluationConfig:
    """reference_sets: held-out real structures a domain scored by the same code, as the ceiling row.

    protocols: how molecules are judged: edm (distance table), rdkit (DetermineBonds), adit (Open Babel),
    posebusters, geom (valence table). posebusters_energy: also PoseBusters' energy check, which embeds and
    relaxes 50 conformers a molecule. oxidation_states: the list that crystals' ``valid`` uses.
    crystalnn: also ask whether CrystalNN finds every atom's neighbours (40 ms a crystal of 9 atoms).
    crystal_uniqueness: match valid crystals of equal composition against each other.
    crystal_tolerances: of uniqueness and novelty: default (lengths 0.2, sites 0.3, angles 5°) or match_rate
    (0.3, 0.5, 10°).
    novelty: compare samples with the training set. call_limit_s: wall seconds of one chemistry call; over
    it the sample fails with the reason "time limit". processes: 0 uses every core this process may use.
    relax: energy model that crystals are relaxed with (energies/potentials.py); empty: none. hull: JSON of
    reference entries for energies above hull; needs ``relax``. relax_molecules: mmff, xtb or both.
    """

    oxidation_states: str = "smact14"
    reference_sets: int = 1000
    confidence: float = 0.95
    crystal_uniqueness: bool = True
    crystal_tolerances: str = "default"
    protocols: list[str] = field(default_factory=lambda: ["edm", "rdkit", "posebusters"])
    posebusters_energy: bool = False
    crystalnn: bool = False
    novelty: bool = True
    call_limit_s: float = 10.0
    processes: int = 0
    relax: str = ""
    hull: str = ""
    relax_molecules: list[str] = field(default_factory=list)
    energies: EnergyConfig = field(default_factory=EnergyConfig)

    def validate(self) -> None:
        if self.oxidation_states not in OXIDATION_LISTS:
            raise ConfigError(
                f"evaluation.oxidation_states is {self.oxidation_states!r}; "
                f"expected one of {', '.join(OXIDATION_LISTS)}"
            )
        if self.crystal_tolerances not in CRYSTAL_TOLERANCES:
            raise ConfigError(
                f"evaluation.crystal_tolerances is {self.crystal_tolerances!r}; "
                f"expected one of {', '.join(CRYSTAL_TOLERANCES)}"
            )
        check_range("evaluation.reference_sets", self.reference_sets, 1)
        if not 0.5 < self.confidence < 1:
            raise ConfigError(f"evaluation.confidence is {self.confidence}; expected 0.5 to 1")
        self._validate_protocols()
        check_range("evaluation.call_limit_s", self.call_limit_s, 0.01)
        check_range("evaluation.processes", self.processes, 0)
        self._validate_energies()

    def _validate_protocols(self) -> None:
        for name in self.protocols:
            if name not in MOLECULE_PROTOCOLS:
                raise ConfigError(
                    f"evaluation.protocols has {name!r}; expected some of {', '.join(MOLECULE_PROTOCOLS)}"
                )
        if len(set(self.protocols)) < len(self.protocols):
            raise ConfigError(f"evaluation.protocols names one twice: {', '.join(self.protocols)}")

    def _validate_energies(self) -> None:
        self.energies.validate("evaluation.energies")
        if self.hull and not self.relax:
            raise ConfigError("evaluation.hull is set, evaluation.relax is empty; expected an energy model")
        for name in self.relax_molecules:
            if name not in MOLECULE_RELAXATIONS:
                raise ConfigError(
                    f"evaluation.relax_molecules has {name!r}; "
                    f"expected some of {', '.join(MOLECULE_RELAXATIONS)}"
                )

    def worker_processes(self) -> int:
        """How many processes share the chemistry: as asked, or one a core this process may use."""
        return self.processes or len(os.sched_getaffinity(0))

"""Settings of evaluation. No heavy imports."""

from __future__ import annotations

from dataclasses import dataclass

from adit_scale.errors import ConfigError, check_range

OXIDATION_LISTS = ("smact14", "icsd24", "pymatgen_sp")


@dataclass
class EvaluationConfig:
    """reference_sets: held-out real structures a domain scored by the same code, as the ceiling row.

    crystal_uniqueness: match valid crystals of equal composition against each other; quick unless most
    samples share one composition (0.6 to 3 ms a pair).
    """

    oxidation_states: str = "smact14"
    reference_sets: int = 1000
    confidence: float = 0.95
    crystal_uniqueness: bool = True

    def validate(self) -> None:
        if self.oxidation_states not in OXIDATION_LISTS:
            raise ConfigError(
                f"evaluation.oxidation_states is {self.oxidation_states!r}; "
                f"expected one of {', '.join(OXIDATION_LISTS)}"
            )
        check_range("evaluation.reference_sets", self.reference_sets, 1)
        if not 0.5 < self.confidence < 1:
            raise ConfigError(f"evaluation.confidence is {self.confidence}; expected 0.5 to 1")

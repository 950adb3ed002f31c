"""Settings of sampling. No heavy imports."""

from __future__ import annotations

from dataclasses import dataclass

from adit_scale.errors import ConfigError


@dataclass
class SamplingConfig:
    """How many structures are drawn from a trained model, and how."""

    crystals: int = 1000
    molecules: int = 1000
    steps: int = 100
    guidance_scale: float = 2.0
    seed: int = 0
    batch_atoms: int = 4096

    def validate(self) -> None:
        if self.steps < 2:
            raise ConfigError(f"sampling.steps is {self.steps}; expected at least 2")
        if self.crystals < 0 or self.molecules < 0:
            raise ConfigError("sampling.crystals and sampling.molecules must not be negative")
        if self.batch_atoms < 1:
            raise ConfigError(f"sampling.batch_atoms is {self.batch_atoms}; expected at least 1")

"""Settings of sampling. No heavy imports."""

from __future__ import annotations

from dataclasses import dataclass

from adit_scale.errors import check_range


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
        for key, low in (("steps", 2), ("crystals", 0), ("molecules", 0), ("seed", 0), ("batch_atoms", 1)):
            check_range(f"sampling.{key}", getattr(self, key), low)

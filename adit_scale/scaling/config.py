"""Settings of a study: its points and its fit. No heavy imports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from adit_scale.errors import ConfigError


@dataclass
class SweepConfig:
    """A grid of points over one frozen autoencoder.

    grid: setting -> values; the points are the product. ``model/denoiser`` names rungs of the ladder.
    overrides_by_size: rung -> overrides of that point's settings (resources, learning rate).
    """

    name: str = "scaling"
    hypothesis: str = ""
    grid: dict[str, list[Any]] = field(default_factory=dict)
    overrides_by_size: dict[str, list[str]] = field(default_factory=dict)
    bootstrap: int = 1000
    hold_out_largest: bool = True

    def validate(self) -> None:
        if self.name in ("", ".", "..") or "/" in self.name:
            raise ConfigError(f"sweep.name is {self.name!r}; expected the name of one folder, without /")
        if self.grid and not self.grid.get("model/denoiser"):
            raise ConfigError("sweep.grid has no sizes; expected sweep.grid.model/denoiser: [rung, ...]")
        if self.bootstrap < 100:
            raise ConfigError(f"sweep.bootstrap is {self.bootstrap}; expected at least 100 resamples")

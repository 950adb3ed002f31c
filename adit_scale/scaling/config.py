"""Settings of a study: its points, its fit and what it may cost. No heavy imports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from adit_scale.errors import ConfigError, check_range
from adit_scale.training.peaks import GPUS

SIZE_AXIS = "model/denoiser"


@dataclass
class SweepConfig:
    """Points over one frozen autoencoder. An axis is a setting or a group of settings, with its values.

    grid: axis -> values; the points are the product. ``model/denoiser`` names rungs of the ladder.
    zip: name -> axis -> values; the axes of one zip advance together and count as one factor of the product.
    exclude: axis -> value or values; points that match every axis of an entry are left out.
    overrides_by_size: rung -> overrides of that point's settings, such as its learning rate; what its job
        takes (GPUs, time, ZeRO stage) is launcher.by_size.
    """

    name: str = "scaling"
    hypothesis: str = ""
    grid: dict[str, list[Any]] = field(default_factory=dict)
    zip: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    exclude: list[dict[str, Any]] = field(default_factory=list)
    overrides_by_size: dict[str, list[str]] = field(default_factory=dict)
    bootstrap: int = 1000
    hold_out_largest: bool = True

    def axes(self) -> dict[str, list[Any]]:
        """All axes, of the grid and of the zips, with their values."""
        return {axis: values for part in (self.grid, *self.zip.values()) for axis, values in part.items()}

    def validate(self) -> None:
        if self.name in ("", ".", "..") or "/" in self.name:
            raise ConfigError(f"sweep.name is {self.name!r}; expected the name of one folder, without /")
        self._validate_axes()
        if self.axes() and not self.axes().get(SIZE_AXIS):
            raise ConfigError(f"sweep.grid has no sizes; expected sweep.grid.{SIZE_AXIS}: [rung, ...]")
        if self.bootstrap < 100:
            raise ConfigError(f"sweep.bootstrap is {self.bootstrap}; expected at least 100 resamples")

    def _validate_axes(self) -> None:
        places: dict[str, str] = {}
        parts = {"sweep.grid": self.grid, **{f"sweep.zip.{name}": part for name, part in self.zip.items()}}
        for place, part in parts.items():
            for axis, values in part.items():
                if not values:
                    raise ConfigError(f"{place}.{axis} is []; expected a list of values")
                if axis in places:
                    raise ConfigError(
                        f"{place}.{axis} is an axis of {places[axis]} too; expected every axis once"
                    )
                places[axis] = place
        for name, part in self.zip.items():
            _check_lengths(f"sweep.zip.{name}", part)


def _check_lengths(place: str, part: Mapping[str, list[Any]]) -> None:
    if not part:
        raise ConfigError(f"{place} is empty; expected axes with as many values each")
    first, *others = part
    for axis in others:
        if len(part[axis]) != len(part[first]):
            counts = " and ".join(f"{len(part[a])} of {a}" for a in (first, axis))
            raise ConfigError(
                f"{place} has {counts}; expected as many values of each: override all axes of the zip "
                f"together, or remove it with '~{place}'"
            )


@dataclass
class BudgetConfig:
    """What a study may cost, and by what it is reckoned; no part of what is computed.

    gpu_hours: `submit` refuses what is left to do where it needs more; 0 is no limit.
    gpu: whose peak (training/peaks.py). mfu: the share of that peak which runs reach, over 0 to 1.
    price_per_gpu_hour: in any currency; 0 shows no prices.
    """

    gpu_hours: float = 0.0
    gpu: str = "h100"
    mfu: float = 0.4
    price_per_gpu_hour: float = 0.0

    def validate(self) -> None:
        for key in ("gpu_hours", "price_per_gpu_hour"):
            check_range(f"budget.{key}", getattr(self, key), 0)
        check_range("budget.mfu", self.mfu, 0.001, 1)
        if self.gpu.lower() not in GPUS:
            raise ConfigError(f"budget.gpu is {self.gpu!r}; expected one of {', '.join(GPUS)}")

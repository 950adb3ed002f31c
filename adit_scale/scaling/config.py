"""Settings of a study: its points, its fit and what it may cost. No heavy imports."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from adit_scale.errors import ConfigError, check_range
from adit_scale.performance.constants import find_network
from adit_scale.training.peaks import GPUS

SIZE_AXIS = "model/denoiser"
ASSUMED_MFU = 0.4
# Axes whose values are no settings of a point: they decide its settings (scaling/designs.py).
BUDGET_AXIS, DECAY_AXIS = "sweep.budgets_flops", "sweep.decays"


@dataclass
class SweepConfig:
    """Points over one frozen autoencoder. An axis is a setting or a group of settings, with its values.

    grid: axis -> values; the points are the product. ``model/denoiser`` names rungs of the ladder.
    zip: name -> axis -> values; the axes of one zip advance together and count as one factor of the product.
    exclude: axis -> value or values; points that match every axis of an entry are left out.
    overrides_by_size: rung -> overrides of that point's settings, such as its learning rate; what its job
        takes (GPUs, time, ZeRO stage) is launcher.by_size.
    budgets_flops: one more factor of the product: each point trains until its C is about this (min_steps).
    decays: one more factor: decay branches of one trunk. The point at m has m * diffusion.steps steps in all,
        the last diffusion.optim.decay_fraction of which are its decay from a trunk of constant rate.
    min_steps: points of a budget with fewer steps are left out, by name.
    evaluate: draw and score samples of every point; false measures losses alone.
    reuse: take what other studies in the same ``runs`` have finished from there; false runs it here.
    max_leakage: nothing is fitted where a larger share of the held-out sets stands in the training data.
    """

    name: str = "scaling"
    hypothesis: str = ""
    grid: dict[str, list[Any]] = field(default_factory=dict)
    zip: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    exclude: list[dict[str, Any]] = field(default_factory=list)
    overrides_by_size: dict[str, list[str]] = field(default_factory=dict)
    bootstrap: int = 1000
    hold_out_largest: bool = True
    max_leakage: float = 0.01
    budgets_flops: list[float] = field(default_factory=list)
    decays: list[float] = field(default_factory=list)
    min_steps: int = 100
    evaluate: bool = True
    reuse: bool = True

    def axes(self) -> dict[str, list[Any]]:
        """The axes that are settings, of the grid and of the zips, with their values."""
        return {axis: values for part in (self.grid, *self.zip.values()) for axis, values in part.items()}

    def made_axes(self) -> dict[str, list[float]]:
        """The axis of budgets or of decays, where there is one."""
        made = {BUDGET_AXIS: self.budgets_flops, DECAY_AXIS: self.decays}
        return {axis: list(values) for axis, values in made.items() if values}

    def validate(self) -> None:
        if self.name in ("", ".", "..") or "/" in self.name:
            raise ConfigError(f"sweep.name is {self.name!r}; expected the name of one folder, without /")
        self._validate_axes()
        if self.axes() and not self.axes().get(SIZE_AXIS):
            raise ConfigError(f"sweep.grid has no sizes; expected sweep.grid.{SIZE_AXIS}: [rung, ...]")
        if self.bootstrap < 100:
            raise ConfigError(f"sweep.bootstrap is {self.bootstrap}; expected at least 100 resamples")
        check_range("sweep.max_leakage", self.max_leakage, 0, 1)
        check_range("sweep.min_steps", self.min_steps, 1)
        self._validate_made_axes()

    def _validate_made_axes(self) -> None:
        for key in ("budgets_flops", "decays"):
            wrong = [value for value in getattr(self, key) if not 0 < value < math.inf]
            if wrong:
                raise ConfigError(f"sweep.{key} has {wrong[0]}; expected numbers above 0")
        if self.budgets_flops and self.decays:
            raise ConfigError("sweep.budgets_flops and sweep.decays are both given; expected one of them")
        for made in self.made_axes():
            if not self.axes():
                raise ConfigError(f"{made} needs sizes; expected sweep.grid.{SIZE_AXIS}: [rung, ...]")
            for axis in ("diffusion.steps", "diffusion.optim.schedule"):
                if axis in self.axes():
                    raise ConfigError(f"{axis} is an axis, and {made} decides it too; expected one of them")

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
class ScaleConfig:
    """What the designs of configs/sweep take from configs/scale: the same design for a cluster or a laptop.

    sizes: the ladder of a study. few: of those, where a design varies much else. one: where it varies all
    else. base_steps, warmup_steps: of designs that set the length of their runs. budgets_flops: for
    isoflop_sizes. lrs: from too low to too high. widths, feedforwards: of autoencoders, in step.
    """

    sizes: list[str] = field(default_factory=list)
    few: list[str] = field(default_factory=list)
    one: list[str] = field(default_factory=list)
    base_steps: int = 0
    warmup_steps: int = 0
    isoflop_sizes: list[str] = field(default_factory=list)
    budgets_flops: list[float] = field(default_factory=list)
    lrs: list[float] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    feedforwards: list[int] = field(default_factory=list)


@dataclass
class BudgetConfig:
    """What a study may cost, and by what it is reckoned; no part of what is computed.

    gpu_hours: `submit` refuses what is left to do where it needs more; 0 is no limit.
    gpu: whose peak (training/peaks.py). mfu: the share of that peak which runs reach, over 0 to 1.
    network: between the GPUs (adit_scale/performance/constants.json): hours of diffusion runs are then of the
        step model, with exchange, update and all else; "" reckons from FLOPs alone.
    price_per_gpu_hour: in any currency; 0 shows no prices.
    """

    gpu_hours: float = 0.0
    gpu: str = "h100"
    mfu: float = ASSUMED_MFU
    network: str = ""
    price_per_gpu_hour: float = 0.0

    def validate(self) -> None:
        for key in ("gpu_hours", "price_per_gpu_hour"):
            check_range(f"budget.{key}", getattr(self, key), 0)
        check_range("budget.mfu", self.mfu, 0.001, 1)
        if self.gpu.lower() not in GPUS:
            raise ConfigError(f"budget.gpu is {self.gpu!r}; expected one of {', '.join(GPUS)}")
        if self.network:
            find_network(self.network, self.gpu)

"""Where a sampler evaluates: N times from 0.01 (noise) to 1 (data), by name. No heavy imports.

Every grid is ``t_i = 0.01 + 0.99 g(i / (N - 1))`` with g rising from g(0) = 0 to g(1) = 1.

- ``uniform``: g(u) = u, the recipe's.
- ``power``, exponent p: g(u) = u^p; above 1 denser near noise, below 1 denser near data.
- ``shifted``, shift s: g(u) = u / (s - (s - 1) u), which is the shift ``s v / (1 + (s - 1) v)`` of Esser et
  al. (arXiv 2403.03206, eq. 23) of the noise share v = 1 - u; above 1 denser near noise.
- ``cosine``: g(u) = 1 / (1 + cot(pi u / 2)), which has at u the signal-to-noise ratio of the cosine schedule
  (Nichol and Dhariwal, arXiv 2102.09672; "CosMap" of Esser et al.); denser in the middle.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from adit_scale.errors import ConfigError, check_range

T_START = 0.01  # where the flow starts, and training's smallest time


@dataclass(frozen=True)
class _Grid:
    """g(u, parameter); the parameter's default and range, None where the grid has none."""

    g: Callable[[float, float], float]
    default: float | None = None
    low: float = 0.0
    high: float = 0.0


def _cosine(u: float, _: float) -> float:
    sine, cosine = math.sin(0.5 * math.pi * u), math.cos(0.5 * math.pi * u)
    return sine / (sine + cosine)


TIME_GRIDS = {
    "uniform": _Grid(lambda u, _: u),
    "power": _Grid(lambda u, p: u**p, default=2.0, low=0.2, high=5.0),
    "shifted": _Grid(lambda u, s: u / (s - (s - 1.0) * u), default=3.0, low=0.05, high=20.0),
    "cosine": _Grid(_cosine),
}


def check_time_grid(name: str, parameter: float | None) -> None:
    """Raises ConfigError for an unknown grid and for a parameter it does not take."""
    if name not in TIME_GRIDS:
        raise ConfigError(f"sampling.time_grid is {name!r}; expected one of {', '.join(TIME_GRIDS)}")
    grid = TIME_GRIDS[name]
    if parameter is None:
        return
    if grid.default is None:
        raise ConfigError(
            f"sampling.time_grid_parameter is {parameter}, but the time grid {name!r} has none; leave it null"
        )
    check_range("sampling.time_grid_parameter", parameter, grid.low, grid.high)


def time_grid(steps: int, name: str = "uniform", parameter: float | None = None) -> list[float]:
    """``steps`` times, never falling, from 0.01 to 1, both exact; one step is t = 1 alone.

    parameter: exponent or shift; None takes the grid's default (2 and 3). Raises ConfigError.
    """
    check_time_grid(name, parameter)
    grid = TIME_GRIDS[name]
    value = parameter if parameter is not None else grid.default or 0.0
    inner = [T_START + (1.0 - T_START) * grid.g(i / (steps - 1), value) for i in range(1, steps - 1)]
    return ([T_START] if steps > 1 else []) + inner + [1.0]

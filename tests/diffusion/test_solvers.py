"""Order of convergence on flows that are known in closed form, and what a solver costs."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from adit_scale.diffusion.solvers import (
    SOLVERS,
    Predict,
    evaluation_times,
    integrate,
    n_evaluations_of,
)
from adit_scale.diffusion.time_grids import time_grid

MEAN, SPREAD = 0.7, 0.3  # data are N(MEAN, SPREAD^2)
X_0 = torch.linspace(-3, 3, 61, dtype=torch.float64)[:, None]


def variance(t: float) -> float:
    """Of x_t = (1 - t) x_0 + t x_1."""
    return (t * SPREAD) ** 2 + (1 - t) ** 2


def gaussian_denoiser(x_td: Tensor, newest_td: Tensor | None, t: float) -> Tensor:
    """E[x_1 | x_t], of the joint Gaussian of x_t and x_1."""
    return MEAN + t * SPREAD**2 / variance(t) * (x_td - t * MEAN)


def clinging(share: float) -> Predict:
    """A denoiser that leans on its self-conditioning; its own prediction is a fixed point."""

    def predict(x_td: Tensor, newest_td: Tensor | None, t: float) -> Tensor:
        told_td = torch.zeros_like(x_td) if newest_td is None else newest_td
        return (1 - share) * gaussian_denoiser(x_td, None, t) + share * told_td

    return predict


def errors(predict: Predict, solver: str, steps: list[int], grid: str) -> list[float]:
    # The exact flow keeps a sample's place in units of the standard deviation.
    scale = math.sqrt(variance(1.0) / variance(0.01))
    exact_td = MEAN + scale * (X_0 - 0.01 * MEAN)
    return [
        float((integrate(predict, X_0, time_grid(n, grid), solver) - exact_td).abs().max()) for n in steps
    ]


@pytest.mark.parametrize("grid", ["uniform", "power", "shifted", "cosine"])
@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2), ("midpoint", 2)])
def test_order_of_convergence(solver: str, order: int, grid: str):
    found = errors(gaussian_denoiser, solver, [65, 129, 257], grid)
    slopes = [math.log2(a / b) for a, b in pairwise(found)]
    assert slopes == pytest.approx([order, order], abs=0.06)
    assert found[-1] < {1: 0.02, 2: 1e-3}[order]


@pytest.mark.parametrize("solver", ["heun", "midpoint"])
def test_second_order_is_worth_its_evaluations(solver: str):
    """At about 100 evaluations of each: 51 steps against 100."""
    euler = errors(gaussian_denoiser, "euler", [100], "uniform")[0]
    assert errors(gaussian_denoiser, solver, [51], "uniform")[0] < euler / 5


@pytest.mark.parametrize("solver", ["heun", "midpoint"])
def test_self_conditioning_leaves_first_order_but_a_smaller_error(solver: str):
    """The newest prediction lags by a step, an error of first order whatever the solver."""
    found = errors(clinging(0.3), solver, [129, 257, 513], "uniform")
    slopes = [math.log2(a / b) for a, b in pairwise(found)]
    assert slopes == pytest.approx([1, 1], abs=0.1)
    assert found[1] < errors(clinging(0.3), "euler", [512], "uniform")[0] / 1.9


@pytest.mark.parametrize("solver", list(SOLVERS))
@pytest.mark.parametrize("steps", [2, 3, 10])
def test_evaluations_are_as_stated(solver: str, steps: int):
    seen: list[float] = []
    newest: list[Tensor | None] = []
    given: list[Tensor] = []

    def predict(x_td: Tensor, newest_td: Tensor | None, t: float) -> Tensor:
        seen.append(t)
        newest.append(newest_td)
        given.append(gaussian_denoiser(x_td, None, t))
        return given[-1]

    times = time_grid(steps)
    sample = integrate(predict, X_0, times, solver)
    assert seen == evaluation_times(solver, times)
    assert len(seen) == n_evaluations_of(solver, steps) == (steps if solver == "euler" else 2 * steps - 2)
    assert seen[-1] == 1.0
    assert max(seen[:-1]) < 1.0  # at t = 1 there is no slope
    assert sample is given[-1]
    # Each evaluation is conditioned on the one just before, whatever part of a move that was.
    assert newest[0] is None
    assert all(told is made for told, made in zip(newest[1:], given, strict=False))


def test_moves_by_hand():
    """One free move, from 0 at t = 0.01 with slopes made up, then the move onto the prediction."""
    said = iter([1.0, 2.0, 3.0, 4.0])

    def predict(x_td: Tensor, newest_td: Tensor | None, t: float) -> Tensor:
        states.append(float(x_td))
        return torch.full_like(x_td, next(said))

    states: list[float] = []
    zero = torch.zeros(1, 1, dtype=torch.float64)
    assert float(integrate(predict, zero, [0.0, 0.5, 1.0], "heun")) == 4.0
    # Slopes (1 - 0) / 1 = 1 at the start and (2 - 0.5) / 0.5 = 3 at its end: mean 2, over 0.5.
    assert states == [0.0, 0.5, 1.0, 3.0]
    said = iter([1.0, 2.0, 3.0, 4.0])
    states = []
    assert float(integrate(predict, zero, [0.0, 0.5, 1.0], "midpoint")) == 4.0
    # Half way at 0.25; slope there (2 - 0.25) / 0.75, over 0.5.
    assert states == pytest.approx([0.0, 0.25, 1.75 / 0.75 / 2, 3.0])

"""Solvers of the flow ``dx/dt = (x1_hat(x, t) - x) / (1 - t)`` over a grid of times that ends at 1.

With N times a solver makes N - 1 moves, then one more evaluation at t = 1 whose output is the sample, as in
the recipe. ``euler`` is of first order and evaluates once a move: N evaluations in all. ``heun`` (the mean of
the slopes at both ends) and ``midpoint`` (the slope half way) are of second order and evaluate twice, but
once in the last move, an Euler move onto the prediction itself, as the slope at t = 1 is 0/0 (so do Karras et
al., arXiv 2206.00364, algorithm 1): 2N - 2 in all.

Every evaluation is self-conditioned on the newest prediction, whatever evaluation made it: the one at t = 1,
and Heun's at the start of a move, then see a prediction of (almost) their own place and time, as in training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

# x1_hat of (x_t, the newest prediction or None, t).
Predict = Callable[[Tensor, Tensor | None, float], Tensor]
Move = Callable[[Predict, Tensor, Tensor | None, float, float], tuple[Tensor, Tensor]]


def integrate(predict: Predict, x_0_td: Tensor, times: Sequence[float], solver: str = "euler") -> Tensor:
    """The sample ``(T, d)`` that starts as x_0 at ``times[0]``; ``times`` rise to 1, the last alone is 1."""
    move = SOLVERS[solver]
    x_td, x1_hat_td = x_0_td, None
    for t, t_next in pairwise(times):
        one_move = move if t_next < 1.0 else _euler
        x_td, x1_hat_td = one_move(predict, x_td, x1_hat_td, t, t_next)
    return predict(x_td, x1_hat_td, times[-1])


def n_evaluations_of(solver: str, steps: int) -> int:
    """Evaluations of ``integrate`` over ``steps`` times."""
    return steps if solver == "euler" else max(1, 2 * steps - 2)


def evaluation_times(solver: str, times: Sequence[float]) -> list[float]:
    """The times at which ``integrate`` evaluates, in order."""
    inner = {
        "euler": lambda t, t_next: [t],
        "heun": lambda t, t_next: [t, t_next],
        "midpoint": lambda t, t_next: [t, 0.5 * (t + t_next)],
    }[solver]
    found: list[float] = []
    for t, t_next in pairwise(times):
        found += inner(t, t_next) if t_next < 1.0 else [t]
    return [*found, times[-1]]


def _towards(x_td: Tensor, x1_hat_td: Tensor, t: float, step: float) -> Tensor:
    """``x`` moved by ``step`` along the slope towards a prediction made at time t."""
    return x_td + (x1_hat_td - x_td) * (step / (1.0 - t))


def _euler(
    predict: Predict, x_td: Tensor, newest_td: Tensor | None, t: float, t_next: float
) -> tuple[Tensor, Tensor]:
    x1_hat_td = predict(x_td, newest_td, t)
    return _towards(x_td, x1_hat_td, t, t_next - t), x1_hat_td


def _heun(
    predict: Predict, x_td: Tensor, newest_td: Tensor | None, t: float, t_next: float
) -> tuple[Tensor, Tensor]:
    step = t_next - t
    first_td = predict(x_td, newest_td, t)
    there_td = _towards(x_td, first_td, t, step)
    second_td = predict(there_td, first_td, t_next)
    slope_td = (first_td - x_td) / (1.0 - t) + (second_td - there_td) / (1.0 - t_next)
    return x_td + slope_td * (0.5 * step), second_td


def _midpoint(
    predict: Predict, x_td: Tensor, newest_td: Tensor | None, t: float, t_next: float
) -> tuple[Tensor, Tensor]:
    step = t_next - t
    middle = 0.5 * (t + t_next)
    first_td = predict(x_td, newest_td, t)
    half_td = _towards(x_td, first_td, t, 0.5 * step)
    second_td = predict(half_td, first_td, middle)
    return x_td + (second_td - half_td) * (step / (1.0 - middle)), second_td


SOLVERS: dict[str, Move] = {"euler": _euler, "heun": _heun, "midpoint": _midpoint}

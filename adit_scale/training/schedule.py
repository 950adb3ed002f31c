"""Learning rate as a pure function of the step, so that nothing about it needs saving."""

from __future__ import annotations

import math

from adit_scale.training.config import OptimConfig


def learning_rate(step: int, total_steps: int, optim: OptimConfig) -> float:
    """The rate of 0-based ``step`` out of ``total_steps``.

    Linear warm-up to ``lr`` over ``warmup_steps``; then constant, a half cosine down to
    ``final_lr_fraction * lr``, or (wsd) constant with a linear decay over the last ``decay_fraction``. A
    decay branch falls linearly from step ``decay_from`` to the end: a branch of a wsd run's length that
    starts where its decay does has its rates, bit for bit.
    """
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    if optim.schedule == "constant":
        return optim.lr
    if optim.schedule == "cosine":
        span = max(1, total_steps - optim.warmup_steps)
        progress = min(1.0, (step - optim.warmup_steps) / span)
        shape = 0.5 * (1.0 + math.cos(math.pi * progress))
    else:
        length = (
            total_steps - optim.decay_from if optim.schedule == "decay" else _decay_steps(total_steps, optim)
        )
        shape = min(1.0, max(0, total_steps - step) / length)
    return optim.lr * (optim.final_lr_fraction + (1.0 - optim.final_lr_fraction) * shape)


def decay_start(total_steps: int, optim: OptimConfig) -> int | None:
    """Steps done before a wsd decay begins: where a decay of another length can start. None without one."""
    return total_steps - _decay_steps(total_steps, optim) if optim.schedule == "wsd" else None


def _decay_steps(total_steps: int, optim: OptimConfig) -> int:
    return max(1, round(optim.decay_fraction * total_steps))

"""AdamW, and how a parametrization (``optim.parametrization``) shapes the denoiser and its learning rates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from adit_scale.models.config import DenoiserConfig
from adit_scale.training.config import OptimConfig


def parametrized(shape: DenoiserConfig, optim: OptimConfig) -> DenoiserConfig:
    """The network that is trained: muP scales the scores of attention in another way."""
    if optim.parametrization == "standard":
        return shape
    return replace(shape, base_head_width=optim.base_head_width)


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]], optim: OptimConfig, multipliers: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Groups for AdamW, one a multiplier of the learning rate, in the order in which they are met.

    parameters: (name, parameter). multipliers: by name, 1 for names without one. ``lr_multiplier`` stands in
    each group. Weight decay is divided by it, so that one step takes the same share of any weight.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in parameters:
        if parameter.requires_grad:
            groups.setdefault(multipliers.get(name, 1.0), []).append(parameter)
    return [
        {
            "params": members,
            "lr_multiplier": multiplier,
            "lr": optim.lr * multiplier,
            "weight_decay": optim.weight_decay / multiplier,
        }
        for multiplier, members in groups.items()
    ]


def set_learning_rate(groups: Iterable[dict[str, Any]], lr: float) -> None:
    """``lr`` times each group's multiplier."""
    for group in groups:
        group["lr"] = lr * group["lr_multiplier"]

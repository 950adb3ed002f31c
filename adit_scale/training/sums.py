"""Sums of a step or of a validation, brought together from ranks and batches."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor

from adit_scale.training.stage import Sums


def to_floats(sums: Sums) -> dict[str, tuple[float, float]]:
    return {name: (float(a), float(b)) for name, (a, b) in sums.items()}


def summed(losses: list[Tensor]) -> float:
    """The step's loss from all ranks' parts. A collective call, and a wait for the device."""
    total = torch.stack(losses).sum().double()
    if dist.get_world_size() > 1:
        dist.all_reduce(total)
    return float(total)


def gather(mine: list) -> list:
    """The items of all ranks. A collective call."""
    if dist.get_world_size() == 1:
        return mine
    parts: list = [None] * dist.get_world_size()
    dist.all_gather_object(parts, mine)
    return [item for part in parts for item in part]


def means_in_order(rows: list[tuple[int, dict[str, tuple[float, float]]]]) -> dict[str, float]:
    """Quotients of sums over batches, added up in batch order so that no world size changes a bit."""
    totals: dict[str, tuple[float, float]] = {}
    for _, row in sorted(rows, key=lambda item: item[0]):
        for name, (a, b) in row.items():
            x, y = totals.get(name, (0.0, 0.0))
            totals[name] = (x + a, y + b)
    return {name: a / b if b else math.nan for name, (a, b) in totals.items()}

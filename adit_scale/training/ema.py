"""Exponential moving average of the master weights, kept in fp32 on the rank that owns each fragment.

bf16 cannot hold an update of one part in ten thousand, and under ZeRO 3 no rank holds a whole parameter;
so the average lives beside the optimizer's fragments and is gathered only to validate and to export.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from adit_scale.training.engine import Fragment


class ExponentialMovingAverage:
    """``average`` is aligned with the engine's fragments. ``n_updates`` counts applied steps."""

    def __init__(self, fragments: list[Fragment], decay: float):
        self.max_decay = decay
        self.n_updates = 0
        self.average = [fragment.master.detach().clone() for fragment in fragments]

    def update(self, fragments: list[Fragment]) -> None:
        """Move towards the current weights by 1 - min(decay, (1+k)/(10+k)) after k applied steps.

        The ramp keeps short runs from being scored on their initial weights.
        """
        decay = min(self.max_decay, (1 + self.n_updates) / (10 + self.n_updates))
        masters = [fragment.master for fragment in fragments]
        torch._foreach_lerp_(self.average, masters, 1.0 - decay)
        self.n_updates += 1

    def gather(self, fragments: list[Fragment], shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
        """The whole average by parameter name, fp32, on every rank. A collective call."""
        device = self.average[0].device if self.average else torch.device("cpu")
        full = {name: torch.zeros(shape, device=device) for name, shape in shapes.items()}
        for fragment, value in zip(fragments, self.average, strict=True):
            full[fragment.name].view(-1)[fragment.start : fragment.start + fragment.length] = value
        if dist.get_world_size() > 1:
            for name in sorted(full):
                dist.all_reduce(full[name])  # every element is zero on all ranks but its owner
        return full

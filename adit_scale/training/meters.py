"""Running sums between two log lines, kept on the device so that no step waits for a number."""

from __future__ import annotations

import math
import time

import torch
import torch.distributed as dist
from torch import Tensor


class Meters:
    """Quotients of sums by name, plus the step's loss and gradient norm. All sums are float64.

    ``state`` is saved with a checkpoint: an interval cut by a restart ends with the same means.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._sums: dict[str, Tensor] = {}
        self._mark: tuple[float, float] | None = None

    def add(self, sums: dict[str, tuple[Tensor, Tensor]]) -> None:
        """Add numerators and denominators of one batch."""
        for name, pair in sums.items():
            value = torch.stack([x.detach().double() for x in pair])
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def add_step(self, loss_part: Tensor, gradient_norm: float) -> None:
        """Add one applied step: this rank's part of its loss, and the norm that all ranks share.

        The denominators count ranks' shares of a step, so that sums over ranks give means over steps.
        """
        share = torch.tensor(1.0 / dist.get_world_size(), dtype=torch.float64, device=self._device)
        self.add({"loss": (loss_part, share), "gradient_norm": (gradient_norm * share, share)})

    def means(self) -> dict[str, float]:
        """Means over all ranks since the last call, NaN where nothing was counted; then starts anew.

        A collective call where there are several ranks.
        """
        if not self._sums:
            return {}
        names = sorted(self._sums)
        table = torch.stack([self._sums[name] for name in names])
        if dist.get_world_size() > 1:
            dist.all_reduce(table)
        self._sums = {}
        return {
            name: numerator / denominator if denominator else math.nan
            for name, (numerator, denominator) in zip(names, table.tolist(), strict=True)
        }

    def rates(self, atoms_seen: int) -> dict[str, float]:
        """Atoms a second since the last call; empty at the first."""
        now = time.monotonic()
        previous, self._mark = self._mark, (now, atoms_seen)
        if previous is None or now <= previous[0]:
            return {}
        return {"atoms_per_s": (atoms_seen - previous[1]) / (now - previous[0])}

    def state(self) -> dict[str, Tensor]:
        return dict(self._sums)

    def load_state(self, state: dict[str, Tensor]) -> None:
        self._sums = {name: value.to(self._device) for name, value in state.items()}

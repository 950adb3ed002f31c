"""What a run lets a person see: a line an interval, warnings as they come, a summary at the end.

Numbers that follow from settings, data and seed go into the journal's ``values``; whatever a clock or the
machine decides goes into its ``clock``, so that a resumed run writes the same values.
"""

from __future__ import annotations

import math

import torch

from adit_scale.tracking.journal import Journal
from adit_scale.tracking.terminal import Progress, format_summary
from adit_scale.training import mfu
from adit_scale.training.checkpoint import TrainState
from adit_scale.training.config import StageConfig
from adit_scale.training.guards import SPIKE_WINDOW, SlowRank, spike
from adit_scale.training.meters import Phases, Speed


class Sight:
    """Of one attempt at a run. ``journal`` is None on all ranks but the first, which alone prints.

    ``phases``: the trainer enters them. state: the trainer's own, as resumed.
    """

    def __init__(
        self,
        name: str,
        settings: StageConfig,
        state: TrainState,
        journal: Journal | None,
        device: torch.device,
        precision: str,
    ):
        self.name, self._settings, self._state, self._journal = name, settings, state, journal
        self.progress = Progress(settings.steps, name, enabled=journal is not None)
        self.phases = Phases(device)
        self._peak = mfu.device_peak(device, precision)
        self._speed = Speed(device, self._peak, (state.step, state.atoms_seen, state.flops_total))
        self._slow_rank = SlowRank()
        self.validation_loss: float | None = None  # the last one seen

    def event(self, event: str, values: dict[str, float], text: str) -> None:
        """One event in the journal and one line on the terminal."""
        if self._journal:
            self._journal.log_event(event, self._state.step, values)
            self._journal.flush()
        numbers = ", ".join(f"{key} {value:.4g}" for key, value in values.items())
        self.progress.note(f"{self.name} step {self._state.step}: {text} ({numbers})")

    def interval(self, values: dict[str, float]) -> None:
        """Journal and print an interval's values with its speed; look for a spike and for a slow rank.

        A collective call.
        """
        state = self._state
        seconds = self.phases.take()
        clock = self._speed.interval(seconds, state.step, state.atoms_seen, state.flops_total)
        if self._journal:
            self._journal.log_metrics(state.step, {f"train/{k}": v for k, v in values.items()}, clock)
            self._journal.flush()
        shown: dict[str, float | str] = {**values, **clock}
        shown["mfu"] = mfu.describe(clock.get("mfu"), self._peak)
        self.progress.line(state.step, shown)
        self._watch_loss(values.get("loss"))
        if line := self._slow_rank.check(clock):
            self.progress.note(line)

    def _watch_loss(self, loss: float | None) -> None:
        """Report a spike; the losses it is measured against are saved with the run."""
        if loss is None or not math.isfinite(loss):
            return
        state = self._state
        if found := spike(state.recent_losses, loss, self._settings.spike_factor):
            state.spikes += 1
            self.event("loss_spike", found, "the loss stands out from the intervals before")
        state.recent_losses = [*state.recent_losses, loss][-SPIKE_WINDOW:]

    def summary(self, checkpoints: int) -> None:
        """Print one line about the run and this attempt's speed. checkpoints: how many there are."""
        state, speed = self._state, self._speed.total()
        values: dict[str, float | str] = {
            "skipped_steps": state.step - state.applied_steps,
            "spikes": state.spikes,
            "sets_seen": state.sets_seen,
            "atoms_seen": state.atoms_seen,
            **speed,
            "mfu": mfu.describe(speed.get("mfu"), self._peak),
            "checkpoints": checkpoints,
        }
        if self.validation_loss is not None:
            values["validation/loss"] = self.validation_loss
        self.progress.note(format_summary(self.name, state.step, values))

"""Which checkpoints stay: a pure function of what the disk says, so that a resumed run prunes the same.

A checkpoint stays when any of these holds: it is one of the last k; it carries a tag (the one before a decay
does); it is the first at least n hours after the last that stayed for its hour; it has the best validation.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from adit_scale.errors import CheckpointError
from adit_scale.training import checkpoint
from adit_scale.training.config import BEST_RULE, StageConfig


@dataclass(frozen=True)
class Saved:
    """A committed checkpoint, saved at ``time_s``. metric: what the best is chosen by, None if unmeasured."""

    step: int
    time_s: float = 0.0
    metric: float | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Policy:
    """last: newest ones kept. every_s: 0 is off. best: key of ``TrainState.validation``, "" is off."""

    last: int = 2
    every_s: float = 0.0
    best: str = ""
    best_is_lowest: bool = True

    @staticmethod
    def of(config: StageConfig) -> Policy:
        rule = re.fullmatch(BEST_RULE, config.keep_best)
        name, direction = rule.groups() if rule else ("", None)
        return Policy(config.keep_checkpoints, config.keep_every_hours * 3600, name, direction != "max")


def to_keep(saved: Iterable[Saved], policy: Policy) -> set[int]:
    """Steps of the checkpoints that stay. Applying it again, or after every save, changes nothing."""
    ordered = sorted(saved, key=lambda s: s.step)
    kept = {s.step for s in ordered[-policy.last :]} | {s.step for s in ordered if s.tags}
    if policy.every_s and ordered:
        mark = ordered[0]
        kept.add(mark.step)
        for s in ordered[1:]:
            if not mark.time_s <= s.time_s < mark.time_s + policy.every_s:  # a clock set back is due as well
                mark = s
                kept.add(s.step)
    measured = [s for s in ordered if s.metric is not None and not math.isnan(s.metric)]
    if policy.best and measured:
        sign = 1.0 if policy.best_is_lowest else -1.0
        kept.add(min(measured, key=lambda s: (sign * float(s.metric or 0.0), s.step)).step)
    return kept


def prune(root: Path, newest: int, policy: Policy) -> None:
    """Delete what need not stay once step ``newest`` is committed; later steps are of an abandoned past."""
    found = [f for f in checkpoint.committed(root) if checkpoint.step_of(f) <= newest]
    kept = to_keep([_saved(folder, policy) for folder in found], policy)
    for folder in checkpoint.folders(root):
        step = checkpoint.step_of(folder)
        if step > newest or (step not in kept and folder in found):
            remove(folder)


def clear_uncommitted(root: Path) -> None:
    """Delete what killed saves left."""
    for folder in checkpoint.folders(root):
        if not checkpoint.is_committed(folder):
            remove(folder)


def remove(folder: Path) -> None:
    """Delete a checkpoint. What a network file system holds on to is left to the next save."""
    (folder / checkpoint.MARKER).unlink(missing_ok=True)  # first: half a folder must not count
    shutil.rmtree(folder, ignore_errors=True)


def _saved(folder: Path, policy: Policy) -> Saved:
    """A state that cannot be read says nothing for its checkpoint beyond its step."""
    step = checkpoint.step_of(folder)
    try:
        state = checkpoint.read_state(folder)
    except CheckpointError:
        return Saved(step)
    return Saved(step, state.time_s, state.validation.get(policy.best), tuple(state.tags))

"""Decay branches: finished models of several budgets from one run of constant rate, the trunk.

A branch starts from a checkpoint of the trunk (weights, moments, averages, place in the data) in a folder of
its own and lets the rate fall to its end. Its settings are the trunk's; schedule, length and the digest of
the checkpoint, by which a branch knows its trunk again, are new. A branch as long as a wsd run whose decay
begins at the same step is that run's end, bit for bit (Hägele et al., arXiv 2405.18392).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from adit_scale.config import StudyConfig, from_tree
from adit_scale.errors import CheckpointError, ConfigError
from adit_scale.training import checkpoint
from adit_scale.training.checkpoint import Checkpoint, TrainState
from adit_scale.training.config import StageConfig
from adit_scale.training.schedule import decay_start

EVENT = "branch"  # the first record of a branch's journal


class Branch(NamedTuple):
    """A branch that has not begun: its stage (autoencoder or diffusion), the trunk's steps, its settings."""

    stage: str
    first_step: int
    config: StudyConfig


def plan_branch(trunk: Path, steps: str = "", decay_fraction: float | None = None) -> Branch:
    """The settings of a branch that starts from a trunk's committed checkpoint.

    steps: ``+600`` more than the trunk, or a total; by default the decay is ``decay_fraction`` of the total
    (by default the trunk's own). Raises CheckpointError for a folder that is no committed checkpoint,
    ConfigError for a length that is none and for a trunk whose rate is not constant there.
    """
    state = _read(trunk)
    config = from_tree(state.config)
    settings = stage_settings(config, state.stage)
    _check_constant_rate(trunk, state.step, settings)
    if decay_fraction is not None:
        settings.optim.decay_fraction = decay_fraction
    settings.steps = _total_steps(state.step, steps, settings.optim.decay_fraction)
    settings.optim.schedule, settings.optim.decay_from = "decay", state.step
    settings.trunk_digest = digest(trunk)
    settings.branch_steps = []
    config.validate()
    return Branch(state.stage, state.step, config)


def branch_of_input(config: StudyConfig, stage: str, trunk_run: Path) -> tuple[StudyConfig, Path]:
    """The settings of a study's branch with its trunk's digest filled in, and the checkpoint it leaves from.

    trunk_run: folder of the finished trunk. Raises CheckpointError where it has no such checkpoint.
    """
    settings = stage_settings(config, stage)
    trunk = checkpoint.step_folder(trunk_run / "checkpoints", settings.optim.decay_from)
    _check_committed(trunk)
    own: dict[str, Any] = {stage: replace(settings, trunk_digest=digest(trunk))}
    return replace(config, **own), trunk


def open_trunk(trunk: Path, settings: StageConfig, rank: int, world_size: int) -> Checkpoint:
    """The checkpoint that a branch with these settings starts from, checked by all ranks together.

    Raises CheckpointError when it is another one than the settings were made for.
    """
    _check_committed(trunk)
    found = digest(trunk)
    if found != settings.trunk_digest:
        raise CheckpointError(
            f"{trunk}: has digest {found[:16]}, but {settings.group}.trunk_digest is "
            f"{settings.trunk_digest[:16] or 'empty'}; expected the checkpoint that the branch was planned "
            "from (begin a new branch with `adit train resume=CHECKPOINT schedule=decay`)"
        )
    return Checkpoint(trunk, rank, world_size)


def check_same_trunk(saved: Checkpoint, settings: StageConfig) -> None:
    """Raises CheckpointError where a run folder holds a branch of another checkpoint, or no branch."""
    before = saved.state.config.get(saved.state.stage, {}).get("trunk_digest", "")
    if before != settings.trunk_digest:
        raise CheckpointError(
            f"{saved.folder}: belongs to {_named(before)}, the settings to {_named(settings.trunk_digest)}; "
            "expected the same (use a new run folder)"
        )


def origin(trunk: Checkpoint, settings: StageConfig) -> dict[str, Any]:
    """What the journal of a branch says first."""
    return {
        "trunk": str(trunk.folder),
        "trunk_step": trunk.state.step,
        "digest": settings.trunk_digest,
        "steps": settings.steps,
    }


def digest(folder: Path) -> str:
    """sha256 over the digests of a committed checkpoint's tensors: the same for the same state of a run.

    When it was saved, and by which settings, does not count. Raises CheckpointError.
    """
    files = checkpoint.read_marker(folder / checkpoint.MARKER)
    tensors = {name: entry["sha256"] for name, entry in files.items() if name != checkpoint.STATE_FILE}
    return hashlib.sha256(json.dumps(tensors, sort_keys=True).encode()).hexdigest()


def stage_settings(config: StudyConfig, stage: str) -> StageConfig:
    return config.autoencoder if stage == "autoencoder" else config.diffusion


def _read(trunk: Path) -> TrainState:
    _check_committed(trunk)
    return checkpoint.read_state(trunk)


def _check_committed(trunk: Path) -> None:
    if not checkpoint.is_committed(trunk):
        raise CheckpointError(
            f"{trunk}: not a committed checkpoint; expected RUN/checkpoints/step-NNNNNNNN "
            "(`adit checkpoint ls RUN` lists them)"
        )


def _check_constant_rate(trunk: Path, step: int, settings: StageConfig) -> None:
    optim = settings.optim
    decays_from = decay_start(settings.steps, optim)
    if optim.schedule not in ("constant", "wsd"):
        problem = f"its run has schedule {optim.schedule!r}"
    elif decays_from is not None and step > decays_from:
        problem = f"its run decays from step {decays_from} on"
    elif step < optim.warmup_steps:
        problem = f"its run warms up until step {optim.warmup_steps}"
    else:
        return
    raise ConfigError(
        f"{trunk}: {problem}; a decay branch starts where the rate is constant (schedule constant, or wsd "
        "before its decay)"
    )


def _total_steps(first: int, words: str, decay_fraction: float) -> int:
    if not words:
        if not 0 < decay_fraction < 1:
            raise ConfigError(
                f"decay_fraction is {decay_fraction}; expected more than 0 and less than 1, or give steps=+N"
            )
        return max(first + 1, round(first / (1 - decay_fraction)))
    more = words.removeprefix("+")
    if not more.isdecimal():
        raise ConfigError(f"steps is {words!r}; expected a total such as 2600, or +600 for so many more")
    total = first + int(more) if words.startswith("+") else int(more)
    if total <= first:
        raise ConfigError(f"steps is {words!r}; expected more than the trunk's {first}, or +N")
    return total


def _named(digest: str) -> str:
    return f"a branch of checkpoint {digest[:16]}" if digest else "a run that is no branch"

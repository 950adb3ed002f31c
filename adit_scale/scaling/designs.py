"""Designs that are more than axes: budgets of FLOPs, and decays from one trunk. Free of torch.

A budget point trains for as many steps as its size takes to reach C; sets are reckoned with NOMINAL_ATOMS
atoms, so that a point is the same whichever data it is run on. What a run really spent is in its journal. A
decay point is the end of a run of constant rate: the points of a size (and seed, ...) share that run, their
trunk (Hägele et al., arXiv 2405.18392).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from adit_scale.config import StudyConfig, check
from adit_scale.errors import ConfigError
from adit_scale.models.ladder import training_flops
from adit_scale.scaling.config import BUDGET_AXIS, DECAY_AXIS, SweepConfig
from adit_scale.scaling.points import StudyPoint, point_label
from adit_scale.training.config import OF_TRUNK, DiffusionStageConfig

NOMINAL_ATOMS = 16
# Of a run that is shorter than its settings' warm-up was meant for, at most this share warms up.
MAX_WARMUP = 0.1


def designed_points(
    points: Sequence[StudyPoint], sweep: SweepConfig
) -> tuple[tuple[StudyPoint, ...], tuple[str, ...]]:
    """The points with the settings that their budget or decay gives them, and notes on those left out.

    Raises ConfigError where none is left, and for decays that cannot be.
    """
    if sweep.budgets_flops:
        return _budget_points(points, sweep)
    if sweep.decays:
        return _decay_points(points), ()
    return tuple(points), ()


def step_flops(config: StudyConfig) -> float:
    """C of one full step over sets of NOMINAL_ATOMS atoms."""
    stage = config.diffusion
    one = training_flops(config.model.denoiser, [NOMINAL_ATOMS], stage.self_conditioning)
    return one * stage.atom_budget / NOMINAL_ATOMS


def with_steps(config: StudyConfig, steps: int) -> StudyConfig:
    """Of another length; the warm-up is cut to MAX_WARMUP of it."""
    stage = config.diffusion
    warmup = min(stage.optim.warmup_steps, int(MAX_WARMUP * steps))
    optim = replace(stage.optim, warmup_steps=warmup)
    return replace(config, diffusion=replace(stage, steps=steps, optim=optim))


def _budget_points(
    points: Sequence[StudyPoint], sweep: SweepConfig
) -> tuple[tuple[StudyPoint, ...], tuple[str, ...]]:
    found, notes = [], []
    for point in points:
        steps = round(point.axes[BUDGET_AXIS] / step_flops(point.config))
        if steps < sweep.min_steps:
            notes.append(f"{point.label} is left out: {steps} steps, fewer than sweep.min_steps")
        else:
            found.append(_checked(replace(point, config=with_steps(point.config, steps))))
    if not found:
        raise ConfigError(
            f"sweep.budgets_flops: all {len(points)} points have fewer steps than sweep.min_steps="
            f"{sweep.min_steps}; raise the budgets, lower diffusion.atom_budget, or take smaller sizes"
        )
    return tuple(found), tuple(notes)


def _decay_points(points: Sequence[StudyPoint]) -> tuple[StudyPoint, ...]:
    trunks: dict[str, list[StudyPoint]] = {}
    branches = [replace(point, config=_branch(point)) for point in points]
    for branch in branches:
        trunks.setdefault(_trunk_label(branch), []).append(branch)
    made = {label: _trunk(own) for label, own in trunks.items()}
    return tuple(_checked(replace(b, trunk=made[_trunk_label(b)])) for b in branches)


def _trunk_label(point: StudyPoint) -> str:
    return point_label({axis: value for axis, value in point.axes.items() if axis != DECAY_AXIS}) + "-trunk"


def _branch(point: StudyPoint) -> StudyConfig:
    """The point's last part: from the trunk's checkpoint at ``decay_from`` down to a rate of zero."""
    stage, multiple = point.config.diffusion, float(point.axes[DECAY_AXIS])
    if stage.optim.schedule not in ("constant", "wsd"):
        raise ConfigError(
            f"sweep.decays: diffusion.optim.schedule is {stage.optim.schedule!r}; expected wsd or constant: "
            "the trunk's rate is constant"
        )
    steps = round(multiple * stage.steps)
    start = steps - max(1, round(stage.optim.decay_fraction * steps))
    if start < max(1, stage.optim.warmup_steps):
        raise ConfigError(
            f"sweep.decays has {multiple:g}: of its {steps} steps the decay begins at {start}, the warm-up "
            f"ends at {stage.optim.warmup_steps}; expected a later decay: raise diffusion.steps or the "
            "multiple, or lower diffusion.optim.warmup_steps or decay_fraction"
        )
    optim = replace(stage.optim, schedule="decay", decay_from=start)
    own = replace(stage, steps=steps, optim=optim, trunk_digest=OF_TRUNK, branch_steps=[])
    return replace(point.config, diffusion=own)


def _trunk(branches: Sequence[StudyPoint]) -> StudyPoint:
    """The run of constant rate that these branches leave; it ends where the last one leaves it."""
    first = branches[0]
    starts = sorted({branch.config.diffusion.optim.decay_from for branch in branches})
    stage: DiffusionStageConfig = first.config.diffusion
    optim = replace(stage.optim, schedule="constant", decay_from=0)
    own = replace(
        stage,
        steps=starts[-1],
        optim=optim,
        trunk_digest="",
        branch_steps=starts,
        samples_every_steps=0,  # nobody asks how valid the samples of an undecayed model are
    )
    axes = {axis: value for axis, value in first.axes.items() if axis != DECAY_AXIS}
    config = replace(first.config, diffusion=own)
    return _checked(StudyPoint(_trunk_label(first), axes, config, first.overrides))


def _checked(point: StudyPoint) -> StudyPoint:
    check(point.config)
    return point

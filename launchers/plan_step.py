"""``adit plan step``: the parts of a training step on GPUs, and which ZeRO stage and micro-batch are best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from adit_scale.config import StudyConfig
from adit_scale.performance.choice import AS_FAST, Choice, best, choices
from adit_scale.performance.constants import constants, find_device, find_network
from adit_scale.performance.step import OF_MANY, StepTime, step_time
from adit_scale.scaling import costs
from adit_scale.scaling.points import text_table
from adit_scale.training.config import ParallelConfig

GIB = 2**30
DEFAULT_NETWORK = "nvlink_ib"
HIDDEN_S = 5e-8  # parts below it are not shown


def plan_step(config: StudyConfig) -> str:
    """The report of one diffusion run's settings. Raises ConfigError."""
    budget = replace(config.budget, network=config.budget.network or DEFAULT_NETWORK)
    parallel = costs.definite(config.parallel, on_gpu=True)
    config = replace(config, parallel=parallel, budget=budget)
    work = costs.step_work(config, costs.ASSUMED)
    machine = costs.step_machine(budget, config)
    network = find_network(budget.network, budget.gpu)

    def time_of(own: ParallelConfig) -> StepTime:
        return step_time(config.model, config.diffusion, own, work, machine, network)

    time = time_of(parallel)
    usable = find_device(budget.gpu).usable_bytes
    found = choices(config.model, parallel, work.atoms / parallel.world_size, usable, time_of)
    return "\n".join(
        [
            f"{config.model.denoiser.name}, {parallel.precision}, ZeRO {parallel.zero_stage} on "
            f"{parallel.world_size} GPUs, {work.atoms:,.0f} atoms a step, {time.rounds} micro-batch"
            f"{'es' if time.rounds > 1 else ''} of at most {parallel.capacity_atoms:,} atoms on each",
            f"{machine.source}; {network.words} (budget.network={budget.network})",
            "model, not measured",
            "",
            *parts_lines(time),
            "",
            f"efficiency {100 * time.efficiency:.1f}% (the step without {', '.join(OF_MANY)}); "
            f"{work.atoms / time.step_s:,.0f} atoms/s",
            f"each rank sends {time.sent_bytes / GIB:.3g} GiB a step in {time.calls:,.0f} collectives",
            "",
            *choice_lines(found),
        ]
    )


def parts_lines(time: StepTime) -> list[str]:
    """A line a part, milliseconds and share; what takes nothing is left out."""
    shown = [(name, s) for name, s in time.parts.items() if s > HIDDEN_S]
    lines = [f"  {name:<14}{1e3 * s:>11.3f} ms{100 * s / time.step_s:>7.1f}%" for name, s in shown]
    return [*lines, f"  {'step':<14}{1e3 * time.step_s:>11.3f} ms"]


def choice_lines(found: Sequence[Choice]) -> list[str]:
    """ZeRO stage by micro-batch: milliseconds of a step, what does not fit marked, and the best with why."""
    chosen = best(found)
    sizes = sorted({c.parallel.micro_batch_atoms for c in found})
    rows = [
        (f"ZeRO {stage}", *(_cell(c, chosen) for c in found if c.parallel.zero_stage == stage))
        for stage in sorted({c.parallel.zero_stage for c in found})
    ]
    table = text_table(("ms a step", *(f"{n:,} atoms" for n in sizes)), rows)
    assumed = constants()["assumed"]
    kept = f"{100 * assumed['memory_reserve_share']:.0f}% and {assumed['memory_reserve_gib']:g} GiB"
    usable = f"{found[0].usable_bytes / GIB:.1f} GiB ({kept} of a GPU are kept in reserve)"
    if chosen is None:
        least = min(c.memory_bytes for c in found) / GIB
        end = f"none fits: {least:.1f} GiB are needed at least, of {usable}"
        return [table, f"{end}; set parallel.activation_checkpointing=true, or take more GPUs"]
    own = chosen.parallel
    return [
        table,
        f"* best: parallel.zero_stage={own.zero_stage} parallel.micro_batch_atoms={own.micro_batch_atoms}, "
        f"the fastest that fits; of stages within {100 * AS_FAST:g}% the lowest",
        f"  memory: {chosen.memory_bytes / GIB:.1f} of {usable}; ! does not fit",
    ]


def _cell(choice: Choice, chosen: Choice | None) -> str:
    mark = "*" if choice is chosen else "" if choice.fits else "!"
    return f"{mark}{1e3 * choice.time.step_s:.1f}"

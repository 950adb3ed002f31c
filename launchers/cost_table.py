"""The plan of a study as text, a table of its points and below it what they come to, or as JSON."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

from adit_scale.errors import size_text
from adit_scale.scaling.config import BUDGET_AXIS, DECAY_AXIS
from adit_scale.scaling.costs import ASSUMED_ATOMS, GIB
from adit_scale.scaling.designs import NOMINAL_ATOMS
from adit_scale.scaling.points import text_table
from launchers.costs import PointCost, StudyCosts, free_bytes, hours_text

WIDTH = 120
# A column whose points all agree may leave a table that is too wide, in this order; it is said below.
FOLDED = ("limit", "partition", "ranks", "steps", "atoms", "epochs", "status")


def table_text(found: StudyCosts) -> str:
    """Lines of at most ``WIDTH`` characters where names of points allow it."""
    columns = _columns(found)
    table, folded = _fitted(columns)
    lines = [f"study {found.study} in {found.folder}", "", table, ""]
    if folded:
        lines.append(f"all points: {', '.join(f'{name} {value}' for name, value in folded.items())}")
    return "\n".join([*lines, *_totals(found), *_notes(found)])


def _columns(found: StudyCosts) -> dict[str, list[str]]:
    points = found.points
    about = "~" if found.estimated else ""
    memory = "GiB/GPU" if all(p.on_gpu for p in points) else "GiB/rank"
    columns = {
        "point": [p.point for p in points],
        "parameters": [_parameters(p.parameters) for p in points],
        "steps": [f"{p.steps:,}" for p in points],
        "atoms": [_scientific(p.atoms) for p in points],
        "epochs": ["?" if p.epochs is None else f"{p.epochs:.3g}" for p in points],
        "FLOPs": [about + _scientific(p.run.flops) for p in points],
        memory: [f"{p.memory_bytes / GIB:.3g}" for p in points],
        "GPU-h": [about + hours_text(p.run.gpu_hours) for p in points],
        "hours": [about + hours_text(p.hours) for p in points],
        "disk GiB": [f"{p.run.disk_bytes / GIB:.2g}" for p in points],
        "ranks": [f"{p.resources.nodes}x{p.resources.ranks_per_node}" for p in points],
    }
    if found.slurm:
        columns["partition"] = [p.resources.partition or "default" for p in points]
        columns["limit"] = ["{}:{:02}".format(*divmod(p.resources.time_min, 60)) for p in points]
    columns["status"] = [_status(p) for p in points]
    return columns


def _fitted(columns: dict[str, list[str]]) -> tuple[str, dict[str, str]]:
    """The table, and the columns that had to leave it with their one value."""
    folded: dict[str, str] = {}
    left = dict(columns)
    for name in (*FOLDED, ""):
        table = text_table(tuple(left), list(zip(*left.values(), strict=True)))
        if max(map(len, table.splitlines())) <= WIDTH:
            break
        if name in left and len(set(left[name])) == 1 and len(left[name]) > 1:
            folded[name] = left.pop(name)[0]
    return table, {name: folded[name] for name in columns if name in folded}


def _totals(found: StudyCosts) -> list[str]:
    """What is left to do, by kind of job."""
    kinds = {
        "points": list({p.run.name: p.run for p in found.points}.values()),
        "sampling": list({p.scoring.name: p.scoring for p in found.points if p.scoring}.values()),
        "trunks": list(found.trunks),
    }
    for job in found.shared:
        kinds.setdefault(re.sub(r" \d+$", "", job.name), []).append(job)
    parts = ", ".join(
        f"{name} {hours_text(sum(j.gpu_hours_left for j in jobs))}" for name, jobs in kinds.items() if jobs
    )
    about = "about " if found.estimated else ""
    left, whole = found.gpu_hours_left, found.gpu_hours
    of_all = "" if left == whole else f" of {hours_text(whole)}"
    price = found.budget.price_per_gpu_hour
    cost = f"; {left * price:,.2f} at {price:g} a GPU-hour" if price else ""
    lines = [f"to do: {about}{hours_text(left)}{of_all} GPU-hours ({parts}){cost}"]
    disk, free = found.disk_left_bytes, free_bytes(found.folder)
    short = "" if disk <= free else ": NOT ENOUGH"
    lines.append(f"disk to come: {size_text(disk)}, free {size_text(free)}{short}")
    if (limit := found.budget.gpu_hours) and left > limit:
        lines.append(f"over budget.gpu_hours={limit:g}: submit will refuse")
    elif limit:
        lines.append(f"within budget.gpu_hours={limit:g}")
    return lines


def _notes(found: StudyCosts) -> list[str]:
    notes = [
        "",
        *found.notes,
        f"GPU-hours and hours are at {found.rate} (budget.gpu, budget.mfu) from FLOPs, which are C_total;",
        "validation, samples beside the training, start-up and all CPU work (shards, scoring) come on top.",
    ]
    if network := found.budget.network:
        notes.append(
            f"Those of diffusion runs are of the step model over {network} (budget.network; adit plan step)."
        )
    if any(DECAY_AXIS in p.axes for p in found.points):
        notes.append("Steps and atoms of a decay count its trunk's; its FLOPs, hours and disk are its own.")
    if any(BUDGET_AXIS in p.axes for p in found.points):
        notes.append(f"Budgets are C, reckoned with sets of {NOMINAL_ATOMS} atoms; FLOPs are C_total.")
    if not any(p.scoring for p in found.points):
        notes.append("Losses alone are measured (sweep.evaluate=false).")
    precisions = "/".join(sorted({p.precision for p in found.points}))
    if all(p.on_gpu for p in found.points):
        notes.append(f"GiB/GPU is in {precisions}, without the allocator's slack.")
    else:
        notes.append(
            f"No GPUs are asked for: GiB/rank is of a CPU process in {precisions}; hours are a GPU's."
        )
    if found.estimated:
        notes.append(
            f"? and ~ need the shards (~: sets of {ASSUMED_ATOMS} atoms): run the study, or build them with "
            "python -m adit_scale.data build"
        )
    return notes


def _status(point: PointCost) -> str:
    state = point.status
    if point.steps_done and state not in ("done", "trained"):
        return f"{state}, {100 * point.steps_done / point.steps:.0f}% trained"
    return state


def _parameters(n: int) -> str:
    return f"{n / 1e3:.1f} k" if n < 1e6 else f"{n / 1e6:.1f} M"


def _scientific(value: float) -> str:
    return f"{value:.3g}" if value < 1e5 else f"{value:.2e}"


def to_record(found: StudyCosts) -> dict[str, Any]:
    """Everything as JSON: numbers in the units of their names, null where they are not known."""
    return {
        "study": found.study,
        "folder": str(found.folder),
        "points": [asdict(point) for point in found.points],
        "shared": [asdict(job) for job in found.shared],
        "trunks": [asdict(job) for job in found.trunks],
        "totals": {
            "gpu_hours": found.gpu_hours,
            "gpu_hours_left": found.gpu_hours_left,
            "price_left": found.gpu_hours_left * found.budget.price_per_gpu_hour,
            "disk_bytes": sum(job.disk_bytes for job in found.jobs),
            "disk_left_bytes": found.disk_left_bytes,
            "disk_free_bytes": free_bytes(found.folder),
        },
        "budget": asdict(found.budget),
        "rate": found.rate,
        "estimated": found.estimated,
        "left_out": list(found.notes),
    }

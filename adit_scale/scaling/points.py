"""A study's grid, point by point, and what each point will cost before anything is run. Free of torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adit_scale.config import StudyConfig
from adit_scale.data.config import DataConfig
from adit_scale.data.manifest import open_manifest, size_counts
from adit_scale.models.config import DenoiserConfig
from adit_scale.models.ladder import denoiser_parameters, training_flops

SIZE_AXIS = "model/denoiser"


@dataclass(frozen=True)
class StudyPoint:
    """One diffusion run of a study: its place on the axes and its full settings."""

    label: str
    axes: Mapping[str, Any]
    config: StudyConfig
    overrides: tuple[str, ...]


def point_label(axes: Mapping[str, Any]) -> str:
    """A short name for a folder: the size, then the last word and value of every other axis."""
    others = (f"{axis.split('.')[-1]}{value}" for axis, value in axes.items() if axis != SIZE_AXIS)
    label = "-".join([str(axes.get(SIZE_AXIS, "point")), *others])
    return re.sub(r"[^\w.=+-]+", "_", label)


@dataclass(frozen=True)
class EpochContents:
    """What an epoch shows: visits to sets of n atoms are ``visits[n]``, all data sets together."""

    visits: np.ndarray

    @property
    def atoms(self) -> float:
        return float(self.visits @ np.arange(len(self.visits)))

    @property
    def sets(self) -> float:
        return float(self.visits.sum())


def epoch_contents(data: DataConfig) -> EpochContents:
    """Of the shards that ``data`` names. Raises DataError where they are missing or damaged."""
    manifest = open_manifest(data)
    repeat = np.array([data.repeat.get(name, 1.0) for name in manifest.datasets])
    return EpochContents(repeat @ size_counts(manifest.split("train"), len(manifest.datasets)))


@dataclass(frozen=True)
class PlanRow:
    """A point before it is run. atoms: an upper bound, steps times the budget; flops: C of docs/method.md."""

    label: str
    size: str
    parameters: int
    steps: int
    atoms: float
    sets: float | None
    epochs: float | None
    flops: float | None
    status: str


def plan_row(point: StudyPoint, epoch: EpochContents | None, status: str) -> PlanRow:
    """What ``point`` will see and cost; None where the shards are not built yet."""
    shape, stage = point.config.model.denoiser, point.config.diffusion
    atoms = float(stage.steps) * stage.atom_budget
    sets = epochs = flops = None
    if epoch is not None:
        epochs = atoms / epoch.atoms
        sets = epochs * epoch.sets
        flops = epochs * _training_flops(shape, epoch.visits, stage.self_conditioning)
    return PlanRow(
        point.label, shape.name, denoiser_parameters(shape), stage.steps, atoms, sets, epochs, flops, status
    )


def _training_flops(shape: DenoiserConfig, visits: np.ndarray, self_conditioning: float) -> float:
    """Of one epoch: sets of one size cost the same."""
    sizes = np.flatnonzero(visits)
    return float(sum(visits[n] * training_flops(shape, [int(n)], self_conditioning) for n in sizes))


PLAN_HEADER = ("point", "parameters", "steps", "atoms", "sets", "epochs", "FLOPs", "status")


def plan_cells(rows: Iterable[PlanRow]) -> list[tuple[str, ...]]:
    """The rows of the plan table as text, under ``PLAN_HEADER``."""
    return [
        (
            row.label,
            f"{row.parameters / 1e3:.1f} k" if row.parameters < 1e6 else f"{row.parameters / 1e6:.1f} M",
            f"{row.steps:,}",
            _scientific(row.atoms),
            _scientific(row.sets),
            "?" if row.epochs is None else f"{row.epochs:.3g}",
            _scientific(row.flops),
            row.status,
        )
        for row in rows
    ]


def text_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Columns aligned for a terminal or a log: the first and the last to the left, numbers to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    last = len(header) - 1

    def line(cells: tuple[str, ...]) -> str:
        return "  ".join(
            c.ljust(w) if i in (0, last) else c.rjust(w)
            for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()

    return "\n".join([line(header), line(tuple("-" * w for w in widths)), *map(line, rows)])


def _scientific(value: float | None) -> str:
    return "?" if value is None else f"{value:.3g}" if value < 1e5 else f"{value:.2e}"

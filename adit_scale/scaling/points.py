"""A study's points, and what an epoch shows them. Free of torch."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from adit_scale.config import StudyConfig
from adit_scale.data.config import DOMAINS, DataConfig
from adit_scale.data.manifest import open_manifest, size_counts
from adit_scale.errors import ConfigError
from adit_scale.scaling.config import BUDGET_AXIS, DECAY_AXIS, SIZE_AXIS, SweepConfig

SCORING = ("sampling", "evaluation")  # groups that decide nothing about a diffusion run


@dataclass(frozen=True)
class StudyPoint:
    """One diffusion run of a study: its place on the axes and its full settings.

    ``config`` shares with other points' the groups that are the same: to change it, replace.
    trunk: of a decay branch, the run that it leaves; that is no point itself.
    """

    label: str
    axes: Mapping[str, Any]
    config: StudyConfig
    overrides: tuple[str, ...]
    trunk: StudyPoint | None = None


def point_label(axes: Mapping[str, Any]) -> str:
    """A short name for a folder: the size, then the last word and value of every other axis."""
    parts = [str(axes.get(SIZE_AXIS, "point"))]
    for axis, value in axes.items():
        if axis == BUDGET_AXIS:
            parts.append(f"C{value:.4g}")
        elif axis == DECAY_AXIS:
            parts.append(f"x{value:g}")
        elif axis == "data.domain":
            parts.append(value or "joint")
        elif axis == "data.domain_match" and "data.domain" in axes:
            parts += [f"equal_{value}"] if axes["data.domain"] else []
        elif axis != SIZE_AXIS:
            parts.append(f"{axis.split('.')[-1]}{value}")
    return re.sub(r"[^\w.=+-]+", "_", "-".join(parts))


def run_label(axes: Mapping[str, Any]) -> str:
    """Of a point's diffusion run, which points that are only scored otherwise share."""
    return point_label({axis: v for axis, v in axes.items() if axis.split(".")[0] not in SCORING})


def sweep_points(sweep: SweepConfig) -> list[dict[str, Any]]:
    """The points as axis -> value: the product of the grid's axes, the zips, and budgets or decays, less what
    is excluded.

    The last axis (or zip) is the fastest. Raises ConfigError for an exclusion that matches nothing or names
    no axis, where no point is left, and for two points of one label.
    """
    factors = [[{axis: value} for value in values] for axis, values in sweep.grid.items()]
    for part in sweep.zip.values():
        factors.append([dict(zip(part, values, strict=True)) for values in zip(*part.values(), strict=True)])
    factors += [[{axis: value} for value in values] for axis, values in sweep.made_axes().items()]
    points: list[dict[str, Any]] = [
        {axis: value for step in steps for axis, value in step.items()}
        for steps in itertools.product(*factors)
    ]
    left = _without_excluded(points, sweep)
    twice = [label for label, n in Counter(map(point_label, left)).items() if n > 1]
    if twice:
        parts = "sweep.grid and sweep.zip name" if sweep.zip else "sweep.grid names"
        raise ConfigError(f"{parts} a point twice: {', '.join(sorted(twice))}; expected different values")
    return left


def _without_excluded(points: list[dict[str, Any]], sweep: SweepConfig) -> list[dict[str, Any]]:
    left = points
    axes = [*sweep.axes(), *sweep.made_axes()]
    for i, entry in enumerate(sweep.exclude):
        where = f"sweep.exclude[{i}]"
        unknown = [axis for axis in entry if axis not in axes]
        if unknown:
            raise ConfigError(f"{where} names {unknown[0]}; expected axes: {', '.join(axes)}")
        if not any(_matches(entry, point) for point in points):
            raise ConfigError(
                f"{where} is {entry} and matches no point; expected values that the axes have, or "
                "sweep.exclude=[] for none"
            )
        left = [point for point in left if not _matches(entry, point)]
    if not left:
        raise ConfigError(f"sweep.exclude leaves out all {len(points)} points; expected at least one left")
    return left


def _matches(entry: Mapping[str, Any], point: Mapping[str, Any]) -> bool:
    return all(
        point[axis] == wanted or (isinstance(wanted, list) and point[axis] in wanted)
        for axis, wanted in entry.items()
    )


@dataclass(frozen=True)
class EpochContents:
    """What an epoch shows: visits to sets of n atoms are ``visits[n]``, all data sets together.

    stored: how many sets of n atoms there are, however often an epoch visits them.
    passed_over: atoms of the other domain that fill steps of a joint run but not of this one
        (data.domain_match=samples).
    """

    visits: np.ndarray
    stored: np.ndarray = field(default_factory=lambda: np.zeros(0))
    passed_over: float = 0.0

    @property
    def atoms(self) -> float:
        return float(self.visits @ np.arange(len(self.visits)))

    @property
    def sets(self) -> float:
        return float(self.visits.sum())

    def epochs(self, steps: int, atom_budget: int) -> float:
        """That so many full steps take."""
        return steps * atom_budget / (self.atoms + self.passed_over)


def epoch_contents(data: DataConfig) -> EpochContents:
    """Of the shards that ``data`` names. Raises DataError where they are missing or damaged."""
    manifest = open_manifest(data)
    repeat = np.array([data.repeat.get(name, 1.0) for name in manifest.datasets])
    index, n_datasets = manifest.split("train"), len(manifest.datasets)
    counts = size_counts(index, n_datasets)
    everything = EpochContents(repeat @ counts, counts.sum(axis=0))
    if not data.domain:
        return everything
    own = repeat @ size_counts(index, n_datasets, DOMAINS[data.domain])
    found = EpochContents(own, everything.stored)
    matched = data.domain_match == "samples"
    return replace(found, passed_over=everything.atoms - found.atoms) if matched else found


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

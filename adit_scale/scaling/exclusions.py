"""Which points of a study a fit may use, and by name why it uses no others."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from adit_scale.scaling.study_data import Point

# Two runs saw "the same" number of atoms when they differ by less: the last step overshoots the budget.
SAME_DATA_TOLERANCE = 0.02


@dataclass(frozen=True)
class Exclusion:
    """A point left out of the fit. It still stands in the table."""

    label: str
    reason: str


@dataclass(frozen=True)
class Selection:
    """used: the points of the fit, by size and seed. excluded: all others. warnings: what the fit mixes."""

    used: list[Point]
    excluded: list[Exclusion]
    warnings: list[str]


def select_points(points: Sequence[Point]) -> Selection:
    """Leave out unfinished, non-finite, diverged and duplicate points, and those of another study.

    Losses compare only over one autoencoder, one data set and one number of atoms seen: the fit takes the
    largest group that shares all three (ties: the most atoms).
    """
    excluded: list[Exclusion] = []
    sound: list[Point] = []
    seen: dict[tuple, str] = {}
    for point in points:
        reason = _fault(point)
        run = (point.n_parameters, point.size, point.seed, point.atoms_seen)
        key = (*run, point.autoencoder_id, point.data_fingerprint)
        if reason is None and key in seen:
            reason = f"duplicate of {seen[key]} (same size, seed, data and autoencoder)"
        if reason is None:
            seen[key] = point.label
            sound.append(point)
        else:
            excluded.append(Exclusion(point.label, reason))
    sound = _keep_most_common(sound, "autoencoder_id", "trained over another autoencoder", excluded)
    sound = _keep_most_common(sound, "data_fingerprint", "trained on other data", excluded)
    used, warnings = _one_data_budget(sound, excluded)
    return Selection(sorted(used, key=lambda p: (p.n_parameters, p.seed)), excluded, warnings)


def _fault(point: Point) -> str | None:
    """Why a point has no usable loss, or None."""
    note = f": {point.note}" if point.note else ""
    if point.status != "done":
        return f"{point.status}{note}"
    if not math.isfinite(point.final_loss):
        return f"diverged: final validation loss is {point.final_loss}"
    if point.final_loss <= 0:
        return f"final validation loss is {point.final_loss:g}; a power law needs a positive loss"
    start = next((loss for loss in point.curve.loss if math.isfinite(loss)), math.inf)
    if len(point.curve.loss) > 1 and point.final_loss >= start:
        return f"diverged: final validation loss {point.final_loss:.4g} is not below its first, {start:.4g}"
    return None


def _keep_most_common(
    points: list[Point], attribute: str, reason: str, excluded: list[Exclusion]
) -> list[Point]:
    """Keep the points that share the commonest value; name the others."""
    counts = Counter(getattr(p, attribute) for p in points)
    if len(counts) < 2:
        return points
    common = counts.most_common(1)[0][0]
    for point in points:
        if (value := getattr(point, attribute)) != common:
            excluded.append(Exclusion(point.label, f"{reason} ({value or '?'}, not {common or '?'})"))
    return [p for p in points if getattr(p, attribute) == common]


def _one_data_budget(points: list[Point], excluded: list[Exclusion]) -> tuple[list[Point], list[str]]:
    """Keep one number of atoms seen; where sizes share none, the longest run of each size, with a warning."""
    groups: dict[int, list[Point]] = defaultdict(list)
    for point in sorted(points, key=lambda p: p.atoms_seen, reverse=True):
        near = (a for a in groups if abs(a - point.atoms_seen) <= SAME_DATA_TOLERANCE * a)
        groups[next(near, point.atoms_seen)].append(point)
    if len(groups) < 2:
        return points, []
    n_sizes = {atoms: len({p.n_parameters for p in group}) for atoms, group in groups.items()}
    atoms = max(groups, key=lambda a: (n_sizes[a], a))
    if n_sizes[atoms] >= 3:
        for point in points:
            if point not in groups[atoms]:
                reason = f"saw {point.atoms_seen:.3g} atoms; the fit compares runs of {atoms:.3g}"
                excluded.append(Exclusion(point.label, reason))
        return groups[atoms], []
    longest = {p.n_parameters: p.atoms_seen for p in sorted(points, key=lambda p: p.atoms_seen)}
    used = []
    for point in points:
        most = longest[point.n_parameters]
        if abs(most - point.atoms_seen) <= SAME_DATA_TOLERANCE * most:
            used.append(point)
        else:
            reason = f"saw {point.atoms_seen:.3g} atoms; the longest run of its size saw {most:.3g}"
            excluded.append(Exclusion(point.label, reason))
    low, high = min(p.atoms_seen for p in used), max(p.atoms_seen for p in used)
    warning = (
        f"sizes saw different amounts of data ({low:.3g} to {high:.3g} atoms): "
        "the exponent mixes size with data"
    )
    return used, [warning]

"""Pictures of a study beside its law: what the samples are like against the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from adit_scale.evaluation.pictures.figures import read_verdicts, verdicts_path, write_figures
from adit_scale.evaluation.verdicts import Verdicts
from adit_scale.jobs.points import RECONSTRUCTED
from adit_scale.scaling.study_data import Point
from adit_scale.scaling.table import RECONSTRUCTION_ROW


def draw_samples(
    points: Sequence[Point], evaluations: Mapping[str, Path], reference: Path | None, out: Path
) -> list[Path]:
    """Figures in ``out``: samples of the smallest and the largest scored size against the real data, and what
    the autoencoder makes of these: symmetry that it loses cannot be the denoiser's fault.

    evaluations: finished ones, by the points' labels. reference: the finished node of the real data. Nodes of
    earlier versions left no verdicts and are passed over.
    """
    series: dict[str, dict[int, Verdicts]] = {}
    for point in sorted(points, key=lambda p: p.n_parameters):
        folder = evaluations.get(point.label)
        if folder is not None and _has_verdicts(folder):
            series[point.label] = read_verdicts(folder)
    if not series:
        return []
    ends = {label: series[label] for label in dict.fromkeys((next(iter(series)), next(reversed(series))))}
    real = None
    if reference is not None and _has_verdicts(reference):
        real = read_verdicts(reference)
        if _has_verdicts(reference / RECONSTRUCTED):
            ends = {RECONSTRUCTION_ROW: read_verdicts(reference / RECONSTRUCTED), **ends}
    return write_figures(ends, real, out)


def _has_verdicts(folder: Path) -> bool:
    return any(verdicts_path(folder, domain) is not None for domain in ("molecule", "crystal"))

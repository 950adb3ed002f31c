"""Pictures of a study beside its law: curves over epochs, and what the samples are like against the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from adit_scale import config as settings
from adit_scale.evaluation.pictures.figures import read_verdicts, verdicts_path, write_figures
from adit_scale.evaluation.statistics import Rate
from adit_scale.evaluation.verdicts import Verdicts
from adit_scale.jobs.node import CONFIG, NodeFolder
from adit_scale.jobs.reference import RECONSTRUCTED
from adit_scale.models.ladder import denoiser_parameters
from adit_scale.scaling.epochs import read_training_curve, write_epochs
from adit_scale.scaling.points import epoch_contents
from adit_scale.scaling.study_data import Point
from adit_scale.scaling.table import RECONSTRUCTION_ROW

FIGURES = "figures"


def draw_epochs(
    node: NodeFolder, labels: Sequence[str], reference: Mapping[str, Rate]
) -> tuple[dict[str, Path], list[Path]]:
    """report/epochs.png and its numbers; the picture by its title for the page, and the files. Nothing where
    no run has a validation loss yet."""
    curves = []
    for label in labels:
        folder = node.inputs[f"diffusion/{label}"]
        config = settings.load(folder / CONFIG)
        n = denoiser_parameters(config.model.denoiser)
        curves.append(read_training_curve(folder, label, n, epoch_contents(config.data).sets))
    out = node.path / "report"
    out.mkdir(exist_ok=True)
    files = write_epochs(curves, out, reference)
    return ({"Loss and validity against epochs": files[0]} if files else {}), files


def draw_samples(node: NodeFolder, points: Sequence[Point]) -> list[Path]:
    """report/figures: samples of the smallest and the largest scored size against the real data, and what the
    autoencoder makes of these: symmetry that it loses cannot be the denoiser's fault.

    Nodes of earlier versions left no verdicts and are passed over.
    """
    series: dict[str, dict[int, Verdicts]] = {}
    finished = node.finished_inputs()
    for point in sorted(points, key=lambda p: p.n_parameters):
        folder = finished.get(f"evaluation/{point.label}")
        if folder is not None and _has_verdicts(folder):
            series[point.label] = read_verdicts(folder)
    if not series:
        return []
    ends = {label: series[label] for label in dict.fromkeys((next(iter(series)), next(reversed(series))))}
    real = next(
        (f for name, f in finished.items() if name.startswith("reference/") and _has_verdicts(f)), None
    )
    reference = read_verdicts(real) if real is not None else None
    if real is not None and _has_verdicts(real / RECONSTRUCTED):
        ends = {RECONSTRUCTION_ROW: read_verdicts(real / RECONSTRUCTED), **ends}
    return write_figures(ends, reference, node.path / "report" / FIGURES)


def _has_verdicts(folder: Path) -> bool:
    return any(verdicts_path(folder, domain) is not None for domain in ("molecule", "crystal"))

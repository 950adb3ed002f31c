"""The report of a study from its nodes' folders: points, fit, figures, table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adit_scale import config as settings
from adit_scale.config import StudyConfig
from adit_scale.evaluation.statistics import Rate
from adit_scale.jobs.node import CONFIG, DONE, NodeFolder, Result, failure_reason, read_done
from adit_scale.jobs.report_pictures import draw_epochs, draw_samples
from adit_scale.models.ladder import denoiser_parameters, n_mat
from adit_scale.scaling.points import epoch_contents
from adit_scale.scaling.report import ReportResult, write_report
from adit_scale.scaling.study_data import Point, read_evaluation, read_loss_curve
from adit_scale.scaling.table import RECONSTRUCTION_ROW, REFERENCE_ROW
from adit_scale.tracking.journal import FILE_NAME, read_journal, series

CONSTANT_KEY = "validation/constant_predictor_loss"


def run(node: NodeFolder, config: StudyConfig) -> Result:
    """Leaves report/ with every file of ``write_report``, curves over epochs and figures of the samples; its
    table and headline numbers in DONE.json.

    Points that did not finish are in the report with the reason. Raises DataError without any.
    """
    labels = [name.partition("/")[2] for name in node.inputs if name.startswith("diffusion/")]
    points = [_point(node, label) for label in labels]
    ceilings = _ceilings(node)
    curves, files = draw_epochs(node, labels, ceilings.get(REFERENCE_ROW, {}))
    result = write_report(points, ceilings, config.sweep, node.path / "report", len(points), pictures=curves)
    files += draw_samples(node, points)
    n_done = sum(point.status == "done" and bool(point.rates) for point in points)
    heading = f"{n_done} of {len(points)} points. {result.headline}"
    table = f"{heading}\n\n{result.table_text}"
    print(table)
    metrics = {"points_done": n_done, "points_total": len(points), **_law_metrics(result)}
    return Result((*result.files, *files), {"table": table, "metrics": metrics})


def _point(node: NodeFolder, label: str) -> Point:
    run_folder, evaluation = node.inputs[f"diffusion/{label}"], node.inputs[f"evaluation/{label}"]
    config = settings.load(run_folder / CONFIG)
    shape = config.model.denoiser
    inputs = NodeFolder.load(run_folder).inputs
    seen = _last_values(run_folder)
    curve = read_loss_curve(run_folder)
    finished = (run_folder / DONE).is_file()
    status, note = _outcome(run_folder, evaluation)
    return Point(
        label=label,
        size=shape.name,
        n_parameters=denoiser_parameters(shape),
        n_matrix_parameters=n_mat(shape),
        atoms_seen=int(seen.get("train/atoms_seen", 0)),
        sets_seen=int(seen.get("train/sets_seen", 0)),
        epochs=seen.get("train/sets_seen", 0) / epoch_contents(config.data).sets,
        flops=seen.get("train/flops_cum", 0.0),
        flops_total=seen.get("train/flops_total_cum", 0.0),
        seed=config.seed,
        final_loss=curve.loss[-1] if finished and curve.loss else float("nan"),
        constant_loss=seen.get(CONSTANT_KEY, float("nan")),
        curve=curve,
        rates=read_evaluation(evaluation) if (evaluation / DONE).is_file() else {},
        status=status,
        autoencoder_id=NodeFolder.load(inputs["autoencoder"]).id,
        data_fingerprint=read_done(inputs["shards"])["fingerprint"],
        note=note,
    )


def _outcome(run_folder: Path, evaluation: Path) -> tuple[str, str]:
    """Status and note of a point."""
    reason = failure_reason(run_folder)
    if (run_folder / DONE).is_file():
        if (evaluation / DONE).is_file():
            return "done", ""
        return "done", f"not scored: {failure_reason(evaluation) or 'its evaluation did not run'}"
    if reason is None:
        if (run_folder / FILE_NAME).is_file():
            return "running", "has not reached its last step"
        return "missing", "did not run"
    return ("diverged" if "non-finite" in reason else "failed"), reason


def _last_values(run_folder: Path) -> dict[str, float]:
    """The last value of each counter that a point is described by."""
    path = run_folder / FILE_NAME
    if not path.is_file():
        return {}
    records = read_journal(path)
    keys = ("train/atoms_seen", "train/sets_seen", "train/flops_cum", "train/flops_total_cum", CONSTANT_KEY)
    return {key: values[-1] for key in keys if (values := series(records, key)[1])}


def _ceilings(node: NodeFolder) -> dict[str, dict[str, Rate]]:
    """Rates of the reconstructed and of the real held-out data; points share one reference unless the study
    varies the data."""
    for name, folder in node.finished_inputs().items():
        if name.startswith("reference/"):
            return {
                RECONSTRUCTION_ROW: read_evaluation(folder, "reconstruction_scores"),
                REFERENCE_ROW: read_evaluation(folder),
            }
    return {}


def _law_metrics(result: ReportResult) -> dict[str, Any]:
    """The fitted law as numbers for the parent run; nothing where there was nothing to fit."""
    if result.fit is None:
        return {}
    fit = result.fit.fit
    metrics = {"law/alpha": fit.law.exponent, "law/rms_log_residual": fit.rms_log_residual}
    if fit.exponent is not None:
        metrics |= {"law/alpha_low": fit.exponent.low, "law/alpha_high": fit.exponent.high}
    if result.fit.held_out is not None:
        metrics["law/held_out_error"] = result.fit.held_out.error
    return metrics

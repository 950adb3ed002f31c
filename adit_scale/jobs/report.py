"""The report of a study from its nodes' folders: points, fits, figures, tables."""

from __future__ import annotations

from adit_scale.config import StudyConfig
from adit_scale.jobs.node import NodeFolder, Result
from adit_scale.jobs.points import collect_report
from adit_scale.jobs.report_pictures import draw_samples
from adit_scale.scaling.report import write_report

SAMPLES = "samples"  # in the report's folder


def run(node: NodeFolder, config: StudyConfig) -> Result:
    """Leaves report/ with every file of ``write_report`` and figures of the samples; its table and headline
    numbers in DONE.json.

    Points that did not finish are in the report with the reason. Raises DataError without any.
    """
    found = collect_report(node)
    result = write_report(
        found.points, found.ceilings, config.sweep, node.path / "report", found.total_points
    )
    files = draw_samples(found.points, found.evaluations, found.reference, node.path / "report" / SAMPLES)
    done = int(result.metrics["points_done"])
    table = f"{done} of {found.total_points} points. {result.headline}\n\n{result.table_text}"
    print(table)
    return Result((*result.files, *files), {"table": table, "metrics": result.metrics})

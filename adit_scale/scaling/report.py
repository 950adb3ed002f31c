"""The report of a study: a page that needs no network, with figures, tables, fits and text beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adit_scale.errors import DataError
from adit_scale.scaling import report_html
from adit_scale.scaling.chart_png import write_png
from adit_scale.scaling.checklist import checklist
from adit_scale.scaling.config import SweepConfig
from adit_scale.scaling.figures import FIGURES
from adit_scale.scaling.fit import ScalingFit
from adit_scale.scaling.headline import Outlook, headline, outlook
from adit_scale.scaling.report_html import Drawn, Page
from adit_scale.scaling.report_tables import all_tables
from adit_scale.scaling.study_data import Point, json_safe, save_points
from adit_scale.scaling.study_fit import StudyFit, fit_study
from adit_scale.scaling.summary import description, headline_metrics, key_numbers, n_done
from adit_scale.scaling.table import REFERENCE_ROW, Ceilings, left_out_text, render_table, write_points_csv
from adit_scale.scaling.table_formats import Table, to_latex, write_csv
from adit_scale.scaling.trends import metric_names

FIGURES_FOLDER, TABLES_FOLDER = "figures", "tables"
DESCRIPTION = "description.md"


@dataclass(frozen=True)
class ReportResult:
    """What ``write_report`` wrote. study: all fits; ``headline`` says in words what they come to.

    metrics: headline numbers for a tracking store. files: everything, of which html is the page.
    """

    study: StudyFit
    headline: str
    table_text: str
    metrics: dict[str, float]
    html: Path
    fit_json: Path
    points_json: Path
    files: list[Path]

    @property
    def fit(self) -> ScalingFit | None:
        """L(N), or None where too few sizes have a loss."""
        return self.study.size_law


def write_report(
    points: Sequence[Point],
    ceilings: Ceilings,
    config: SweepConfig,
    out: Path,
    total_points: int,
    *,
    seed_noise: float | None = None,
    pictures: Mapping[str, Path] | None = None,
) -> ReportResult:
    """Fit, draw and write into ``out``: report.html, figures/*.png, tables/*.{csv,tex}, points.csv,
    points.json, fit.json, table.txt, description.md.

    ceilings: rows of rates to set the points against (table.py). pictures: by title, further PNG files to
    show in the page. total_points: points the study was to have. What cannot be fitted is said in its place:
    only a study without any point raises DataError.
    """
    if not points:
        raise DataError(
            f"study {config.name}: no points to report; expected at least one finished diffusion run"
        )
    out.mkdir(parents=True, exist_ok=True)
    study = fit_study(points, config, seed_noise=seed_noise, ceilings=ceilings)
    ahead = outlook(study)
    said, numbers = headline(study), key_numbers(study, ahead, total_points)
    metrics = headline_metrics(study, ahead, total_points)
    figures = [Drawn(f.key, f.title, f.build(study, ceilings), f.given_by) for f in FIGURES]
    tables = all_tables(study, ceilings, metric_names(points, ceilings.get(REFERENCE_ROW, {})))
    table_text = (
        f"{render_table(points, ceilings)}\n{left_out_text(study.selection.excluded, study.warnings)}"
    )

    files = [*_draw(figures, out / FIGURES_FOLDER), *_tabulate([numbers, *tables], out / TABLES_FOLDER)]
    for name, content in (
        ("table.txt", f"{said}\n\n{table_text}"),
        (DESCRIPTION, description(said, config.hypothesis, numbers, study.warnings)),
        ("fit.json", _record(study, ahead, said, metrics)),
    ):
        (out / name).write_text(content)
        files.append(out / name)
    write_points_csv(points, ceilings, out / "points.csv")
    save_points(points, out / "points.json")
    files += [out / "points.csv", out / "points.json"]
    page = Page(
        title=config.name,
        subtitle=f"{n_done(points)} of {total_points} points done",
        headline=said,
        hypothesis=config.hypothesis,
        key_numbers=numbers,
        figures=figures,
        tables=tables,
        warnings=study.warnings,
        refusals=study.refusals,
        checklist=checklist(study, config),
        files=[path.relative_to(out).as_posix() for path in files],
        pictures=pictures or {},
    )
    html = out / "report.html"
    html.write_text(report_html.render(page))
    return ReportResult(
        study, said, table_text, metrics, html, out / "fit.json", out / "points.json", [html, *files]
    )


def _draw(figures: Sequence[Drawn], folder: Path) -> list[Path]:
    """A PNG a figure; those of an earlier report that this one does not have are removed."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    paths = []
    for figure in figures:
        if figure.chart is not None:
            paths.append(folder / f"{figure.key}.png")
            write_png(figure.chart, paths[-1])
    return paths


def _tabulate(tables: Sequence[Table], folder: Path) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for old in (*folder.glob("*.csv"), *folder.glob("*.tex")):
        old.unlink()
    paths = []
    for table in tables:
        write_csv(table, folder / f"{table.key}.csv")
        (folder / f"{table.key}.tex").write_text(to_latex(table))
        paths += [folder / f"{table.key}.csv", folder / f"{table.key}.tex"]
    return paths


def _record(study: StudyFit, ahead: Outlook | None, said: str, metrics: Mapping[str, float]) -> str:
    """fit.json: the law of size at the top level, everything else by its name."""
    law = study.size_law
    record: dict[str, Any] = {"headline": said, "no_fit": study.refusals.get("size_law", "")}
    record |= {"points_done": int(metrics["points_done"]), "points_total": int(metrics["points_total"])}
    record |= law.to_json() if law is not None else {}
    others = {f.name: getattr(study, f.name) for f in fields(study)}
    for name in ("points", "size_law", "selection", "trends"):
        del others[name]
    record |= {name: _plain(value) for name, value in others.items()}
    record["excluded"] = _plain(study.selection.excluded)
    record["outlook"] = _plain(ahead)
    record["trends"] = {name: vars(t) | {"verdict": t.verdict} for name, t in study.trends.items()}
    return json.dumps(json_safe(record), indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """Records, arrays and numbers in JSON's types; a law that can only be asked is left out."""
    if isinstance(value, ScalingFit):
        return value.to_json()
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value) if f.name != "law"}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value

"""The report's files: complete, readable offline, equal to the fits, and honest about what is missing."""

# ruff: noqa: RUF001 (Greek letters)

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
import struct
from pathlib import Path

import pytest

from adit_scale.errors import DataError
from adit_scale.evaluation.statistics import Rate
from adit_scale.scaling.checklist import NOT_STATED, checklist
from adit_scale.scaling.config import SweepConfig
from adit_scale.scaling.figures import FIGURES
from adit_scale.scaling.report import DESCRIPTION, write_report
from adit_scale.scaling.study_data import LossCurve, load_points
from adit_scale.scaling.table import RECONSTRUCTION_ROW, REFERENCE_ROW, left_out_text, render_table
from tests.scaling.planted_study import planted_study
from tests.scaling.simulated import REFERENCE, full_ceilings, full_study, simulated_points

RECONSTRUCTED = {"crystal/validity": Rate(870, 1000)}
CEILINGS = {RECONSTRUCTION_ROW: RECONSTRUCTED, REFERENCE_ROW: REFERENCE}
CONFIG = SweepConfig(name="demo <1>", hypothesis="bigger & better", bootstrap=100)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Every design at once."""
    points = full_study()
    out = tmp_path_factory.mktemp("study") / "report"
    return points, write_report(points, full_ceilings(), CONFIG, out, 120)


@pytest.fixture(scope="module")
def thin(tmp_path_factory):
    """Sizes alone, one run diverged, with records that tell little."""
    points = simulated_points(seeds=(0, 1))
    lost = {"status": "diverged", "final_loss": math.nan, "note": "loss is nan", "rates": {}}
    points.append(dataclasses.replace(points[4], label="dit_128-seed2", seed=2, **lost))
    return points, write_report(points, {}, CONFIG, tmp_path_factory.mktemp("thin"), 11)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def words(html: str) -> str:
    return re.sub(r"<script[^>]*>.*?</script>", "", html, flags=re.S)


def test_all_files_are_written(study):
    _, result = study
    out = result.html.parent
    written = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert written == {path.relative_to(out).as_posix() for path in result.files}
    assert {"report.html", "points.csv", "points.json", "fit.json", "table.txt", DESCRIPTION} <= written
    figures = {name.partition("/")[2] for name in written if name.startswith("figures/")}
    assert figures == {f"{figure.key}.png" for figure in FIGURES}
    for name in figures:
        head = (out / "figures" / name).read_bytes()[:24]
        assert head[:8] == b"\x89PNG\r\n\x1a\n"
        assert struct.unpack(">I", head[16:20])[0] >= 1000
    tables = {name.partition("/")[2] for name in written if name.startswith("tables/")}
    for key in ("exponents", "held_out", "sensitivity", "optima", "transfer", "learning_rates", "rates",
                "points", "left_out", "key_numbers"):  # fmt: skip
        assert {f"{key}.csv", f"{key}.tex"} <= tables


def test_html_needs_no_network_and_holds_the_library_once(study):
    _, result = study
    html = result.html.read_text()
    tags = re.sub(r"(<script[^>]*>).*?</script>", r"\1", html, flags=re.S)
    assert not re.search(r"(src|href)\s*=\s*[\"']?\s*(https?:)?//", tags)
    assert "@import" not in tags
    assert html.count("plotly.js v") == 1
    assert html.count('class="plotly-graph-div"') == len(FIGURES)
    assert len(html) < 9e6


def test_html_says_what_was_measured(study):
    points, result = study
    html = words(result.html.read_text())
    excluded = result.study.selection.excluded[0]
    for expected in (
        "Scaling study: demo &lt;1&gt;",
        "bigger &amp; better",
        f"{sum(p.status == 'done' for p in points)} of 120 points done",
        result.headline.split(".")[0],
        f'<td class="text">{excluded.label}</td>',
        "δ = 0.001",
        "real data, reconstructed",
        "Joint against single-domain training",
    ):
        assert expected in html, expected
    ids = set(re.findall(r'id="([^"]+)"', html))
    assert set(re.findall(r'href="#([^"]+)"', html)) <= ids


def test_every_table_holds_the_numbers_of_the_fits(study):
    _, result = study
    fit, out = result.study, result.html.parent
    record = json.loads(result.fit_json.read_text())
    law = fit.size_law.fit
    assert record["fit"]["alpha"] == pytest.approx(law.law.exponent)
    exponents = {(r["law"], r["quantity"]): r for r in rows_of(out / "tables" / "exponents.csv")}
    row = exponents["L(N)", "α"]
    assert float(row["estimate"]) == law.law.exponent
    assert float(row["interval/low"]) == result.metrics["law/alpha_low"]
    assert float(row["held_out_error"]) == fit.size_law.held_out.error == result.metrics["law/held_out_error"]
    tex = (out / "tables" / "exponents.tex").read_text()
    assert f"L(N) & $\\alpha$ & {law.law.exponent:.4g} & [" in tex
    slope = fit.isoflop.n_exponent
    assert float(exponents["IsoFLOP", "a of N_opt ~ C^a"]["estimate"]) == slope.value
    assert record["isoflop"]["n_exponent"]["interval"] == {
        "low": slope.interval.low,
        "high": slope.interval.high,
    }
    rows = rows_of(out / "tables" / "sensitivity.csv")
    assert [float(r["alpha"]) for r in rows] == [r.alpha for r in fit.sensitivity]
    assert len(record["sensitivity"]) == len(rows) >= 5
    held_out = rows_of(out / "tables" / "held_out.csv")
    assert {r["size"] for r in held_out if r["left out"] == "one size in turn"} == {
        h.size for h in fit.leave_one_out
    }
    assert [r["verdict"] for r in rows_of(out / "tables" / "transfer.csv")] == [
        t.verdict for t in fit.transfer
    ]


def test_a_surface_is_in_every_table(study):
    _, result = study
    surface = result.study.surface
    assert surface is not None, result.study.refusals
    exponents = rows_of(result.html.parent / "tables" / "exponents.csv")
    found = {r["quantity"]: r for r in exponents if r["law"] == "L(N, D)"}
    assert float(found["β"]["estimate"]) == surface.estimates["beta"].value
    assert result.metrics["surface/beta"] == surface.estimates["beta"].value
    assert json.loads(result.fit_json.read_text())["surface"]["estimates"]["beta"]["value"] == pytest.approx(
        surface.estimates["beta"].value
    )
    assert result.headline.startswith("Ten times the compute (")


def test_points_keep_all_their_fields(study):
    points, result = study
    assert load_points(result.points_json)[0] == points[0]
    rows = {r["label"]: r for r in rows_of(result.html.parent / "points.csv")}
    assert len(rows) == len(points) + 2
    point = next(p for p in points if p.rates)
    row = rows[point.label]
    assert float(row["final_loss"]) == point.final_loss
    assert float(row["domain_losses/crystal"]) == point.domain_losses["crystal"]
    assert int(row["crystal/validity/trials"]) == 1000
    assert float(row["crystal/validity/low"]) == point.rates["crystal/validity"].interval[0]
    fields = {f.name for f in dataclasses.fields(point)} - {"curve", "rates", "training_rates"}
    assert {name.partition("/")[0] for name in row} >= {name for name in fields if getattr(point, name) != {}}
    assert float(rows["real data"]["crystal/validity"]) == 0.884


def test_table_is_aligned_markdown_and_ends_with_the_real_data():
    points = simulated_points()
    lines = render_table(points, CEILINGS).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len({len(line) for line in table}) == 1
    assert len(table) == 2 + len(points) + 3
    assert table[0].split("|")[1].strip() == "size"
    assert [cell.strip() for cell in table[-3].split("|")[1:4]] == ["constant", "", "27.5"]
    assert table[-2].startswith("| real data, reconstructed")
    assert "87.0% [84.8, 88.9]" in table[-2]
    assert table[-1].startswith("| real data")
    assert "88.4% [86.3, 90.2]" in table[-1]
    assert lines[-2].startswith("molecule/edm_validity: within noise")
    assert lines[-1].startswith("crystal/validity: rises with size")


def test_the_console_names_what_was_left_out(thin):
    _, result = thin
    assert "left out of the fit:\n  dit_128-seed2: diverged: loss is nan\n" in result.table_text
    assert result.table_text in (result.html.parent / "table.txt").read_text()
    assert "dit_128-seed2" in words(result.html.read_text())
    assert left_out_text((), ()) == ""


def test_two_sizes_make_a_report_without_a_law(tmp_path):
    points = [
        dataclasses.replace(p, rates={}) for p in simulated_points({"dit_32": 87_000, "dit_64": 410_000})
    ]
    result = write_report(points, {}, CONFIG, tmp_path, 2)
    assert result.fit is None
    assert result.headline.startswith("No scaling law: 2 sizes have a usable loss, expected at least 3.")
    assert "cannot be told" in result.headline
    assert json.loads(result.fit_json.read_text())["no_fit"].startswith("2 sizes")
    html = words(result.html.read_text())
    assert "Not in this study; given by" in html
    assert "size law: 2 sizes have a usable loss" in html


def test_a_rising_loss_and_uniqueness_are_reported_for_what_they_are(tmp_path):
    """Distinct among valid samples falls as more are valid: no trend of the model, so none is given."""
    points = [
        dataclasses.replace(p, rates={**p.rates, "molecule/edm_uniqueness": Rate(400 - 50 * i, 400)})
        for i, p in enumerate(simulated_points(offset=0.0, scale=0.1, exponent=-0.1, noise=0.002))
    ]
    result = write_report(points, {}, CONFIG, tmp_path, 5)
    assert result.headline.startswith("Final loss rises with size from 87 k to 9.8 M parameters")
    assert "Ten times the compute" not in result.headline
    assert set(result.study.trends) == set(simulated_points()[0].rates)


@pytest.mark.parametrize("status", ["failed", "unfinished", "missing"])
def test_a_study_without_any_result_is_still_drawn(tmp_path, status):
    nothing = {"final_loss": math.nan, "curve": LossCurve(), "rates": {}, "status": status}
    point = dataclasses.replace(simulated_points()[0], **nothing)
    result = write_report([point], {}, CONFIG, tmp_path, 4)
    assert "0 of 4 points done" in result.html.read_text()
    assert result.metrics == {"points_done": 0, "points_total": 4}
    with pytest.raises(DataError, match="no points to report"):
        write_report([], {}, CONFIG, tmp_path, 4)


def test_one_point_and_a_second_report_in_the_same_folder(tmp_path):
    for name in ("figures/isoflop.png", "tables/optima.csv", "tables/optima.tex"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()  # of an earlier report
    result = write_report(simulated_points()[:1], {}, CONFIG, tmp_path, 5)
    left = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(result.files)


def test_leaks_refuse_every_loss_fit(tmp_path):
    points = [dataclasses.replace(p, leakage={"molecule": 0.2}) for p in simulated_points()]
    result = write_report(points, {}, CONFIG, tmp_path, 5)
    assert result.fit is None
    assert result.headline.startswith("No scaling law:")
    assert "20" in result.study.refusals["size_law"]


def test_the_checklist_is_filled_from_the_points(study):
    points, result = study
    answers = {item.question: item.answer for item in checklist(result.study, CONFIG)}
    assert "dit_32 87 k" in answers["Sizes"]
    assert "measured optimum: dit_32 0.00" in answers["Learning rates"]
    assert re.search(r"dit_32 3\b", answers["Seeds"])
    assert answers["Precision"] == ", ".join(sorted({p.precision for p in points if p.status == "done"}))
    assert "100 resamples" in answers["Intervals"]
    assert "dit_256" in answers["Held out"]
    assert answers["Software"].startswith("adit_scale 0.")


def test_what_the_records_do_not_tell_is_a_gap_to_see(thin):
    points, result = thin
    gaps = {item.question for item in checklist(planted_study(points), CONFIG) if not item.answer}
    assert {"Schedule", "Learning rates", "Autoencoder", "Validation grid"} - gaps == {"Autoencoder"}
    html = result.html.read_text()
    assert html.count(f'<span class="missing">{NOT_STATED}</span>') == len(gaps)

"""The report's files: complete, readable offline, and honest about what is missing."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
import struct

import pytest

from adit_scale.errors import DataError
from adit_scale.evaluation.statistics import Rate
from adit_scale.scaling.config import SweepConfig
from adit_scale.scaling.report import write_report
from adit_scale.scaling.study_data import load_points
from adit_scale.scaling.table import RECONSTRUCTION_ROW, REFERENCE_ROW, render_table
from tests.scaling.simulated import REFERENCE, simulated_points

RECONSTRUCTED = {"crystal/validity": Rate(870, 1000)}
CEILINGS = {RECONSTRUCTION_ROW: RECONSTRUCTED, REFERENCE_ROW: REFERENCE}
CONFIG = SweepConfig(name="demo <1>", hypothesis="bigger & better", bootstrap=200)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    points = simulated_points(seeds=(0, 1))
    points.append(
        dataclasses.replace(
            points[4],
            label="dit_128-seed2",
            seed=2,
            status="diverged",
            final_loss=math.nan,
            note="loss is nan",
            rates={},
        )
    )
    return points, write_report(points, CEILINGS, CONFIG, tmp_path_factory.mktemp("study") / "report", 13)


def test_all_files_are_written(study):
    _, result = study
    names = sorted(path.name for path in result.files)
    assert names == [
        "fit.json", "loss_vs_compute.png", "loss_vs_size.png", "points.csv", "points.json", "report.html",
        "table.txt", "validity_vs_size.png",
    ]  # fmt: skip
    for png in result.pngs:
        head = png.read_bytes()[:24]
        assert head[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = struct.unpack(">II", head[16:24])
        assert width >= 1000
        assert height >= 600


def test_html_needs_no_network_and_holds_the_library_once(study):
    _, result = study
    html = result.html.read_text()
    tags = re.sub(r"(<script[^>]*>).*?</script>", r"\1", html, flags=re.S)
    assert not re.search(r"(src|href)\s*=\s*[\"']?\s*(https?:)?//", tags)
    assert "@import" not in tags
    assert html.count("plotly.js v") == 1
    assert html.count('class="plotly-graph-div"') == 3
    assert len(html) < 8e6


def test_html_says_what_was_measured(study):
    _, result = study
    html = re.sub(r"<script[^>]*>.*?</script>", "", result.html.read_text(), flags=re.S)
    for expected in (
        "Scaling study: demo &lt;1&gt;",
        "bigger &amp; better",
        "10 of 13 points done",
        "dit_128-seed2: diverged: loss is nan",
        "seed-to-seed noise",
        "Held out: dit_256 (9.8 M)",
        "Next size: 22.9 M",
        "δ = 0.001",
        "real data",
        "98.0% [96.9, 98.7]",
    ):
        assert expected in html, expected
    assert result.headline.startswith("Final loss follows L = ")
    assert "molecule validity changes with size by no more than noise" in result.headline
    assert "crystal validity rises with size (48% at the smallest, 79% at the largest)" in result.headline


def test_json_and_csv_hold_the_numbers(study):
    points, result = study
    record = json.loads(result.fit_json.read_text())
    assert record["points_done"] == 10
    assert record["fit"]["alpha"] == pytest.approx(result.fit.fit.law.exponent)
    assert (
        record["fit"]["alpha_interval"]["low"]
        < record["fit"]["alpha"]
        < record["fit"]["alpha_interval"]["high"]
    )
    assert record["excluded"] == [{"label": "dit_128-seed2", "reason": "diverged: loss is nan"}]
    assert record["trends"]["crystal/validity"]["verdict"] == "rises with size"
    assert load_points(result.points_json)[0] == points[0]
    with result.csv.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 13
    assert rows[-1]["label"] == "real data"
    assert float(rows[-1]["crystal/validity"]) == 0.884
    first = next(r for r in rows if r["label"] == "dit_32-seed0")
    assert float(first["final_loss"]) == points[0].final_loss
    assert int(first["crystal/validity/trials"]) == 1000


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


def test_two_sizes_make_a_report_without_a_law(tmp_path):
    points = [
        dataclasses.replace(p, rates={}) for p in simulated_points({"dit_32": 87_000, "dit_64": 410_000})
    ]
    result = write_report(points, {}, CONFIG, tmp_path, 2)
    assert result.fit is None
    assert result.headline == "No scaling law: 2 sizes have a usable loss, expected at least 3."
    assert json.loads(result.fit_json.read_text())["no_fit"].startswith("2 sizes")
    assert result.html.is_file()


def test_a_rising_loss_and_uniqueness_are_reported_for_what_they_are(tmp_path):
    """Distinct among valid samples falls as more are valid: no trend of the model, so none is given."""
    points = [
        dataclasses.replace(p, rates={**p.rates, "molecule/edm_uniqueness": Rate(400 - 50 * i, 400)})
        for i, p in enumerate(simulated_points(offset=0.0, scale=0.1, exponent=-0.1, noise=0.002))
    ]
    result = write_report(points, {}, CONFIG, tmp_path, 5)
    assert result.headline.startswith("Final loss rises with size from 87 k to 9.8 M parameters")
    assert set(result.trends) == set(simulated_points()[0].rates)


def test_a_study_without_any_result_is_still_drawn(tmp_path):
    point = dataclasses.replace(
        simulated_points()[0],
        status="failed",
        final_loss=math.nan,
        curve=type(simulated_points()[0].curve)(),
        rates={},
    )
    result = write_report([point], {}, CONFIG, tmp_path, 4)
    assert "0 of 4 points done" in result.html.read_text()
    with pytest.raises(DataError, match="no points to report"):
        write_report([], {}, CONFIG, tmp_path, 4)

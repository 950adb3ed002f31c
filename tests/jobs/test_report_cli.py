"""``adit report``: a report beside the study, and mistakes in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from adit_scale import cli
from adit_scale.errors import AditError
from adit_scale.jobs.report_cli import ReportWords, main
from adit_scale.scaling.config import SweepConfig
from tests.jobs.study_folders import Folders, data_set


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("out=o", "study is missing; expected study=FOLDER"),
        ("study=s", "out is missing; expected out=FOLDER"),
        ("study=s,s out=o", "study names s twice; expected every folder once"),
        ("study=s out=o bootstrap=10", "bootstrap is '10'; expected a whole number of at least 100"),
        ("study=s out=o max_leakage=2", "max_leakage is 2.0; expected"),
        ("study=s out=o max_leakage=x", "max_leakage is x; expected a number from 0 to 1"),
        ("study=s out=o boots=3", "boots=3: no such word of adit report; did you mean bootstrap or out?"),
        ("study=s", "out is missing"),
        ("s out=o", "s: not key=value; see adit report --help"),
        ("study=nowhere out=o", "nowhere: no study there"),
    ],
)
def test_mistakes_are_one_line(words: str, says: str):
    with pytest.raises(AditError) as error:
        main(words.split())
    assert str(error.value).startswith(says)
    assert "\n" not in str(error.value)


def test_what_is_said_replaces_the_studys_own_settings():
    words = ReportWords.parse(["study=a,b", "out=o", "bootstrap=200", "max_leakage=0.05"])
    assert words.studies == (Path("a"), Path("b"))
    sweep = words.settings(SweepConfig(name="mine", hypothesis="h"))
    assert (sweep.name, sweep.hypothesis, sweep.bootstrap, sweep.max_leakage) == ("mine", "h", 200, 0.05)


def test_help_is_a_usage(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["report", "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: adit report study=FOLDER[,FOLDER...] out=FOLDER")


def test_a_report_of_too_few_points_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    study = Folders(tmp_path / "runs", "first", data_set(tmp_path / "shards"))
    study.add("dit_32", study.config())
    study.add("dit_64", study.config("dit_64"), done=False)
    study.report()
    out = tmp_path / "report"
    words = [f"study={study.folder}", f"out={out}", "bootstrap=100", "max_leakage=0.05"]
    assert cli.main(["report", *words]) == 0
    said = capsys.readouterr().out
    assert "1 of 2 points of first" in said
    assert "dit_64: unfinished: stopped at step 0 of 20" in said
    assert {"report.html", "points.csv", "points.json", "fit.json", "table.txt"} <= {
        path.name for path in out.iterdir()
    }

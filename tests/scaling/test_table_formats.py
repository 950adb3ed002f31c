"""One table as HTML, CSV and LaTeX."""

# ruff: noqa: RUF001 (Greek letters)

from __future__ import annotations

import csv
import math

from adit_scale.evaluation.statistics import Rate
from adit_scale.scaling.results import Interval
from adit_scale.scaling.table_formats import Column, Table, latex_escape, to_html, to_latex, write_csv

TABLE = Table(
    "t",
    "A & B",
    [Column("run <1>", "run"), Column("N", count=True), Column("loss"), Column("interval (95%)", "interval"),
     Column("error", percent=True), Column("rate"), Column("inside")],
    [
        ["dit_32 & co", 57_500, 0.98765432, Interval(0.9, math.inf), -0.0123, Rate(1, 4), True],
        ["b|ad\\", 4.21e6, math.nan, None, None, None, None],
    ],
    note="a < b",
    quiet=[1],
)  # fmt: skip


def test_html_is_escaped_and_short():
    html = to_html(TABLE)
    assert '<th class="text">run &lt;1&gt;</th><th>N</th>' in html
    assert "<td>57.5 k</td><td>0.9877</td><td>[0.9, ∞]</td><td>-1.23%</td>" in html
    assert "<td>25.0% [4.6, 69.9]</td><td>yes</td>" in html
    assert html.count("<tr class=quiet>") == 1
    assert "a &lt; b" in html


def test_csv_holds_all_digits_and_interval_ends(tmp_path):
    write_csv(TABLE, tmp_path / "t.csv")
    with (tmp_path / "t.csv").open() as file:
        first, second = csv.DictReader(file)
    assert float(first["loss"]) == 0.98765432
    assert (float(first["interval/low"]), float(first["interval/high"])) == (0.9, math.inf)
    assert (first["rate"], first["rate/trials"], first["inside"]) == ("0.25", "4", "yes")
    assert (second["run"], second["interval/low"], second["error"]) == ("b|ad\\", "", "")


def test_latex_is_escaped():
    lines = to_latex(TABLE).splitlines()
    assert lines[1] == r"\begin{tabular}{lrrrrrr}"
    assert lines[5].startswith(r"dit\_32 \& co & 57.5 k & 0.9877 & [0.9, $\infty$] & -1.23\%")
    assert all(line.endswith(r"\\") for line in (lines[3], *lines[5:7]))
    assert latex_escape("100% of #1 ~x^2 {α} <N_opt>") == (
        r"100\% of \#1 \textasciitilde{}x\textasciicircum{}2 \{$\alpha$\} \textless{}N\_opt\textgreater{}"
    )


def test_a_table_without_rows_is_still_one(tmp_path):
    empty = Table("e", "E", [Column("a"), Column("b")], [])
    write_csv(empty, tmp_path / "e.csv")
    assert (tmp_path / "e.csv").read_text() == "a,b\n"
    assert "\\midrule\n\\bottomrule" in to_latex(empty)

"""Rewrite the tables in docs/benchmarks.md, between the two markers, from the files in benchmarks/results/.

    python benchmarks/table.py [--check]     --check changes nothing and fails where a table is out of date

catalogue.py says which results there are, in which section they stand, and which of their rows are shown.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import targets
from catalogue import BENCHMARKS, GROUPS, Benchmark, Result
from record import RESULTS, described, number

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
HEAD = ["| measured | value | ratio | baseline, same run | run |", "|---|---:|---:|---|---:|"]


def tables(results: Path = RESULTS) -> str:
    """The lines between the markers: the targets, a heading and a table a section, and what was run."""
    lines = ["### Targets", "", targets.table(targets.judge(results)), ""]
    runs: list[str] = []
    for group, heading in GROUPS.items():
        mine = [benchmark for benchmark in BENCHMARKS if benchmark.group == group]
        if mine:
            lines += [f"### {heading}", "", *HEAD]
            for benchmark in mine:
                for result in benchmark.results:
                    lines += _result_lines(benchmark, result, results, runs)
            lines.append("")
    return "\n".join([*lines, "### Runs", "", *runs])


def _result_lines(benchmark: Benchmark, result: Result, results: Path, runs: list[str]) -> list[str]:
    """Of one result file; adds its run to ``runs``."""
    path = results / f"{result.name}.json"
    if not path.is_file():
        return [f"| {result.title} | not measured | | `{benchmark.said}` | |"]
    found = json.loads(path.read_text())
    runs.append(_run_line(len(runs) + 1, found))
    rows = found["rows"]
    if result.least:
        least = min(rows, key=lambda row: row["value"])
        rows = [{**least, "what": f"{result.title}, least of {len(rows)} cases: {least['what']}"}]
    shown = [row for row in rows if re.search(result.shown, row["what"])]
    title = f"{result.title}: " if result.titled else ""
    lines = [_row_line({**row, "what": title + row["what"]}, len(runs)) for row in shown]
    if hidden := len(rows) - len(shown):
        more = f"{hidden} more rows in [{path.name}](../benchmarks/results/{path.name})"
        lines.append(f"| {more} | | | | {len(runs)} |")
    return lines


def _row_line(row: dict[str, Any], run: int) -> str:
    unit = f" {row['unit']}" if row["unit"] else ""
    baseline = f"{row['baseline']}: {number(row['baseline_value'])}{unit}"
    spread = " ({:.2f} to {:.2f})".format(*row["ratio_range"]) if "ratio_range" in row else ""
    ratio = "" if row["ratio"] is None else _ratio(row["ratio"])
    note = f": {row['note']}" if "note" in row else ""
    return f"| {row['what']}{note} | {number(row['value'])}{unit} | {ratio}{spread} | {baseline} | {run} |"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.1g}"


def _run_line(place: int, result: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    git = result.get("git")  # results made before it was written down have none
    commit = f"; {git['commit'][:10]}{' with changes' * git['dirty']}" if git else ""
    where = f"{described(result['machine'])}; {versions}{commit}"
    return f"{place}. `{result['command']}`: {where}; {result['date'][:10]}"


def remade(page: str, results: Path = RESULTS) -> str:
    """The page with its tables made anew. Raises SystemExit where it lacks the markers."""
    head, _, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not end:
        sys.exit(f"{PAGE}: expected the lines {BEGIN} and {END}")
    return f"{head}{BEGIN}\n{tables(results)}\n{END}{tail}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; status 1 if out of date")
    check = parser.parse_args().check
    before = PAGE.read_text()
    after = remade(before)
    if check:
        return int(before != after)
    PAGE.write_text(after)
    return 0


if __name__ == "__main__":
    sys.exit(main())

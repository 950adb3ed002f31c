"""A table as data, and the same as HTML, CSV and LaTeX: screen, spreadsheet and paper cannot differ.

Numbers stay numbers until they are written: CSV holds all their digits, the others four.
"""

# ruff: noqa: RUF001 (Greek letters and true minus signs in text for readers)

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from adit_scale.evaluation.statistics import Rate
from adit_scale.scaling.results import Interval
from adit_scale.scaling.table import parameters, rate_text

Cell = str | float | bool | Interval | Rate | None

# LaTeX gives these a meaning of their own; the rest of what a label may hold prints as it stands.
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "α": r"$\alpha$", "β": r"$\beta$", "δ": r"$\delta$", "σ": r"$\sigma$",
    "−": r"$-$", "·": r"$\cdot$", "×": r"$\times$", "≤": r"$\le$", "≥": r"$\ge$", "²": r"$^2$",
    "∞": r"$\infty$", "Δ": r"$\Delta$",
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """name: in the heading, with a unit where there is one. key: in the CSV's, where that is another.

    percent: fractions, shown as per cent. count: shown as 87 k, 1.65 M.
    """

    name: str
    key: str = ""
    percent: bool = False
    count: bool = False


@dataclass(frozen=True)
class Table:
    """key: its files' stem. rows: as many cells as columns; None is empty. quiet: rows shown in grey."""

    key: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    quiet: Collection[int] = ()

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows), f"table {self.key}: ragged rows"


def number(value: float) -> str:
    """Four significant digits; nothing where there is no number."""
    return "" if math.isnan(value) else f"{value:.4g}"


def text(cell: Cell, column: Column) -> str:
    """A cell as a reader sees it."""
    if cell is None:
        return ""
    if isinstance(cell, Rate):
        return rate_text(cell)
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, str):
        return cell
    if isinstance(cell, Interval):
        return f"[{_shown(cell.low, column)}, {_shown(cell.high, column)}]"
    return _shown(float(cell), column)


def to_html(table: Table) -> str:
    """A table in a frame that scrolls by itself where the page is narrow."""
    kinds = [' class="text"' if _is_words(table, i) else "" for i in range(len(table.columns))]
    head = "".join(f"<th{kind}>{escape(c.name)}</th>" for c, kind in zip(table.columns, kinds, strict=True))
    rows = []
    for i, row in enumerate(table.rows):
        texts = [escape(text(cell, column)) for cell, column in zip(row, table.columns, strict=True)]
        cells = "".join(f"<td{kind}>{words}</td>" for words, kind in zip(texts, kinds, strict=True))
        rows.append(f"<tr{' class=quiet' if i in table.quiet else ''}>{cells}</tr>")
    note = f'<p class="quiet">{escape(table.note)}</p>' if table.note else ""
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>{note}'


def write_csv(table: Table, path: Path) -> None:
    """Full precision; an interval is two columns, a rate four (fractions)."""
    widths = [max((len(_values(row[i])) for row in table.rows), default=1) for i in range(len(table.columns))]
    suffixes = {1: ("",), 2: ("/low", "/high"), 4: ("", "/low", "/high", "/trials")}
    header = [
        (c.key or c.name) + s for c, width in zip(table.columns, widths, strict=True) for s in suffixes[width]
    ]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for row in table.rows:
            cells: list[str | float] = []
            for cell, width in zip(row, widths, strict=True):
                values = _values(cell)
                cells += [*values, *[""] * (width - len(values))]
            writer.writerow(cells)


def to_latex(table: Table) -> str:
    """A tabular for the booktabs package, for use inside the paper's own table environment."""
    lines = [
        f"% {table.title}: needs \\usepackage{{booktabs}}",
        f"\\begin{{tabular}}{{{_alignment(table)}}}",
        "\\toprule",
        _latex_row([c.name for c in table.columns]),
        "\\midrule",
        *(
            _latex_row([text(cell, column) for cell, column in zip(row, table.columns, strict=True)])
            for row in table.rows
        ),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def latex_escape(words: str) -> str:
    return "".join(_LATEX.get(character, character) for character in words)


def _shown(value: float, column: Column) -> str:
    if math.isnan(value):
        return ""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if column.percent:
        return f"{100 * value:.3g}%"
    return parameters(value) if column.count else number(value)


def _values(cell: Cell) -> list[str | float]:
    if isinstance(cell, Interval):
        return [cell.low, cell.high]
    if isinstance(cell, Rate):
        return [cell.value, *cell.interval, cell.trials] if cell.trials else ["", "", "", 0]
    if isinstance(cell, bool):
        return ["yes" if cell else "no"]
    return ["" if cell is None else cell]


def _alignment(table: Table) -> str:
    """Words to the left, numbers to the right."""
    return "".join("l" if _is_words(table, i) else "r" for i in range(len(table.columns)))


def _is_words(table: Table, column: int) -> bool:
    """Whether a column holds words alone."""
    cells = [row[column] for row in table.rows if row[column] is not None]
    return bool(cells) and all(isinstance(cell, str) for cell in cells)


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(latex_escape(cell) for cell in cells) + r" \\"

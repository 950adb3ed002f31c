"""Scores as tables, for a terminal and as Markdown: every number with its interval and its trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adit_scale.evaluation.rates import PER_CHECK
from adit_scale.evaluation.score import Scores
from adit_scale.evaluation.statistics import Comparison, Rate, SeedSpread, compare_runs, table_verdicts

if TYPE_CHECKING:
    from rich.console import Console

DIFFERENCES = "Differences in percentage points. Verdicts are adjusted for the length of the table (Holm)."
MOST_REASONS = 8  # of a rate, in a table; scores.json has them all


@dataclass(frozen=True)
class Table:
    """title, column names, rows of texts; notes stand below."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        lines = [f"### {self.title}", "", _line(self.columns), _line(["---"] * len(self.columns))]
        lines += [_line(row) for row in self.rows]
        return "\n".join([*lines, "", *(f"{note}\n" for note in self.notes)])

    def print_to(self, console: Console) -> None:
        from rich.table import Table as RichTable

        table = RichTable(title=self.title, title_justify="left", title_style="bold", pad_edge=False)
        for place, column in enumerate(self.columns):
            table.add_column(column, justify="left" if place == 0 else "right", overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        console.print(table)
        for note in self.notes:
            console.print(note, markup=False, highlight=False)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def percent(rate: Rate) -> str:
    """``96.3% (95.4 to 97.0)``."""
    if not rate.trials:
        return "no trials"
    lower, upper = rate.interval
    return f"{100 * rate.value:.1f}% ({100 * lower:.1f} to {100 * upper:.1f})"


def points(comparison: Comparison) -> str:
    """``-3.1 (-4.0 to -2.2)``, in percentage points."""
    if comparison.difference != comparison.difference:
        return "no trials"
    numbers = (comparison.difference, comparison.lower, comparison.upper)
    middle, low, high = (f"{100 * number:+.1f}" for number in numbers)
    return f"{middle} ({low} to {high})"


def rates_table(
    runs: Sequence[Scores], ceiling: Scores | None = None, title: str = "Rates", single_checks: bool = False
) -> Table:
    """Rates of one run, or of several seeds of one model; beside them those of real data.

    single_checks: the single PoseBusters checks, else every other rate.
    """
    names = [name for name in runs[0].rates if (f"/{PER_CHECK}" in name) == single_checks]
    confidence = f"{100 * next(iter(runs[0].rates.values())).confidence:g}%" if names else ""
    several = len(runs) > 1
    columns: tuple[str, ...] = ("rate", f"value ({confidence})", "passed / trials")
    if several:
        columns = ("rate", f"mean of {len(runs)} seeds ({confidence})", "SD of seeds", "counting SD")
    compared: dict[str, Comparison] = {}
    if ceiling is not None:
        columns = (*columns, "real data", "less real data", "verdict")
        apart = set(runs[0].incomparable(ceiling))
        compared = {
            name: compare_runs([run.rates[name] for run in runs if name in run.rates], [ceiling.rates[name]])
            for name in names
            if name in ceiling.rates and name not in apart
        }
    verdicts = table_verdicts(compared)
    rows = []
    for name in names:
        row = _spread_cells(name, runs) if several else _rate_cells(name, runs[0].rates[name])
        if ceiling is not None:
            real = percent(ceiling.rates[name]) if name in ceiling.rates else "-"
            told = (points(compared[name]), verdicts[name]) if name in compared else ("-", "-")
            row = (*row, real, *told)
        rows.append(row)
    return Table(title, columns, rows, _notes(several, ceiling is not None))


def _rate_cells(name: str, rate: Rate) -> tuple[str, ...]:
    return name, percent(rate), f"{rate.successes:,} / {rate.trials:,}"


def _spread_cells(name: str, runs: Sequence[Scores]) -> tuple[str, ...]:
    rates = [run.rates[name] for run in runs if name in run.rates]
    spread = SeedSpread.of(rates)
    if spread is None:
        return name, percent(rates[0]), "-", "-"
    mean = f"{100 * spread.mean:.1f}% ({100 * spread.lower:.1f} to {100 * spread.upper:.1f})"
    more = "" if spread.overdispersion_p >= 0.05 else " *"
    return name, mean, f"{100 * spread.sd:.2f}{more}", f"{100 * spread.binomial_sd:.2f}"


def _notes(several: bool, compared: bool) -> tuple[str, ...]:
    notes = []
    if several:
        notes.append(
            "Intervals over seeds (t). SD in points. Counting SD: what the number of samples alone makes of "
            "equal seeds; * more than that (p < 0.05)."
        )
    if compared:
        notes.append(DIFFERENCES)
    return tuple(notes)


def values_table(scores: Scores) -> Table:
    rows = [
        (
            name,
            f"{s.n:,}",
            *(f"{v:.4g}" for v in (s.mean, s.sd, s.lower_quartile, s.median, s.upper_quartile)),
        )
        for name, s in scores.summaries.items()
    ]
    return Table("Values", ("value", "samples", "mean", "SD", "25%", "median", "75%"), rows)


def reasons_table(scores: Scores) -> Table:
    """Why samples failed, the most frequent reasons of each rate."""
    rows = []
    for name, reasons in scores.reasons.items():
        if f"/{PER_CHECK}" in name:
            continue
        for place, (reason, n) in enumerate(reasons.items()):
            if place == MOST_REASONS:
                rest = list(reasons.values())[place:]
                rows.append(("", f"{len(rest)} other reasons", f"{sum(rest):,}"))
                break
            rows.append((name if place == 0 else "", reason, f"{n:,}"))
    return Table("Reasons", ("rate", "reason", "samples"), rows)


def bins_table(scores: Scores) -> Table:
    rows = [
        (name, f"{b.low} to {b.high}" if b.low < b.high else str(b.low), *_rate_cells("", b.rate)[1:])
        for name, bins in scores.bins.items()
        for b in bins
    ]
    return Table("By the number of atoms", ("rate", "atoms", "value", "passed / trials"), rows)


def protocols_table(scores: Scores) -> Table:
    rows = [(name, text) for name, text in scores.protocols.items() if text]
    versions = ", ".join(f"{name} {version}" for name, version in scores.packages.items())
    return Table("Protocols", ("check", "protocol"), rows, (f"Packages: {versions}.",))


def comparison_table(named: Mapping[str, Sequence[Scores]]) -> Table:
    """Each run less the first, rate by rate. named: by name, the scores of a run's seeds."""
    (first, base), *others = named.items()
    compared: dict[str, Comparison] = {}
    for label, runs in others:
        apart = set(base[0].incomparable(runs[0]))
        for name in base[0].rates:
            if name in runs[0].rates and name not in apart and f"/{PER_CHECK}" not in name:
                compared[f"{name}\n{label}"] = compare_runs(_of(runs, name), _of(base, name))
    verdicts = table_verdicts(compared)
    rows = []
    for name in base[0].rates:
        for label, runs in others:
            key = f"{name}\n{label}"
            if key in compared:
                cells = (
                    _mean(base, name),
                    _mean(runs, name),
                    points(compared[key]),
                    f"{compared[key].p_value:.2g}",
                )
                rows.append((name, label, *cells, verdicts[key]))
    skipped = sorted({n for _, runs in others for n in base[0].incomparable(runs[0])})
    notes = [f"{DIFFERENCES} The p-values are not."]
    if min(len(runs) for runs in named.values()) == 1:
        notes.append("With one seed a difference is one of these trained networks, not of their recipes.")
    if skipped:
        notes.append(f"Not compared, since they were counted by different rules: {', '.join(skipped)}.")
    columns = ("rate", "run", first, "value", f"less {first}", "p", "verdict")
    return Table(f"Compared with {first}", columns, rows, tuple(notes))


def _of(runs: Sequence[Scores], name: str) -> list[Rate]:
    return [run.rates[name] for run in runs if name in run.rates]


def _mean(runs: Sequence[Scores], name: str) -> str:
    rates = [rate for rate in _of(runs, name) if rate.trials]
    if not rates:
        return "no trials"
    return f"{100 * sum(rate.value for rate in rates) / len(rates):.1f}%"


def report(runs: Sequence[Scores], ceiling: Scores | None, heading: str) -> str:
    """The whole of one scoring as Markdown; with several seeds the details are those of the first."""
    tables = [rates_table(runs, ceiling)]
    if any(f"/{PER_CHECK}" in name for name in runs[0].rates):
        tables.append(rates_table(runs, ceiling, "Single PoseBusters checks", single_checks=True))
    tables += [f(runs[0]) for f in (values_table, reasons_table, bins_table, protocols_table)]
    return "\n".join([f"## {heading}", "", *(table.markdown() for table in tables if table.rows)])

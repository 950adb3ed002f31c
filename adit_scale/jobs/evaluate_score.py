"""``adit evaluate score`` and ``compare``: structures to rates, tables and verdicts."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from adit_scale.atoms import DOMAIN_NAMES
from adit_scale.data.tools.progress import ProgressBar
from adit_scale.errors import ConfigError, DataError
from adit_scale.evaluation.config import EvaluationConfig
from adit_scale.evaluation.judging import SCORES, Judged, Progress, Sample, judge
from adit_scale.evaluation.kept import replace_text
from adit_scale.evaluation.rates import PER_CHECK, quantile_edges
from adit_scale.evaluation.reading import fingerprint_of, read_structures, training_chunks
from adit_scale.evaluation.references import References, load_references
from adit_scale.evaluation.score import Scores
from adit_scale.evaluation.statistics import SeedSpread
from adit_scale.evaluation.tables import (
    comparison_table,
    rates_table,
    reasons_table,
    report,
    values_table,
)
from adit_scale.jobs.evaluate_words import Words

if TYPE_CHECKING:
    from rich.console import Console

OWN = ("out", "train", "against", "split", "limit", "domain")
TABLE, SEEDS, STAGES = "table.md", "seeds.json", ".stages"


def run_score(words: Words) -> int:
    """Score each path; with several, the spread over them. Raises AditError."""
    out, config = words.folder("out"), words.config
    limit, split, domains = words.number("limit"), words.said.get("split", "test"), words.domains()
    # All is read before anything is judged: a mistake in the last path must not cost the first one's hours.
    sets = {path: read_structures(path, limit, split, domains) for path in words.paths}
    judged_domains = sorted({domain for found in sets.values() for domain in found})
    against = words.said.get("against", "")
    ceiling_scores = _finished(against) if against else None
    ceiling_sets: dict[int, list[Sample]] = {}
    if against and ceiling_scores is None:
        ceiling_sets = read_structures(against, limit, split, judged_domains)
    edges = {d: _edges([found[d] for found in sets.values() if d in found]) for d in judged_domains}
    with ProgressBar("samples") as bar:
        references = _references(words.said.get("train", ""), judged_domains, config, out)
        scoring = _Scoring(config, references, edges, bar)
        runs = []
        for place, (path, found) in enumerate(sets.items()):
            bar.say(f"{path}: {_counts(found)}")
            folder = out / f"seed-{place}" if out is not None and len(sets) > 1 else out
            runs.append(scoring.one(found, folder).scores)
        if ceiling_sets:
            bar.say(f"{against}: {_counts(ceiling_sets)}, as the ceiling")
            ceiling_scores = scoring.one(ceiling_sets, None if out is None else out / "against").scores
    show(runs, ceiling_scores)
    if out is not None:
        replace_text(out / TABLE, report(runs, ceiling_scores, ", ".join(words.paths)))
        if len(runs) > 1:
            replace_text(out / SEEDS, _spreads(runs, words.paths))
        print(f"{out}: {SCORES}, verdicts, {TABLE}")
    return 0


@dataclass(frozen=True)
class _Scoring:
    config: EvaluationConfig
    references: References
    edges: Mapping[int, Sequence[int]]
    progress: Progress

    def one(self, samples: dict[int, list[Sample]], out: Path | None) -> Judged:
        keep = None if out is None else out / STAGES
        judged = judge(samples, self.config, self.references, keep, self.progress, self.edges)
        if out is not None:
            judged.write(out)
        return judged


def _references(word: str, domains: Sequence[int], config: EvaluationConfig, out: Path | None) -> References:
    if not word:
        return References()
    keep = None if out is None else out / STAGES
    return load_references(training_chunks(word), domains, config, keep, fingerprint_of(word))


def _spreads(runs: Sequence[Scores], paths: Sequence[str]) -> str:
    """The spread of every rate over the seeds, as JSON."""
    found = {
        name: SeedSpread.of([run.rates[name] for run in runs if name in run.rates]) for name in runs[0].rates
    }
    spreads = {name: spread.to_dict() for name, spread in found.items() if spread is not None}
    return json.dumps({"seeds": list(paths), "rates": spreads}, indent=1, allow_nan=False) + "\n"


class Counter:
    """Called with how many more are done; tells a progress bar of all of them."""

    def __init__(self, bar: ProgressBar, stage: str, total: int | None = None) -> None:
        self.bar, self.stage, self.done, self.total = bar, stage, 0, total

    def __call__(self, more: int) -> None:
        self.done += more
        self.bar(self.stage, self.done if self.total is None else min(self.done, self.total), self.total)


def _edges(sets: Sequence[Sequence[Sample]]) -> list[int]:
    """One set of bins for all seeds and the real data, so that they compare."""
    return quantile_edges(np.array([len(sample) for found in sets for sample in found]))


def _counts(found: Mapping[int, Sequence[Sample]]) -> str:
    return ", ".join(f"{len(sets):,} {DOMAIN_NAMES[domain]}s" for domain, sets in found.items())


def _finished(word: str) -> Scores | None:
    """Scores that stand in a file or folder; None where the word names structures."""
    path = Path(word)
    for file in (path, path / SCORES):
        if file.is_file() and file.suffix == ".json" and file.name.endswith(SCORES):
            return Scores.from_json(file.read_text(encoding="utf-8"), str(file))
    return None


def show(runs: Sequence[Scores], ceiling: Scores | None) -> None:
    console = _console()
    tables = [rates_table(runs, ceiling)]
    if any(f"/{PER_CHECK}" in name for name in runs[0].rates):
        tables.append(rates_table(runs, ceiling, "Single PoseBusters checks", single_checks=True))
    tables += [values_table(runs[0]), reasons_table(runs[0])]
    for table in tables:
        if table.rows:
            table.print_to(console)


def _console() -> Console:
    from rich.console import Console

    # A log has no width of its own: tables must not fold there.
    return Console(width=None if sys.stdout.isatty() else 160)


def run_compare(words: Words) -> int:
    """Differences of every rate of each folder against the first one's. Raises AditError."""
    if len(words.paths) < 2:
        raise ConfigError(f"{words.paths[0]}: one folder; expected two or more to compare")
    if len(set(words.paths)) < len(words.paths):
        raise ConfigError(f"{', '.join(words.paths)}: one is named twice; expected different folders")
    named = {name: read_runs(Path(path)) for name, path in short_names(words.paths).items()}
    table = comparison_table(named)
    if not table.rows:
        raise DataError(f"{' and '.join(words.paths)}: no rate in common; expected the same domain and rules")
    table.print_to(_console())
    out = words.folder("out")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        replace_text(out / "comparison.md", table.markdown())
        print(f"{out / 'comparison.md'}")
    return 0


def read_runs(path: Path) -> list[Scores]:
    """The scores of a folder of `adit evaluate score`, one a seed. Raises DataError where there are none."""
    seeds = sorted(path.glob("seed-*"), key=lambda p: (len(p.name), p.name))
    files = [path] if path.is_file() else [p / SCORES for p in seeds] or [path / SCORES]
    for file in files:
        if not file.is_file():
            raise DataError(f"{file}: no such file; expected a folder of `adit evaluate score out={path}`")
    return [Scores.from_json(file.read_text(encoding="utf-8"), str(file)) for file in files]


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """Paths by their last part where these differ, else by themselves."""
    names = [Path(path).resolve().name for path in paths]
    return dict(zip(names if len(set(names)) == len(names) else paths, paths, strict=True))

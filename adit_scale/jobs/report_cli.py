"""``adit report``: the report of one finished study, or of several together, in any folder.

    adit report study=FOLDER[,FOLDER...] out=FOLDER [bootstrap=1000] [max_leakage=0.01] [name=TEXT]

study        folders RUNS/STUDY that launch.py made; several are joined: their runs are fitted
             as one study where they share autoencoder, data and validation
out          folder of report.html, figures/, samples/, tables/, points.csv, fit.json, table.txt
bootstrap    resampled studies behind every interval; by default as the (first) study says
max_leakage  nothing is fitted where a larger share of held-out structures stands in training
name         title of the report; by default the studies' names
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adit_scale.errors import ConfigError, check_range
from adit_scale.scaling.config import SweepConfig

KEYS = ("study", "out", "bootstrap", "max_leakage", "name")


def main(words: Sequence[str], prog: str = "adit report") -> int:
    """Returns 0. Raises AditError, OSError."""
    if not words or {"-h", "--help"} & set(words):
        usage = (__doc__ or "").partition("\n\n")[2].replace("    adit report", f"usage: {prog}", 1)
        print(usage, end="")
        return 0
    chosen = ReportWords.parse(words)
    # Fits and figures: not before words are known to be right.
    from adit_scale.jobs.points import collect
    from adit_scale.jobs.report import SAMPLES
    from adit_scale.jobs.report_pictures import draw_samples
    from adit_scale.scaling.report import write_report

    found = collect(chosen.studies)
    sweep = chosen.settings(found.sweep)
    result = write_report(found.points, found.ceilings, sweep, chosen.out, found.total_points)
    pictures = draw_samples(found.points, found.evaluations, found.reference, chosen.out / SAMPLES)
    done = int(result.metrics["points_done"])
    print(f"{done} of {found.total_points} points of {', '.join(found.studies)}. {result.headline}\n")
    print(result.table_text)
    print(f"report: {result.html} ({len(result.files) + len(pictures)} files)")
    return 0


@dataclass(frozen=True)
class ReportWords:
    """bootstrap, max_leakage, name: None where not said."""

    studies: tuple[Path, ...]
    out: Path
    bootstrap: int | None
    max_leakage: float | None
    name: str | None

    @staticmethod
    def parse(words: Sequence[str]) -> ReportWords:
        """From ``key=value`` words. Raises ConfigError in one line."""
        from adit_scale.jobs.sample_words import key_values, study_folders, whole_number

        said = key_values(words, KEYS, "adit report")
        folders = study_folders(said)
        if not said.get("out"):
            raise ConfigError("out is missing; expected out=FOLDER for the report")
        twice = [folder for folder in folders if folders.count(folder) > 1]
        if twice:
            raise ConfigError(f"study names {twice[0]} twice; expected every folder once")
        return ReportWords(
            tuple(map(Path, folders)),
            Path(said["out"]),
            whole_number("bootstrap", said["bootstrap"], 100) if "bootstrap" in said else None,
            _share("max_leakage", said["max_leakage"]) if "max_leakage" in said else None,
            said.get("name"),
        )

    def settings(self, sweep: SweepConfig) -> SweepConfig:
        """The study's own settings with what was said."""
        said: dict[str, Any] = {
            "bootstrap": self.bootstrap,
            "max_leakage": self.max_leakage,
            "name": self.name,
        }
        return replace(sweep, **{key: value for key, value in said.items() if value is not None})


def _share(key: str, text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        raise ConfigError(f"{key} is {text}; expected a number from 0 to 1") from None
    check_range(key, share, 0, 1)
    return share

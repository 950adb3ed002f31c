"""Verdicts: one row a sample, one column a check. Every rate is counted from these rows.

A check says of each sample whether it passes, and why not. A sample that is no system of atoms fails every
check with its own reason: no sample ever leaves a denominator. What was not asked of a sample (an energy of
one that was not chosen for it) is ``NOT_ASKED`` and stays out of that check's trials, which are stated.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from adit_scale.atoms import DOMAIN_NAMES
from adit_scale.errors import DataError
from adit_scale.evaluation.limited import CRASHED, OVER_TIME
from adit_scale.evaluation.statistics import Rate

__all__ = ["CRASHED", "FAILED", "NOT_ASKED", "OVER_TIME", "PASSED", "Check", "Verdicts"]

PASSED, FAILED, NOT_ASKED = 1, 0, -1
_VERDICT_OF = {"1": PASSED, "0": FAILED, "": NOT_ASKED}


@dataclass
class Check:
    """One question put to every sample.

    verdict: ``(n,)`` int8, PASSED, FAILED or NOT_ASKED. reasons: ``n`` texts, "" unless FAILED; few different
    ones, so that a table of reasons stays short. protocol: one line that names rule, tolerances and package.
    """

    verdict: np.ndarray
    reasons: list[str]
    protocol: str = ""

    def __post_init__(self) -> None:
        self.verdict = np.asarray(self.verdict, dtype=np.int8)
        assert len(self.verdict) == len(self.reasons), f"{len(self.verdict)} against {len(self.reasons)}"

    @staticmethod
    def from_faults(faults: Sequence[str | None], protocol: str = "") -> Check:
        """From one fault a sample, None where it passes."""
        passed = [PASSED if fault is None else FAILED for fault in faults]
        return Check(np.array(passed, dtype=np.int8), [fault or "" for fault in faults], protocol)

    @property
    def passed(self) -> np.ndarray:
        """``(n,)`` bool; False where it was not asked."""
        return self.verdict == PASSED

    @property
    def asked(self) -> np.ndarray:
        """``(n,)`` bool."""
        return self.verdict != NOT_ASKED

    def reason_table(self) -> dict[str, int]:
        """How many samples failed for which reason, the most frequent first."""
        failed = (reason for reason, v in zip(self.reasons, self.verdict, strict=True) if v == FAILED)
        return dict(Counter(failed).most_common())


@dataclass
class Verdicts:
    """Of ``n`` samples of one domain, in the order they were given.

    ids: their ids. n_atoms: ``(n,)``. values: ``(n,)`` float64 by name with unit (``density_g_cm3``), NaN
    where a sample has none. labels: ``n`` texts by name (``edm_smiles``, ``formula``), "" where it has none.
    """

    domain: int
    ids: list[str]
    n_atoms: np.ndarray
    checks: dict[str, Check] = field(default_factory=dict)
    values: dict[str, np.ndarray] = field(default_factory=dict)
    labels: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def add_check(self, name: str, check: Check) -> None:
        self._claim(name, self.checks, len(check.verdict))
        self.checks[name] = check

    def add_value(self, name: str, values: np.ndarray | Sequence[float]) -> None:
        column = np.asarray(values, dtype=np.float64)
        self._claim(name, self.values, len(column))
        self.values[name] = column

    def add_label(self, name: str, texts: Sequence[str]) -> None:
        self._claim(name, self.labels, len(texts))
        self.labels[name] = list(texts)

    def _claim(self, name: str, among: Mapping[str, object], length: int) -> None:
        assert name not in among, f"{name} is there already"
        assert length == len(self), f"{name} has {length} rows; expected {len(self)}"

    def passed(self, *names: str) -> np.ndarray:
        """``(n,)`` bool: samples that pass all of these checks."""
        return np.logical_and.reduce([self.checks[name].passed for name in names])

    def rate(self, *names: str, given: Sequence[str] = (), confidence: float = 0.95) -> Rate:
        """Share of samples that pass all checks ``names``, among those asked all of them; with ``given``,
        among those of them that pass all checks ``given``."""
        asked = np.logical_and.reduce([self.checks[name].asked for name in (*names, *given)])
        trials = asked & self.passed(*given) if given else asked
        return Rate(int((trials & self.passed(*names)).sum()), int(trials.sum()), confidence)

    def joint(self, name: str, parts: Sequence[str], protocol: str = "") -> None:
        """Add the check that passes where all ``parts`` do; its reason is that of the first that fails."""
        verdict = np.full(len(self), PASSED, dtype=np.int8)
        reasons = [""] * len(self)
        for part in parts:
            check = self.checks[part]
            for i in np.flatnonzero((verdict == PASSED) & (check.verdict != PASSED)):
                verdict[i], reasons[i] = check.verdict[i], check.reasons[i]
        self.add_check(name, Check(verdict, reasons, protocol or " and ".join(parts)))

    def write_csv(self, path: Path) -> None:
        """One line a sample: id, atoms, each check (1, 0, empty) with its reason, values, labels."""
        part = path.with_name(f".{path.name}.part")
        with part.open("w", newline="", encoding="utf-8") as stream:
            rows = csv.writer(stream)
            rows.writerow(
                ["domain", "id", "n_atoms"]
                + [f"{kind}:{name}" for name in self.checks for kind in ("check", "why")]
                + [f"value:{name}" for name in self.values]
                + [f"label:{name}" for name in self.labels]
            )
            for i, sample in enumerate(self.ids):
                row = [DOMAIN_NAMES[self.domain], sample, str(int(self.n_atoms[i]))]
                for check in self.checks.values():
                    row += [str(v) if (v := int(check.verdict[i])) != NOT_ASKED else "", check.reasons[i]]
                row += [
                    "" if np.isnan(column[i]) else repr(float(column[i])) for column in self.values.values()
                ]
                row += [texts[i] for texts in self.labels.values()]
                rows.writerow(row)
        part.replace(path)

    @staticmethod
    def read_csv(path: Path, protocols: Mapping[str, str] | None = None) -> Verdicts:
        """Verdicts written by :meth:`write_csv`. Raises DataError, naming the line, for anything else."""
        try:
            with path.open(newline="", encoding="utf-8") as stream:
                header, *rows = list(csv.reader(stream))
            domains = {name: number for number, name in DOMAIN_NAMES.items()}
            columns = {name: [row[place] for row in rows] for place, name in enumerate(header)}
            (domain,) = {domains[text] for text in columns["domain"]}
            found = Verdicts(domain, columns["id"], np.array([int(n) for n in columns["n_atoms"]]))
            for name, texts in columns.items():
                kind, _, of = name.partition(":")
                if kind == "check":
                    verdict = np.array([_VERDICT_OF[text] for text in texts], dtype=np.int8)
                    found.add_check(of, Check(verdict, columns[f"why:{of}"], (protocols or {}).get(of, "")))
                elif kind == "value":
                    found.add_value(of, [float(text) if text else np.nan for text in texts])
                elif kind == "label":
                    found.add_label(of, texts)
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such file; expected verdicts that `adit evaluate` wrote") from error
        except (ValueError, KeyError, IndexError) as error:
            raise DataError(f"{path}: not verdicts written by `adit evaluate` ({error!r})") from error
        return found

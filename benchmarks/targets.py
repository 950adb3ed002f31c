"""The project's targets of speed, in one place: what is asked, and which row of which result answers.

    python benchmarks/targets.py [--results benchmarks/results] [--where gpu]

Prints the table of targets, each with what was measured; a row without a result says so. ``--where`` keeps
those of one device.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass
from pathlib import Path

from record import RESULTS, number

AT_LEAST, AT_MOST = "at least", "at most"
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Target:
    """name: what is asked of. limit: in ``unit``. where: cpu, or gpu for one H200.

    result: a file of benchmarks/results, without its ending. rows: a regular expression; of the rows whose
    ``what`` it finds, the best counts, unless ``every``. key: of the row, what is compared with the limit.
    """

    name: str
    sense: str
    limit: float
    unit: str
    where: str
    result: str
    rows: str
    key: str = "ratio"
    every: bool = False


@dataclass(frozen=True)
class Verdict:
    """found: None where nothing was measured. of: the row that counted."""

    target: Target
    found: float | None
    of: str

    @property
    def met(self) -> bool | None:
        if self.found is None:
            return None
        at_least = self.target.sense == AT_LEAST
        return self.found >= self.target.limit if at_least else self.found <= self.target.limit


def _mfu(rung: str, share: float) -> Target:
    name = f"MFU of a training step, {rung}, bf16 (real FLOPs over the measured 8192³ product rate)"
    result = f"training_step-gpu-{rung}-qm9_mp20"
    return Target(name, AT_LEAST, share, "", "gpu", result, r"packed, bf16.* MFU$")


def _step(where: str, rung: str, mix: str, times: float) -> Target:
    device = {"gpu": "one H200", "cpu": "a CPU"}[where]
    name = f"training step on {device}, {rung}, {mix}: atoms/s over dense padded fp32"
    result = f"training_step-{where}-{rung}-{mix}"
    return Target(name, AT_LEAST, times, "times", where, result, r"packed, bf16(, \w+)*(?<! MFU)$")


TARGETS: tuple[Target, ...] = (
    _mfu("dit_s", 0.30),
    _mfu("dit_b", 0.45),
    _mfu("dit_l", 0.55),
    _mfu("dit_xl", 0.55),
    _step("gpu", "dit_s", "qm9_mp20", 10),
    _step("gpu", "dit_b", "qm9_mp20", 10),
    _step("gpu", "dit_l", "qm9_mp20", 8),
    Target(
        "ZeRO 1 and 2 on one GPU: steps/s over a plain loop",
        AT_LEAST,
        0.95,
        "times",
        "gpu",
        "gpu-zero-dit_b",
        r"ZeRO [12], bf16",
        every=True,
    ),
    Target(
        "10,000 QM9-size samples, DiT-B, 100 steps, guidance 2",
        AT_MOST,
        20,
        "s",
        "gpu",
        "sampling_gpu-dit_b-qm9",
        "bf16",
        key="seconds",
    ),
    Target(
        "1,000 MP20-size crystals, DiT-S, 25 steps",
        AT_MOST,
        0.5,
        "s",
        "gpu",
        "sampling_gpu-dit_s-mp20",
        "bf16",
        key="seconds",
    ),
    _step("cpu", "dit_s", "qm9_mp20", 2),
    _step("cpu", "dit_s", "geom_drugs", 4),
    Target("sampling on a CPU, dit_s", AT_LEAST, 2.5, "times", "cpu", "sampling_cpu-dit_s", "bf16"),
)


def judge(results: Path = RESULTS, where: str = "") -> list[Verdict]:
    """What was measured of each target."""
    return [_judge(target, results) for target in TARGETS if where in ("", target.where)]


def _judge(target: Target, results: Path) -> Verdict:
    path = results / f"{target.result}.json"
    if not path.is_file():
        return Verdict(target, None, "")
    rows = [row for row in json.loads(path.read_text())["rows"] if re.search(target.rows, row["what"])]
    rows = [row for row in rows if row.get(target.key) is not None]
    if not rows:
        return Verdict(target, None, "")
    highest = (target.sense == AT_LEAST) != target.every
    best = (max if highest else min)(rows, key=lambda row: row[target.key])
    return Verdict(target, best[target.key], best["what"])


def table(verdicts: list[Verdict]) -> str:
    """The lines of a table in markdown."""
    lines = ["| target | asked | measured | met | by |", "|---|---|---|---|---|"]
    for verdict in verdicts:
        target = verdict.target
        unit = f" {target.unit}" if target.unit else ""
        found = NOT_MEASURED if verdict.found is None else f"{number(verdict.found)}{unit}"
        met = {None: "", True: "yes", False: "no"}[verdict.met]
        asked = f"{target.sense} {number(target.limit)}{unit}"
        lines.append(f"| {target.name} | {asked} | {found} | {met} | {verdict.of} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder with the results")
    parser.add_argument("--where", default="", choices=("", "cpu", "gpu"))
    args = parser.parse_args()
    print(table(judge(args.results, args.where)))


if __name__ == "__main__":
    main()

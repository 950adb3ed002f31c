"""Rewrite the table in docs/benchmarks.md, between its two markers, from the files in benchmarks/results/.

python benchmarks/table.py [--check]     --check changes nothing and fails where the table is out of date
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from record import RESULTS

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
# Result files in the order of the table; a file that is missing is a row that says so.
EXPECTED = {
    "training_step_cpu-dit_s": "training step on a CPU, DiT-S",
    "sampling_cpu-dit_s": "sampling on a CPU, DiT-S",
    "sampling_cpu-dit_192": "sampling on a CPU, dit_192",
    "sampling_gpu-dit_b": "sampling of 10,000 molecules on one GPU, DiT-B, 100 guided steps, bf16",
    "sampling_steps": "time and validity against sampling steps",
    "scoring_molecules": "scoring 10,000 molecules (edm, rdkit, PoseBusters), 2 cores",
    "scoring_crystals": "scoring 10,000 crystals, novelty against 27,000, 2 cores",
    "crystal_uniqueness": "uniqueness of 1,000 crystals, many of one composition",
    "relaxation": "relaxing crystals and molecules, 2 cores",
    "side_scoring-dit_128": "scoring samples beside the training, 2 cores",
    "slurm_sweep-submit": "submitting a study of 200 points to SLURM, 2 cores",
    "slurm_sweep-requeue": "a requeued run of DiT-S on SLURM, 2 cores",
    "status_speed": "`launch.py status` of 200 points",
    "tracking_load-sqlite": "50 jobs mirrored at once, SQLite behind the server",
    "tracking_load-sqlite-fault": "the same, the server killed for a minute",
    "tracking_load-postgresql-fault": "50 jobs mirrored at once, the database stopped for a minute",
    "tracking_delay": "a training step with a follower beside it",
    "loop_overhead-dit_192": "the training loop against a plain PyTorch loop",
    "memory_planner-dit_s": "predicted against measured memory of a training process",
    "wsd_branches": "decay branches against their trunk",
    "checkpoint_stall-dit_b": "stall of an asynchronous save, DiT-B, 2 ranks",
    "data_throughput": "ready batches from shards, one core, QM9-like sets",
    "data_order": "100 million sets, one core",
    "data_amplification": "bytes a rank reads over bytes it uses, 1,000 blocks",
    "data_packing": "real atoms over capacity",
    "data_parsing": "reading molecules, one core",
    "data_parsing_crystals-mp20_biternary_val": "reading crystals, one core",
    "data_parsing_crystals-mpts52_val": "reading crystals of up to 52 atoms, one core",
    "data_build": "building shards",
    "fit_coverage": "coverage of the fit's 95% intervals",
    "fit_comparison": "least squares and L-BFGS against the fit, 200 simulated studies",
    "advice_coverage": "coverage of an advice's 95% intervals",
    "mup_coordinates": "muP against the standard parametrization, CPU",
    "training_step_gpu-dit_s": "training step on one GPU, DiT-S, bf16, FlashAttention on packed sets",
    "training_step_gpu-dit_xl": "training step on one GPU, DiT-XL, bf16, FlashAttention on packed sets",
    "training_step_8gpu-dit_xl": "training step on eight GPUs, DiT-XL, bf16, ZeRO 1",
}

# Of results with many rows of one kind, the least alone stands in the table.
LEAST = ("data_packing", "fit_coverage")
# Rows that need their benchmark's title to be understood.
TITLED = ("data_amplification", "data_order", "data_build")


def table(results: Path = RESULTS) -> str:
    """The lines between the markers."""
    lines = ["| measured | value | baseline, same run | ratio | run |", "|---|---|---|---|---|"]
    runs: list[str] = []
    for name, title in EXPECTED.items():
        path = results / f"{name}.json"
        if not path.is_file():
            lines.append(f"| {title} | not measured | | | |")
            continue
        result = json.loads(path.read_text())
        runs.append(_run_line(len(runs) + 1, result))
        rows = result["rows"]
        if name in LEAST:
            least = min(rows, key=lambda row: row["value"])
            rows = [{**least, "what": f"{title}, least of {len(rows)} cases: {least['what']}"}]
        if name in TITLED:
            rows = [{**row, "what": f"{title}: {row['what']}"} for row in rows]
        lines.extend(_row_line(row, len(runs)) for row in rows)
    return "\n".join([*lines, "", *runs])


def _row_line(row: dict[str, Any], run: int) -> str:
    unit = f" {row['unit']}" if row["unit"] else ""
    baseline = f"{row['baseline']}: {_number(row['baseline_value'])}{unit}"
    spread = " ({:.2f} to {:.2f})".format(*row["ratio_range"]) if "ratio_range" in row else ""
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
    return f"| {row['what']} | {_number(row['value'])}{unit} | {baseline} | {ratio}{spread} | {run} |"


def _run_line(number: int, result: dict[str, Any]) -> str:
    machine = result["machine"]
    cores = f", {machine['cores']} cores" if machine.get("cores") else ""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return (
        f"{number}. `{result['command']}`: {machine['processor']}{cores}; {versions}; {result['date'][:10]}"
    )


def _number(value: float | str) -> str:
    if isinstance(value, str):  # of a baseline without a finite number
        return value
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; status 1 if out of date")
    check = parser.parse_args().check
    before = PAGE.read_text()
    head, _, rest = before.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not end:
        sys.exit(f"{PAGE}: expected the lines {BEGIN} and {END}")
    after = f"{head}{BEGIN}\n{table()}\n{END}{tail}"
    if check:
        return int(before != after)
    PAGE.write_text(after)
    return 0


if __name__ == "__main__":
    sys.exit(main())

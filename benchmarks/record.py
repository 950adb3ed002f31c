"""What every benchmark writes down beside its numbers, and where."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def record(benchmark: str, packages: Sequence[str], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A result: command, date, machine, versions, and ``rows`` as made by ``row``."""
    return {
        "benchmark": benchmark,
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "rows": list(rows),
    }


def row(
    what: str, value: float, baseline: str, baseline_value: float, unit: str, **more: Any
) -> dict[str, Any]:
    """One measured number beside the named baseline of the same run; no ratio to a baseline of 0."""
    ratio = value / baseline_value if baseline_value else None
    return {"what": what, "value": value, "baseline": baseline, "baseline_value": baseline_value,
            "unit": unit, "ratio": ratio, **more}  # fmt: skip


def write(name: str, result: dict[str, Any], folder: Path = RESULTS) -> None:
    """Print the result and keep it as ``folder/name.json``."""
    text = json.dumps(result, indent=2)
    print(text)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(text + "\n")


def processor() -> str:
    """The processor's name, where the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )

"""What every benchmark writes down beside its numbers, and where."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
REPO = Path(__file__).resolve().parents[1]
# Measuring changes these itself; that does not make the measured code another.
MADE_BY_BENCHMARKS = (":!benchmarks/results", ":!docs")
_BEGIN_S = time.monotonic()


def record(
    benchmark: str,
    packages: Sequence[str],
    rows: Sequence[dict[str, Any]],
    limits: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A result: command, commit, date, machine, versions, and ``rows`` as made by ``row``.

    limits: of a benchmark of speed, those of ``limits.measured_limits``.
    """
    return {
        "benchmark": benchmark,
        "command": shlex.join(["python", *sys.argv]),
        "git": git_state(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        **({"limits": dict(limits)} if limits else {}),
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
    """Keep the result as ``folder/name.json``; print it, and before it, on stderr, what a person wants."""
    result = {**result, "took_s": round(time.monotonic() - _BEGIN_S, 1)}
    text = json.dumps(result, indent=2)
    print(summary(result), file=sys.stderr, flush=True)
    print(text, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(text + "\n")


def summary(result: Mapping[str, Any]) -> str:
    """Command, machine, versions and date, then a line a row. Takes results of any age."""
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    lines = [
        f"command   {result['command']}",
        f"machine   {described(result['machine'])}",
        f"versions  {versions}{_commit(result.get('git'))}",
        f"date      {result['date']}",
    ]
    for one in result["rows"]:
        ratio = "" if one["ratio"] is None else f"{one['ratio']:.2f} x "
        lines.append(f"  {one['what']}: {number(one['value'])} {one['unit']}; {ratio}{one['baseline']}")
    return "\n".join(lines)


def described(found: Mapping[str, Any]) -> str:
    """A machine in a few words. Takes results of any age."""
    parts = [found["processor"], f"{found['cores']} cores" if found.get("cores") else "", found.get("gpu")]
    threads = found.get("threads")
    return ", ".join([*filter(None, parts), *([f"{threads} thread{'s' * (threads > 1)}"] if threads else [])])


def number(value: float | str) -> str:
    if isinstance(value, str):  # of a baseline without a finite number
        return value
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def machine() -> dict[str, Any]:
    """Processor, cores, GPU and torch's threads; what torch knows only where it is loaded already.

    ``kind`` is what two machines have in common whose speeds may be compared.
    """
    model, cores, torch = processor(), os.cpu_count(), sys.modules.get("torch")
    gpu = torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None
    return {
        "kind": ", ".join(filter(None, [_model(), f"{cores} cores", gpu])),
        "processor": model,
        "cores": cores,
        **({"gpu": gpu} if gpu else {}),
        **({"threads": torch.get_num_threads()} if torch is not None else {}),
        "system": platform.platform(),
    }


def processor() -> str:
    """The processor's name, where the system tells."""
    return _cpuinfo().get("model name", platform.machine())


def git_state(folder: Path = REPO) -> dict[str, Any] | None:
    """The commit that was measured, and whether files differed from it; None outside a repository."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = _git(folder, "status", "--porcelain", "--", ".", *MADE_BY_BENCHMARKS)
    return {"commit": commit, "dirty": bool(changed)}


def _git(folder: Path, *words: str) -> str | None:
    command = ["git", "--no-optional-locks", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # git is not installed
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _commit(found: Mapping[str, Any] | None) -> str:
    return f"; commit {found['commit'][:10]}{' with changes' * found['dirty']}" if found else ""


def _model() -> str:
    """The name and, as some clouds hide the model behind a short one, its numbers."""
    found = _cpuinfo()
    numbers = "/".join(found[key] for key in ("cpu family", "model", "stepping") if key in found)
    return f"{processor()} ({numbers})" if numbers else processor()


def _cpuinfo() -> dict[str, str]:
    """What the system tells of the first processor; nothing where it does not."""
    path = Path("/proc/cpuinfo")
    first = path.read_text().split("\n\n")[0].splitlines() if path.is_file() else []
    pairs = (line.partition(":") for line in first)
    return {key.strip(): value.strip() for key, _, value in pairs}

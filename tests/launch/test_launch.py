"""launch.py as a user runs it: help, plan, mistakes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


def launch(*words: str, cwd: Path = REPO) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPO / "launch.py"), *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_help_is_quick_and_complete():
    begin = time.monotonic()
    done = launch("--help")
    assert time.monotonic() - begin < 2
    assert done.returncode == 0
    for word in ("submit", "plan", "status", "scaling_demo", "dit_xl", "slurm"):
        assert word in done.stdout


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv=['launch.py','--help']\n"
        "try:\n    exec(open('launch.py').read())\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'mlflow', 'rdkit', 'pymatgen', 'plotly', 'deepspeed'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_plan_of_the_papers_study():
    done = launch("plan", "sweep=scaling")
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.startswith("dit_")}
    assert {name: row[1:3] for name, row in rows.items()} == {
        "dit_s": ["32.6", "M"],
        "dit_b": ["129.7", "M"],
        "dit_l": ["457.0", "M"],
        "dit_xl": ["673.9", "M"],
    }
    assert all(row[3:5] == ["500,000", "8.19e+09"] for row in rows.values())
    assert all(line.endswith("not started") for line in done.stdout.splitlines() if line.startswith("dit_"))
    assert max(map(len, done.stdout.splitlines())) <= 120
    assert "40% of H100 SXM bf16 989T" in done.stdout


@pytest.mark.parametrize("word", ["sweep=scalling", "diffusion.stepz=3", "pln", "data.shards=/nowhere"])
def test_a_mistake_is_one_line_and_status_2(word):
    done = launch(word)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert word.split("=")[-1] in done.stderr


def test_plan_writes_nothing(tmp_path):
    launch("plan", f"runs={tmp_path}/runs")
    launch("status", f"runs={tmp_path}/runs")
    assert list(tmp_path.iterdir()) == []

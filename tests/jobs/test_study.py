"""A whole study through launch.py: real shards, two stages, sampling, scoring, report, MLflow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

REPO = Path(__file__).resolve().parents[2]
TINY = [
    "sweep=scaling_demo",
    "sweep.name=tiny",
    "model/denoiser=dit_32,dit_64",
    "model/autoencoder=tiny",
    *(f"{stage}.{key}" for stage in ("autoencoder", "diffusion") for key in (
        "steps=4", "atom_budget=256", "validate_every_steps=2", "validation_sets=8", "log_every_steps=1",
    )),
    "diffusion.samples_every_steps=4",
    "diffusion.samples_per_domain=2",
    "diffusion.sample_steps=2",
    "sampling.crystals=4",
    "sampling.molecules=4",
    "sampling.steps=3",
    "evaluation.reference_sets=8",
    "sweep.bootstrap=100",
]  # fmt: skip
DIVERGES = (
    "+sweep.overrides_by_size={dit_64:['diffusion.optim.lr=1e30','diffusion.max_skipped_in_a_row=1',"
    "'diffusion.optim.gradient_clip=1e30']}"
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


def launch(runs: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "launch.py",
        *words,
        *TINY,
        f"runs={runs}",
        f"tracking.uri=sqlite:///{runs}/m.db",
    ]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_failed_point_leaves_a_report_of_the_others(runs):
    done = launch(runs, DIVERGES)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 of 2 points" in done.stdout
    assert "evaluation dit_64: blocked by diffusion dit_64" in done.stdout
    [failed] = (runs / "tiny").glob("*/FAILED.json")
    assert failed.parent.name.startswith("diffusion-dit_64")
    assert "non-finite" in json.loads(failed.read_text())["reason"]
    [report] = (runs / "tiny").glob("report-*/report/report.html")
    assert "1 of 2 points done" in report.read_text()


@pytest.mark.slow
def test_the_next_launch_does_only_the_rest(runs):
    stamps = {path: path.stat().st_mtime_ns for path in (runs / "tiny").glob("*-dit_32-*/DONE.json")}
    assert len(stamps) == 2
    done = launch(runs)  # a finite learning rate: another id for dit_64, the same for everything else
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 points" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert "8 jobs, 5 done, 3 to do" in done.stdout
    again = launch(runs)
    assert again.returncode == 0
    assert "8 jobs, 8 done, 0 to do" in again.stdout


@pytest.mark.slow
def test_mlflow_nests_the_jobs_under_the_study(runs):
    client = MlflowClient(f"sqlite:///{runs}/m.db")
    [experiment] = [e for e in client.search_experiments() if e.name == "adit_scale"]
    found = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    parent = found.pop("tiny")
    assert {"autoencoder", "reference", "diffusion-dit_32", "evaluation-dit_32"} <= set(found)
    assert {run.data.tags["mlflow.parentRunId"] for run in found.values()} == {parent.info.run_id}
    assert parent.data.metrics["points_done"] == 2
    artifacts = [a.path for a in client.list_artifacts(parent.info.run_id, "report")]
    assert {"report/report.html", "report/figures"} <= set(artifacts)
    evaluation = found["evaluation-dit_32"].info.run_id
    pictures = {a.path for a in client.list_artifacts(evaluation, "pictures")}
    assert {"pictures/gallery.html", "pictures/gallery.png", "pictures/figures.html"} <= pictures
    history = client.get_metric_history(found["diffusion-dit_32"].info.run_id, "train/loss")
    assert [m.step for m in history] == [1, 2, 3, 4]

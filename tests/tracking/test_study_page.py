"""A study's page in MLflow: description, links, headline numbers and report; final numbers of its runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from mlflow import MlflowClient

from adit_scale import config as settings
from adit_scale.config import StudyConfig
from adit_scale.jobs.finals import final_metrics
from adit_scale.models.ladder import denoiser_parameters
from adit_scale.scaling.config import SweepConfig
from adit_scale.scaling.report import write_report
from adit_scale.tracking.folders import DESCRIPTION_TAG, describe_run, describe_study
from adit_scale.tracking.journal import Journal
from adit_scale.tracking.sync import sync
from tests.scaling.simulated import simulated_points
from tests.tracking.studies import make_study, runs_of

HYPOTHESIS = "larger_models are *better*"


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """A finished diffusion run and the report of the study, mirrored."""
    root = tmp_path_factory.mktemp("runs")
    folder = root / "sizes"
    (node,) = make_study(folder, ["a"])
    settings.save(StudyConfig(), node / "config.yaml")
    with Journal(node) as journal:
        for step, loss in ((10, 2.0), (20, 1.0)):
            train = {"train/atoms_seen": 100 * step, "train/flops_cum": 1e9 * step}
            journal.log_metrics(step, {**train, "train/flops_total_cum": 2e9 * step, "validation/loss": loss})
    (node / "DONE.json").write_text(json.dumps({"metrics": final_metrics(node)}))
    config = SweepConfig(name="sizes", hypothesis=HYPOTHESIS, bootstrap=200)
    report = folder / "report-1a2b3c4d"
    result = write_report(simulated_points(seeds=(0, 1)), {}, config, report / "report", 10)
    (report / "DONE.json").write_text(json.dumps({"metrics": result.metrics}))
    record = json.loads((folder / "study.json").read_text())
    words = ["sweep=scaling", "data.sources=[a b.xyz]"]
    (folder / "study.json").write_text(json.dumps(record | {"words": words}))
    assert sync(root, f"sqlite:///{root}/mlflow.db", "adit").failures == []
    return folder


@pytest.fixture(scope="module")
def client(study) -> MlflowClient:
    return MlflowClient(f"sqlite:///{study.parent}/mlflow.db")


def test_final_numbers_are_logarithms(study):
    (node,) = study.glob("diffusion-*")
    assert final_metrics(node) == {
        "log10_params": math.log10(denoiser_parameters(StudyConfig().model.denoiser)),
        "log10_atoms": math.log10(2000),
        "log10_flops": math.log10(2e10),
        "log10_flops_total": math.log10(4e10),
        "log10_loss": 0.0,
    }
    assert describe_run(node).metrics == final_metrics(node)


def test_a_run_has_its_final_numbers_once(study, client):
    (node,) = study.glob("diffusion-*")
    (run,) = runs_of(client, "adit")["diffusion-a"]
    assert {key: run.data.metrics[key] for key in final_metrics(node)} == pytest.approx(final_metrics(node))
    sync(study.parent, f"sqlite:///{study.parent}/mlflow.db", "adit")
    assert len(client.get_metric_history(run.info.run_id, "log10_params")) == 1


def test_the_study_has_headline_numbers_and_the_report(study, client):
    (parent,) = runs_of(client, "adit")["sizes"]
    written = json.loads((study / "report-1a2b3c4d" / "report" / "fit.json").read_text())
    assert parent.data.metrics["law/alpha"] == written["fit"]["alpha"]
    assert parent.data.metrics["law/alpha_low"] == written["fit"]["alpha_interval"]["low"]
    assert parent.data.metrics["points_done"] == 10
    names = {file.path for file in client.list_artifacts(parent.info.run_id, "report")}
    assert {"report/report.html", "report/points.csv", "report/figures", "report/tables"} <= names


def test_the_description_leads_to_the_report(study, client):
    (parent,) = runs_of(client, "adit")["sizes"]
    text = parent.data.tags[DESCRIPTION_TAG]
    place = (
        f"#/experiments/{parent.info.experiment_id}/runs/{parent.info.run_id}/artifacts/report/report.html"
    )
    assert text.startswith(f"[report.html]({place}) · [points.csv](")
    assert "**Ten times the compute (" in text
    assert "Hypothesis: larger\\_models are \\*better\\*" in text
    assert "| points done | 10 |  | of 10 |" in text
    assert text.rstrip().endswith("python launch.py sweep=scaling 'data.sources=[a b.xyz]'")


def test_before_the_report_the_description_is_the_hypothesis(tmp_path):
    make_study(tmp_path, ["a"])
    assert describe_study(tmp_path, "s").tags[DESCRIPTION_TAG] == "larger is better"

"""Points to JSON and back, and readers of node folders."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from adit_scale.errors import DataError
from adit_scale.evaluation.statistics import Rate
from adit_scale.scaling.study_data import (
    FLOPS_KEY,
    VALIDATION_LOSS_KEY,
    LossCurve,
    Point,
    load_points,
    read_evaluation,
    read_loss_curve,
    save_points,
)
from adit_scale.tracking.journal import Journal
from tests.scaling.simulated import simulated_points


def test_points_survive_json_with_nan_and_clustered_rates(tmp_path):
    points = simulated_points()
    rates = {"molecule/edm_atom_stability": Rate(900, 1000, 0.95, effective_trials=120.5)}
    curve = LossCurve([1, 2], [1e9, 2e9], [1.5, math.inf])
    points[0] = dataclasses.replace(
        points[0], final_loss=math.nan, curve=curve, rates=rates, status="diverged"
    )
    save_points(points, tmp_path / "points.json")
    assert "NaN" not in (tmp_path / "points.json").read_text()
    back = load_points(tmp_path / "points.json")
    assert back[1:] == points[1:]
    assert math.isnan(back[0].final_loss)
    assert back[0].curve == curve
    assert (
        back[0].rates["molecule/edm_atom_stability"].interval == rates["molecule/edm_atom_stability"].interval
    )


def test_unknown_fields_statuses_and_counts_are_refused():
    record = simulated_points()[0].to_json()
    with pytest.raises(DataError, match=r"unknown fields \['colour'\]"):
        Point.from_json(record | {"colour": "blue"})
    with pytest.raises(DataError, match="status is 'great'"):
        Point.from_json(record | {"status": "great"})
    with pytest.raises(DataError, match="12 successes in 10 trials"):
        Point.from_json(record | {"rates": {"x": {"successes": 12, "trials": 10}}})
    with pytest.raises(DataError, match="n_parameters is 0"):
        Point.from_json(record | {"n_parameters": 0})


def test_loss_curve_of_a_journal_pairs_losses_with_flops(tmp_path):
    journal = Journal(tmp_path)
    journal.log_metrics(0, {VALIDATION_LOSS_KEY: 2.0})
    journal.log_metrics(10, {FLOPS_KEY: 1e9, "train/loss": 1.0})
    journal.log_metrics(20, {FLOPS_KEY: 2e9, VALIDATION_LOSS_KEY: 1.5})
    journal.log_metrics(25, {VALIDATION_LOSS_KEY: math.nan})
    journal.flush()
    curve = read_loss_curve(tmp_path)
    assert curve.steps == [0, 20, 25]
    assert curve.flops_cum == [0.0, 2e9, 2e9]
    assert curve.loss[:2] == [2.0, 1.5]
    assert math.isnan(curve.loss[2])
    assert read_loss_curve(tmp_path / "nothing") == LossCurve()


def test_evaluation_node_is_read_and_its_faults_are_named(tmp_path):
    done = {
        "scores": {
            "crystal/validity": {"successes": 75, "trials": 100, "low": 0.66, "high": 0.82},
            "crystal/structural_validity": Rate(886, 1000).to_dict(),
        }
    }
    (tmp_path / "DONE.json").write_text(json.dumps(done))
    assert read_evaluation(tmp_path) == {
        "crystal/validity": Rate(75, 100),
        "crystal/structural_validity": Rate(886, 1000),
    }
    (tmp_path / "DONE.json").write_text('{"scores": {"a": {"successes": 3}}}')
    with pytest.raises(DataError, match="rate 'a' is"):
        read_evaluation(tmp_path)
    (tmp_path / "DONE.json").write_text("{}")
    with pytest.raises(DataError, match='no "scores"'):
        read_evaluation(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        read_evaluation(tmp_path / "nothing")

"""Curves over epochs, read from journals and drawn."""

from __future__ import annotations

import csv
import math

import pytest

from adit_scale.evaluation.statistics import Rate
from adit_scale.scaling.epochs import TrainingCurve, plot_epochs, read_training_curve, write_epochs
from adit_scale.tracking.journal import SIDE_FOLDER, Journal

VALIDITY = "crystal/validity"


@pytest.fixture
def run(tmp_path):
    """Two epochs of 100 sets in 40 steps; sets are logged every 10, losses every 20, rates once, apart."""
    with Journal(tmp_path) as journal:
        for step in (10, 20, 30, 40):
            journal.log_metrics(step, {"train/sets_seen": 5 * step})
            if step % 20 == 0:
                journal.log_metrics(step, {"validation/loss": 100.0 / step})
    rates = {
        f"samples/{VALIDITY}": 0.5,
        f"samples/{VALIDITY}_lower": 0.4,
        f"samples/{VALIDITY}_upper": 0.6,
    }
    (tmp_path / SIDE_FOLDER).mkdir()
    with Journal(tmp_path / SIDE_FOLDER) as journal:
        journal.log_metrics(25, rates)
    return tmp_path


def test_steps_become_epochs_by_the_sets_seen(run):
    curve = read_training_curve(run, "dit_32", 87_000, sets_an_epoch=100)
    assert curve.loss == [(1.0, 5.0), (2.0, 2.5)]
    assert curve.rates == {VALIDITY: [(1.25, 0.5, 0.4, 0.6)]}


def test_a_run_without_a_journal_or_sets_has_an_empty_curve(tmp_path, run):
    assert read_training_curve(tmp_path / "none", "x", 1, 100).loss == []
    assert read_training_curve(run, "x", 1, 0).loss == []
    assert plot_epochs([TrainingCurve("x", 1)]) is None
    assert write_epochs([], tmp_path) == []


def test_every_number_drawn_is_in_the_table(run):
    small = read_training_curve(run, "dit_32", 87_000, 100)
    large = TrainingCurve(
        "dit_64", 410_000, [(1.0, 4.0), (2.0, math.nan)], {VALIDITY: [(2, 0.7, math.nan, 0.8)]}
    )
    png, table = write_epochs([small, large], run, {VALIDITY: Rate(9, 10)})
    assert png.stat().st_size > 10_000
    with table.open() as stream:
        rows = list(csv.DictReader(stream))
    assert [
        (r["run"], r["epoch"], r["what"], r["value"], r["lower"]) for r in rows if r["what"] == VALIDITY
    ] == [
        ("dit_32", "1.25", VALIDITY, "0.5", "0.4"),
        ("dit_64", "2", VALIDITY, "0.7", ""),
    ]
    assert len(rows) == 6
    figure = plot_epochs([small, large], {VALIDITY: Rate(9, 10)})
    assert [axes.get_xlabel() for axes in figure.axes] == ["epochs (passes over the training data)"] * 2
    assert [t.get_text() for t in figure.axes[0].get_legend().get_texts()] == ["87 k", "410 k"]
    dashed = [line for line in figure.axes[1].lines if line.get_label() == "real data"]
    assert set(dashed[0].get_ydata()) == {0.9}


def test_one_validation_is_drawn(tmp_path):
    """A run of which one loss is known so far: an axis of a single value."""
    png, table = write_epochs([TrainingCurve("dit_32", 87_000, [(0.5, 2.0)])], tmp_path)
    assert png.stat().st_size > 5_000
    assert len(table.read_text().splitlines()) == 2

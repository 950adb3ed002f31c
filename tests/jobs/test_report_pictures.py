"""Figures of a study's samples: the smallest and the largest size against the real data."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from adit_scale.atoms import CRYSTAL
from adit_scale.evaluation.verdicts import Check, Verdicts
from adit_scale.jobs.node import DONE
from adit_scale.jobs.report_pictures import draw_samples
from adit_scale.scaling.study_data import Point

SIZES = {"dit_32": 1, "dit_64": 2, "dit_96": 3}


def judged(folder: Path, n: int) -> Path:
    folder.mkdir(parents=True)
    (folder / DONE).write_text(json.dumps({}))
    verdicts = Verdicts(CRYSTAL, [str(i) for i in range(n)], np.full(n, 4))
    verdicts.add_check("valid", Check.from_faults([None] * n))
    verdicts.add_value("n_elements", np.full(n, 2.0))
    verdicts.write_csv(folder / "verdicts-crystal.csv")
    return folder


@pytest.fixture
def evaluations(tmp_path) -> dict[str, Path]:
    judged(tmp_path / "real", 9)
    judged(tmp_path / "real" / "reconstructed", 7)
    return {label: judged(tmp_path / label, 5) for label in SIZES}


POINTS = [Point(label, label, n) for label, n in SIZES.items()]


def test_the_ends_of_the_ladder_stand_against_the_data(evaluations, tmp_path):
    files = draw_samples(POINTS, evaluations, tmp_path / "real", tmp_path / "samples")
    assert tmp_path / "samples" / "figures.html" in files
    with (tmp_path / "samples" / "n_elements.csv").open() as stream:
        trials = {row["series"]: row["trials"] for row in csv.DictReader(stream)}
    assert trials == {"real data, reconstructed": "7", "dit_32": "5", "dit_96": "5", "real data": "9"}


def test_nodes_without_verdicts_are_passed_over(evaluations, tmp_path):
    for folder in evaluations.values():
        (folder / "verdicts-crystal.csv").unlink()
    assert draw_samples(POINTS, evaluations, tmp_path / "real", tmp_path / "samples") == []

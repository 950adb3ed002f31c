"""Outside data: final losses of a published ladder of language models."""

from __future__ import annotations

import csv

import pytest

from adit_scale.scaling.study_data import Point
from adit_scale.scaling.surface import fit_surface

LARGEST_FITTED = 1_300_000_000


def ladder(shared) -> list[Point]:
    """N, D and the final C4 loss of every run; reruns are seeds of the same setting."""
    with (shared / "data" / "olmo_ladder_c4.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [
        Point(
            label=row["run"],
            size=row["size"],
            n_parameters=int(row["N"]),
            atoms_seen=int(float(row["D"])),
            seed=int(row["rerun"] == "True"),
            final_loss=float(row["c4_loss_final"]),
            flops=6 * float(row["N"]) * float(row["D"]),
        )
        for row in rows
    ]


@pytest.mark.real_data
def test_the_largest_size_is_predicted_from_the_smaller_ones(shared):
    points = ladder(shared)
    fitted = [p for p in points if p.n_parameters <= LARGEST_FITTED]
    assert len(fitted) == 24
    fit = fit_surface(fitted)
    largest = [p for p in points if p.n_parameters > LARGEST_FITTED and p.atoms_seen > 4e10]
    assert len(largest) == 5  # 1x (twice), 2x, 5x, 10x
    for point in largest:
        predicted, interval = fit.law.predict(point.n_parameters, point.atoms_seen)
        assert predicted == pytest.approx(point.final_loss, rel=0.015)
        assert point.final_loss in interval
    assert not fit.estimates["E"].identified
    assert any("E" in warning and "α" in warning for warning in fit.warnings)  # noqa: RUF001

"""Every reason for which a point stays out of a fit, each by name."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from adit_scale.errors import DataError
from adit_scale.scaling.exclusions import select_points
from adit_scale.scaling.study_data import LossCurve, Point
from tests.scaling.simulated import full_study, simulated_points

POINTS = simulated_points()
MIDDLE = POINTS[2]
ODD: dict[str, tuple[dict, str]] = {
    "running": ({"status": "running", "note": "has not reached its last step"}, "running: has not reached"),
    "unfinished": (
        {"status": "unfinished", "note": "stopped at step 3 of 9"},
        "unfinished: stopped at step 3",
    ),
    "failed": ({"status": "failed", "note": "disk full"}, "failed: disk full"),
    "nan": ({"final_loss": math.nan}, "diverged: final validation loss is nan"),
    "inf": ({"final_loss": math.inf}, "diverged: final validation loss is inf"),
    "negative": ({"final_loss": -0.1}, "a power law needs a positive loss"),
    "risen": (
        {"final_loss": 2.0, "curve": LossCurve([1, 2], [1.0, 2.0], [1.9, 2.0])},
        "diverged: final validation loss 2 is not below its first, 1.9",
    ),
    "twin": ({}, f"duplicate of {MIDDLE.label} (same size, seed, data and autoencoder)"),
    "encoder": ({"autoencoder_id": "ffff"}, "trained over another autoencoder (ffff, not a1b2c3d4)"),
    "data": ({"data_fingerprint": "0000"}, "trained on other data (0000, not 5e6f)"),
    "grid": ({"validation_grid": "1234", "seed": 7}, "validated on another grid (1234, not ?)"),
    "bf16": ({"precision": "bf16", "seed": 7}, "trained in another precision (bf16, not fp32)"),
    "mup": ({"parametrization": "mup", "seed": 7}, "another parametrization (mup, not standard)"),
    "alone": ({"domain": "molecule"}, "trained on molecules alone"),
    "dropout": (
        {"axes": {"diffusion.label_dropout": 0.5}},
        "another setting (diffusion.label_dropout=0.5, not ?)",
    ),
    "short": ({"atoms_seen": MIDDLE.atoms_seen // 4}, "saw 1e+07 atoms; the fit compares runs of 4e+07"),
}


def odd(name: str) -> Point:
    return replace(MIDDLE, label=name, **ODD[name][0])


def reasons(points: list[Point], **settings: bool) -> dict[str, str]:
    return {e.label: e.reason for e in select_points(points, **settings).excluded}


@pytest.mark.parametrize("name", ODD)
def test_a_point_that_does_not_belong_is_named(name: str):
    found = select_points([*POINTS, odd(name)])
    assert [p.label for p in found.used] == [p.label for p in POINTS]
    [exclusion] = found.excluded
    assert exclusion.label == name
    assert ODD[name][1] in exclusion.reason


def test_all_at_once_leave_the_same_points():
    found = select_points([*map(odd, ODD), *POINTS][::-1])
    assert sorted(p.label for p in found.used) == sorted(p.label for p in POINTS)
    assert {e.label for e in found.excluded} == set(ODD)


def test_points_of_one_run_count_once():
    sampled = [replace(p, run=p.label) for p in POINTS]
    again = replace(sampled[0], label="heun", axes={"sampling.solver": "heun"}, rates={}, solver="heun")
    found = select_points([*sampled, again])
    assert [p.label for p in found.used] == [p.label for p in POINTS]
    assert reasons([*sampled, again]) == {"heun": "the same run as dit_32-seed0: its loss counts once"}


def test_a_failed_run_does_not_stand_for_its_repetition():
    failed = replace(MIDDLE, status="failed", note="disk full")
    again = replace(MIDDLE, label="again")
    found = select_points([failed, *POINTS[:2], *POINTS[3:], again])
    assert "again" in {p.label for p in found.used}


def test_the_best_learning_rate_of_each_size_stays():
    swept = [
        replace(p, label=f"{p.size}-{lr:g}", lr=lr, final_loss=p.final_loss * (1 + 0.01 * (lr != best)))
        for p, best in zip(POINTS, (1e-2, 3e-3, 3e-3, 1e-3, 1e-3), strict=True)
        for lr in (1e-3, 3e-3, 1e-2)
    ]
    found = select_points(swept)
    assert [p.lr for p in found.used] == [1e-2, 3e-3, 3e-3, 1e-3, 1e-3]
    assert reasons(swept)["dit_64-0.01"] == "learning rate 0.01 is not the best of dit_64 (0.003)"
    assert len(found.excluded) == 10


def test_seeds_of_the_best_rate_all_stay_and_other_data_keep_their_own_rate():
    low, high = ([replace(p, lr=lr, label=f"{p.label}-{lr}") for p in simulated_points(seeds=(0, 1, 2))]
                 for lr in (1e-3, 1e-2))  # fmt: skip
    worse = [replace(p, final_loss=1.05 * p.final_loss) for p in low]
    short = [replace(p, label=f"{p.label}-short", atoms_seen=p.atoms_seen // 2) for p in low]
    found = select_points([*worse, *high, *short], one_budget=False)
    assert {p.label for p in found.used} == {p.label for p in [*high, *short]}


def test_another_setting_of_the_optimiser_is_named():
    other = replace(MIDDLE, label="wd", final_loss=1.1 * MIDDLE.final_loss,
                    axes={"diffusion.optim.weight_decay": 0.1})  # fmt: skip
    assert reasons([*POINTS, other]) == {
        "wd": "diffusion.optim.weight_decay 0.1 is not the best of dit_128 (?)"
    }


def test_constant_rates_stay_out_beside_decayed_ones_and_are_a_warning_alone():
    decayed = [replace(p, schedule="wsd") for p in POINTS]
    trunk = replace(MIDDLE, label="trunk", schedule="constant", seed=5)
    assert reasons([*decayed, trunk]) == {"trunk": "its learning rate did not decay"}
    found = select_points([replace(p, schedule="constant") for p in POINTS])
    assert len(found.used) == len(POINTS)
    assert found.warnings == [
        "the learning rate of no run decayed: its losses lie above what decayed runs reach"
    ]


def test_a_decay_branch_may_end_where_it_began():
    curve = LossCurve([1, 2], [1.0, 2.0], [MIDDLE.final_loss] * 2)
    branch = replace(MIDDLE, label="branch", trunk="t", curve=curve, atoms_seen=2 * MIDDLE.atoms_seen)
    assert "branch" in {p.label for p in select_points([*POINTS, branch], one_budget=False).used}


def test_sizes_without_a_common_amount_of_data_are_mixed_with_a_warning():
    found = select_points([replace(p, atoms_seen=p.n_parameters * 20) for p in POINTS])
    assert len(found.used) == len(POINTS)
    assert found.warnings[0].startswith("sizes saw different amounts of data (1.74e+06 to 1.96e+08 atoms)")


def test_single_domain_studies_are_studies():
    """Where no joint run is there, runs of one domain are no exception."""
    assert len(select_points([replace(p, domain="molecule") for p in POINTS]).used) == len(POINTS)


def test_leakage_refuses_the_fit_with_its_numbers():
    leaking = [replace(p, leakage={"molecule": 0.004, "crystal": 0.0425}) for p in POINTS]
    said = r"4\.25% of the held-out crystals stand in .* at most 1% \(sweep\.max_leakage\).*=composition"
    with pytest.raises(DataError, match=said):
        select_points(leaking)
    assert len(select_points(leaking, max_leakage=0.05).used) == len(POINTS)


def test_a_whole_study_of_every_design():
    """The law of N takes the amount of data that has most runs, that of N and D all amounts."""
    points = full_study()
    one = select_points(points)
    assert {p.atoms_seen for p in one.used} == {40_000_000}
    assert len({p.size for p in one.used}) == 6
    every = select_points(points, one_budget=False)
    assert len({p.atoms_seen for p in every.used}) > 10
    assert not any(p.domain for p in every.used)
    assert {p.label for p in points} == {p.label for p in every.used} | {e.label for e in every.excluded}

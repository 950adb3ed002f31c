"""What a point will cost, by hand."""

from __future__ import annotations

import numpy as np

from adit_scale.models.ladder import training_flops
from adit_scale.scaling.points import EpochContents, plan_cells, plan_row, point_label, text_table
from launchers.compose import compose_study


def test_plan_row_by_hand():
    words = ["model/denoiser=dit_64", "diffusion.steps=10", "diffusion.atom_budget=300"]
    point = compose_study(words).points[0]
    # 3 sets of 2 atoms twice an epoch, 4 sets of 12 atoms half as often: 12 + 24 atoms, 6 + 2 sets an epoch.
    epoch = EpochContents(2.0 * np.bincount([2, 2, 2], minlength=13) + 0.5 * np.bincount([12, 12, 12, 12]))
    row = plan_row(point, epoch, "done")
    assert row.atoms == 3000
    assert row.epochs == 3000 / 36
    assert row.sets == 3000 / 36 * 8
    shape = point.config.model.denoiser
    an_epoch = training_flops(shape, [2] * 6 + [12] * 2, 0.5)
    np.testing.assert_allclose(row.flops, 3000 / 36 * an_epoch, rtol=1e-12)


def test_without_shards_the_plan_says_so():
    point = compose_study(["model/denoiser=dit_64"]).points[0]
    cells = plan_cells([plan_row(point, None, "not started")])[0]
    assert cells[4:7] == ("?", "?", "?")


def test_labels_are_folder_names():
    assert point_label({"model/denoiser": "dit_s"}) == "dit_s"
    assert point_label({"model/denoiser": "dit_s", "diffusion.optim.lr": 1e-3, "data": "a/b"}) == (
        "dit_s-lr0.001-dataa_b"
    )


def test_text_table_aligns_numbers_right():
    assert text_table(("a", "n", "s"), [("x", "10", "ok"), ("yy", "9", "no")]).splitlines() == [
        "a    n  s",
        "--  --  --",
        "x   10  ok",
        "yy   9  no",
    ]

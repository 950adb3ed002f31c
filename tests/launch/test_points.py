"""Names of points and tables of them."""

from __future__ import annotations

from adit_scale.scaling.points import point_label, text_table


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

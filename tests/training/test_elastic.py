"""Another ZeRO stage and another number of ranks go on from the same fragments: the matrix in short."""

from __future__ import annotations

from tests.training.elastic_matrix import SHORT, failures, matrix


def test_every_layout_takes_up_every_other(tmp_path):
    cells = matrix(tmp_path, SHORT)
    assert len(cells) == 9 + 4
    assert failures(cells) == []
    moved = [c for c in cells if c.source != c.target]
    assert any(c.deviation > 0 for c in moved)  # the layouts do compute in another order
    assert all(c.deviation == 0 for c in cells if c.source == c.target)

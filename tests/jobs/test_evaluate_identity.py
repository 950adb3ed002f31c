"""What makes two evaluations the same: settings that decide the result, a hull by its contents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from adit_scale.config import StudyConfig
from adit_scale.errors import DataError
from adit_scale.evaluation.config import EvaluationConfig
from launchers.identity import science


def of(kind: str, **changes: object) -> dict:
    return science(kind, replace(StudyConfig(), evaluation=EvaluationConfig(**changes)))


@pytest.mark.parametrize("kind", ["evaluation", "reference"])
def test_processes_decide_nothing_and_protocols_do(kind: str) -> None:
    assert of(kind, processes=7) == of(kind)
    assert of(kind, protocols=["edm"]) != of(kind)
    # What a limit cuts off is counted as failed, so it decides.
    assert of(kind, call_limit_s=1.0) != of(kind)


def test_more_real_structures_ask_for_no_new_samples() -> None:
    assert of("evaluation", reference_sets=5) == of("evaluation")
    assert of("reference", reference_sets=5) != of("reference")


def test_a_hull_is_its_contents(tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    first.write_text("[1]")
    second.write_text("[1]")
    one = of("evaluation", relax="chgnet", hull=str(first))
    assert of("evaluation", relax="chgnet", hull=str(second)) == one
    second.write_text("[2]")
    assert of("evaluation", relax="chgnet", hull=str(second)) != one
    with pytest.raises(DataError, match=r"evaluation\.hull: .*c\.json: no such file"):
        of("evaluation", relax="chgnet", hull=str(tmp_path / "c.json"))

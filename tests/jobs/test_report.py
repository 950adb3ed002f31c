"""What a report says of points that did not finish."""

from __future__ import annotations

import json
from pathlib import Path

from adit_scale.jobs.report import _outcome
from adit_scale.tracking.journal import Journal


def test_outcome_of_a_point(tmp_path: Path):
    run, evaluation = tmp_path / "run", tmp_path / "evaluation"
    run.mkdir()
    evaluation.mkdir()
    assert _outcome(run, evaluation) == ("missing", "did not run")
    with Journal(run) as journal:
        journal.log_metrics(10, {"train/loss": 1.0})
    assert _outcome(run, evaluation) == ("running", "has not reached its last step")
    failed = run / "FAILED.json"
    failed.write_text(json.dumps({"reason": "disk full"}))
    assert _outcome(run, evaluation) == ("failed", "disk full")
    failed.write_text(json.dumps({"reason": "3 steps in a row up to step 9 had non-finite gradients"}))
    assert _outcome(run, evaluation)[0] == "diverged"
    failed.unlink()
    (run / "DONE.json").write_text("{}")
    assert _outcome(run, evaluation) == ("done", "not scored: its evaluation did not run")
    (evaluation / "DONE.json").write_text("{}")
    assert _outcome(run, evaluation) == ("done", "")

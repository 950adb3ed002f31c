"""Scores that come beside the training: whole curves whatever is killed, and no run held up by them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adit_scale.models.config import DenoiserConfig
from adit_scale.tracking.journal import SIDE_FOLDER, events, journal_id, read_journal, read_run, series
from adit_scale.training import snapshots
from adit_scale.training.config import ScoringConfig
from adit_scale.training.side_scoring import SideScoring
from adit_scale.training.snapshots import FAILED, SKIPPED
from tests.training import runs
from tests.training.side_programs import CRASHES_AT_2, HANGS_AT_2, NEVER, SCORES, program

RATE = "samples/crystal/structural_validity"
NETWORK = DenoiserConfig(name="tiny", width=8, depth=1, heads=1)


def test_samples_are_scored_beside_two_ranks(tmp_path, shards, autoencoder):
    config = runs.small_study(shards, 8, world_size=2, zero_stage=3)
    config.diffusion = replace(config.diffusion, samples_every_steps=4, samples_per_domain=3, sample_steps=3)
    folder = runs.prepare(tmp_path / "run", config, "diffusion")
    printed = runs.run([folder], 2, autoencoder)
    records = read_run(folder)
    for end in ("", "_lower", "_upper", "_trials"):
        assert series(records, RATE + end)[0] == [4, 8]
    for rate, lower, upper in zip(
        *(series(records, RATE + end)[1] for end in ("", "_lower", "_upper")), strict=True
    ):
        assert 0 <= lower <= rate <= upper <= 1
    assert series(records, f"{RATE}_trials")[1] == [3, 3]
    assert series(records, "samples/flops_cum")[1] == series(records, "train/flops_cum")[1][3::4]
    assert not any(key.startswith("samples/") for r in read_journal(folder) for key in r["values"])
    assert "samples  scored 2" in printed
    root = folder / SIDE_FOLDER
    assert not list(root.rglob("*.safetensors"))  # the queue is empty
    assert not processes_of(root)

    last = {key: value for r in records if r["step"] == 8 for key, value in r["values"].items()}
    expected = scored_here(config, folder, autoencoder)
    assert {key: last[f"samples/{key}"] for key in expected} == expected


def scored_here(config, folder: Path, autoencoder: Path) -> dict[str, float]:
    """The rates of the exported weights, drawn and scored in this process."""
    from adit_scale.atoms import CRYSTAL, MOLECULE
    from adit_scale.evaluation.draw import draw_samples
    from adit_scale.evaluation.score import score_sets
    from adit_scale.jobs.sampling import sample_sizes
    from adit_scale.jobs.side_scorer import cheap
    from adit_scale.training.weights import load_autoencoder, load_denoiser

    config = cheap(config)
    networks = load_denoiser(folder / "weights"), load_autoencoder(autoencoder)
    drawn = draw_samples(*networks, sample_sizes(config.data, config.sampling), config.sampling)
    return score_sets(drawn[MOLECULE], drawn[CRYSTAL], config.evaluation).flat_values()


def processes_of(root: Path) -> list[int]:
    """Processes whose command names a scoring folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:  # it ended
            continue
        if os.fsencode(root) in words:
            found.append(int(path.parent.name))
    return found


# -- with programs of a few lines in place of the scorer -------------------------------------------------


class Run:
    """A training run's side of it: hands over at steps 1, 2, 3, ... and keeps what is noted."""

    def __init__(self, folder: Path, body: str, step: int = 0, steps: int = 10, **scoring):
        config = runs.small_study(folder, steps)
        config.diffusion.samples_every_steps = 1
        config.diffusion.scoring = ScoringConfig(**scoring)
        self.side = SideScoring(folder, config, program(folder / "program.py", body))
        self.notes: list[str] = []
        self.missing = self.side.open(step, torch.device("cpu"), self.notes.append)
        self.weights = {"linear.weight": torch.zeros(8, 8), "linear.bias": torch.zeros(8)}

    def hand_over(self, step: int, last: bool = False) -> float:
        """Returns the seconds that the training stood still. As in a run, the weights change at once."""
        begin = time.monotonic()
        self.side.hand_over(step, self.weights, NETWORK, {"flops_cum": 10 * step}, last)
        stalled_s = time.monotonic() - begin
        for value in self.weights.values():
            value.add_(1.0)
        return stalled_s

    def wait_written(self, step: int) -> None:
        self.side.wait_written()
        assert (snapshots.step_folder(self.side.root, step) / "weights.safetensors").is_file()

    def finish(self, timeout_s: float = 60) -> list[dict]:
        """The journal's records when nothing is left."""
        begin = time.monotonic()
        while self.side.left(time.monotonic() - begin):
            assert time.monotonic() - begin < timeout_s, self.notes
            time.sleep(0.01)
        self.side.close()
        return read_journal(self.side.root)


def curve(records: list[dict]) -> list[tuple]:
    return [(r["kind"], r["step"], r["values"]) for r in records]


def whole(steps: int) -> list[tuple]:
    return [("metrics", step, {"samples/rate": step / 8}) for step in range(1, steps + 1)]


def test_a_snapshot_is_of_the_moment_it_was_handed_over(tmp_path):
    run = Run(tmp_path, NEVER)
    for step in (1, 2, 3):
        run.hand_over(step)
        run.wait_written(step)
    run.side.close()
    for step in (1, 2, 3):
        folder = snapshots.step_folder(run.side.root, step)
        state = load_file(folder / "weights.safetensors")
        assert {name: value.unique().tolist() for name, value in state.items()} == {
            "linear.weight": [step - 1], "linear.bias": [step - 1],
        }  # fmt: skip
        assert json.loads((folder / "config.json").read_text())["settings"]["width"] == 8
        assert snapshots.read_values(run.side.root, step) == {"flops_cum": 10 * step}


def test_a_killed_run_goes_on_with_the_snapshots_on_the_disk(tmp_path):
    """As far as the checkpoint: what was scored behind it is taken back, and comes again."""
    undisturbed = Run(tmp_path / "whole", SCORES)
    for step in range(1, 7):
        undisturbed.hand_over(step)
        undisturbed.side.wait_written()
    expected = curve(undisturbed.finish())
    assert expected == whole(6)

    first = Run(tmp_path / "killed", "if step > 2: time.sleep(600)" + SCORES)
    for step in range(1, 6):
        first.hand_over(step)
        first.side.wait_written()
    wait_for(lambda: len(snapshots.waiting(first.side.root)) == 3)
    first.side.collect()
    assert curve(read_journal(first.side.root)) == whole(2)
    first.side._stop()  # its parent is gone, and with it the process
    write_torn(first.side.root, 6)

    again = Run(tmp_path / "killed", SCORES, step=4)  # the newest checkpoint
    assert not again.missing
    assert snapshots.steps(again.side.root) == [1, 2, 3, 4]
    for step in (5, 6):
        again.hand_over(step)
        again.side.wait_written()
    assert curve(again.finish()) == expected

    back = Run(tmp_path / "killed", SCORES, step=3)  # that checkpoint was damaged: one before
    assert curve(read_journal(back.side.root)) == whole(3)
    for step in (4, 5, 6):
        back.hand_over(step)
        back.side.wait_written()
    assert curve(back.finish()) == expected
    assert journal_id(back.side.root) == journal_id(first.side.root)


def test_the_snapshot_of_the_resumed_step_is_asked_for_again_where_it_was_lost(tmp_path):
    run = Run(tmp_path, SCORES)
    run.hand_over(1)
    run.side.wait_written()
    run.side.close()
    assert Run(tmp_path, SCORES, step=2).missing
    assert not Run(tmp_path, SCORES, step=1).missing
    assert not Run(tmp_path / "new", SCORES, step=0).missing


def test_a_damaged_journal_is_made_again_from_the_results(tmp_path):
    run = Run(tmp_path, SCORES)
    for step in (1, 2):
        run.hand_over(step)
        run.side.wait_written()
    before = run.finish()
    path = run.side.root / "journal.jsonl"
    path.write_bytes(path.read_bytes().replace(b"metrics", b"met ics", 1))
    again = Run(tmp_path, SCORES, step=2)
    assert "made again from the results" in again.notes[0]
    assert curve(again.finish()) == curve(before)


@pytest.mark.parametrize(
    ("body", "scoring", "reason"),
    [
        (CRASHES_AT_2, {}, "the scoring process ended (1): RuntimeError: a bond of 300 electrons"),
        (HANGS_AT_2, {"limit_s": 3}, "gave no sign of life within diffusion.scoring.limit_s=3"),
    ],
)
def test_a_crash_or_a_hang_costs_one_point(tmp_path, body, scoring, reason):
    run = Run(tmp_path, body, **scoring)
    for step in (1, 2, 3):
        run.hand_over(step)
        run.side.wait_written()
    records = run.finish()
    assert [(r["kind"], r["step"]) for r in records] == [("metrics", 1), ("event", 2), ("metrics", 3)]
    (failed,) = events(records, FAILED)
    assert reason in failed["values"]["reason"]
    assert [note for note in run.notes if reason in note and note.startswith("samples of step 2: none")]
    assert run.side.summary().startswith("samples  scored 2  failed 1")


def test_a_program_that_cannot_start_or_a_full_disk_costs_points_only(tmp_path):
    run = Run(tmp_path, SCORES)
    run.side._command = [str(tmp_path / "no such program")]
    run.hand_over(1)
    run.side.wait_written()
    snapshots.step_folder(run.side.root, 2).with_suffix(".part").write_text("where the folder should go")
    run.hand_over(2)
    reasons = [r["values"]["reason"] for r in events(run.finish(), FAILED)]
    assert reasons[0].startswith("the scoring process could not be started: ")
    assert reasons[1].startswith("the snapshot could not be written: ")


def test_a_full_queue_skips_but_never_the_last(tmp_path):
    run = Run(tmp_path, NEVER, queue_gib=0, wait_s=0.5)
    stalled_s = [run.hand_over(1)]
    run.wait_written(1)
    stalled_s += [run.hand_over(step) for step in (2, 3)]
    stalled_s.append(run.hand_over(4, last=True))
    run.side.wait_written()
    assert len(list(run.side.root.rglob("*.safetensors"))) == 2  # never more, whatever is due
    records = run.finish()
    assert [r["step"] for r in events(records, SKIPPED)] == [2, 3]
    assert "diffusion.scoring.queue_gib=0" in events(records, SKIPPED)[0]["values"]["reason"]
    assert [r["step"] for r in events(records, FAILED)] == [1, 4]  # given up after wait_s
    assert "diffusion.scoring.wait_s=0.5" in events(records, FAILED)[0]["values"]["reason"]
    assert not list(run.side.root.rglob("*.safetensors"))
    assert max(stalled_s) < 0.5
    assert "waiting for the scores of 2 snapshots" in run.notes
    assert run.side.summary().startswith("samples  failed 2  skipped 2  training stood still 0.")


def test_the_scorer_runs_on_what_is_left_of_the_machine_and_ends_with_the_run(tmp_path):
    """A stand-in for the run starts the scorer's module and is killed; the module ends."""
    text = """
import subprocess, sys, os, time
root, priority = sys.argv[1:]
words = ["-m", "adit_scale.jobs.side_scorer", "no/weights", root, str(os.getpid()), priority]
child = subprocess.Popen([sys.executable, "-c", PROGRAM, *words[1:]])
print(child.pid, flush=True)
time.sleep(600)
"""
    program_text = (
        "import sys, time, os; from adit_scale.jobs import side_scorer; "
        "os.setpgid(0, 0); side_scorer.run_idle(); side_scorer.die_with(int(sys.argv[4])); "
        "open(sys.argv[3] + '/ready', 'w').close(); time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", text.replace("PROGRAM", repr(program_text)), str(tmp_path), "idle"],
        stdout=subprocess.PIPE,
        env=runs.environment(),
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    wait_for((tmp_path / "ready").is_file)
    assert os.sched_getscheduler(pid) == os.SCHED_IDLE
    assert os.getpriority(os.PRIO_PROCESS, pid) == 19
    assert os.getpgid(pid) == pid
    parent.kill()
    parent.wait()
    wait_for(lambda: not alive(pid))


def write_torn(root: Path, step: int) -> None:
    """A snapshot that was being written."""
    part = snapshots.step_folder(root, step).with_suffix(".part")
    part.mkdir()
    (part / "weights.safetensors").write_bytes(b"half")


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.is_file() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_for(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)

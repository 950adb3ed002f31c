"""``launch.py logs``: real files that grow, through the function and as a process."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from adit_scale.errors import ConfigError
from launchers.logs import BLOCK_BYTES, find, logs
from launchers.record import StudyRecord
from tests.launch.submitted import SUBMISSION, Submitted

FOLLOW = "import sys; from pathlib import Path; from launchers.logs import logs\n"
FOLLOW += "sys.exit(logs(Path(sys.argv[1]), sys.argv[2], True, 5))"


@pytest.fixture
def study(tmp_path: Path) -> Submitted:
    return Submitted(tmp_path / "demo")


def test_a_name_means_one_job(study):
    record = StudyRecord.load(study.folder)
    for name, job in {
        "a": "diffusion a",
        "evaluation b": "evaluation b",
        "evaluation-b": "evaluation b",
        "autoencoder": "autoencoder",
        "report": "report",
    }.items():
        assert find(record, name).name == job
    with pytest.raises(ConfigError, match=r"autoencoderr.*autoencoder"):
        find(record, "autoencoderr")
    with pytest.raises(
        ConfigError, match="diffusion: 2 jobs of study demo; expected one, such as 'diffusion a'"
    ):
        find(record, "diffusion")


@pytest.mark.parametrize(("lines", "first"), [(200, 99801), (1, 100000), (0, None)])
def test_the_last_lines_of_a_long_log(study, capfdbinary, lines, first):
    numbered = [f"line {i + 1} ä\n" for i in range(100_000)]
    log = study.nodes["diffusion a"].folder / "log.txt"
    log.write_text("".join(numbered))
    assert log.stat().st_size > 10 * BLOCK_BYTES
    assert logs(study.folder, "a", lines=lines) == 0
    out = capfdbinary.readouterr().out.decode()
    assert out == ("".join(numbered[first - 1 :]) if first else "")


def test_no_log_yet(study, capfd):
    study.ledger("diffusion a", "12_0", "ana")
    out = study.folder / "slurm" / SUBMISSION / "12_0.out"
    out.parent.mkdir(parents=True)
    out.write_text("module: no such module cuda/99\n")
    logs(study.folder, "a")
    said = capfd.readouterr().out.splitlines()
    assert said[0].startswith("diffusion a: ")
    assert "job 12_0; no log yet" in said[0]
    assert said[1:] == [f"its batch script said ({out}):", "module: no such module cuda/99"]
    logs(study.folder, "b")
    assert capfd.readouterr().out == "diffusion b: waiting; no log yet\n"


@pytest.mark.parametrize("fails", [False, True])
def test_following_goes_on_over_attempts_until_the_job_ends(study, fails):
    """The launcher's lock is held meanwhile, so that the study goes on."""
    from launchers.lock import study_lock

    log = study.nodes["diffusion a"].folder / "log.txt"
    log.write_text("".join(f"old {i}\n" for i in range(10)))
    study.finish("shards", "autoencoder")
    command = [sys.executable, "-c", FOLLOW, str(study.folder), "a"]
    with study_lock(study.folder):
        follower = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        with follower:
            assert [follower.stdout.readline() for _ in range(5)] == [f"old {i}\n" for i in range(5, 10)]
            with log.open("a") as stream:
                stream.write("-- started 2026-11-22 12:00:00\nfirst try\n")
                stream.flush()
                assert follower.stdout.readline().startswith("-- started")
                assert follower.stdout.readline() == "first try\n"
                study.attempt("diffusion a", time.time() - 9, time.time(), "retrying", "crash; try 2 of 4")
                stream.write("-- started 2026-11-22 12:01:00\nlast words")
                stream.flush()
                assert follower.stdout.readline().startswith("-- started")
            if fails:
                study.node("diffusion a").fail("boom", 1.0)
            else:
                study.finish("diffusion a")
            assert follower.stdout.read() == "last words"
            assert follower.wait(10) == int(fails)

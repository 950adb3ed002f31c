"""``adit``: groups are loaded late, mistakes are one line, interruption is quiet."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adit_scale import __version__, cli
from tests.data.nasty_server import serve
from tests.processes import hear_ctrl_c

ADIT = [sys.executable, "-c", "import sys; from adit_scale.cli import main; sys.exit(main())"]


def test_help_waits_for_nothing_heavy() -> None:
    code = (
        "import sys\nfrom adit_scale.cli import main\n"
        "for words in (['--help'], ['data', '--help'], ['data', 'build', '--help'], ['data', 'list']):\n"
        "    try:\n        main(words)\n    except SystemExit as end:\n        assert end.code == 0\n"
        "print(sorted({'torch', 'numpy', 'rich', 'matplotlib', 'rdkit'} & set(sys.modules)))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "usage: adit [-h] [--version] GROUP ..." in done.stdout
    assert "fetch published data sets" in done.stdout
    assert "usage: adit data build" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"adit-scale {__version__}\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "the following arguments are required: GROUP; see adit --help"),
        ("dta", "argument GROUP: invalid choice: 'dta' (choose from"),
        ("data", "the following arguments are required: COMMAND; see adit data --help"),
        ("data bild", "argument COMMAND: invalid choice: 'bild'"),
        ("data build a.xyz", "the following arguments are required: --out; see adit data build --help"),
        ("data build a.xyz --out d --max-atoms x", "argument --max-atoms: invalid int value: 'x'"),
        ("data build a.xyz --out d --split-list x=y", "--split-list is 'x=y'; expected train=FILE"),
        ("data build a.xyz --out d --test-fraction 2", "data.test_fraction is 2.0; expected"),
        (
            "data build qm9 --out d --raw no",
            "no/qm9/dsgdb9nsd.xyz.tar.bz2: no such file; run `adit data fetch",
        ),
        ("data fetch qm8", "no data set 'qm8' in the catalogue; expected one of qm9"),
        ("data fetch qm9 --mirror x", "--mirror is x; expected an address"),
        ("data info nowhere", "nowhere/manifest.json: no such file"),
        ("data verify nowhere", "nowhere: holds no manifest.json"),
        ("data export shards/demo --split val", "nothing to write; expected --to FILE or --list FILE"),
        ("data export nowhere --split val --to x.xyz --range 3", "nowhere/manifest.json: no such file"),
    ],
)
def test_a_mistake_is_one_line(
    words: str, says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(words.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {says}")


def test_interruption_is_quiet_and_keeps_what_came(tmp_path: Path) -> None:
    with serve() as server:
        server.plan = ["stall"] * 9
        words = ["data", "fetch", "qm9", "--out", str(tmp_path), "--mirror", server.address]
        process = subprocess.Popen(
            [*ADIT, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=hear_ctrl_c,
        )
        started_s = time.monotonic()
        while not server.log and time.monotonic() - started_s < 20:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == cli.INTERRUPTED
    assert said == ""


def test_a_closed_pipe_is_no_error() -> None:
    process = subprocess.Popen(
        [*ADIT, "data", "list", "--markdown"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(20) in (0, cli.CLOSED_PIPE)
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()

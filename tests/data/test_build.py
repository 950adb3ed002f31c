"""Building: the same bytes however it is done, nothing half done that looks whole."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adit_scale.atoms import AtomSet
from adit_scale.data.build import build, build_from_sets
from adit_scale.data.building import conversion, shuffling
from adit_scale.data.building.workplace import folder_of, workplace
from adit_scale.data.config import DataConfig
from adit_scale.data.manifest import Manifest
from adit_scale.data.sources import Source
from adit_scale.errors import DataError
from tests.data.building import ALL_TRAIN, contents, rejected, write_xyz
from tests.data.conftest import molecule
from tests.processes import hear_ctrl_c


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "PIECE_RECORDS", 16)


# The same bytes


def test_workers_do_not_change_a_byte(tmp_path: Path, small_pieces: None) -> None:
    a, b = write_xyz(tmp_path / "a.xyz", 300), write_xyz(tmp_path / "b.xyz", 90, seed=1)
    sources = [Source(a, "a"), Source(b, "b")]
    built = {}
    for workers in (1, 2, 3):
        config = DataConfig(build_workers=workers, block_sets=32, blocks_per_shard=2, deduplicate=True)
        build(sources, tmp_path / f"out{workers}", config)
        built[workers] = contents(tmp_path / f"out{workers}")
    assert built[1] == built[2] == built[3]
    assert len(built[1]) > 8
    assert sum(1 for _ in rejected(tmp_path / "out1")) == 6 + 2
    assert not list(tmp_path.glob(".*"))


@settings(max_examples=25, deadline=None)
@given(piece=st.integers(1, 70), bucket=st.integers(200, 20000), lot=st.integers(100, 5000))
def test_pieces_and_buckets_do_not_change_a_byte(
    piece: int, bucket: int, lot: int, tmp_path_factory: pytest.TempPathFactory, some_sets: list[AtomSet],
    small_config: DataConfig, small_data: Path,
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("pieces")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversion, "PIECE_RECORDS", piece)
        patch.setattr(shuffling, "_BUCKET_BYTES", bucket)
        patch.setattr(shuffling, "_LOT_BYTES", lot)
        build_from_sets(some_sets, folder / "d", small_config)
    assert contents(folder / "d") == contents(small_data)


def test_rebuilding_gives_the_same_bytes_in_any_order_of_input(
    small_data: Path, some_sets: list[AtomSet], small_config: DataConfig, tmp_path: Path
) -> None:
    build_from_sets(some_sets[::-1], tmp_path / "again", small_config)
    assert contents(tmp_path / "again") == contents(small_data)
    other = build_from_sets(some_sets, tmp_path / "other", replace(small_config, split_salt="other"))
    assert other.fingerprint != Manifest.load(small_data).fingerprint


BUILDER = """
import sys
from pathlib import Path
from adit_scale.atoms import AtomSet
from adit_scale.data.building import conversion
from adit_scale.data.build import build
from adit_scale.data.config import DataConfig
from adit_scale.data.manifest import Manifest
from adit_scale.data.sources import Source

conversion.PIECE_RECORDS = 8
if __name__ == "__main__":
    out, workers, *files = sys.argv[1:]
    config = DataConfig(build_workers=int(workers), block_sets=32)
    build([Source.from_word(word) for word in files], Path(out), config)
"""


def start_builder(tmp_path: Path, out: Path, workers: int, *words: str) -> subprocess.Popen[bytes]:
    (tmp_path / "builder.py").write_text(BUILDER)
    command = [sys.executable, str(tmp_path / "builder.py"), str(out), str(workers), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=hear_ctrl_c)


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on: state, parent, …; the twelfth is processor time."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def children_of(pid: int) -> set[int]:
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found |= {int(stat.parent.name), *children_of(int(stat.parent.name))}
    return found


@pytest.mark.parametrize(
    ("workers", "number"), [(1, signal.SIGKILL), (2, signal.SIGKILL), (2, signal.SIGINT)]
)
def test_a_build_that_is_ended_goes_on_to_the_same_bytes(
    tmp_path: Path, workers: int, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = write_xyz(tmp_path / "a.xyz", 3000), write_xyz(tmp_path / "b.xyz", 60, seed=1)
    out = tmp_path / "out"
    process = start_builder(tmp_path, out, workers, str(a), str(b))
    pieces = folder_of(out) / "pieces"
    while len(list(pieces.glob("*.piece"))) < 20:
        assert process.poll() is None, process.communicate()[0].decode()
        time.sleep(0.002)
    below = children_of(process.pid)
    process.send_signal(number)
    assert process.wait(30) != 0
    assert not out.exists()
    kept = {path: path.stat().st_mtime_ns for path in pieces.glob("*.piece")}
    assert len(kept) >= 20
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in below) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not [pid for pid in below if Path(f"/proc/{pid}").exists()], "workers outlived the builder"

    victim, torn = sorted(kept)[3:5]
    victim.unlink()
    torn.write_bytes(torn.read_bytes()[:-9])
    sources = [Source(a, "a"), Source(b, "b")]
    monkeypatch.setattr(conversion, "PIECE_RECORDS", 8)
    with recorded_pieces() as written:
        build(sources, out, DataConfig(build_workers=1, block_sets=32))
    assert {victim, torn} <= set(written)
    assert not set(written) & (set(kept) - {victim, torn})
    build(sources, tmp_path / "whole", DataConfig(build_workers=1, block_sets=32))
    assert contents(out) == contents(tmp_path / "whole")
    assert not folder_of(out).exists()


def interrupted(sources: list[Source], out: Path, config: DataConfig) -> None:
    """A build that is ended when it has converted everything."""

    def stop(stage: str, done: int, total: int | None) -> None:
        if stage == "writing":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(sources, out, config, stop)
    assert not out.exists()


def converted(sources: list[Source], out: Path, config: DataConfig) -> int:
    """How many pieces a build converts."""
    with recorded_pieces() as written:
        build(sources, out, config)
    return len(written)


@contextmanager
def recorded_pieces() -> Iterator[list[Path]]:
    """Paths of the pieces that are written meanwhile."""
    written: list[Path] = []
    save = conversion.Piece.save

    def saved(self: conversion.Piece, path: Path) -> None:
        written.append(path)
        save(self, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversion.Piece, "save", saved)
        yield written


def test_only_the_same_build_goes_on(tmp_path: Path, small_pieces: None) -> None:
    a, out = write_xyz(tmp_path / "a.xyz", 100), tmp_path / "out"
    sources, config = [Source(a, "a")], DataConfig(build_workers=1)
    interrupted(sources, out, config)
    assert converted(sources, out, DataConfig(build_workers=1, test_fraction=0.2)) == 0  # decided afterwards
    changes = {"max_atoms": 9, "split_salt": "x", "conformers": 2, "remove_hydrogens": True}
    for key, value in changes.items():
        interrupted(sources, tmp_path / key, config)
        assert converted(sources, tmp_path / key, DataConfig(build_workers=1, **{key: value})) == 7
    interrupted(sources, tmp_path / "c", config)
    write_xyz(a, 100, seed=5)
    assert converted(sources, tmp_path / "c", config) == 7


def test_one_builder_at_a_time(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with workplace(out), pytest.raises(DataError, match=r"out: another process is building it"):
        build_from_sets([molecule(np.random.default_rng(0), 3, "a")], out, ALL_TRAIN)
    build_from_sets([molecule(np.random.default_rng(0), 3, "a")], out, ALL_TRAIN)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# Damage from outside


def test_a_full_disk_is_one_line_and_no_data_set(
    tmp_path: Path, small_pieces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, out = write_xyz(tmp_path / "a.xyz", 200), tmp_path / "out"
    sources, config = [Source(a, "a")], DataConfig(build_workers=1)
    write = Path.write_bytes
    for wanted in ("0000-0000005.piece", "train.sets.npy"):

        def full(self: Path, data: bytes, name: str = wanted) -> int:
            if self.name.startswith(name):
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(self, data)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", full)
            with pytest.raises(
                DataError, match=r"\.out\.partial: no space is left \(.* free, .* here\)"
            ) as caught:
                build(sources, out, config)
        assert "\n" not in str(caught.value)
        assert not out.exists()
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=100))
    with pytest.raises(DataError, match=r"about 0\.0 MiB are still needed, 0\.0 MiB are free"):
        build(sources, out, config)
    assert not out.exists()
    monkeypatch.undo()
    assert converted(sources, out, config) == 0  # nothing of it was lost
    assert list(tmp_path.glob(".*")) == []


def test_a_real_limit_on_file_size(tmp_path: Path) -> None:
    """The kernel's own refusal in the midst of a shard."""
    a, out = write_xyz(tmp_path / "a.xyz", 2000), tmp_path / "out"
    script = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from adit_scale.data.build import build; from adit_scale.data.config import DataConfig\n"
        "from adit_scale.data.sources import Source\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (120000, 120000))\n"
        f"build([Source(Path({str(a)!r}), 'a')], Path({str(out)!r}), DataConfig(build_workers=1))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "a file may not grow" in done.stderr.splitlines()[-1]
    assert not out.exists()


def test_a_worker_that_is_killed_is_one_line(tmp_path: Path) -> None:
    a, out = write_xyz(tmp_path / "a.xyz", 30_000), tmp_path / "out"
    process = start_builder(tmp_path, out, 2, str(a))
    while len(list((folder_of(out) / "pieces").glob("*.piece"))) < 3:
        assert process.poll() is None, process.communicate()[0].decode()
        time.sleep(0.002)
    # The builder's own children are the fork server and a tracker of semaphores; workers are the former's.
    below = children_of(process.pid)
    workers = [pid for pid in below if int(_stat(pid)[1]) != process.pid]
    os.kill(max(workers, key=lambda pid: int(_stat(pid)[11])), signal.SIGKILL)  # the busiest
    output = process.communicate(timeout=60)[0].decode()
    assert "a worker process was ended from outside" in output.splitlines()[-1]
    assert not out.exists()


def test_a_damaged_source_keeps_what_was_converted_before_it(tmp_path: Path) -> None:
    a = write_xyz(tmp_path / "a.xyz", 20)
    (tmp_path / "b.csv").write_bytes(b"no,table\n1,2\n")
    out, config = tmp_path / "out", DataConfig(build_workers=1)
    sources = [Source(a, "a"), Source(tmp_path / "b.csv", "b")]
    for _ in range(2):
        with pytest.raises(DataError, match=r"b\.csv: no column 'cif'"):
            build(sources, out, config)
        assert len(list(folder_of(out).glob("pieces/*.piece"))) == 1
    with pytest.raises(DataError, match=r"b\.csv: no column 'cif'"):
        build(sources[1:], tmp_path / "alone", config)
    assert not folder_of(tmp_path / "alone").exists()


def test_a_source_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    a, out = write_xyz(tmp_path / "a.xyz", 20), tmp_path / "out"

    def change(stage: str, done: int, total: int | None) -> None:
        if stage == "converting":
            write_xyz(a, 21)

    with pytest.raises(DataError, match=r"a\.xyz: was changed while it was read"):
        build([Source(a, "a")], out, DataConfig(build_workers=1), change)
    assert [path.name for path in tmp_path.iterdir()] == ["a.xyz"]


def test_a_data_set_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def breaks() -> Iterator[AtomSet]:
        yield molecule(rng, 3, "a")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_from_sets(breaks(), tmp_path / "d", ALL_TRAIN)
    with pytest.raises(DataError, match="no usable structure among 0"):
        build_from_sets([], tmp_path / "d", ALL_TRAIN)
    assert list(tmp_path.iterdir()) == []
    first = build_from_sets([molecule(rng, 3, "a")], tmp_path / "d", ALL_TRAIN)
    with pytest.raises(DataError, match="holds a data set already"):
        build_from_sets([molecule(rng, 4, "a")], tmp_path / "d", ALL_TRAIN)
    assert Manifest.load(tmp_path / "d").fingerprint == first.fingerprint
    second = build_from_sets([molecule(rng, 4, "a")], tmp_path / "d", ALL_TRAIN, overwrite=True)
    assert Manifest.load(tmp_path / "d").fingerprint == second.fingerprint != first.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.txt").write_text("keep me")
    with pytest.raises(DataError, match="exists and is not a data set"):
        build_from_sets([molecule(rng, 4, "a")], tmp_path / "other", ALL_TRAIN, overwrite=True)


def test_build_names_the_missing_or_empty_source(tmp_path: Path) -> None:
    a = write_xyz(tmp_path / "a.xyz", 3)
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        build([Source(a, "a"), Source(tmp_path / "none.csv", "none")], tmp_path / "d", ALL_TRAIN)
    with pytest.raises(DataError, match="no sources; expected at least one"):
        build([], tmp_path / "d", ALL_TRAIN)
    (tmp_path / "bad.xyz").write_text("1\n\nQq 0 0 0\n")
    bad = Source(tmp_path / "bad.xyz", "bad")
    for sources in ([bad], [Source(a, "a"), bad]):
        with pytest.raises(DataError, match=r"among 1 in bad\.xyz; .* unknown element 'Qq'"):
            build(sources, tmp_path / "d", ALL_TRAIN)
    assert not (tmp_path / "d").exists()


# Size


def test_memory_does_not_grow_with_the_source(tmp_path: Path) -> None:
    """A process of its own takes 20 times as many structures; what grows is 50 bytes a structure."""
    script = r"""
import re, sys
import numpy as np
from pathlib import Path
from adit_scale.atoms import AtomSet
from adit_scale.data.build import build_from_sets
from adit_scale.data.config import DataConfig
from adit_scale.data.manifest import Manifest
def sets(n):
    rng = np.random.default_rng(0)
    for k in range(n):
        yield AtomSet(np.array([8, 1]), rng.normal(size=(2, 3)), np.zeros((3, 3)), False, "m", 0, f"name-{k}")
def peak():
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
build_from_sets(sets(2000), Path(sys.argv[1]) / "few", DataConfig())
few = peak()
build_from_sets(sets(int(sys.argv[2])), Path(sys.argv[1]) / "many", DataConfig())
print(peak() - few)
"""
    command = [sys.executable, "-c", script, str(tmp_path), "40000"]
    grown = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown < 80


def test_progress_counts_structures_and_guesses_their_number(tmp_path: Path, small_pieces: None) -> None:
    a, b = write_xyz(tmp_path / "a.xyz", 6000), write_xyz(tmp_path / "b.xyz", 2000, seed=1)
    told: dict[str, list[tuple[int, int | None]]] = {}

    def progress(stage: str, done: int, total: int | None) -> None:
        told.setdefault(stage, []).append((done, total))

    sources = [Source(a, "a"), Source(b, "b")]
    build(sources, tmp_path / "out", DataConfig(build_workers=1, block_sets=500), progress)
    assert list(told) == ["checking sources", "converting", "writing"]
    counts = [done for done, _ in told["converting"]]
    assert counts == [*range(16, 6001, 16), *range(6016, 8001, 16)]
    late = [total for done, total in told["converting"] if done > 2000]
    assert all(total is not None and 7500 < total < 8500 for total in late)
    assert told["writing"][-1] == (8000 - 160, 8000 - 160)

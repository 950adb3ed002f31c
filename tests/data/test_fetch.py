"""Downloads from servers that cut, lie, and serve other bytes: whole and right in the end, or one line."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import random
import re
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adit_scale.data.tools import catalogue, download
from adit_scale.data.tools.catalogue import DataSet, RemoteFile
from adit_scale.data.tools.download import Retries
from adit_scale.data.tools.fetch import fetch
from adit_scale.errors import DataError
from tests.data.nasty_server import NastyServer, serve

CONTENT = random.Random(1).randbytes(300_000)
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server() -> Iterator[NastyServer]:
    with serve() as state:
        state.files["/a.bin"] = CONTENT
        yield state


def entry(*files: RemoteFile) -> DataSet:
    return DataSet("some", "", 0, 0, "", "", "", files, ())


def a_file(server: NastyServer, **known: Any) -> RemoteFile:
    return RemoteFile("a.bin", f"{server.address}/a.bin", **known)


class Waits(list[float]):
    """Stands for sleeping."""

    def retries(self, **settings: Any) -> Retries:
        return Retries(sleep=self.append, timeout_s=settings.pop("timeout_s", 5.0), **settings)


def run(
    server: NastyServer, out: Path, waits: Waits | None = None, **known: Any
) -> tuple[list[str], dict[str, Any]]:
    """Fetch a.bin; the lines said, and digests.json."""
    lines: list[str] = []
    retries = (Waits() if waits is None else waits).retries()
    fetch(entry(a_file(server, **known)), out, say=lines.append, retries=retries)
    return lines, json.loads((out / "digests.json").read_text())


def test_good_server_published_digest_and_a_second_run(server: NastyServer, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    fetch(
        entry(a_file(server, published=MD5, n_bytes=len(CONTENT))),
        tmp_path,
        progress=lambda *state: seen.append(state),
        say=lambda line: None,
    )
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert ("fetching a.bin", len(CONTENT), len(CONTENT)) in seen
    assert ("checking a.bin", len(CONTENT), len(CONTENT)) in seen
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "a.bin", "digests.json"]
    assert len(server.log) == 1
    lines, digests = run(server, tmp_path, published=MD5)
    assert lines == [f"{tmp_path}/a.bin: is there already, md5 as published"]
    assert digests["a.bin"]["sha256"] == SHA256
    assert digests["a.bin"]["vouched"] == "published"
    assert len(server.log) == 1


def test_first_use_is_said_and_recorded(server: NastyServer, tmp_path: Path) -> None:
    lines, digests = run(server, tmp_path)
    assert lines == [f"{tmp_path}/a.bin: fetched, no published digest: sha256 {SHA256} recorded at first use"]
    assert digests["a.bin"] == {
        "n_bytes": len(CONTENT),
        "sha256": SHA256,
        "vouched": "first use",
        "url": f"{server.address}/a.bin",
    }
    (tmp_path / "a.bin").unlink()
    server.plan = ["wrong", "wrong"]
    with pytest.raises(DataError, match=rf"a.bin: sha256 \w+; expected {SHA256}, as recorded here"):
        run(server, tmp_path)
    assert not (tmp_path / "a.bin").exists()


def test_reported_digests_are_compared_but_not_trusted(server: NastyServer, tmp_path: Path) -> None:
    lines, digests = run(server, tmp_path / "same", reported=f"sha256:{SHA256}")
    assert "as others report it" in lines[0]
    assert digests["a.bin"]["vouched"] == "reported"
    lines, digests = run(server, tmp_path / "other", reported="sha256:" + "0" * 64)
    assert lines[0].endswith(f"sha256 {SHA256} recorded at first use, and differs from the one others report")


@pytest.mark.parametrize("how", ["cut", "cut rangeless", "cut unversioned", "cut long"])
def test_connections_cut_anywhere(server: NastyServer, tmp_path: Path, how: str) -> None:
    for seed in range(8):
        server.rng.seed(seed)
        server.plan = [how] * 4
        server.log.clear()
        lines, _ = run(server, tmp_path / str(seed), published=MD5)
        assert (tmp_path / str(seed) / "a.bin").read_bytes() == CONTENT
        assert lines[0].endswith("md5 as published")
    asked = [int(found[6:-1]) for _, found, _ in server.log if found]
    if how == "cut":
        assert len(asked) == 4
        assert asked == sorted(asked)
        assert asked[-1] > 0
        assert {version for _, found, version in server.log if found} == {'"one"'}


def test_a_later_run_goes_on_where_the_first_gave_up(server: NastyServer, tmp_path: Path) -> None:
    server.plan = ["cut"] + [500] * 6
    waits = Waits()
    with pytest.raises(DataError, match=r"answered 500 .*; gave up after 6 attempts, [\d,]+ bytes are kept"):
        run(server, tmp_path, waits)
    assert waits == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0]
    kept = (tmp_path / "a.bin.part").stat().st_size
    assert 0 < kept < len(CONTENT)
    server.log.clear()
    run(server, tmp_path)
    assert [found for _, found, _ in server.log] == [f"bytes={kept}-"]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_another_version_is_not_glued_to_the_first(server: NastyServer, tmp_path: Path) -> None:
    server.plan = ["cut"] + [500] * 6
    with pytest.raises(DataError, match="500"):
        run(server, tmp_path)
    server.files["/a.bin"], server.etag = bytes(reversed(CONTENT)), '"two"'
    run(server, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == bytes(reversed(CONTENT))


def test_without_a_version_or_digest_a_later_run_starts_anew(server: NastyServer, tmp_path: Path) -> None:
    server.plan = ["cut unversioned"] + [500] * 6
    with pytest.raises(DataError, match="500"):
        run(server, tmp_path)
    server.log.clear()
    run(server, tmp_path)
    assert [found for _, found, _ in server.log] == [""]


@pytest.mark.parametrize(
    ("plan", "known", "says"),
    [
        (["wrong"] * 2, {"published": MD5}, r"a\.bin: md5 \w{32}; expected " + MD5[4:] + ", as published"),
        (["short"] * 2, {"published": MD5}, r"a\.bin: md5 \w{32}; expected " + MD5[4:] + ", as published"),
        (["short"] * 12, {"n_bytes": 300_000}, r"states 299,900 bytes; expected 300,000; gave up after 6"),
        (["long"] * 99, {}, r"gave up after 6 attempts"),
        (["long"] * 99, {"n_bytes": 300_000}, r"states 301,000 bytes; expected 300,000; gave up"),
        (["endless"] * 9, {}, r"states no length and nobody published one.*; use --mirror"),
        (["endless"] * 9, {"n_bytes": 300_000}, r"sends more than 300,000 bytes; gave up after"),
        (["absurd"] * 9, {}, r"states no length and nobody published one"),
        (["to http://[::1/a"], {}, r"/a.bin: leads to no usable address \(Invalid IPv6 URL\); use"),
        ([404], {}, r"/a.bin: the server answered 404 Not Found; the file has moved"),
        ([403], {}, r"answered 403 Forbidden"),
        ([500] * 9, {}, r"answered 500 Internal Server Error; gave up after 6 attempts, 0 bytes are kept"),
        (["garbage"] * 9, {}, r"is no HTTP \(BadStatusLine\); gave up after 6"),
        (["to file:///etc/passwd"], {}, r"answered 302 .* not allowed"),
        (["to ftp://127.0.0.1/a"], {}, r"redirects to ftp://"),
        (["to /a.bin"] * 99, {}, r"answered 302 "),
    ],
)  # fmt: skip
def test_servers_that_do_not_keep_their_word_end_in_one_line(
    server: NastyServer, tmp_path: Path, plan: list[str | int], known: dict[str, Any], says: str
) -> None:
    server.plan = plan
    with pytest.raises(DataError, match=says) as caught:
        run(server, tmp_path, **known)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a.bin").exists()
    assert not (tmp_path / "digests.json").exists()


def test_errors_that_pass(server: NastyServer, tmp_path: Path) -> None:
    server.plan = [500, 429, "garbage", 503, "to /a.bin"]
    waits = Waits()
    run(server, tmp_path, waits)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert waits == [1.0, 7.0, 4.0, 8.0]  # Retry-After: 7 is heeded where it is longer


def test_a_range_that_was_not_asked_for_is_not_glued_on(server: NastyServer, tmp_path: Path) -> None:
    server.plan = ["cut", "shifted"]
    run(server, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [bool(found) for _, found, _ in server.log] == [False, True, False]


MISDEEDS = (
    *(
        "cut",
        "cut rangeless",
        "cut unversioned",
        "cut long",
        "long",
        "short",
        "wrong",
        "cut wrong",
        "shifted",
    ),
    *("garbage", "endless", "absurd", "to http://[::1/a", "to /a.bin", "good", 404, 416, 429, 500),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(MISDEEDS), max_size=7), st.integers(0, 1000), st.booleans())
def test_whatever_a_server_does_the_file_is_right_or_absent(
    plan: list[str | int], seed: int, knows_length: bool
) -> None:
    known = {"n_bytes": len(CONTENT)} if knows_length else {}
    with serve() as server, tempfile.TemporaryDirectory() as folder:
        server.files["/a.bin"], server.plan = CONTENT, list(plan)
        server.rng.seed(seed)
        said = ""
        try:
            run(server, Path(folder), published=MD5, **known)
        except DataError as error:
            said = str(error)
        path = Path(folder) / "a.bin"
        assert path.exists() == (not said)
        assert not path.exists() or path.read_bytes() == CONTENT
        assert "\n" not in said
        assert plan or not said


def test_wrong_bytes_once_are_fetched_again(server: NastyServer, tmp_path: Path) -> None:
    server.plan = ["wrong"]
    run(server, tmp_path, published=MD5)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [found for _, found, _ in server.log] == ["", ""]


def test_a_silent_server_and_none_at_all(server: NastyServer, tmp_path: Path) -> None:
    server.plan = ["stall"] * 2
    waits = Waits()
    with pytest.raises(DataError, match=r"(timed out|no answer).*gave up after 2 attempts"):
        fetch(entry(a_file(server)), tmp_path, retries=waits.retries(timeout_s=0.2, fruitless=2))
    nowhere = RemoteFile("a.bin", "http://127.0.0.1:9/a.bin")
    with pytest.raises(DataError, match=r"127.0.0.1:9/a.bin: no answer .*refused.*gave up after 2 attempts"):
        fetch(entry(nowhere), tmp_path, retries=waits.retries(fruitless=2))


def test_mirror_takes_the_place_of_the_host(server: NastyServer, tmp_path: Path) -> None:
    server.files["/deep/x.bin"] = CONTENT
    file = RemoteFile("x.bin", "http://127.0.0.1:9/files/1234", published=MD5)
    fetch(entry(file), tmp_path, mirror=f"{server.address}/deep/", say=lambda line: None)
    assert (tmp_path / "x.bin").read_bytes() == CONTENT
    for mirror in ("file:///etc", "ftp://host/x", "host/x", "http://"):
        with pytest.raises(DataError, match=f"--mirror is {mirror}; expected an address that begins"):
            fetch(entry(file), tmp_path, mirror=mirror)


def test_messages_hold_no_credentials() -> None:
    assert download.shown("https://me:secret@host/a/b?token=x#y") == "https://host/a/b"


def test_room_is_asked_for_before_writing(
    server: NastyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: type("U", (), {"free": 1000})())
    with pytest.raises(DataError, match=r"1,000 bytes free; expected 67,408,864: choose another folder"):
        run(server, tmp_path)
    assert not (tmp_path / "a.bin.part").exists()


def test_a_full_disk_while_writing(
    server: NastyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "_open", lambda path: Full(path, "a"))
    with pytest.raises(DataError, match=r"disk full \([\d,]+ bytes free\); free some, then run the same"):
        run(server, tmp_path)
    monkeypatch.undo()
    run(server, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_one_fetch_at_a_time(server: NastyServer, tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another fetch is at work there"):
            run(server, tmp_path)


def test_a_file_that_was_altered_here_is_named(server: NastyServer, tmp_path: Path) -> None:
    run(server, tmp_path)
    (tmp_path / "a.bin").write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(DataError, match=rf"{tmp_path}/a.bin: sha256 .*expected {SHA256}, as recorded here"):
        run(server, tmp_path)
    (tmp_path / "digests.json").write_text("[1")
    with pytest.raises(DataError, match=r"digests.json: damaged"):
        run(server, tmp_path)


def test_a_member_of_an_archive_is_unpacked(server: NastyServer, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("deep/inner.zip", CONTENT)
    server.files["/a.bin"] = packed.getvalue()
    run(server, tmp_path, unpack=("deep/inner.zip", "inner.zip"))
    assert (tmp_path / "inner.zip").read_bytes() == CONTENT
    with pytest.raises(DataError, match=r"a.bin: holds no deep/other.zip"):
        run(server, tmp_path, unpack=("deep/other.zip", "other.zip"))
    assert not list(tmp_path.glob("other*"))


def test_catalogue_is_sound() -> None:
    assert set(catalogue.CATALOGUE) == {
        "qm9", "geom_drugs", "mp20", "mpts52", "perov5", "carbon24", "qmof", "alexandria"
    }  # fmt: skip
    for name, known in catalogue.CATALOGUE.items():
        assert known.name == name
        assert known.licence
        assert known.citation
        for file in known.files:
            assert file.url.startswith("https://")
            assert re.fullmatch(r"[A-Za-z0-9_.]+", file.name)
            for digest in filter(None, (file.published, file.reported)):
                assert re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", digest)
        here = {f.name for f in known.files} | {f.unpack[1] for f in known.files if f.unpack}
        assert {word.partition("=")[2] for word in known.sources} <= here
    sets, files = (part.splitlines()[2:] for part in catalogue.markdown().split("\n\n"))
    assert len(sets) == 8
    assert all(row.count("|") == 8 for row in sets)
    assert len(files) == 2 + 1 + 4 * 3 + 1 + 1
    assert (
        f"{catalogue.FIGSHARE}/3195389) | 86,144,227 | md5 `ad1ebd51ee7f5b3a6e32e974e5d54012`, published |"
        in (files[0])
    )
    assert files[-1].endswith("alexandria_000.json.bz2) and 49 more | not known | recorded at first use |")


def test_sources_of_a_fetched_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"mp20/train.csv: no such file; run `adit data fetch mp20` first"):
        catalogue.sources_of(["mp20"], tmp_path)
    (tmp_path / "mp20").mkdir()
    for split in ("train", "val", "test"):
        (tmp_path / "mp20" / f"{split}.csv").touch()
    sources, entries = catalogue.sources_of(["mp20", "x=y.cif"], tmp_path)
    assert [(s.dataset, s.split, s.path) for s in sources] == [
        *(("mp20", split, tmp_path / f"mp20/{split}.csv") for split in ("train", "val", "test")),
        ("x", "", Path("y.cif")),
    ]
    assert [known.name for known in entries] == ["mp20"]
    with pytest.raises(
        DataError, match=r"no data set 'qm8' in the catalogue; expected one of qm9, geom_drugs"
    ):
        catalogue.find("qm8")

"""Files made to keep a reader busy: megabytes that invite quadratic or exponential work end at once."""

from __future__ import annotations

import bz2
import gzip
import time
from pathlib import Path

import pytest

from adit_scale.data.sources import Rejected, read_source
from adit_scale.errors import DataError
from tests.data.molecule_files import METHANE, molblock, tar_of

MEGABYTE = 1 << 20
V2000, V3000 = (molblock(*METHANE, v3000=v3000) for v3000 in (False, True))
ATOM = "M  V30 1 C -0.012700 1.085800 0.008000 0"
PAX_LINES = b"6 a=b\n" * 10_000
HOSTILE = {
    "digits.xyz": "1" * MEGABYTE,
    "count.xyz": "999999999\nx\n" + "C 0 0 0\n" * 100_000,
    "restarts.xyz": "9\nx\nC 0 0 0\n" * 50_000,
    "long number.xyz": f"1\nx\nC 0.{'3' * MEGABYTE} 0 x\n",
    "quotes.xyz": "1\npbc " + 'id="a ' * 200_000 + "\nC 0 0 0\n",
    "escapes.xyz": '1\npbc="' + "\\" * MEGABYTE + "\nC 0 0 0\n",
    "brackets.xyz": "1\npbc=" + "[" * MEGABYTE + "\nC 0 0 0\n",
    "nested.xyz": "1\npbc=" + "[[a]" * 200_000 + "\nC 0 0 0\n",
    "properties.xyz": "1\nProperties=" + "a:R:9999:" * 100_000 + "pos:R:3\nC 0 0 0\n",
    "columns.xyz": "1\nProperties=" + ":".join(f"a{i}:R:9999" for i in range(9000)) + "\nC 0 0 0\n",
    "spaces.sdf": "\n\n\n" + V2000.split("\n", 3)[3].replace("0  0\n", "0  0" + " " * MEGABYTE + "\n", 1),
    "blank.sdf": " \n" * MEGABYTE,
    "pairs.sdf": V3000.replace(ATOM, ATOM + " A=(a)" * 200_000 + "!"),
    "carried.sdf": V3000.replace(ATOM, "M  V30 1-\n" * 100_000 + ATOM),
    "ids.sdf": V2000 + "> " + "<ID>" * 300_000,
    "fields.sdf": V2000 + ">  <ID\n" * 150_000,
}


def assert_quick(path: Path, seconds: float = 10.0) -> str:
    """What was said of the file, which is never taken."""
    start = time.process_time()
    said = ""
    try:
        for item in read_source(path):
            assert isinstance(item, Rejected) or "ids" in path.name or "fields" in path.name
            said = item.reason if isinstance(item, Rejected) else "taken"
            assert len(said) < 300
    except DataError as error:
        said = str(error)
    assert time.process_time() - start < seconds
    assert said
    return said


@pytest.mark.parametrize("name", HOSTILE)
def test_text_that_invites_endless_work(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(HOSTILE[name])
    assert_quick(path)


def test_archives_that_invite_endless_work(tmp_path: Path) -> None:
    path = tmp_path / "dsgdb9nsd.tar"
    header = bytearray(tar_of({"x": PAX_LINES})[:512])
    header[156:157] = b"x"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes((bytes(header) + PAX_LINES + bytes(-len(PAX_LINES) % 512)) * 20)
    assert "end marker" in assert_quick(path)
    path.write_bytes(tar_of({f"{i}.txt": b"" for i in range(3000)}))
    assert_quick(path)


@pytest.mark.parametrize("name", ["a.xyz.gz", "a.sdf.bz2", "a.msgpack.gz", "dsgdb9nsd.xyz.tar.bz2"])
def test_compression_bombs_stop_at_the_limit(tmp_path: Path, name: str) -> None:
    """A line, a header or a value that goes on for 100 MiB: read to the limit of 64 MiB, then refused."""
    path = tmp_path / name
    pack = gzip.compress if name.endswith(".gz") else bz2.compress
    start = b"\x81\xa1C\xdd\xff\xff\xff\xff" if "msgpack" in name else b"1"
    path.write_bytes(pack(start + bytes(100 * MEGABYTE), 1))
    assert "MiB" in assert_quick(path) or "tar" in assert_quick(path)

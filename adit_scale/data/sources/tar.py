"""Tar archives read from a stream, a member at a time: nothing is extracted, and memory is bounded.

Strict where the standard library is lenient: a header that fails its checksum, an archive without its end
marker, and extension headers of unreasonable length are errors, so that no member is lost in silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO

from adit_scale.data.sources.source import UnusableFile

_BLOCK = 512
_MAX_EXTENSION_BYTES = 1 << 16
_SKIP_BYTES = 1 << 20
_PAX_PAIR = re.compile(rb"(\d{1,7}) ([^=\n]{1,1000})=")
_FILE, _FOLDER, _EXTENSIONS, _LINKS = (b"0", b"\0", b"7"), b"5", (b"x", b"g", b"L", b"K"), (b"1", b"2")


class Member:
    """One member of an archive; ``read`` works until the next one is asked for.

    name: as it stands in the archive. n_bytes: of its contents. fault: why it must not be used, or "".
    """

    def __init__(self, name: str, n_bytes: int, fault: str, stream: BinaryIO):
        self.name, self.n_bytes, self.fault = name, n_bytes, fault
        self._stream, self._left = stream, n_bytes

    def read(self, n: int = -1) -> bytes:
        """The next ``n`` bytes, or all that are left. Raises UnusableFile where the archive ends before."""
        wanted = self._left if n < 0 else min(n, self._left)
        data = self._stream.read(wanted)
        self._left -= len(data)
        if len(data) < wanted:
            raise UnusableFile(f"ends inside its member {self.name[:80]!r}; copy the file again")
        return data

    def skip(self) -> None:
        while self._left:
            self.read(_SKIP_BYTES)


def members(stream: BinaryIO) -> Iterator[Member]:
    """The members of an archive in order, folders left out.

    Raises UnusableFile for an archive that is damaged, cut off or uses forms of no data set.
    """
    long_name, pax = "", dict[str, str]()
    while True:
        header = stream.read(_BLOCK)
        if not header.strip(b"\0"):
            _check_end(stream, header)
            return
        name, n_bytes, kind = _parse(header)
        if kind in _EXTENSIONS:
            if n_bytes > _MAX_EXTENSION_BYTES:
                raise UnusableFile(f"a name in the archive takes {n_bytes} bytes; expected up to 64 KiB")
            content = Member("of a name", n_bytes, "", stream).read()
            stream.read(-n_bytes % _BLOCK)
            if kind == b"L":
                long_name = content.rstrip(b"\0").decode("utf-8", "replace")
            elif kind == b"x":
                pax = _pax(content)
            continue
        name = pax.get("path") or long_name or name
        if "size" in pax:
            if not pax["size"].isdecimal() or len(pax["size"]) > 18:
                raise UnusableFile(f"the archive's member {name[:80]!r} has no readable size")
            n_bytes = int(pax["size"])
        member = Member(name, n_bytes, _fault(name, kind, pax), stream)
        if kind != _FOLDER:
            yield member
        member.skip()
        stream.read(-n_bytes % _BLOCK)
        long_name, pax = "", {}


def _parse(header: bytes) -> tuple[str, int, bytes]:
    """Name, size and kind. The layout is that of POSIX.1-1988 (ustar) and GNU tar."""
    stated = header[148:156].strip(b" \0")
    found = sum(header) - sum(header[148:156]) + 8 * 0x20
    if len(header) < _BLOCK or not re.fullmatch(rb"[0-7]+", stated) or int(stated, 8) != found:
        raise UnusableFile("not a tar archive, or a damaged one: a header fails its checksum")
    size = header[124:136]
    if size[0] & 0x80:
        n_bytes = int.from_bytes(size[1:], "big")
    elif re.fullmatch(rb"[0-7]*", size.strip(b" \0")):
        n_bytes = int(size.strip(b" \0") or b"0", 8)
    else:
        raise UnusableFile(f"a member of the archive has size {size!r}; expected an octal number")
    name = header[:100].split(b"\0")[0]
    if header[257:263] == b"ustar\0" and header[345] != 0:
        name = header[345:500].split(b"\0")[0] + b"/" + name
    kind = header[156:157]
    return name.decode("utf-8", "replace"), 0 if kind in _LINKS or kind == _FOLDER else n_bytes, kind


def _pax(content: bytes) -> dict[str, str]:
    """The pairs of an extended header: lines ``length key=value``, the length that of the whole line."""
    pairs: dict[str, str] = {}
    at = 0
    while at < len(content):
        match = _PAX_PAIR.match(content, at)
        stop = at + int(match[1]) if match else 0
        if match is None or not match.end() < stop <= len(content):
            raise UnusableFile("an extended header of the archive is damaged")
        value = content[match.end() : stop - 1]
        pairs[match[2].decode("utf-8", "replace")] = value.decode("utf-8", "replace")
        at = stop
    return pairs


def _fault(name: str, kind: bytes, pax: dict[str, str]) -> str:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name) or "\0" in name:
        return f"the archive's member {name[:80]!r} has a name that leads out of its folder"
    if (kind not in _FILE and kind != _FOLDER) or any(key.startswith("GNU.sparse") for key in pax):
        return f"the archive's member {name[:80]!r} is no plain file"
    return ""


def _check_end(stream: BinaryIO, header: bytes) -> None:
    if len(header) < _BLOCK:
        raise UnusableFile("the archive ends without its end marker; copy the file again")
    # Writers pad to their block size; reading it also checks the checksum of the compression around it.
    rest = stream.read(_SKIP_BYTES)
    if rest.strip(b"\0"):
        raise UnusableFile("the archive goes on behind its end marker")

"""One file over HTTP into ``<name>.part``: resumed by range, tried again with back-off."""

from __future__ import annotations

import errno
import http.client
import io
import json
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit, urlunsplit

from adit_scale.errors import DataError

CHUNK_BYTES = 1 << 18
SPARE_BYTES = 64 << 20  # left free on the disk
_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})", re.ASCII)


@dataclass(frozen=True)
class Retries:
    """fruitless: attempts in a row that came no further, before giving up; in_all: attempts of any kind.

    wait_s: after the first fruitless attempt, doubled after each more of them, 60 at most.
    """

    fruitless: int = 6
    in_all: int = 10_000
    wait_s: float = 1.0
    timeout_s: float = 30.0
    sleep: Callable[[float], None] = time.sleep


class _Again(Exception):
    """This attempt failed in a way that another may cure. wait_s: what the server asks for."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class _StayOnHttp(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        old, new = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if new not in ("http", "https") or (old, new) == ("https", "http"):
            raise DataError(f"{shown(req.full_url)}: redirects to {new}://; expected {old}; use --mirror")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@dataclass
class _Part:
    """The beginning of a file. validator: ETag or date by which the server knows it. total: its length."""

    path: Path
    validator: str = ""
    total: int = 0

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    @property
    def _notes(self) -> Path:
        return self.path.with_name(self.path.name + ".json")

    @staticmethod
    def find(path: Path, url: str, checked_later: bool) -> _Part:
        """What an earlier run left, where it can be gone on with: the same address, and a version by which
        the server can tell that it still has the same file (or a digest that will tell later)."""
        part = _Part(path)
        try:
            notes = json.loads(part._notes.read_bytes())
            part.validator, part.total = str(notes["validator"]), int(notes["total"])
            usable = notes["url"] == url and (part.validator or checked_later)
        except (OSError, ValueError, KeyError, TypeError):
            usable = False
        if not usable:
            part.restart()
        return part

    def note(self, url: str, validator: str, total: int) -> None:
        self.validator, self.total = validator, total
        try:
            self._notes.write_text(json.dumps({"url": url, "validator": validator, "total": total}))
        except OSError as error:
            raise no_room(self.path.parent, error) from error

    def restart(self) -> None:
        self.path.unlink(missing_ok=True)
        self.validator, self.total = "", 0

    def finish(self) -> None:
        self._notes.unlink(missing_ok=True)


def download(
    url: str,
    path: Path,
    n_bytes: int = 0,
    checked_later: bool = False,
    progress: Callable[[str, int, int | None], None] | None = None,
    retries: Retries | None = None,
) -> None:
    """Bring ``url`` to ``path``, going on where an earlier attempt stopped.

    n_bytes: the length it must have, 0 where nobody knows. checked_later: a digest will be checked.
    Raises DataError: refused by the server, no room, a length that is not kept, too many failures in a row.
    """
    retries = retries or Retries()
    part = _Part.find(path, url, checked_later)
    fruitless, furthest, reason = 0, part.size, ""
    for _ in range(retries.in_all):
        try:
            _attempt(url, part, n_bytes, progress, retries.timeout_s)
        except _Again as error:
            reason = str(error)
            fruitless = 0 if part.size > furthest else fruitless + 1
            furthest = max(furthest, part.size)
            if fruitless >= retries.fruitless:
                break
            wait_s = max(error.wait_s, retries.wait_s * 2 ** (fruitless - 1) if fruitless else 0.0)
            retries.sleep(min(wait_s, 60.0))
        else:
            part.finish()
            return
    raise DataError(
        f"{shown(url)}: {reason}; gave up after {fruitless or retries.in_all} attempts, "
        f"{part.size:,} bytes are kept: run the same command again later, or use --mirror"
    )


def _attempt(
    url: str,
    part: _Part,
    n_bytes: int,
    progress: Callable[[str, int, int | None], None] | None,
    timeout_s: float,
) -> None:
    """One request and all it brings. Raises _Again, DataError."""
    if part.total and part.size == part.total:
        return
    headers = {"User-Agent": "adit-scale", "Accept-Encoding": "identity"}
    if part.size:
        headers["Range"] = f"bytes={part.size}-"
        if part.validator:
            headers["If-Range"] = part.validator
    opener = urllib.request.build_opener(_StayOnHttp)
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=timeout_s) as response:
            total = _total(response, part, url, n_bytes)
            _require_room(part, total)
            _receive(response, part, total, progress)
    except urllib.error.HTTPError as error:
        _refused(error, part, url)
    except urllib.error.URLError as error:
        raise _Again(f"no answer ({error.reason})") from error
    except http.client.HTTPException as error:
        raise _Again(f"the connection was cut or is no HTTP ({type(error).__name__})") from error
    except OSError as error:
        raise _Again(f"the connection was cut ({error or type(error).__name__})") from error
    except DataError:
        raise
    except ValueError as error:  # what urllib makes of an address that is none
        raise DataError(
            f"{shown(url)}: leads to no usable address ({error}); use --mirror with another"
        ) from error
    if part.total and part.size < part.total:
        raise _Again(f"the connection was cut after {part.size:,} of {part.total:,} bytes")


def _total(response: http.client.HTTPResponse, part: _Part, url: str, n_bytes: int) -> int:
    """The length of the whole file; ``part`` is made ready for what comes. Raises _Again, DataError."""
    length = response.headers.get("Content-Length", "")
    stated = int(length) if length.isdecimal() and len(length) < 20 else 0
    if response.status == 206:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if not match or int(match[1]) != part.size:
            part.restart()
            raise _Again("the server answered with another range than asked for")
        total = int(match[3])
        if part.total and total != part.total:
            part.restart()
            raise _Again(f"the file's length changed to {total:,} bytes")
    else:  # the whole file, even if a part was asked for: no ranges there, or another version
        part.restart()
        total = stated
    total = total or n_bytes
    if n_bytes and total != n_bytes:
        part.restart()
        raise _Again(f"the server states {total:,} bytes; expected {n_bytes:,}")
    if not total:
        raise DataError(
            f"{shown(url)}: the server states no length and nobody published one: a cut file would look "
            f"whole; use --mirror with another server"
        )
    part.note(url, _validator(response.headers), total)
    return total


def _receive(
    response: http.client.HTTPResponse,
    part: _Part,
    total: int,
    progress: Callable[[str, int, int | None], None] | None,
) -> None:
    done = part.size
    name = part.path.name.removesuffix(".part")
    with _open(part.path) as file:
        while chunk := response.read1(CHUNK_BYTES):
            done += len(chunk)
            if done > total:
                part.restart()
                raise _Again(f"the server sends more than {total:,} bytes")
            _write(file, chunk, part.path.parent)
            if progress is not None:
                progress(f"fetching {name}", done, total)


def _open(path: Path) -> io.FileIO:
    try:
        return path.open("ab", buffering=0)
    except OSError as error:
        raise no_room(path.parent, error) from error


def _write(file: io.FileIO, chunk: bytes, folder: Path) -> None:
    rest = memoryview(chunk)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise no_room(folder, error) from error


def _refused(error: urllib.error.HTTPError, part: _Part, url: str) -> None:
    """Raises what an error status means."""
    phrase = (
        "".join(c for c in str(error.reason).splitlines()[0][:80] if c.isprintable()) if error.reason else ""
    )
    reason = f"the server answered {error.code} {phrase}".strip()
    with error:
        pass
    if error.code == 416:  # our part is no beginning of what the server has
        part.restart()
        raise _Again(reason) from error
    if error.code in _AGAIN:
        seconds = error.headers.get("Retry-After", "")
        raise _Again(reason, float(seconds) if seconds.isdecimal() else 0.0) from error
    raise DataError(f"{shown(url)}: {reason}; the file has moved or is not public: use --mirror") from error


def _require_room(part: _Part, total: int) -> None:
    """Raises DataError where the rest of the file does not fit the disk."""
    free = shutil.disk_usage(part.path.parent).free
    needed = total - part.size
    if needed + SPARE_BYTES > free:
        raise DataError(
            f"{part.path.parent}: {free:,} bytes free; expected {needed + SPARE_BYTES:,}: "
            f"choose another folder with --out"
        )


def _validator(headers: Message) -> str:
    """A strong ETag, else the date of the last change, else nothing."""
    etag = headers.get("ETag", "")
    if etag and not etag.startswith("W/"):
        return str(etag)
    return str(headers.get("Last-Modified", ""))


def no_room(folder: Path, error: OSError) -> DataError:
    """What to say of a file that could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(folder).free
        return DataError(
            f"{folder}: disk full ({free:,} bytes free); free some, then run the same command again"
        )
    return DataError(
        f"{folder}: cannot be written ({error.strerror or error}); choose another folder with --out"
    )


def shown(url: str) -> str:
    """An address without the name, password and query that may stand in it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an address that is none"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

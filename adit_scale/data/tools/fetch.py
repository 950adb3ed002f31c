"""Published files brought here: resumed where the connection breaks, checked, and put in place whole.

Nothing a server says is trusted but the bytes, and those only by their digest: file names come from the
catalogue, lengths are compared with what arrives, redirects stay on http(s).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from adit_scale.data.tools.catalogue import DataSet, RemoteFile
from adit_scale.data.tools.download import Retries, download, no_room
from adit_scale.errors import DataError

DIGESTS_FILE = "digests.json"
Progress = Callable[[str, int, "int | None"], None]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Digest:
    """What is known of a file that lies here. vouched: "published" digest, "reported" one, or "first use"."""

    n_bytes: int
    sha256: str
    vouched: str
    url: str


def fetch(
    entry: DataSet,
    out: Path,
    mirror: str = "",
    progress: Progress | None = None,
    say: Say = print,
    retries: Retries | None = None,
) -> dict[str, Digest]:
    """Bring the files of a data set into the folder ``out``; what is there already is checked, not fetched.

    mirror: an address whose ``<mirror>/<file name>`` are taken instead of the published ones.
    progress: called with (what is done, bytes so far, bytes in all or None). say: gets one line a file.
    Returns the digests of all files by name; they also stand in ``out/digests.json``.
    Raises DataError: no such address, wrong bytes, no room, a server that does not keep its word.
    """
    if mirror and not re.match(r"https?://[^/\s]", mirror):
        raise DataError(f"--mirror is {mirror}; expected an address that begins with http:// or https://")
    with _only_one(out):
        known = _load_digests(out)
        for file in entry.files:
            url = f"{mirror.rstrip('/')}/{file.name}" if mirror else file.url
            known[file.name] = _settle(file, out, url, known.get(file.name), progress, say, retries)
            _save_digests(out, known)
            if file.unpack:
                member, name = file.unpack
                if not (out / name).is_file():
                    _unpack(out / file.name, member, out / name, progress)
                    say(f"{out / name}: unpacked from {file.name}")
    return known


def _settle(
    file: RemoteFile,
    out: Path,
    url: str,
    known: Digest | None,
    progress: Progress | None,
    say: Say,
    retries: Retries | None,
) -> Digest:
    """Leave ``out/<name>`` whole and checked."""
    path = out / file.name
    if path.exists():
        digest = _check(file, path, path, known, url, progress)
        say(f"{path}: is there already, {_words(file, digest)}")
        return digest
    part = path.with_name(path.name + ".part")
    for last in (False, True):
        download(url, part, file.n_bytes, bool(file.published), progress, retries)
        try:
            digest = _check(file, part, path, known, url, progress)
        except DataError:
            part.unlink()  # what is wrong in its middle cannot be mended by resuming
            if last:
                raise
        else:
            break
    os.replace(part, path)
    say(f"{path}: fetched, {_words(file, digest)}")
    return digest


def _check(
    file: RemoteFile, path: Path, name: Path, known: Digest | None, url: str, progress: Progress | None
) -> Digest:
    """The digest of a file that lies at ``path``, found to be the right one. Raises DataError."""
    n_bytes = path.stat().st_size
    if file.n_bytes and n_bytes != file.n_bytes:
        raise DataError(
            f"{name}: {n_bytes:,} bytes; expected {file.n_bytes:,}, as published: "
            f"remove it and fetch again, or use --mirror"
        )
    found = _digests(path, name.name, progress)
    recorded = f"sha256:{known.sha256}" if known else ""
    for expected, said_by in ((file.published, "published"), (recorded, "recorded here")):
        if not expected:
            continue
        kind, _, value = expected.partition(":")
        if found[kind] != value:
            raise DataError(
                f"{name}: {kind} {found[kind]}; expected {value}, as {said_by}: these are other bytes; "
                f"remove it and {DIGESTS_FILE}, then fetch again, or use --mirror"
            )
    kind, _, value = file.reported.partition(":")
    vouched = "published" if file.published else "first use"
    if not file.published and file.reported:
        vouched = "reported" if found[kind] == value else "first use, differs from the reported one"
    return Digest(n_bytes, found["sha256"], known.vouched if known else vouched, known.url if known else url)


def _words(file: RemoteFile, digest: Digest) -> str:
    if digest.vouched == "published":
        return f"{file.published.partition(':')[0]} as published"
    if digest.vouched == "reported":
        return "digest as others report it (the publisher states none)"
    differs = ", and differs from the one others report" if file.reported else ""
    return f"no published digest: sha256 {digest.sha256} recorded at first use{differs}"


def _digests(path: Path, name: str, progress: Progress | None) -> dict[str, str]:
    """sha256 and md5 (some publishers state nothing else), in hex."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    done, total = 0, path.stat().st_size
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            sha256.update(chunk)
            md5.update(chunk)
            done += len(chunk)
            if progress is not None:
                progress(f"checking {name}", done, total)
    return {"sha256": sha256.hexdigest(), "md5": md5.hexdigest()}


def _unpack(archive: Path, member: str, target: Path, progress: Progress | None) -> None:
    """One named member of a zip file, as ``target``. Raises DataError where it is not there or damaged."""
    part = target.with_name(target.name + ".part")
    done = 0
    try:
        with zipfile.ZipFile(archive) as opened:
            info = opened.getinfo(member)
            with part.open("wb") as output, opened.open(info) as stream:
                while chunk := stream.read(1 << 20):
                    done += len(chunk)
                    output.write(chunk)
                    if progress is not None:
                        progress(f"unpacking {target.name}", done, info.file_size)
    except KeyError as error:
        raise DataError(
            f"{archive}: holds no {member}; its publisher has changed it: unpack it by hand"
        ) from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{archive}: cannot be unpacked ({error}); remove it and fetch again") from error
    except OSError as error:
        raise no_room(target.parent, error) from error
    os.replace(part, target)


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """One fetch at a time into a folder. Raises DataError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise no_room(folder, error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(
                f"{folder}: another fetch is at work there; wait for it or choose another folder with --out"
            ) from error
        yield


def _load_digests(folder: Path) -> dict[str, Digest]:
    path = folder / DIGESTS_FILE
    if not path.is_file():
        return {}
    try:
        return {name: Digest(**row) for name, row in json.loads(path.read_bytes()).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: damaged ({error}); remove it to record the digests anew") from error


def _save_digests(folder: Path, known: dict[str, Digest]) -> None:
    path = folder / DIGESTS_FILE
    part = path.with_name(path.name + ".part")
    tree = {name: asdict(digest) for name, digest in sorted(known.items())}
    part.write_text(json.dumps(tree, indent=1) + "\n")
    os.replace(part, path)

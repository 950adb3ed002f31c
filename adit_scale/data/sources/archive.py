"""Structure files in a folder, a .zip or a .tar: each member is read by the reader of its ending, in place.

Nothing is extracted. A member that must not be used (a name that leads out of the folder, a link, a bomb, an
archive in the archive) is refused with the reason and the others go on; files of no structure format are
passed over.
"""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, Protocol, cast

from adit_scale.atoms import AtomSet
from adit_scale.data.config import DataConfig
from adit_scale.data.sources import tar
from adit_scale.data.sources.source import (
    COMPRESSED,
    MAX_RECORD_BYTES,
    UNUSABLE,
    Format,
    Record,
    Rejected,
    Source,
    UnusableFile,
    bare_name,
    open_binary,
)

_READERS = {
    ".cif": "cif",
    ".vasp": "poscar",
    ".poscar": "poscar",
    ".xyz": "extxyz",
    ".extxyz": "extxyz",
    ".sdf": "sdf",
    ".json": "pymatgen_json",
    ".csv": "cdvae_csv",
}
_WHOLE_NAMES = ("POSCAR", "CONTCAR")
_NAMING = ("extxyz", "sdf")  # they name structures by what stands in the file
_KEYED = ("cdvae_csv", "pymatgen_json")  # their records may come named
_STREAMED = ("extxyz", "sdf", "pymatgen_json", "cdvae_csv")
_ARCHIVES = (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".7z", ".rar")
_DECOMPRESSORS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
# Text of structures shrinks 3- to 30-fold; what shrinks more than this much and is large is a bomb.
_MAX_RATIO = 200
_MAX_SMALL_BYTES = 4 << 20
_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, NotImplementedError)


class _Member(NamedTuple):
    """A file of the archive. name: its path there. fault: why it must not be read, or "". open: its bytes."""

    name: str
    fault: str
    open: Callable[[], BinaryIO]


def records(source: Source, config: DataConfig) -> Iterator[Record]:
    """The records of all members, in the archive's order; those of a folder in the order of their paths.

    Raises UnusableFile for a damaged archive, and for one that holds no structure file.
    """
    index, used = 0, set[str]()
    for member in _members(source.path):
        module = _module_of(member.name)
        if module is None and not member.fault:
            continue
        for record in _records_of(member, module or "", _stem(member.name, used), source, config):
            yield replace(record, index=index)
            index += 1
    if not index:
        endings = ", ".join(_READERS)
        raise UnusableFile(f"holds no structure file; expected members with the endings {endings}")


def parse(record: Record, dataset: str, config: DataConfig) -> list[AtomSet | Rejected]:
    """The structures of a record, by the reader of its member; named by the member where it names none."""
    module, _, kind = record.kind.partition(":")
    inner: Format = importlib.import_module(f"{__package__}.{module}").FORMAT
    name = "" if module in _NAMING else record.name
    items = inner.parse(replace(record, kind=kind, name=name), dataset, config)
    return [replace(item, id=record.name) if item.id == str(record.index) else item for item in items]


def _module_of(name: str) -> str | None:
    """The reader of a member; "" for an archive, None for what is passed over."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.name.startswith(".") or "__MACOSX" in path.parts:
        return None
    suffix = bare_name(Path(path.name))[1]
    if suffix in _ARCHIVES:
        return ""
    found = _READERS.get(suffix)
    if found is None and re.split(r"[._-]", path.name)[0] in _WHOLE_NAMES:
        found = "poscar"
    return found


def _stem(name: str, used: set[str]) -> str:
    """What a member's structures are called: its name without endings, or its path where that is taken."""
    path = PurePosixPath(name.replace("\\", "/"))
    bare = bare_name(Path(path.name or "_"))[0]
    if bare in _WHOLE_NAMES and path.parent.name:
        bare = path.parent.name
    if bare in used:
        bare = str(path.parent / bare)
    if bare in used:
        bare = f"{bare}#{len(used)}"
    used.add(bare)
    return bare


def _records_of(
    member: _Member, module: str, stem: str, source: Source, config: DataConfig
) -> Iterator[Record]:
    """Records without an index. A member's only one has the member's name, several a number behind it."""
    shown = f"{member.name[:80]!r}"
    if member.fault or not module:
        reason = member.fault or f"{shown} is an archive in an archive; unpack it"
        yield Record.unusable(0, stem, reason)
        return
    held: Record | None = None
    count = 0
    try:
        with member.open() as stream:
            for record in importlib.import_module(f"{__package__}.{module}").cut(stream, source, config):
                if held is not None:
                    yield _tagged(held, module, f"{stem}-{count}")
                    count += 1
                held = record
    except (UnusableFile, *_DAMAGED) as error:
        if held is not None:
            yield _tagged(held, module, f"{stem}-{count}")
            count += 1
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        yield Record.unusable(0, f"{stem}-{count}" if count else stem, f"{shown} is unreadable: {reason}")
        return
    if held is not None:
        yield _tagged(held, module, f"{stem}-{count}" if count else stem)
    else:
        yield Record.unusable(0, stem, f"{shown} holds no structure")


def _tagged(record: Record, module: str, name: str) -> Record:
    if module in _KEYED and record.name != str(record.index):
        name = record.name or name
    kind = record.kind if record.kind == UNUSABLE else f"{module}:{record.kind}"
    return Record(0, name, record.payload, kind)


def _members(path: Path) -> Iterator[_Member]:
    if path.is_dir():
        return _folder_members(path)
    if path.suffix.lower() == ".zip":
        return _zip_members(path)
    return _tar_members(path)


def _folder_members(folder: Path) -> Iterator[_Member]:
    found = [
        Path(root, name).relative_to(folder).as_posix()
        for root, folders, files in os.walk(folder)
        for name in [*files, *(f for f in folders if Path(root, f).is_symlink())]
    ]
    for name in sorted(found):
        plain = stat.S_ISREG((folder / name).lstat().st_mode)
        fault = "" if plain else f"{name[:80]!r} is a link or no plain file"
        yield _Member(name, fault, partial(open_binary, folder / name))


def _tar_members(path: Path) -> Iterator[_Member]:
    with gzip.open(path) if path.suffix.lower() == ".tgz" else open_binary(path) as stream:
        for member in tar.members(cast(BinaryIO, stream)):
            fault = member.fault or _too_large(member.name, member.n_bytes)
            yield _Member(member.name, fault, partial(_opened, member.name, member.n_bytes, member))


def _zip_members(path: Path) -> Iterator[_Member]:
    with _open_zip(path) as archive:
        infos = archive.infolist()
        if sum(info.compress_size for info in infos) > path.stat().st_size:
            raise UnusableFile("members of the zip archive overlap")
        for info in infos:
            if not info.filename.endswith("/"):  # is_dir() fails on an empty name
                yield _Member(info.filename, _zip_fault(info), partial(_open_in_zip, archive, info))


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, EOFError) as error:
        raise UnusableFile(f"not a whole zip archive ({error}); copy the file again") from error


def _zip_fault(info: zipfile.ZipInfo) -> str:
    name = info.filename
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name) or "\0" in name:
        return f"{name[:80]!r} has a name that leads out of its folder"
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        return f"{name[:80]!r} is a link or no plain file"
    if info.flag_bits & 1:
        return f"{name[:80]!r} is encrypted"
    if info.file_size > _MAX_SMALL_BYTES and info.file_size > _MAX_RATIO * info.compress_size:
        growth = info.file_size // max(info.compress_size, 1)
        return f"{name[:80]!r} would grow {growth}-fold; expected {_MAX_RATIO}-fold at most"
    return _too_large(name, info.file_size)


def _too_large(name: str, n_bytes: int) -> str:
    """Members of many records may be large, for they are streamed; but not compressed ones in an archive."""
    streamed = _module_of(name) in _STREAMED and not name.lower().endswith(COMPRESSED)
    if n_bytes <= MAX_RECORD_BYTES or streamed:
        return ""
    return f"{name[:80]!r} holds {n_bytes >> 20} MiB; expected {MAX_RECORD_BYTES >> 20} at most"


def _open_in_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> BinaryIO:
    return _opened(info.filename, info.file_size, archive.open(info))


class _Readable(Protocol):
    def read(self, n: int = -1, /) -> bytes: ...


def _opened(name: str, n_bytes: int, member: _Readable) -> BinaryIO:
    """A member's bytes, decompressed where its name says so.

    One of usual size is read whole first, which also checks its checksum. Raises UnusableFile where it is too
    large when decompressed.
    """
    if n_bytes > MAX_RECORD_BYTES:
        return cast(BinaryIO, io.BufferedReader(_Stream(member)))
    data = member.read(n_bytes + 1)
    ending = PurePosixPath(name).suffix.lower()
    if ending in COMPRESSED:
        with _DECOMPRESSORS[ending](io.BytesIO(data)) as stream:
            data = cast(bytes, stream.read(MAX_RECORD_BYTES + 1))
        if len(data) > MAX_RECORD_BYTES:
            raise UnusableFile(f"larger than {MAX_RECORD_BYTES >> 20} MiB when decompressed")
    return io.BytesIO(data)


class _Stream(io.RawIOBase):
    """A member as a raw file, for lines to be read from it."""

    def __init__(self, member: _Readable):
        self._member = member

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        data = self._member.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


FORMAT = Format("archive", records, parse)

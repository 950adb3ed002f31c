"""Data sets at an address: blocks are read by byte range through fsspec and kept in a bounded cache here.

Any address that fsspec knows will do: http(s)://, s3://, memory:// for tests. Addresses may hold a password
or a token, so messages show them without, and no library's own message, which might quote one, is passed on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from adit_scale.data.range_cache import RangeCache
from adit_scale.errors import DataError

try:
    import fsspec
except ImportError as error:
    raise DataError(
        "shards at an address need fsspec; install this package with its extra, adit-scale[remote]"
    ) from error

_log = logging.getLogger(__name__)
_RETRY_AFTER_S = (0.5, 1.0, 2.0)
_CONNECT_S, _READ_S = 10, 30
# What tells one version of a file from another, under the names servers give it.
_VERSION_KEYS = ("ETag", "Last-Modified", "LastModified", "mtime", "created", "size")
_Result = TypeVar("_Result")


class RemoteFolder:
    """A data set at an address such as ``s3://bucket/set`` or ``https://host/set?token=…``.

    cache: folder for what has been read; empty is ~/.cache/adit_scale. Several processes may share one.
    cache_gib: bound on it; what was used longest ago goes first.
    Reads that fail are tried again for a few seconds. Raises DataError where that does not help.
    """

    def __init__(self, address: str, cache: str = "", cache_gib: float = 10.0) -> None:
        self._address = address
        self._shown = _shown(address)
        folder = Path(cache).expanduser() if cache else Path.home() / ".cache" / "adit_scale"
        self._cache = RangeCache(folder, int(cache_gib * 2**30))
        self._infos: dict[str, dict[str, Any]] = {}
        self._opened: tuple[int, Any] | None = None  # the process it was opened in, and the file system
        self._errors = _library_errors()

    def __str__(self) -> str:
        return self._shown

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def size(self, name: str) -> int:
        return self._info(name)["size"]

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        return self.read_ranges([(name, start, stop)])[0]

    def read_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes]:
        ranges = [(name, start, min(stop, self.size(name))) for name, start, stop in ranges]
        keys = [self._key(*r) for r in ranges]
        found = [self._cache.read(key, r[2] - r[1]) for key, r in zip(keys, ranges, strict=True)]
        missing = [i for i, data in enumerate(found) if data is None]
        fetched = (
            self._fetch_together([ranges[i] for i in missing]) if len(missing) > 1 else [None] * len(missing)
        )
        for i, data in zip(missing, fetched, strict=True):
            if data is None:
                data = self._fetch(*ranges[i])
            self._cache.write(keys[i], data)
            found[i] = data
        return [data for data in found if data is not None]

    def local_file(self, name: str) -> Path:
        self._infos.pop(name, None)  # a plan is made from it: it must be what lies there now
        whole = (name, 0, self.size(name))
        key = self._key(*whole)
        path = self._cache.path_of(key, whole[2]) if self._has_version(name) else None
        if path is not None:
            return path
        written = self._cache.write(key, self._fetch(*whole))
        if written is None:
            raise DataError(f"{self._cache.folder}: cannot be written; set data.cache to a folder with room")
        return written

    def forget(self, name: str, start: int = 0, stop: int | None = None) -> bool:
        whole = self.size(name)
        self._cache.drop(self._key(name, start, whole if stop is None else min(stop, whole)))
        self._infos.pop(name, None)
        return True

    def _key(self, name: str, start: int, stop: int) -> str:
        version = [str(self._info(name).get(key, "")) for key in _VERSION_KEYS]
        return RangeCache.key(self._address, name, str(start), str(stop), *version)

    def _has_version(self, name: str) -> bool:
        """Whether a server that changed the file would have told; the manifest is always read anew."""
        return name != "manifest.json" and any(self._info(name).get(key) for key in _VERSION_KEYS[:-1])

    def _info(self, name: str) -> dict[str, Any]:
        if name not in self._infos:
            info = self._tried(name, lambda fs, path: fs.info(path))
            if not isinstance(info.get("size"), int):
                raise DataError(f"{self}/{name}: the server does not tell its length; use another server")
            self._infos[name] = info
        return self._infos[name]

    def _fetch(self, name: str, start: int, stop: int) -> bytes:
        if stop <= start:
            return b""
        data = self._tried(
            name, lambda fs, path: self._whole(name, fs.cat_file(path, start=start, end=stop), start, stop)
        )
        return bytes(data)

    def _fetch_together(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes | None]:
        """Ranges read at once, so that a far server costs one wait; None where one must be tried again."""
        fs = self._file_system()
        paths = [self._path(name) for name, _, _ in ranges]
        starts, stops = [r[1] for r in ranges], [r[2] for r in ranges]
        try:
            answers = fs.cat_ranges(paths, starts, stops, on_error="return")
        except self._errors:
            return [None] * len(ranges)
        return [
            bytes(data) if isinstance(data, bytes) and len(data) == stop - start else None
            for data, (_, start, stop) in zip(answers, ranges, strict=True)
        ]

    def _whole(self, name: str, data: bytes, start: int, stop: int) -> bytes:
        if len(data) == stop - start:
            return data
        if len(data) == self.size(name):
            raise DataError(f"{self}/{name}: the server ignores byte ranges; use another server")
        raise ConnectionError(f"{len(data)} of {stop - start} bytes came")

    def _tried(self, name: str, call: Callable[[Any, str], _Result]) -> _Result:
        """The call's result, tried again where the failure may pass."""
        for attempt in range(len(_RETRY_AFTER_S) + 1):
            try:
                return call(self._file_system(), self._path(name))
            except self._errors as error:
                cause = error.__cause__ if isinstance(error.__cause__, self._errors) else error
                refusal = _refusal(cause)
                reason = _reason(cause)
            if refusal:
                # Without the library's exception: it may quote the address with its password.
                raise DataError(f"{self}/{name}: {refusal}") from None
            if attempt < len(_RETRY_AFTER_S):
                _log.warning("%s/%s: %s; trying again", self, name, reason)
                time.sleep(_RETRY_AFTER_S[attempt])
        raise DataError(
            f"{self}/{name}: cannot be read after {len(_RETRY_AFTER_S) + 1} tries ({reason}); "
            f"check the address and the network, then start again"
        )

    def _path(self, name: str) -> str:
        parts = urlsplit(self._address)
        path = f"{parts.path.rstrip('/')}/{name}"
        return urlunsplit(parts._replace(path=path)) if parts.query else f"{self._address.rstrip('/')}/{name}"

    def _file_system(self) -> Any:
        """Opened once a process: its event loop does not outlive a fork."""
        if self._opened is None or self._opened[0] != os.getpid():
            protocol = self._address.partition("://")[0]
            try:
                fs = fsspec.filesystem(protocol, skip_instance_cache=True, **_options(protocol))
            except (ImportError, ValueError) as error:
                raise DataError(
                    f"{self}: {protocol}:// is not supported here ({type(error).__name__}); install "
                    f"adit-scale[remote], or the package fsspec names for it"
                ) from None
            self._opened = os.getpid(), fs
        return self._opened[1]


def without_credentials(address: str) -> str:
    """The address without user, password, query and fragment, to be shown."""
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


def _shown(address: str) -> str:
    try:
        shown = without_credentials(address)
    except ValueError:  # such as half an IPv6 address
        shown = ""
    if not shown.partition("://")[0]:
        raise DataError("data.shards is no folder and no address; expected one like https://host/folder")
    return shown


def _options(protocol: str) -> dict[str, Any]:
    if protocol in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_READ_S)
        headers = {"Accept-Encoding": "identity"}  # a range of compressed bytes is of no use
        return {"client_kwargs": {"timeout": timeout, "headers": headers, "trust_env": True}}
    if protocol in ("s3", "s3a"):
        waits = {"connect_timeout": _CONNECT_S, "read_timeout": _READ_S, "retries": {"max_attempts": 1}}
        return {"config_kwargs": waits, "use_listings_cache": False}
    return {}


def _library_errors() -> tuple[type[BaseException], ...]:
    """What reading may raise: each library has a root of its own beside OSError."""
    errors: list[type[BaseException]] = [OSError, asyncio.TimeoutError]
    try:
        from aiohttp import ClientError

        errors.append(ClientError)
    except ImportError:
        pass
    try:
        from botocore.exceptions import BotoCoreError
        from botocore.exceptions import ClientError as S3Error

        errors += [BotoCoreError, S3Error]
    except ImportError:
        pass
    return tuple(errors)


def _refusal(error: BaseException) -> str:
    """What to say of a failure that trying again would not cure; empty where it might."""
    status = getattr(error, "status", None)
    name = type(error).__name__
    if status in (401, 403) or isinstance(error, PermissionError) or name in _CREDENTIAL_ERRORS:
        return f"access refused ({status or name}); check the credentials for the address"
    if status in (404, 410) or isinstance(error, FileNotFoundError) or name == "NoSuchBucket":
        return "no such file; check data.shards and that all files were copied there"
    if isinstance(status, int) and 400 <= status < 500 and status not in (408, 425, 429):
        return f"the server answers HTTP {status}; check data.shards"
    return ""


_CREDENTIAL_ERRORS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "NoAuthTokenError",
    "TokenRetrievalError",
)


def _reason(error: BaseException) -> str:
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return f"HTTP {status}"
    if isinstance(error, OSError) and error.errno and error.errno > 0:  # name look-ups have negative ones
        return os.strerror(error.errno)
    return type(error).__name__

"""JSON documents larger than memory: cut into the values of their outermost list or object, unparsed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import BinaryIO

from adit_scale.data.sources.source import MAX_RECORD_BYTES, UnusableFile

_CHUNK_BYTES = 1 << 20
_BLANKS = re.compile(rb"[ \t\n\r]*")
_SCALAR = re.compile(rb"[^\s,:\[\]{}\"]+")
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
# Strings and lists of plain values are passed over whole; a lone quote is a string that goes on.
_MARK = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|\[[^"\[\]{}]*\]|[\[\]{}"]', re.DOTALL)
_BOM = b"\xef\xbb\xbf"
_OPENING, _QUOTE = b"[{", ord('"')


class JsonStream:
    """A place in a JSON document that is read in order. Values larger than MAX_RECORD_BYTES come as None."""

    def __init__(self, stream: BinaryIO):
        self._stream, self._buffer, self._at, self._passed = stream, b"", 0, 0
        self._read_on()
        if self._buffer.startswith(_BOM):
            self._at = len(_BOM)

    def peek(self) -> bytes:
        """The next byte that is no blank; empty at the end."""
        while True:
            match = _BLANKS.match(self._buffer, self._at)
            assert match is not None
            self._at = match.end()
            if self._at < len(self._buffer) or not self._read_on():
                return self._buffer[self._at : self._at + 1]

    def expect(self, mark: bytes) -> None:
        """Step over ``mark``. Raises UnusableFile where something else stands."""
        if self.peek() != mark:
            raise self._unusable(f"expected {mark.decode()!r}")
        self._at += 1

    def key(self) -> str:
        """The next key of an object, and its colon. Raises UnusableFile."""
        raw = self.value() if self.peek() == b'"' else None
        try:
            key = json.loads(raw or b"")
        except (ValueError, UnicodeDecodeError) as error:
            raise self._unusable("expected a key in quotes") from error
        self.expect(b":")
        return str(key)

    def more(self, closing: bytes) -> bool:
        """Step over a comma, or over the end of the list or object. Raises UnusableFile."""
        if self.peek() == b",":
            self._at += 1
            return True
        self.expect(closing)
        return False

    def value(self) -> bytes | None:
        """The bytes of the next value, not checked within. Raises UnusableFile where the document ends."""
        first = self.peek()
        if first and first in _OPENING:
            return self._bracketed()
        pattern = _STRING if first == b'"' else _SCALAR
        while True:
            match = pattern.match(self._buffer, self._at)
            if match and (first == b'"' or match.end() < len(self._buffer)):
                break
            if len(self._buffer) - self._at > MAX_RECORD_BYTES:
                raise self._unusable(f"a text is longer than {MAX_RECORD_BYTES >> 20} MiB")
            if not self._read_on():
                if match is None:
                    raise self._unusable("the JSON document is cut off or damaged")
                break
        self._at = match.end()
        return match[0]

    def values(self) -> Iterator[bytes | None]:
        """The values of a list whose bracket is next."""
        self.expect(b"[")
        if self.peek() == b"]":
            self._at += 1
            return
        while True:
            yield self.value()
            if not self.more(b"]"):
                return

    def end(self) -> None:
        """Raises UnusableFile where anything but blanks is left."""
        if self.peek():
            raise self._unusable("the JSON document goes on behind its end")

    def _bracketed(self) -> bytes | None:
        kept, start, at, depth = True, self._at, self._at, 0
        while True:
            for match in _MARK.finditer(self._buffer, at):
                first = self._buffer[match.start()]
                whole = match.end() - match.start() > 1
                if first == _QUOTE and not whole:
                    break
                at = match.end()
                if not whole:
                    depth += 1 if first in _OPENING else -1
                if depth == 0 and first != _QUOTE:
                    self._at = at
                    return self._buffer[start:at] if kept and at - start <= MAX_RECORD_BYTES else None
            if at - start > MAX_RECORD_BYTES or not kept:
                kept, self._at = False, at
            else:
                self._at = start
            if len(self._buffer) - at > MAX_RECORD_BYTES:
                raise self._unusable(f"a text is longer than {MAX_RECORD_BYTES >> 20} MiB")
            before = self._at
            if not self._read_on():
                raise self._unusable("the JSON document is cut off or damaged")
            at, start = at - before, 0

    def _read_on(self) -> bool:
        chunk = self._stream.read(_CHUNK_BYTES)
        self._passed += self._at
        self._buffer, self._at = self._buffer[self._at :] + chunk, 0
        return bool(chunk)

    def _unusable(self, reason: str) -> UnusableFile:
        found = self._buffer[self._at : self._at + 20].decode("utf-8", "replace")
        return UnusableFile(f"{reason} at byte {self._passed + self._at}; found {found!r}")

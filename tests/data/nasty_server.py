"""A web server on this machine that keeps its word, or breaks it in the way a test asks for."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest.mock import patch


class NastyServer:
    """files: contents by path. plan: what each request meets, in order; "good" when it is used up.

    log: (path, Range header, If-Range header) of every request.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.plan: list[str | int] = []
        self.log: list[tuple[str, str, str]] = []
        self.etag = '"one"'
        self.address = ""
        self.rng = random.Random(0)
        self.stop = threading.Event()


@contextmanager
def serve() -> Iterator[NastyServer]:
    state = NastyServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"state": state}))
    server.daemon_threads = True
    state.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        with patch.dict(os.environ, {"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}):
            yield state
    finally:
        state.stop.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: NastyServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        state = self.state
        state.log.append((self.path, self.headers.get("Range", ""), self.headers.get("If-Range", "")))
        act = state.plan.pop(0) if state.plan else "good"
        if isinstance(act, int):
            self.send_response(act)
            if act in (429, 503):
                self.send_header("Retry-After", "7")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif act.startswith("to "):
            self.send_response(302)
            self.send_header("Location", act[3:])
            self.end_headers()
        elif act == "garbage":
            self.wfile.write(b"\x00\x01\x02 this is no HTTP\r\n\r\n")
        elif act == "stall":
            state.stop.wait(5)
        else:
            self._content(act)

    def _content(self, act: str) -> None:
        data = self.state.files.get(self.path)
        if data is None:
            self.send_error(404)
            return
        if "wrong" in act:
            data = data[:-1] + bytes([data[-1] ^ 1])
        start = self._start(act)
        if start >= len(data) and start:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.end_headers()
            return
        body = data[start:]
        self.send_response(206 if start else 200)
        if start:
            first = start + 1 if "shifted" in act else start
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        if "unversioned" not in act:
            self.send_header("ETag", self.state.etag)
        length = len(body) + (1000 if "long" in act else -100 if "short" in act else 0)
        if "endless" not in act:
            self.send_header("Content-Length", "9" * 5000 if "absurd" in act else str(length))
        self.end_headers()
        if "cut" in act:
            body = body[: self.state.rng.randrange(len(body))]
        try:
            self.wfile.write(body)
            while "endless" in act and not self.state.stop.is_set():
                self.wfile.write(bytes(1 << 16))
            if "slow" in act:
                self.wfile.flush()
                time.sleep(0.05)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def _start(self, act: str) -> int:
        """Where the answer begins: 0 unless a range is asked for, understood, and of this very version."""
        asked, version = self.headers.get("Range", ""), self.headers.get("If-Range", "")
        if not asked or "rangeless" in act or (version and version != self.state.etag):
            return 0
        return int(asked.removeprefix("bytes=").removesuffix("-"))

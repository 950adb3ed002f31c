"""A small HTTP server of a folder, with byte ranges and with the faults a test asks for."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class RangeServer(ThreadingHTTPServer):
    """folder: served below /set/.

    fault: how the next requests for tar files go wrong, ``n_faults`` of them: "cut" (the connection ends
    half-way), "wrong" (one byte is another), "slow" (nothing comes), or a status such as "503".
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.fault, self.n_faults = "", 0
        self.ranges = True
        self.password = ""  # "Basic …"; asked for where given
        self.requests: Counter[str] = Counter()
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/set"

    def next_fault(self, name: str) -> str:
        with self.lock:
            self.requests[name] += 1
            if not name.endswith(".tar") or self.n_faults == 0:
                return ""
            self.n_faults -= 1
            return self.fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RangeServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        name = self.path.partition("?")[0].removeprefix("/set/")
        path = self.server.folder / name
        fault = self.server.next_fault(name) if body else ""
        if self.server.password and self.headers.get("Authorization") != self.server.password:
            return self._status(401)
        if fault.isdigit():
            return self._status(int(fault))
        if not path.is_file():
            return self._status(404)
        data = path.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        self.send_response(206 if asked and self.server.ranges else 200)
        if asked and self.server.ranges:
            data = data[int(asked[1]) : int(asked[2]) + 1]
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
        if self.server.ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if fault == "cut":
            data = data[: len(data) // 2]
            self.close_connection = True
        if fault == "wrong":
            data = data[:600] + bytes([data[600] ^ 1]) + data[601:]
        if body:
            self.wfile.write(data)
        return None

    def _status(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def serving(folder: Path) -> Iterator[RangeServer]:
    server = RangeServer(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

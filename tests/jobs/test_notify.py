"""Notifications against a real HTTP server on this machine."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from adit_scale.jobs import notify as notifications
from adit_scale.jobs.node import NodeFolder, Result
from adit_scale.jobs.notify import POINT_FAILED, URL, notify, study_ended

SECRET = "T0/B0/hush-hush"


class Receiver(BaseHTTPRequestHandler):
    """Keeps what it gets in the server; answers as the path asks."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, self.headers["Content-Type"], json.loads(body)))  # type: ignore[attr-defined]
        if "hang" in self.path:
            time.sleep(1.5)
        self.send_response(500 if "broken" in self.path else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    server.daemon_threads = True
    server.got = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def address(server: ThreadingHTTPServer, path: str = "") -> str:
    return f"http://127.0.0.1:{server.server_port}/{SECRET}{path}"


def test_a_failed_point_is_told(server, monkeypatch, capsys):
    monkeypatch.setenv(URL, address(server))
    assert notify(POINT_FAILED, "demo", "diffusion dit_64", "no space left", log=Path("/runs/demo/log.txt"))
    ((path, kind, body),) = server.got
    assert (path, kind) == (f"/{SECRET}", "application/json")
    assert body == {
        "text": "demo: diffusion dit_64 failed: no space left (/runs/demo/log.txt)",
        "event": "point failed",
        "study": "demo",
        "node": "diffusion dit_64",
        "reason": "no space left",
        "log": "/runs/demo/log.txt",
    }
    assert capsys.readouterr() == ("", "")


def test_a_finished_study_is_told_with_its_counts_and_headline(server, monkeypatch, tmp_path):
    monkeypatch.setenv(URL, address(server))
    report = NodeFolder(tmp_path, "report", "id", "", "demo", {})
    table = "3 of 4 points. L = 0.2 + 3.1 N^-0.3\n\nsize loss"
    report.succeed(Result((), {"table": table, "metrics": {"points_done": 3, "points_total": 4}}), 1.0)
    assert study_ended("demo", tmp_path)
    body = server.got[0][2]
    assert body["text"] == "demo ended: 3 of 4 points done, 1 not done. L = 0.2 + 3.1 N^-0.3"
    assert body["counts"] == {"done": 3, "not done": 1}
    assert (body["headline"], body["report"]) == ("L = 0.2 + 3.1 N^-0.3", str(tmp_path / "report"))


def test_without_the_variable_nothing_is_sent(server, monkeypatch, capsys):
    monkeypatch.delenv(URL, raising=False)
    assert not notify(POINT_FAILED, "demo", "x", "y")
    assert server.got == []
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("broken", "the receiver answered 500"),
        ("hang", "timed out|TimeoutError"),
        ("closed", "Connection refused"),
        (f"file:///etc/{SECRET}", "no http or https address"),
        (f"http://127.0.0.1:1/{SECRET} x", "InvalidURL"),
        (f"http://[{SECRET}", "ValueError|InvalidURL"),
    ],
)
def test_a_receiver_that_fails_costs_one_line_without_the_address(url, problem, server, monkeypatch, capsys):
    monkeypatch.setattr(notifications, "TIMEOUT_S", 0.3)
    if url == "closed":
        url = address(server)
        server.shutdown()
        server.server_close()
    elif ":" not in url:
        url = address(server, f"/{url}")
    monkeypatch.setenv(URL, url)
    begin = time.monotonic()
    assert not notify(POINT_FAILED, "demo", "x", "y")
    assert time.monotonic() - begin < 1.2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("notification (point failed) not sent: ")
    assert any(part in err for part in problem.split("|"))
    assert SECRET not in err

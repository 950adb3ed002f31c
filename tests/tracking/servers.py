"""Real tracking servers and databases for tests and benchmarks."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

POSTGRES = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_until(predicate: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not predicate():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)


class Server:
    """``python -m adit_scale.tracking serve`` with a folder of its own; a context manager."""

    def __init__(self, folder: Path, backend: str = "", workers: int = 1) -> None:
        self.folder, self.backend, self.workers, self.port = folder, backend, workers, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.log = folder / "server.log"

    def start(self) -> Server:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "adit_scale.tracking", "serve", "--folder", str(self.folder)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port), "--workers", str(self.workers)],
                stdout=log,
                stderr=log,
                env=os.environ | {"BACKEND": self.backend},
                start_new_session=True,
            )
        try:
            wait_until(self.answers, 300, f"server ({self.log})")
        except AssertionError:
            self.stop(signal.SIGKILL)
            raise AssertionError(self.log.read_text()[-2000:]) from None
        return self

    def answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)  # its worker processes too
            self.process.wait(30)

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()


class Postgres:
    """A PostgreSQL server on localhost, not run by root; a context manager."""

    def __init__(self) -> None:
        assert POSTGRES is not None
        folder = Path(tempfile.mkdtemp(prefix="adit_postgres"))  # not pytest's: only root may enter that
        self.data, self.port = folder / "data", free_port()
        self._user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        owner = "postgres" if self._user else pwd.getpwuid(os.getuid()).pw_name
        if self._user:
            shutil.chown(folder, "postgres")
        self.uri = f"postgresql://{owner}:secret@127.0.0.1:{self.port}/postgres"
        (password := folder / "password").write_text("secret\n")
        words = ["--auth=scram-sha-256", f"--pwfile={password}", "--username", owner, "--no-sync"]
        self._run("initdb", "-D", str(self.data), *words)

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
        self._run("pg_ctl", "-D", str(self.data), "-w", "-o", options, "-l", f"{self.data}/log", "start")

    def stop(self) -> None:
        """At once, as a machine that goes down."""
        self._run("pg_ctl", "-D", str(self.data), "-m", "immediate", "-w", "stop")

    def __enter__(self) -> Postgres:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
        shutil.rmtree(self.data.parent)

    def _run(self, command: str, *words: str) -> None:
        assert POSTGRES is not None
        subprocess.run(
            [*self._user, str(POSTGRES / command), *words],
            check=True,
            stdout=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            cwd="/",
        )

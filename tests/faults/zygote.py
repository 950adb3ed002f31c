"""Ranks as real processes without seconds of imports each: one process imports everything, then forks.

``Zygote`` is the handle a test holds; ``python -m tests.faults.zygote`` is the process behind it, which reads
one JSON request a line and answers each with one line. Its children are ordinary ranks: they have their own
process ids, take signals, and are found through RANK, WORLD_SIZE and a rendezvous on a free port.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from tests.training.runs import REPO, environment

PR_SET_PDEATHSIG = 1


class Ranks:
    """The processes of one start. ``pids[rank]``."""

    def __init__(self, zygote: Zygote, pids: list[int], log: Path):
        self._zygote, self.pids, self.log = zygote, pids, log
        self.codes: dict[int, int] = {}

    def poll(self) -> dict[int, int]:
        """Exit codes, by rank, of those that ended; minus the signal's number for a killed one."""
        alive = [pid for rank, pid in enumerate(self.pids) if rank not in self.codes]
        ended = self._zygote.ask({"poll": alive})["codes"]
        self.codes |= {self.pids.index(int(pid)): code for pid, code in ended.items()}
        return self.codes

    def kill(self, rank: int, number: int = signal.SIGKILL) -> None:
        """Nothing where the rank has ended."""
        if rank not in self.poll():
            os.kill(self.pids[rank], number)

    def kill_all(self) -> None:
        for rank in range(len(self.pids)):
            self.kill(rank)
        self.wait()

    def wait(self, timeout_s: float = 120) -> list[int]:
        """Exit codes of all ranks."""
        deadline_s = time.monotonic() + timeout_s
        while len(self.poll()) < len(self.pids):
            assert time.monotonic() < deadline_s, f"still running after {timeout_s} s: {self.log.read_text()}"
            time.sleep(0.02)
        return [self.codes[rank] for rank in range(len(self.pids))]


class Zygote:
    """A context manager. ``start`` runs ``module:function(*arguments)`` once a rank."""

    def __enter__(self) -> Zygote:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.zygote"],
            env=environment(),
            cwd=REPO,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # its children die with it

    def start(self, target: str, *arguments: Any, world_size: int, log: Path) -> Ranks:
        """log: where the ranks' output goes. The exit code is what the function returns."""
        request = {"target": target, "arguments": arguments, "world_size": world_size, "log": str(log)}
        return Ranks(self, self.ask(request)["pids"], log)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def _serve() -> None:
    import adit_scale.training.trainer  # noqa: F401 (what all children need: torch, deepspeed)

    for line in sys.stdin:
        request = json.loads(line)
        answer = {"codes": _ended(request["poll"])} if "poll" in request else {"pids": _fork(request)}
        print(json.dumps(answer), flush=True)
    os._exit(0)  # its imports take seconds to clear away


def _ended(pids: list[int]) -> dict[int, int]:
    found = {pid: os.waitpid(pid, os.WNOHANG) for pid in pids}
    return {pid: os.waitstatus_to_exitcode(status) for pid, (ended, status) in found.items() if ended}


def _fork(request: dict[str, Any]) -> list[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world_size = request["world_size"]
    shared = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    pids = []
    for rank in range(world_size):
        if pid := os.fork():
            pids.append(pid)
        else:
            _child(request, shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
    return pids


def _child(request: dict[str, Any], variables: dict[str, str]) -> None:
    """Never returns."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(variables)
    code = 1
    try:
        module, _, function = request["target"].partition(":")
        code = getattr(importlib.import_module(module), function)(*request["arguments"]) or 0
    except Exception:  # noqa: BLE001 (as the interpreter does for a program of its own)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()

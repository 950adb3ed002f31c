"""`adit sample processes=K`: K processes of this machine, each a rank, and a parent that waits for them.

``python -m adit_scale.jobs.sample_processes WORD ...`` is one of them: it draws its share of the parts and
writes to stdout, a line each, how many samples were done since the line before.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO

from adit_scale.errors import AditError, ConfigError, one_line

_POLL_S = 0.1
_STOP_S = 10.0  # until a process that was asked to stop is killed
_REPORT_S = 0.2
_BATCHES_EACH = 16  # that pay for the seconds in which a process starts
_MOST_PARAMETERS = 50_000_000  # of networks that every process may hold


def usual_processes(device_type: str, batches: int, parameters: int) -> int:
    """How many processes draw where nobody says: on a CPU one a core, of one thread each, if there is enough.

    Threads of one process wait for each other after every product, and far longer where other programs run;
    the processes of a thread each never do (a row of benchmarks/sampling_cpu.py).
    """
    if device_type != "cpu" or parameters > _MOST_PARAMETERS:
        return 1
    return max(1, min(_cores(), batches // _BATCHES_EACH))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def draw_in_processes(
    words: Sequence[str], processes: int, on_samples: Callable[[float], object], say: Callable[[str], object]
) -> None:
    """Draw what is missing; returns when all processes have. None of them is left behind.

    Raises ConfigError with the line of the first that failed; the others are stopped then, and what they had
    finished stays.
    """
    children: list[_Child] = []
    try:
        children += (_Child(words, rank, processes, say) for rank in range(processes))
        while any(child.process.poll() is None for child in children):
            time.sleep(_POLL_S)
            _report(children, on_samples)
            for child in children:
                child.refuse_failure()
        for child in children:
            child.reader.join()
            child.refuse_failure()
        _report(children, on_samples)
    finally:
        for child in children:
            child.process.terminate()
        for child in children:
            child.end()


def _report(children: Sequence[_Child], on_samples: Callable[[float], object]) -> None:
    for child in children:
        if new := child.take():
            on_samples(new)


class _Child:
    def __init__(self, words: Sequence[str], rank: int, processes: int, say: Callable[[str], object]) -> None:
        self.rank, self.processes, self.say = rank, processes, say
        self._new = 0.0
        self._lock = threading.Lock()
        environment = {
            "OMP_NUM_THREADS": str(max(1, _cores() // processes)),
            **os.environ,
            "RANK": str(rank),
            "WORLD_SIZE": str(processes),
            "LOCAL_RANK": str(rank),
        }
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `end`)
        own = [word for word in words if not word.startswith("processes=")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "adit_scale.jobs.sample_processes", *own],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environment,
            text=True,
            start_new_session=True,  # Ctrl-C is for the parent, which then stops them
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            kind, _, text = line.rstrip("\n").partition(" ")
            if kind == "samples":
                with self._lock:
                    self._new += float(text)
            else:
                self.say(text)

    def take(self) -> float:
        """Samples since the last call."""
        with self._lock:
            new, self._new = self._new, 0.0
        return new

    def refuse_failure(self) -> None:
        status = self.process.poll()
        if not status:
            return
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        said = lines[-1].removeprefix("error: ") if lines and status > 0 else ""
        why = said or (f"ended by signal {-status}" if status < 0 else f"ended with status {status}")
        raise ConfigError(
            f"process {self.rank} of {self.processes}: {why}; "
            "what was drawn is kept, the same words go on with it"
        )

    def end(self) -> None:
        try:
            self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.reader.join()
        self._stderr.close()


class _Reporter:
    """Tells the parent; not after every evaluation of a fast network."""

    def __init__(self) -> None:
        self._new, self._next_s = 0.0, 0.0

    def __call__(self, samples: float) -> None:
        self._new += samples
        if time.monotonic() >= self._next_s:
            self.flush()

    def flush(self) -> None:
        print(f"samples {self._new!r}", flush=True)
        self._new, self._next_s = 0.0, time.monotonic() + _REPORT_S


def main(words: Sequence[str]) -> int:
    """One rank."""
    from adit_scale.jobs.sample_cli import prepare
    from adit_scale.jobs.sample_words import SampleWords
    from adit_scale.jobs.sampling import Ranks
    from adit_scale.jobs.worker import _die_with_parent

    _die_with_parent()
    try:
        chosen, ranks = SampleWords.parse(words), Ranks.from_environment()
        order = prepare(chosen, ranks)
        report = _Reporter()
        order.draw(order.folder(chosen.out), ranks, report, lambda line: print(f"say {line}", flush=True))
        report.flush()
    except (AditError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

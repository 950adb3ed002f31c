"""Steps prepared ahead: by a thread of this process, or by processes of their own.

A worker is ``python -m adit_scale.data.workers``, started afresh and spoken to over a socket: its settings
and the wanted steps go out as lines of JSON, a step comes back as a header in JSON and the bytes of its
arrays, received straight into one (pinned) buffer. Nothing is pickled and no shared memory is used. Signals
that stop a run are blocked in workers from their first instruction: a worker ends when its socket does, so
that the last steps before a checkpoint are not lost, and none outlives the process that started it. Each
worker reads blocks for itself.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import struct
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

import adit_scale
from adit_scale.atoms import PackedBatch, PackedLayout
from adit_scale.data.config import DataConfig
from adit_scale.data.steps import StepBatches, StepMaker, StepOptions
from adit_scale.errors import AditError, ConfigError, DataError

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_LENGTHS = struct.Struct("<QQ")  # of a reply: header, body
_ALIGNMENT = 64
_PATIENCE_S = 10.0
_LAYOUT_TENSORS = [f.name for f in fields(PackedLayout) if f.type == "Tensor"]
_BATCH_TENSORS = [f.name for f in fields(PackedBatch) if f.type == "Tensor"]


class Preparer(Protocol):
    """ahead: how many steps to ask for before they are needed."""

    ahead: int

    def request(self, step: int) -> Future[StepBatches]:
        """Begin to prepare a step, behind those asked for before."""

    def seek(self, step: int, cursor: dict[str, int]) -> None:
        """See SamplePlan.seek. Comes before the steps that are asked for later."""

    def close(self) -> None: ...


class ThreadPreparer:
    """Prepares steps one after another in a thread."""

    ahead = 1

    def __init__(self, maker: StepMaker, pin_memory: bool) -> None:
        self._maker, self._pin_memory = maker, pin_memory
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")

    def request(self, step: int) -> Future[StepBatches]:
        return self._thread.submit(self._prepare, step)

    def seek(self, step: int, cursor: dict[str, int]) -> None:
        self._thread.submit(self._maker.plan.seek, step, cursor).result()

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _prepare(self, step: int) -> StepBatches:
        result = self._maker.step(step)
        if self._pin_memory:
            result.batches[:] = [batch.pin_memory() for batch in result.batches]
        return result


class ProcessPreparer:
    """Prepares steps in processes that take turns."""

    def __init__(self, n_workers: int, data: DataConfig, options: StepOptions, pin_memory: bool) -> None:
        self.ahead = 2 * n_workers
        settings = {"data": asdict(data), "options": asdict(options)}
        self._workers = [_Worker(settings, pin_memory) for _ in range(n_workers)]

    @property
    def pids(self) -> list[int]:
        return [worker.process.pid for worker in self._workers]

    def request(self, step: int) -> Future[StepBatches]:
        return self._workers[step % len(self._workers)].request(step)

    def seek(self, step: int, cursor: dict[str, int]) -> None:
        for worker in self._workers:
            worker.send({"seek": step, "cursor": cursor})

    def close(self) -> None:
        for worker in self._workers:
            worker.hang_up()
        for worker in self._workers:
            worker.wait()


class _Worker:
    """This process's end of a worker."""

    def __init__(self, settings: dict[str, Any], pin_memory: bool) -> None:
        self._pin_memory = pin_memory
        self._socket, theirs = socket.socketpair()
        package = str(Path(adit_scale.__file__).parents[1])
        path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
        # A new process takes over the mask of the thread that starts it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "adit_scale.data.workers", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            theirs.close()
        self._waiting: queue.SimpleQueue[tuple[int, Future[StepBatches]] | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="batches", daemon=True)
        self._reader.start()
        self.send(settings)

    def request(self, step: int) -> Future[StepBatches]:
        future: Future[StepBatches] = Future()
        self._waiting.put((step, future))
        self.send({"step": step})
        return future

    def send(self, message: dict[str, Any]) -> None:
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            return  # the worker is gone: who waits for its answer is told

    def hang_up(self) -> None:
        self._waiting.put(None)
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the worker was gone already

    def wait(self) -> None:
        """Until the worker has ended; it is killed if it does not end by itself."""
        try:
            self.process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(_PATIENCE_S)
        self._socket.close()

    def _read(self) -> None:
        while (item := self._waiting.get()) is not None:
            step, future = item
            wanted = future.set_running_or_notify_cancel()
            result: StepBatches | None = None
            try:
                result = self._receive()  # also where nobody waits any more: answers come in order
            except (OSError, EOFError):
                problem: Exception = self._gone(step)
            except (AditError, ValueError, RuntimeError, MemoryError) as error:
                problem = error
            if not wanted:
                continue
            if result is not None:
                future.set_result(result)
            else:
                future.set_exception(problem)

    def _gone(self, step: int) -> DataError:
        try:
            status = self.process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            return DataError(
                f"data worker {self.process.pid} no longer answers at step {step}; start the run again"
            )
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        return DataError(
            f"data worker {self.process.pid} ended with {how} before step {step} was ready; expected it to "
            "live as long as the run: see its own message above, or leave it more memory (lower data.workers)"
        )

    def _receive(self) -> StepBatches:
        lengths = bytearray(_LENGTHS.size)
        self._fill(memoryview(lengths))
        header_bytes, body_bytes = _LENGTHS.unpack(lengths)
        text = bytearray(header_bytes)
        self._fill(memoryview(text))
        header = json.loads(text)
        if "error" in header:
            raise {"ConfigError": ConfigError}.get(header["kind"], DataError)(header["error"])
        body = torch.empty(body_bytes, dtype=torch.uint8, pin_memory=self._pin_memory)
        self._fill(body.numpy().data)
        return _decode(header, body)

    def _fill(self, buffer: memoryview) -> None:
        while len(buffer):
            n = self._socket.recv_into(buffer)
            if n == 0:
                raise EOFError
            buffer = buffer[n:]


def _encode(step: StepBatches) -> tuple[dict[str, Any], list[np.ndarray]]:
    """A header and the arrays that its list of types and shapes names, in order."""
    arrays = [step.sizes]
    for batch in step.batches:
        arrays += [getattr(batch.layout, name).numpy() for name in _LAYOUT_TENSORS]
        arrays += [getattr(batch, name).numpy() for name in _BATCH_TENSORS]
    header = {
        "n_sets": step.n_sets,
        "n_atoms": step.n_atoms,
        "n_rounds": step.n_rounds,
        "cursor": step.cursor,
        "max_atoms": [b.layout.max_atoms for b in step.batches],
        "arrays": [(a.dtype.str, a.shape) for a in arrays],
    }
    return header, arrays


def _decode(header: dict[str, Any], body: Tensor) -> StepBatches:
    """The step whose arrays lie in ``body``, as views of it."""
    tensors, start = [], 0
    for name, shape in header["arrays"]:
        dtype = np.dtype(name)
        stop = start + dtype.itemsize * int(np.prod(shape))
        tensors.append(body[start:stop].view(getattr(torch, dtype.name)).reshape(shape))
        start = _aligned(stop)
    places = iter(tensors)
    sizes = next(places).numpy()
    batches = []
    for max_atoms in header["max_atoms"]:
        layout = PackedLayout(**{name: next(places) for name in _LAYOUT_TENSORS}, max_atoms=max_atoms)
        batches.append(PackedBatch(layout=layout, **{name: next(places) for name in _BATCH_TENSORS}))
    return StepBatches(
        batches, sizes, header["n_sets"], header["n_atoms"], header["n_rounds"], header["cursor"]
    )


def _aligned(n_bytes: int) -> int:
    return n_bytes + -n_bytes % _ALIGNMENT


def _send(connection: socket.socket, header: dict[str, Any], arrays: list[np.ndarray]) -> None:
    text = json.dumps(header).encode()
    body_bytes = sum(_aligned(a.nbytes) for a in arrays)
    connection.sendall(_LENGTHS.pack(len(text), body_bytes) + text)
    for array in arrays:
        connection.sendall(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        connection.sendall(bytes(_aligned(array.nbytes) - array.nbytes))


def serve(connection: socket.socket) -> None:
    """Answer one preparer until it hangs up."""
    maker: StepMaker | None = None
    with connection.makefile("rb") as lines:
        settings = json.loads(lines.readline())
        data, options = DataConfig(**settings["data"]), StepOptions(**settings["options"])
        for line in lines:
            message = json.loads(line)
            try:
                maker = maker or StepMaker(data, options)
                if "seek" in message:
                    maker.plan.seek(message["seek"], message["cursor"])
                    continue
                header, arrays = _encode(maker.step(message["step"]))
            except AditError as error:
                if "seek" in message:
                    continue  # the step asked for next meets it again
                header, arrays = {"error": str(error), "kind": type(error).__name__}, []
            _send(connection, header, arrays)


def main() -> None:
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        try:
            serve(connection)
        except (BrokenPipeError, ConnectionResetError, json.JSONDecodeError):
            return  # hung up in the middle of a message


if __name__ == "__main__":
    main()

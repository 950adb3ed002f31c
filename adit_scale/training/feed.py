"""Micro-batches on their way to the device: moved, augmented and encoded while the one before is computed.

On CUDA everything of ``Stage.prepare`` runs on a stream of its own, one micro-batch ahead, across the end of
a step too: the first one of the next step is begun before this step's norm is waited for. On a CPU there is
nothing to run beside, and the same work is done in the same order when it is asked for. Which micro-batches
there are, and every draw in them, does not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from adit_scale.atoms import PackedBatch
from adit_scale.data.loader import BatchLoader, StepBatches
from adit_scale.training.stage import Stage, StepTotals

T = TypeVar("T")


class Side(Protocol):
    """ahead: whether work begun early gets done early."""

    ahead: bool

    def begin(self, work: Callable[[], T]) -> Callable[[], T]:
        """Begin ``work``; calling what is returned gives its result, ready for the main stream."""


class InTurn:
    """Does work when its result is asked for."""

    ahead = False

    def begin(self, work: Callable[[], T]) -> Callable[[], T]:
        return work


class Beside:
    """Does work on a CUDA stream beside the main one. What it reads must not change meanwhile."""

    ahead = True

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._stream.wait_stream(torch.cuda.current_stream(device))  # the encoder's weights are there

    def begin(self, work: Callable[[], T]) -> Callable[[], T]:
        with torch.cuda.stream(self._stream):
            result = work()
            done = torch.cuda.Event()
            done.record(self._stream)

        def ready() -> T:
            main = torch.cuda.current_stream(self._stream.device)
            main.wait_event(done)
            for tensor in tensors_of(result):
                # Freed by the main stream's program, its memory goes back to the side stream's pool: not
                # before the main stream has read it.
                tensor.record_stream(main)
            return result

        return ready


class Feed:
    """The steps of a run and their micro-batches on the device, as the stage prepares them.

    n_steps: of the run; nothing is begun beyond them. side: for tests.
    """

    def __init__(
        self,
        stage: Stage,
        loader: BatchLoader,
        device: torch.device,
        n_steps: int,
        side: Side | None = None,
    ) -> None:
        self._stage, self._loader, self._device, self._n_steps = stage, loader, device, n_steps
        self._side = side or (Beside(device) if device.type == "cuda" else InTurn())
        self._next: tuple[int, StepBatches, Callable[[], Any]] | None = None

    def step(self, step: int) -> StepBatches:
        """This rank's micro-batches of a step, on the host."""
        return self._next[1] if self._next and self._next[0] == step else self._loader.step(step)

    def prepared(self, batches: StepBatches, totals: StepTotals) -> Iterator[tuple[Any, bool]]:
        """(what ``Stage.loss`` takes, whether it is the last) for each micro-batch of ``step``'s answer."""
        first, self._next = self._next, None
        coming = first[2] if first and first[1] is batches else self._begin(batches.batches[0], totals)
        for following in [*batches.batches[1:], None]:
            ready = coming()
            if following is not None:
                coming = self._begin(following, totals)
            yield ready, following is None
        if self._side.ahead:
            self._look_ahead(totals.step + 1)

    def _look_ahead(self, step: int) -> None:
        """Begin a step's first micro-batch, unless it would have to be waited for."""
        if step < self._n_steps and self._loader.ready(step):
            batches = self._loader.step(step)
            totals = StepTotals(step, batches.n_sets, batches.n_atoms)
            self._next = step, batches, self._begin(batches.batches[0], totals)

    def _begin(self, batch: PackedBatch, totals: StepTotals) -> Callable[[], Any]:
        return self._side.begin(lambda: self._stage.prepare(batch.to(self._device), totals))


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Every tensor in a dataclass, and in the dataclasses in it."""
    if isinstance(value, Tensor):
        yield value
    elif is_dataclass(value):
        for f in fields(value):
            yield from tensors_of(getattr(value, f.name))

"""Evaluations of the denoiser that are recorded once and done again by the device alone (CUDA graphs).

An evaluation is some hundreds of small kernels, and starting them one by one can take longer than running
them. A graph starts them all at once, but it holds fixed memory and fixed shapes: inputs are copied into
buffers that stay, and all batches of one capacity share one recording. The solver's own moves, three kernels
on ``(T, 8)``, are not recorded: they are the same code, and so the same bits, on every device.

https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from adit_scale.atoms import PackedLayout
from adit_scale.diffusion.sampling import Conditions, Evaluate, guided_prediction
from adit_scale.models.dit import Denoiser

Value = TypeVar("Value", PackedLayout, Conditions)
WARM_UPS = 2  # libraries choose kernels and take workspace when first called, which no recording may hold


class Recorder(Protocol):
    """Turns work on fixed tensors into something that does it again without the Python code."""

    def record(self, run: Callable[[], None]) -> Callable[[], None]:
        """``run`` reads and writes tensors that stay where they are, and waits for nothing."""
        ...

    def close(self) -> None:
        """Frees the recordings; none of them is run any more."""
        ...


class CudaRecorder:
    """Recordings as CUDA graphs, one memory pool for all: they run one at a time and leave nothing in it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()
        self.graphs: list[torch.cuda.CUDAGraph] = []

    def record(self, run: Callable[[], None]) -> Callable[[], None]:
        with torch.cuda.device(self.device):
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                for _ in range(WARM_UPS):
                    run()
            torch.cuda.current_stream().wait_stream(self.stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                run()
        self.graphs.append(graph)
        return graph.replay

    def close(self) -> None:
        torch.cuda.synchronize(self.device)
        for graph in self.graphs:
            graph.reset()
        self.graphs.clear()


class RecordedEvaluations:
    """Evaluations of one denoiser at one guidance scale, recorded once for each shape of batch.

    max_atoms: of the largest set of all batches: the bound that the recorded attention is made for.
    """

    def __init__(self, denoiser: Denoiser, guidance_scale: float, max_atoms: int, recorder: Recorder) -> None:
        self.denoiser, self.guidance_scale = denoiser, guidance_scale
        self.max_atoms, self.recorder = max_atoms, recorder
        self._shapes: dict[tuple[int, int, int, bool], _Buffers] = {}

    def of(self, layout: PackedLayout, conditions: Conditions) -> Evaluate:
        """Evaluations on this layout under these conditions, until the next call. Both on the device."""
        assert layout.max_atoms <= self.max_atoms, (layout.max_atoms, self.max_atoms)
        rows = len(conditions.domain_r), conditions.row_of_atom_t is not None
        shape = layout.n_atoms, layout.n_sets, *rows
        if shape not in self._shapes:
            self._shapes[shape] = _Buffers(self, layout, conditions)
        buffers = self._shapes[shape]
        buffers.fill(layout, conditions)
        return buffers.evaluate

    def close(self) -> None:
        """Frees the recordings."""
        self._shapes.clear()
        self.recorder.close()


class _Buffers:
    """What the recordings of one shape read and write."""

    def __init__(self, owner: RecordedEvaluations, layout: PackedLayout, conditions: Conditions) -> None:
        self.owner = owner
        # Sizes are data here, nothing that code may depend on: attention by groups would find none.
        no_groups_s2 = torch.zeros_like(layout.groups_s2)
        self.layout = replace(_copied(layout), groups_s2=no_groups_s2, max_atoms=owner.max_atoms)
        self.conditions = _copied(conditions)
        latent = owner.denoiser.config.latent
        device = layout.offsets.device
        self.x_td, self.newest_td, self.x1_hat_td = (
            torch.zeros(layout.n_atoms, latent, device=device) for _ in range(3)
        )
        self.t_1 = torch.zeros(1, device=device)
        self.again: dict[bool, Callable[[], None]] = {}

    def fill(self, layout: PackedLayout, conditions: Conditions) -> None:
        for held, given in ((self.layout, layout), (self.conditions, conditions)):
            for name, tensor in _tensors(held).items():
                tensor.copy_(getattr(given, name))

    def evaluate(self, x_td: Tensor, newest_td: Tensor | None, t: float, guided: bool) -> Tensor:
        self.x_td.copy_(x_td)
        if newest_td is None:
            self.newest_td.zero_()  # as the denoiser takes None
        else:
            self.newest_td.copy_(newest_td)
        self.t_1.fill_(t)
        if guided not in self.again:
            self.again[guided] = self.owner.recorder.record(lambda: self.run(guided))
        self.again[guided]()
        return self.x1_hat_td.clone()  # a solver keeps it while the next one is made

    def run(self, guided: bool) -> None:
        scale = self.owner.guidance_scale if guided else 1.0
        self.x1_hat_td.copy_(
            guided_prediction(
                self.owner.denoiser, self.layout, self.conditions, scale, self.x_td, self.newest_td, self.t_1
            )
        )


def _tensors(value: PackedLayout | Conditions) -> dict[str, Any]:
    """Those on the device, by field name."""
    parts = {field.name: getattr(value, field.name) for field in fields(value) if field.name != "groups_s2"}
    return {name: part for name, part in parts.items() if isinstance(part, Tensor)}


def _copied(value: Value) -> Value:
    return replace(value, **{name: tensor.clone() for name, tensor in _tensors(value).items()})

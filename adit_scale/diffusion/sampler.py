"""Batch after batch of samples from one denoiser.

Nothing on the host waits for a CUDA device but the hand-over of finished batches, which is one batch late:
while the device works on a batch, the host decodes the one before and draws the noise of the next. A thread
for that would gain nothing: replaying graphs leaves the host free.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor

from adit_scale.atoms import PackedLayout
from adit_scale.diffusion.batches import BatchPlan
from adit_scale.diffusion.conditions import check_spacegroups, sample_numbers
from adit_scale.diffusion.config import SamplingConfig
from adit_scale.diffusion.graphs import CudaRecorder, RecordedEvaluations, Recorder
from adit_scale.diffusion.inference import compiled, for_device, in_precision, why_no_graphs
from adit_scale.diffusion.sampling import Conditions, on_device, sampling_noise, solve_latents
from adit_scale.diffusion.time_grids import time_grid
from adit_scale.models.autoencoder import Autoencoder, Decoded
from adit_scale.models.dit import Denoiser


@dataclass(frozen=True)
class GeneratedBatch:
    """Decoded samples, on the CPU. index_s: the number of each sample within its domain, ``(S,)`` int64."""

    decoded: Decoded
    layout: PackedLayout
    domain_s: Tensor
    index_s: Tensor


class Sampler:
    """Draws batches of ``plans``, from ``plan_batches``; a context manager that frees what it recorded.

    recorder: of evaluations; None takes CUDA graphs where ``why_no_graphs`` is empty. late: batches that may
    be under way when one is handed over; None is 1 on CUDA, else 0. Raises ConfigError where CUDA graphs are
    asked for and cannot run, and where spacegroups are asked of a denoiser without such labels.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        config: SamplingConfig,
        plans: Sequence[BatchPlan],
        recorder: Recorder | None = None,
        late: int | None = None,
    ) -> None:
        check_spacegroups(any(plan.spacegroups is not None for plan in plans), denoiser.config)
        self.device = next(denoiser.parameters()).device
        self.config = for_device(config, self.device)
        self.why_no_graphs = "" if recorder else why_no_graphs(self.config, denoiser, self.device)
        self.denoiser = in_precision(denoiser, self.config)
        self.late = late if late is not None else int(self.device.type == "cuda")
        if config.compile:
            self.denoiser = compiled(self.denoiser)
        self.recorded: RecordedEvaluations | None = None
        if recorder is None and not self.why_no_graphs:
            recorder = CudaRecorder(self.device)
        if recorder is not None:
            largest = max((plan.max_atoms for plan in plans), default=1)
            self.recorded = RecordedEvaluations(self.denoiser, config.guidance_scale, largest, recorder)

    def __enter__(self) -> Sampler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.recorded is not None:
            self.recorded.close()

    def describe(self) -> str:
        """How evaluations run, in words."""
        return f"without CUDA graphs: {self.why_no_graphs}" if self.why_no_graphs else "with CUDA graphs"

    def batches(
        self,
        autoencoder: Autoencoder,
        plans: Iterable[BatchPlan],
        on_evaluation: Callable[[BatchPlan], object] | None = None,
    ) -> Iterator[tuple[BatchPlan, GeneratedBatch]]:
        """Each plan's batch, in order. Networks that give NaN give NaN samples.

        plans: of those the sampler was made for; taken as they are needed, on CUDA one ahead.
        on_evaluation: called after each evaluation of the denoiser, on CUDA once the device has been told.
        """
        under_way: deque[_UnderWay] = deque()
        for plan in plans:
            under_way.append(self._begin(autoencoder, plan, on_evaluation))
            if len(under_way) > self.late:
                yield under_way.popleft().end()
        while under_way:
            yield under_way.popleft().end()

    @torch.no_grad()
    def latents(
        self, plan: BatchPlan, on_evaluation: Callable[[BatchPlan], object] | None = None
    ) -> tuple[Tensor, PackedLayout]:
        """Latents ``(T, latent)`` of one batch, float32, and their layout with its tail, on the device."""
        config, layout = self.config, plan.padded_layout()
        # Drawn on the CPU: the same start on every device, and sums in one order.
        number_s = _filled(sample_numbers(plan.domain, plan.places), layout)
        x_0_td = sampling_noise(config.seed, number_s, layout, self.denoiser.config.latent)
        conditions = _conditions(plan, layout).to(self.device)
        x_0_td, layout = on_device(x_0_td, self.device), on_device(layout, self.device)
        latents_td = solve_latents(
            self.denoiser,
            layout,
            conditions,
            x_0_td,
            time_grid(config.steps, config.time_grid, config.time_grid_parameter),
            solver=config.solver,
            guidance_scale=config.guidance_scale,
            guidance_interval=(config.guidance_t_low, config.guidance_t_high),
            on_evaluation=None if on_evaluation is None else lambda: on_evaluation(plan),
            evaluate=self.recorded.of(layout, conditions) if self.recorded else None,
        )
        return latents_td, layout

    @torch.no_grad()
    def _begin(
        self, autoencoder: Autoencoder, plan: BatchPlan, on_evaluation: Callable[[BatchPlan], object] | None
    ) -> _UnderWay:
        latents_td, layout = self.latents(plan, on_evaluation)
        return _UnderWay.of(plan, autoencoder.decode(latents_td, layout))


@dataclass(frozen=True)
class _UnderWay:
    """A batch whose results may still be on their way to the host."""

    plan: BatchPlan
    decoded: Decoded
    there: torch.cuda.Event | None

    @staticmethod
    def of(plan: BatchPlan, decoded: Decoded) -> _UnderWay:
        """What belongs to samples, without the tail."""
        n_sets, n_atoms = len(plan.places), plan.n_atoms
        on_host = Decoded(
            atom_type_logits_t100=_to_host(decoded.atom_type_logits_t100[:n_atoms]),
            positions_t3=_to_host(decoded.positions_t3[:n_atoms]),
            fractional_t3=_to_host(decoded.fractional_t3[:n_atoms]),
            lengths_s3=_to_host(decoded.lengths_s3[:n_sets]),
            angles_s3=_to_host(decoded.angles_s3[:n_sets]),
        )
        if decoded.positions_t3.device.type != "cuda":
            return _UnderWay(plan, on_host, None)
        there = torch.cuda.Event()
        there.record(torch.cuda.current_stream(decoded.positions_t3.device))
        return _UnderWay(plan, on_host, there)

    def end(self) -> tuple[BatchPlan, GeneratedBatch]:
        if self.there is not None:
            self.there.synchronize()
        plan = self.plan
        domain_s = torch.full((len(plan.places),), plan.domain, dtype=torch.int64)
        return plan, GeneratedBatch(self.decoded, plan.layout(), domain_s, torch.from_numpy(plan.places))


def _to_host(x: Tensor) -> Tensor:
    """A tensor's copy in pinned memory, not there before the device has come to it; on the CPU itself."""
    if x.device.type != "cuda":
        return x.cpu()
    return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)


def _conditions(plan: BatchPlan, layout: PackedLayout) -> Conditions:
    if plan.spacegroups is None:
        return Conditions.of_domain(plan.domain)
    spacegroup_s = _filled(torch.from_numpy(plan.spacegroups), layout)
    return Conditions.of_spacegroups(plan.domain, spacegroup_s, layout)


def _filled(values: Tensor, layout: PackedLayout) -> Tensor:
    """``values`` of the real sets, zeros for the tail."""
    return torch.cat([values, values.new_zeros(layout.n_sets - len(values))])

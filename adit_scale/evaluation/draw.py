"""Samples of a trained pair of networks: latents from noise, decoded, as systems of atoms.

In memory (``draw_samples``) or into a folder, a batch at a time (``draw_into``): the same batches, and so the
same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from adit_scale.atoms import AtomSet
from adit_scale.diffusion.config import SamplingConfig
from adit_scale.diffusion.generate import BatchPlan, Sampler, for_device, plan_batches
from adit_scale.diffusion.solvers import n_evaluations_of
from adit_scale.evaluation.decode import Invalid
from adit_scale.evaluation.samples import SampleColumns, SampleFolder, Samples
from adit_scale.models.autoencoder import Autoencoder
from adit_scale.models.dit import Denoiser

__all__ = ["Samples", "draw_into", "draw_samples"]


def draw_samples(
    denoiser: Denoiser,
    autoencoder: Autoencoder,
    sizes: Mapping[int, np.ndarray],
    sampling: SamplingConfig,
    on_evaluation: Callable[[], object] | None = None,
    spacegroups: Mapping[int, np.ndarray | None] | None = None,
) -> Samples:
    """Samples of each domain, in the order of their numbers; ids such as ``crystal-17``.

    sizes: by domain, ``(n,)`` atom counts from ``sizes_asked``. spacegroups: from ``spacegroups_asked``.
    """
    sampling = for_device(sampling, next(denoiser.parameters()).device)
    plans = plan_batches(sizes, sampling, spacegroups)
    tell = None if on_evaluation is None else lambda _: on_evaluation()
    found: dict[int, dict[int, AtomSet | Invalid]] = {domain: {} for domain in sizes}
    with Sampler(denoiser, sampling, plans) as sampler:
        for plan, batch in sampler.batches(autoencoder, plans, tell):
            columns = SampleColumns.from_batch(batch, plan.spacegroups)
            found[plan.domain].update(zip(columns.index_s.tolist(), columns.to_sets(), strict=True))
    return {domain: [of[i] for i in range(len(sizes[domain]))] for domain, of in found.items()}


def draw_into(
    folder: SampleFolder,
    denoiser: Denoiser,
    autoencoder: Autoencoder,
    plans: Sequence[BatchPlan],
    sampling: SamplingConfig,
    rank: int = 0,
    world_size: int = 1,
    on_samples: Callable[[float], object] | None = None,
    say: Callable[[str], object] = print,
) -> None:
    """Draw this rank's share of the parts that are missing: of all batches every ``world_size``-th.

    plans: all batches, from ``plan_batches``; a part of the folder each.
    on_samples: told after each evaluation of the denoiser how many samples that was worth.
    say: told of each part that is there and cannot be used, it is drawn anew; on CUDA, how evaluations run.
    Raises OSError where a part cannot be written.
    """

    def missing() -> Iterator[BatchPlan]:
        for plan in plans[rank::world_size]:
            if folder.part(plan.number).is_file():  # from an earlier call, or of another that draws here too
                if (fault := folder.fault(plan.number)) is None:
                    continue
                say(f"{folder.part(plan.number)}: {fault}; drawn anew")
            yield plan

    def tell(plan: BatchPlan) -> None:
        if on_samples is not None:
            on_samples(len(plan.places) / evaluations)

    evaluations = n_evaluations_of(sampling.solver, sampling.steps)
    with Sampler(denoiser, sampling, plans) as sampler:
        if sampler.device.type == "cuda":
            say(f"rank {rank}: sampling {sampler.describe()}")
        for plan, batch in sampler.batches(autoencoder, missing(), tell):
            folder.write(plan.number, SampleColumns.from_batch(batch, plan.spacegroups))

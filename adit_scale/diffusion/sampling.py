"""Sampling: the learned flow with self-conditioning and classifier-free guidance, solved on packed sets.

docs/method.md; guidance: Ho and Salimans, arXiv 2207.12598; its interval: Kynkäänniemi et al., arXiv
2404.07724; self-conditioning: Chen et al., arXiv 2208.04202.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from torch import Tensor

from adit_scale.atoms import PackedLayout
from adit_scale.diffusion.flow_matching import centred_noise
from adit_scale.diffusion.solvers import integrate
from adit_scale.diffusion.time_grids import time_grid
from adit_scale.models.dit import N_SPACEGROUPS, Denoiser
from adit_scale.randomness import set_keys

Movable = TypeVar("Movable", Tensor, PackedLayout, "Tensor | None")
# A prediction of (x_t, the newest prediction or None, t, whether guidance acts).
Evaluate = Callable[[Tensor, "Tensor | None", float, bool], Tensor]


def sampling_noise(seed: int, sample_index_s: Tensor, layout: PackedLayout, latent: int) -> Tensor:
    """The start x_0 of each sample, ``(T, latent)``, as in training; sample i's is the same in any batch.

    sample_index_s: ``(S,)`` int64, the number of the sample in the run; anything for the tail.
    """
    zero_s = torch.zeros_like(sample_index_s)
    return centred_noise(set_keys(seed, "sampling_noise", zero_s, zero_s, sample_index_s), layout, latent)


def on_device(value: Movable, device: torch.device) -> Movable:
    """A copy on the device; from page-locked memory, where that is CUDA, so that nobody waits for it."""
    if value is None:
        return value
    return (value.pin_memory() if device.type == "cuda" else value).to(device, non_blocking=True)


@dataclass(frozen=True)
class Conditions:
    """What is asked of a batch's atoms: R rows of labels, and which row is each atom's.

    domain_r, spacegroup_r: ``(R,)`` int64; 0 is the null label. row_of_atom_t: as ``Denoiser.forward`` takes
    it; None where there is one row for all sets, or one row a set.
    """

    domain_r: Tensor
    spacegroup_r: Tensor
    row_of_atom_t: Tensor | None = None

    def to(self, device: torch.device) -> Conditions:
        return Conditions(*(on_device(getattr(self, field.name), device) for field in fields(self)))

    @staticmethod
    def of_domain(domain: int, device: torch.device | str = "cpu") -> Conditions:
        """One row for all atoms."""
        domain_r = torch.full((1,), domain, dtype=torch.int64, device=device)
        return Conditions(domain_r, torch.zeros_like(domain_r))

    @staticmethod
    def of_spacegroups(domain: int, spacegroup_s: Tensor, layout: PackedLayout) -> Conditions:
        """A row for each spacegroup there is: as many rows whatever the batch holds, so that none changes."""
        spacegroup_r = torch.arange(N_SPACEGROUPS, device=spacegroup_s.device)
        row_of_atom_t = spacegroup_s.index_select(0, layout.set_of_atom_t)
        return Conditions(torch.full_like(spacegroup_r, domain), spacegroup_r, row_of_atom_t)


@torch.no_grad()
def sample_latents(
    denoiser: Denoiser,
    layout: PackedLayout,
    domain_s: Tensor,
    spacegroup_s: Tensor,
    x_0_td: Tensor,
    steps: int = 100,
    guidance_scale: float = 2.0,
    on_step: Callable[[], object] | None = None,
) -> Tensor:
    """``solve_latents`` by Euler over a uniform grid, with labels a set, of any mixture of domains.

    domain_s: 1 crystal, 2 molecule. spacegroup_s: 0 = none. on_step: called after each evaluation.
    """
    return solve_latents(
        denoiser, layout, Conditions(domain_s, spacegroup_s), x_0_td, time_grid(steps),
        guidance_scale=guidance_scale, on_evaluation=on_step,
    )  # fmt: skip


@torch.no_grad()
def solve_latents(
    denoiser: Denoiser,
    layout: PackedLayout,
    conditions: Conditions,
    x_0_td: Tensor,
    times: Sequence[float],
    solver: str = "euler",
    guidance_scale: float = 2.0,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    on_evaluation: Callable[[], object] | None = None,
    evaluate: Evaluate | None = None,
) -> Tensor:
    """Latents ``(T, latent)`` of one sample a set, float32, whatever the precision of the denoiser's trunk.

    x_0_td: from ``sampling_noise``. times: from ``time_grid``. solver: one of ``SOLVERS``.
    guidance_scale: s of ``uncond + s (cond - uncond)``; 1 evaluates the condition alone, at half the cost.
    guidance_interval: times, both ends included, within which guidance acts; outside, s is 1.
    on_evaluation: called after each of the ``n_evaluations_of`` evaluations, guided or not.
    evaluate: another way to make ``guided_prediction`` with the same networks, layout and conditions.
    """
    low, high = guidance_interval

    def as_written(x_td: Tensor, newest_td: Tensor | None, t: float, guided: bool) -> Tensor:
        t_1 = torch.full((1,), t, dtype=x_td.dtype, device=x_td.device)
        scale = guidance_scale if guided else 1.0
        return guided_prediction(denoiser, layout, conditions, scale, x_td, newest_td, t_1)

    made = evaluate or as_written

    def predict(x_td: Tensor, newest_td: Tensor | None, t: float) -> Tensor:
        x1_hat_td = made(x_td, newest_td, t, guidance_scale != 1.0 and low <= t <= high)
        if on_evaluation is not None:
            on_evaluation()
        return x1_hat_td

    return integrate(predict, x_0_td, times, solver)


def guided_prediction(
    denoiser: Denoiser,
    layout: PackedLayout,
    conditions: Conditions,
    guidance_scale: float,
    x_td: Tensor,
    newest_td: Tensor | None,
    t_1: Tensor,
) -> Tensor:
    """``uncond + s (cond - uncond)`` of predicted latents ``(T, latent)``; the condition alone for s = 1.

    newest_td: an earlier prediction, or None for zeros. t_1: the time, one element.
    The halves run one after the other, not as one batch of twice the atoms: the null label is the same for
    all atoms, and one row of modulation for all costs far less than one row an atom.
    """

    def under(asked: Conditions) -> Tensor:
        t_r, rows = t_1.expand(asked.domain_r.shape), asked.row_of_atom_t
        return denoiser(x_td, newest_td, t_r, asked.domain_r, asked.spacegroup_r, layout, rows)

    x1_hat_td = under(conditions)
    if guidance_scale == 1.0:
        return x1_hat_td
    return torch.lerp(under(Conditions.of_domain(0, x_td.device)), x1_hat_td, guidance_scale)

"""Sampling: Euler steps along the learned flow, with self-conditioning and classifier-free guidance.

docs/method.md; guidance: Ho and Salimans, arXiv 2207.12598; self-conditioning: Chen et al., arXiv 2208.04202.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from adit_scale.atoms import PackedLayout
from adit_scale.diffusion.flow_matching import T_MIN, centred_noise
from adit_scale.models.dit import Denoiser
from adit_scale.randomness import set_keys


def sampling_noise(seed: int, sample_index_s: Tensor, layout: PackedLayout, latent: int) -> Tensor:
    """The start x_0 of each sample, ``(T, latent)``, as in training; sample i's is the same in any batch.

    sample_index_s: ``(S,)`` int64, the number of the sample in the run; anything for the tail.
    """
    zero_s = torch.zeros_like(sample_index_s)
    return centred_noise(set_keys(seed, "sampling_noise", zero_s, zero_s, sample_index_s), layout, latent)


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
    """Latents ``(T, latent)`` of one sample a set, float32.

    Euler on ``(x1_hat - x_t) / (1 - t)`` over ``steps`` points from 0.01 to 1, then one more evaluation at
    t = 1 whose output is the sample. Each evaluation is self-conditioned on the (guided) one before.

    domain_s: 1 crystal, 2 molecule. spacegroup_s: 0 = none. x_0_td: from ``sampling_noise``.
    guidance_scale: s of ``uncond + s (cond - uncond)``; 1 evaluates the condition alone, at half the cost.
    on_step: called after each of the ``steps`` evaluations.
    """
    predict = _Guided(denoiser, layout, domain_s, spacegroup_s, guidance_scale)
    times = torch.linspace(T_MIN, 1.0, steps, dtype=torch.float64).tolist()
    x_td, x1_hat_td = x_0_td, None
    for t, t_next in zip(times, [*times[1:], None], strict=True):
        x1_hat_td = predict(x_td, x1_hat_td, t)
        if t_next is not None:
            x_td = x_td + (x1_hat_td - x_td) * ((t_next - t) / (1 - t))
        if on_step is not None:
            on_step()
    assert x1_hat_td is not None, "steps must be at least 1"
    return x1_hat_td


class _Guided:
    """The denoiser with guidance: conditional and unconditional halves stand end to end in one batch."""

    def __init__(
        self, denoiser: Denoiser, layout: PackedLayout, domain_s: Tensor, spacegroup_s: Tensor, scale: float
    ) -> None:
        self.denoiser = denoiser
        self.scale = scale
        self.guided = scale != 1.0
        self.layout = _doubled(layout) if self.guided else layout
        self.domain_s = torch.cat([domain_s, torch.zeros_like(domain_s)]) if self.guided else domain_s
        self.spacegroup_s = (
            torch.cat([spacegroup_s, torch.zeros_like(spacegroup_s)]) if self.guided else spacegroup_s
        )

    def __call__(self, x_td: Tensor, self_conditioning_td: Tensor | None, t: float) -> Tensor:
        t_s = torch.full(self.domain_s.shape, t, dtype=x_td.dtype, device=x_td.device)
        if not self.guided:
            return self.denoiser(
                x_td, self_conditioning_td, t_s, self.domain_s, self.spacegroup_s, self.layout
            )
        twice = None if self_conditioning_td is None else self_conditioning_td.repeat(2, 1)
        both_td = self.denoiser(x_td.repeat(2, 1), twice, t_s, self.domain_s, self.spacegroup_s, self.layout)
        conditional_td, unconditional_td = both_td.chunk(2)
        return unconditional_td + self.scale * (conditional_td - unconditional_td)


def _doubled(layout: PackedLayout) -> PackedLayout:
    """The same sets twice, end to end."""
    return replace(
        layout,
        offsets=torch.cat([layout.offsets, layout.offsets[1:] + layout.n_atoms]),
        set_of_atom_t=torch.cat([layout.set_of_atom_t, layout.set_of_atom_t + layout.n_sets]),
        index_in_set_t=layout.index_in_set_t.repeat(2),
        real_s=layout.real_s.repeat(2),
        real_t=layout.real_t.repeat(2),
        groups=layout.groups * 2,
    )

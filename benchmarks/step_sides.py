"""The sides of the training-step benchmark: the same sets packed and padded, and who trains on them and how.

Shapes: ``_s`` sets, ``_n`` places of a padded batch, ``_t`` atoms of the packed one, ``_d`` features.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from dense_denoiser import dense_twin, draw_sets, padded
from torch import Tensor, nn

from adit_scale.atoms import PackedLayout
from adit_scale.diffusion.flow_matching import T_LOSS_MAX, flow_matching_loss
from adit_scale.models.attention import set_attention
from adit_scale.models.dit import Denoiser
from adit_scale.models.kernels import set_kernels
from adit_scale.models.products import use_onednn
from adit_scale.models.transformer import prepare_blocks

GRADIENT_CLIP = 10.0  # the recipe's


@dataclass(frozen=True)
class Variant:
    """A way to run the step. capacity: batches of one fixed shape, as compiled blocks need them."""

    name: str
    packed: bool = True
    dtype: torch.dtype = torch.float32
    attention: str = "grouped"
    kernels: str = "torch"
    compiled: bool = False
    capacity: bool = False
    tf32: bool = False


@dataclass
class PaddedSets:
    """Some of a batch's sets, padded to the largest of them. atoms: their rows in the packed batch."""

    atoms: Tensor
    padding_sn: Tensor
    sizes_s: Tensor
    domain_s: Tensor
    t_s: Tensor
    x_t_snd: Tensor
    x_1_snd: Tensor


@dataclass
class Batch:
    """Random sets, sorted by size for the packed side as training's are."""

    sizes: np.ndarray
    layout: PackedLayout
    fixed: PackedLayout
    domain_s: Tensor
    t_s: Tensor
    x_t_td: Tensor
    x_1_td: Tensor
    padded_sets: list[PaddedSets] = field(default_factory=list)

    @property
    def n_atoms(self) -> int:
        return int(self.sizes.sum())


def draw_batches(
    rng: np.random.Generator, mix: str, n_batches: int, atoms: int, latent: int, device: torch.device
) -> list[Batch]:
    """Batches of as many random sets as fit ``atoms``, each with random latents, times and targets."""
    drawn = []
    for _ in range(n_batches):
        sizes, domains = draw_sets(rng, mix, atoms)
        fit = max(1, int(np.searchsorted(np.cumsum(sizes), atoms, side="right")))
        drawn.append((sizes[:fit], domains[:fit]))
    n_sets = max(len(sizes) for sizes, _ in drawn) + 1  # one more for the atoms that are left over
    capacity = max(atoms, *(int(sizes.sum()) for sizes, _ in drawn))
    # Of all batches one bound, their tails included: compiled blocks are made anew for another.
    largest = max(max(int(sizes.max()), capacity - int(sizes.sum())) for sizes, _ in drawn)
    return [_batch(rng, *sets, (capacity, n_sets, largest), latent, device) for sets in drawn]


def _batch(
    rng: np.random.Generator,
    sizes: np.ndarray,
    domains: np.ndarray,
    capacity: tuple[int, int, int],
    latent: int,
    device: torch.device,
) -> Batch:
    atoms, n_sets, largest = capacity
    order = np.argsort(sizes, kind="stable")
    sizes = sizes[order]
    x_t_td, x_1_td = torch.from_numpy(rng.standard_normal((2, int(sizes.sum()), latent))).float()
    return Batch(
        sizes,
        PackedLayout.from_sizes(sizes).to(device),
        PackedLayout.from_sizes(sizes, atoms, n_sets, max_atoms=largest).to(device),
        torch.from_numpy(domains[order]).to(device),
        torch.from_numpy(rng.uniform(0.01, 0.99, len(sizes))).float().to(device),
        x_t_td.to(device),
        x_1_td.to(device),
    )


def cut_padded(batch: Batch, dense_sets: int, rng: np.random.Generator) -> list[PaddedSets]:
    """The batch's sets in random order, cut into padded batches of at most ``dense_sets``."""
    device = batch.t_s.device
    n_parts = -(-len(batch.sizes) // dense_sets)
    first_s = np.concatenate([[0], np.cumsum(batch.sizes)])
    parts = []
    for chosen in np.array_split(rng.permutation(len(batch.sizes)), n_parts):
        sizes_s = torch.from_numpy(batch.sizes[chosen]).to(device)
        rows = np.concatenate([np.arange(first_s[i], first_s[i + 1]) for i in chosen])
        atoms, places = torch.from_numpy(rows).to(device), torch.from_numpy(chosen).to(device)
        padding_sn = torch.arange(int(sizes_s.max()), device=device) >= sizes_s[:, None]
        x_t_snd, x_1_snd = (padded(x_td[atoms], padding_sn) for x_td in (batch.x_t_td, batch.x_1_td))
        parts.append(
            PaddedSets(
                atoms, padding_sn, sizes_s, batch.domain_s[places], batch.t_s[places], x_t_snd, x_1_snd
            )
        )
    return parts


def dense_loss(model: nn.Module, sets: PaddedSets) -> Tensor:
    """Sum over sets of ``flow_matching_loss``, on the padded batch."""
    x_1_hat_snd = model(sets.x_t_snd, sets.t_s, sets.domain_s, sets.padding_sn)
    error_sn = (sets.x_1_snd - x_1_hat_snd).square().mean(-1).masked_fill(sets.padding_sn, 0.0)
    weight_s = (1 - sets.t_s.clamp(max=T_LOSS_MAX)).square()
    return (error_sn.sum(1) / sets.sizes_s / weight_s).sum()


def packed_inputs(batch: Batch, fixed: bool) -> tuple[tuple[Any, ...], Tensor]:
    """(what ``Denoiser.forward`` takes, x_1) of the exact or the fixed layout, its tail included."""
    layout = batch.fixed if fixed else batch.layout
    domain_s, t_s = _filled(batch.domain_s, layout.n_sets), _filled(batch.t_s, layout.n_sets)
    x_t_td, x_1_td = _filled(batch.x_t_td, layout.n_atoms), _filled(batch.x_1_td, layout.n_atoms)
    return (x_t_td, None, t_s, domain_s, torch.zeros_like(domain_s), layout), x_1_td


def packed_loss(model: nn.Module, batch: Batch, fixed: bool) -> Tensor:
    """Sum over sets of ``flow_matching_loss``."""
    inputs, x_1_td = packed_inputs(batch, fixed)
    return flow_matching_loss(model(*inputs), x_1_td, inputs[2], inputs[5]).sum()


def _filled(values: Tensor, n: int) -> Tensor:
    """``values`` and zeros, ``n`` rows."""
    spare = values.new_zeros(n - len(values), *values.shape[1:])
    return torch.cat([values, spare]) if len(spare) else values


class Side:
    """A model trained in one way: its losses, and the seconds of its turns, by the wall and of processors.

    In bfloat16 the optimizer works on float32 master weights. The dense side runs torch's default AdamW, as
    published code does; the others the fused one, as the engine.
    """

    def __init__(self, variant: Variant, weights: Denoiser) -> None:
        self.variant = variant
        self.model: nn.Module = copy.deepcopy(weights) if variant.packed else dense_twin(weights)
        parameters = list(self.model.parameters())
        self.masters: list[Tensor] = list(parameters)
        if variant.dtype != torch.float32:
            self.masters = [p.detach().clone().requires_grad_() for p in parameters]
            self.model.to(variant.dtype)
        if variant.packed:
            set_attention(self.model, variant.attention)
            set_kernels(self.model, variant.kernels)
            prepare_blocks(self.model, recompute=False, compiled=variant.compiled)
            if not variant.compiled:  # as training/backends.py does it
                use_onednn(self.model, variant.dtype, parameters[0].device, trained=True)
        fused = True if variant.packed else None
        self.optimizer = torch.optim.AdamW(self.masters, lr=1e-4, weight_decay=0.0, fused=fused)
        self.losses: list[Tensor] = []
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []

    def turn(self, batches: Sequence[Batch], timed: bool = True) -> None:
        """One step on each batch; the device is waited for at the ends alone."""
        device = batches[0].t_s.device
        with _products(self.variant.tf32):
            wait(device)
            start, cpu_start = time.perf_counter(), time.process_time()
            self.losses += [self._step(batch) for batch in batches]
            wait(device)
        if timed:
            self.seconds.append(time.perf_counter() - start)
            self.cpu_seconds.append(time.process_time() - cpu_start)

    def _step(self, batch: Batch) -> Tensor:
        n_sets = len(batch.sizes)
        if self.variant.packed:
            losses = [packed_loss(self.model, batch, self.variant.capacity) / n_sets]
            losses[0].backward()
        else:
            losses = []
            for sets in batch.padded_sets:
                losses.append(dense_loss(self.model, sets) / n_sets)
                losses[-1].backward()
        self._update()
        return torch.stack([loss.detach() for loss in losses]).sum()

    def _update(self) -> None:
        apart = self.masters[0] is not next(self.model.parameters())
        if apart:
            for master, p in zip(self.masters, self.model.parameters(), strict=True):
                master.grad = None if p.grad is None else p.grad.float()
        nn.utils.clip_grad_norm_(self.masters, GRADIENT_CLIP)
        self.optimizer.step()
        if apart:
            with torch.no_grad():
                torch._foreach_copy_([p.data for p in self.model.parameters()], self.masters)
        self.forget_gradients()

    def forget_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.model.zero_grad(set_to_none=True)


@contextmanager
def _products(tf32: bool) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

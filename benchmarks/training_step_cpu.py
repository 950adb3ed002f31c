"""Claim: on a CPU, a DiT-S training step on packed sets is at least 1.5 times as fast as on a padded batch.

    python benchmarks/training_step_cpu.py --threads 2

Rates are real atoms a second, medians over batches. The baseline is a dense padded batch of the same sets
through torch.nn.MultiheadAttention (padding mask, ``need_weights=False``). Sets are half molecules, half
crystals, of sizes drawn from the histograms of real data below. Both sides train DiT-S in float32 from the
same weights with the same loss and AdamW; the dense model has the same blocks, its modulation broadcast over
a set. After a warm-up they take turns on each batch, in rotating order, so that a busy machine slows both.
Where the processor multiplies bfloat16, the packed step is timed in it too, with float32 master weights.
Prints JSON and writes it to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from record import RESULTS, record, row, write
from torch import Tensor, nn

from adit_scale.atoms import CRYSTAL, MOLECULE, PackedLayout
from adit_scale.diffusion.flow_matching import flow_matching_loss
from adit_scale.models.dit import Denoiser, DiTBlock, FinalLayer, TimeEmbedding, modulated_norm
from adit_scale.models.ladder import LADDER, denoiser_parameters, forward_flops
from adit_scale.models.transformer import Mlp, index_embedding

# Structures of 1, 2, 3, … atoms in 2,000 molecules of QM9 (mean 18.2) and in the 7,140 crystals of MP20's
# validation split with at most three elements (mean 9.6).
QM9_HISTOGRAM = [
    0, 0, 0, 0, 1, 0, 0, 0, 2, 9, 15, 29, 54, 81, 133, 212, 250, 267, 289, 223, 217, 83, 94, 11, 26, 0, 4,
]  # fmt: skip
MP20_HISTOGRAM = [
    0,
    171,
    196,
    1349,
    438,
    690,
    182,
    621,
    248,
    406,
    88,
    768,
    155,
    421,
    85,
    468,
    51,
    359,
    64,
    380,
]
WARM_UP = 2


class DenseBlock(nn.Module):
    """A DiT block on ``(S, N, d)`` with a padding mask."""

    def __init__(self, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = Mlp(width, mlp_ratio * width)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x_snd: Tensor, condition_sd: Tensor, padding_sn: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition_sd)[:, None].chunk(6, dim=-1)
        h = modulated_norm(x_snd, shift1, scale1)
        h, _ = self.attention(h, h, h, key_padding_mask=padding_sn, need_weights=False)
        x_snd = torch.addcmul(x_snd, gate1, h)
        return torch.addcmul(x_snd, gate2, self.mlp(modulated_norm(x_snd, shift2, scale2)))


class DenseDenoiser(nn.Module):
    """The DiT on a padded batch, otherwise as ``Denoiser``."""

    def __init__(self, width: int, depth: int, heads: int, mlp_ratio: int, latent: int) -> None:
        super().__init__()
        self.width = width
        self.input = nn.Linear(2 * latent, width)
        self.time_embedding = TimeEmbedding(width)
        self.domain_embedding = nn.Embedding(3, width)
        self.spacegroup_embedding = nn.Embedding(231, width)
        self.blocks = nn.ModuleList(DenseBlock(width, heads, mlp_ratio) for _ in range(depth))
        self.modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, latent)

    def forward(self, x_snd: Tensor, t_s: Tensor, domain_s: Tensor, padding_sn: Tensor) -> Tensor:
        condition_sd = self.time_embedding(t_s) + self.domain_embedding(domain_s)
        condition_sd = F.silu(condition_sd + self.spacegroup_embedding(torch.zeros_like(domain_s)))
        x_snd = self.input(torch.cat([x_snd, torch.zeros_like(x_snd)], dim=-1))
        place_nd = index_embedding(PackedLayout.from_sizes([x_snd.shape[1]]), self.width, x_snd.dtype)
        x_snd = x_snd + place_nd
        for block in self.blocks:
            x_snd = block(x_snd, condition_sd, padding_sn)
        shift, scale = self.modulation(condition_sd)[:, None].chunk(2, dim=-1)
        return self.head(modulated_norm(x_snd, shift, scale))


def with_weights_of(packed: Denoiser, dense: DenseDenoiser) -> None:
    """Give the dense model the packed one's weights, so that both can be seen to compute the same."""
    renamed = {
        name.replace("attention.qkv.", "attention.in_proj_")
        .replace("attention.proj.", "attention.out_proj.")
        .replace("final.", ""): value
        for name, value in packed.state_dict().items()
    }
    dense.load_state_dict(renamed)


def away_from_zero(model: Denoiser) -> None:
    """Random modulations and head; at the zero start a comparison of outputs would say nothing."""
    for module in model.modules():
        if isinstance(module, DiTBlock | FinalLayer):
            nn.init.normal_(module.modulation.weight, std=0.02)
    nn.init.normal_(model.final.head.weight, std=0.02)


class Batch:
    """The same random sets, packed and padded."""

    def __init__(self, rng: np.random.Generator, n_sets: int, latent: int) -> None:
        half = n_sets // 2
        sizes = np.concatenate([draw(rng, QM9_HISTOGRAM, half), draw(rng, MP20_HISTOGRAM, n_sets - half)])
        domains = np.repeat([MOLECULE, CRYSTAL], [half, n_sets - half])
        order = np.argsort(-sizes, kind="stable")
        self.sizes = sizes[order]
        self.layout = PackedLayout.from_sizes(self.sizes)
        self.domain_s = torch.from_numpy(domains[order])
        self.t_s = torch.from_numpy(rng.uniform(0.01, 0.99, n_sets)).float()
        self.x_t_td, self.x_1_td = torch.from_numpy(
            rng.standard_normal((2, self.layout.n_atoms, latent))
        ).float()
        self.padding_sn = torch.arange(int(self.sizes.max())) >= torch.from_numpy(self.sizes)[:, None]
        self.real_sn = ~self.padding_sn
        self.x_t_snd = self.padded(self.x_t_td)

    def padded(self, x_td: Tensor) -> Tensor:
        out_snd = x_td.new_zeros(*self.padding_sn.shape, x_td.shape[-1])
        out_snd[self.real_sn] = x_td
        return out_snd


def draw(rng: np.random.Generator, histogram: list[int], n: int) -> np.ndarray:
    share = np.asarray(histogram) / np.sum(histogram)
    return rng.choice(np.arange(1, len(histogram) + 1), size=n, p=share)


def packed_prediction(model: Denoiser, batch: Batch) -> Tensor:
    none_s = torch.zeros_like(batch.domain_s)
    return model(batch.x_t_td, None, batch.t_s, batch.domain_s, none_s, batch.layout)


def dense_prediction(model: DenseDenoiser, batch: Batch) -> Tensor:
    out_snd = model(batch.x_t_snd, batch.t_s, batch.domain_s, batch.padding_sn)
    return out_snd[batch.real_sn]


class Side:
    """One of those that are compared: a model with its optimizer, and the seconds of its steps."""

    def __init__(self, model: nn.Module, predict: Callable[..., Tensor], dtype: torch.dtype) -> None:
        self.predict = predict
        masters = [p.detach().clone().requires_grad_() for p in model.parameters()]
        self.model = model.to(dtype)
        # In bfloat16 the optimizer works on float32 master weights; in float32 on the weights themselves.
        self.masters = masters if dtype != torch.float32 else list(model.parameters())
        self.optimizer = torch.optim.AdamW(self.masters, lr=1e-4)
        self.seconds: list[float] = []

    def step(self, batch: Batch) -> float:
        """Seconds of one training step."""
        start = time.perf_counter()
        prediction = self.predict(self.model, batch)
        flow_matching_loss(prediction, batch.x_1_td, batch.t_s, batch.layout).mean().backward()
        apart = [(m, p) for m, p in zip(self.masters, self.model.parameters(), strict=True) if m is not p]
        for master, p in apart:
            master.grad = None if p.grad is None else p.grad.float()
        self.optimizer.step()
        with torch.no_grad():
            for master, p in apart:
                p.copy_(master)
        self.model.zero_grad(set_to_none=True)
        return time.perf_counter() - start


def multiplies_bf16() -> bool:
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def measure(n_sets: int, n_batches: int, rung: str) -> dict:
    """Rows for the table and what else there is to know of the run."""
    config = LADDER[rung]
    torch.manual_seed(0)
    packed = Denoiser(config)
    away_from_zero(packed)
    dense = DenseDenoiser(config.width, config.depth, config.heads, config.mlp_ratio, config.latent)
    with_weights_of(packed, dense)
    rng = np.random.default_rng(0)
    batches = [Batch(rng, n_sets, config.latent) for _ in range(n_batches + WARM_UP)]
    with torch.no_grad():
        difference = packed_prediction(packed, batches[0]) - dense_prediction(dense, batches[0])
    sides = {"dense": Side(dense, dense_prediction, torch.float32)}
    if multiplies_bf16():
        sides["bf16"] = Side(copy.deepcopy(packed), packed_prediction, torch.bfloat16)
    sides["packed"] = Side(packed, packed_prediction, torch.float32)
    names = list(sides)
    for i, batch in enumerate(batches):
        for k in range(len(names)):
            side = sides[names[(i + k) % len(names)]]
            elapsed = side.step(batch)
            if i >= WARM_UP:
                side.seconds.append(elapsed)
    timed = batches[WARM_UP:]
    rates = {
        name: [b.layout.n_atoms / s for b, s in zip(timed, side.seconds, strict=True)]
        for name, side in sides.items()
    }
    rows = [compare(f"{rung} step, packed, fp32", rates["packed"], "dense padded, fp32", rates["dense"])]
    if "bf16" in rates:
        rows.append(compare(f"{rung} step, packed, bf16", rates["bf16"], "packed, fp32", rates["packed"]))
    n_atoms = sum(batch.layout.n_atoms for batch in timed)
    flops = 3 * sum(forward_flops(config, batch.sizes) for batch in timed)
    return {
        "rows": rows,
        "model": rung,
        "parameters": denoiser_parameters(config),
        "sets_a_batch": n_sets,
        "timed_batches": n_batches,
        "atoms_a_batch": n_atoms / n_batches,
        "atoms_over_padded_places": n_atoms / sum(batch.padding_sn.numel() for batch in timed),
        "largest_output_difference": float(difference.abs().max()),
        "packed_gflops_per_s": flops / sum(sides["packed"].seconds) / 1e9,
    }


def compare(what: str, rates: list[float], baseline: str, baseline_rates: list[float]) -> dict:
    """Medians over batches, and how far the ratio of a single batch goes to either side."""
    each = [a / b for a, b in zip(rates, baseline_rates, strict=True)]
    medians = statistics.median(rates), statistics.median(baseline_rates)
    return row(what, medians[0], baseline, medians[1], "atoms/s", ratio_range=[min(each), max(each)])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sets", type=int, default=96, help="sets a batch")
    parser.add_argument("--batches", type=int, default=8, help="timed batches")
    parser.add_argument("--rung", default="dit_s", choices=LADDER)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    measured = measure(args.sets, args.batches, args.rung)
    result = record("training_step_cpu", ["torch"], measured.pop("rows"))
    result["machine"]["threads"] = args.threads
    write(f"training_step_cpu-{args.rung}", result | measured, args.out)


if __name__ == "__main__":
    main()

"""Claim: DiT-B draws 10,000 molecules of QM9's sizes in 100 guided steps in at most 30 s on an H200.

And packed bf16 sampling is at least 8 times as fast as a dense padded fp32 sampler of the same weights.

    python benchmarks/sampling_gpu.py [--samples 10000] [--rung dit_b]

Timed as a user waits for it: from sizes to decoded structures on the CPU, the paper's autoencoder included,
with random weights. The baseline (dense_sampler.py) has the same weights in float32 (no TF32), batches of 512
sets in random order padded to the longest, both halves of the guidance in one batch, and decodes nothing; it
is timed on fewer samples, as every batch costs the same. Both sides draw latents of the first samples in
float32 once, to see that they are the same. Prints JSON and writes it to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from dense_sampler import QM9_HISTOGRAM, DenseSampler, away_from_zero, padded
from record import RESULTS, record, row, write
from torch import Tensor

from adit_scale.atoms import MOLECULE, PackedLayout
from adit_scale.diffusion.conditions import draw_sizes, sample_numbers
from adit_scale.diffusion.config import SamplingConfig
from adit_scale.diffusion.generate import batch_latents, generate, in_precision, plan_batches
from adit_scale.diffusion.sampling import sampling_noise
from adit_scale.models.autoencoder import Autoencoder
from adit_scale.models.config import AutoencoderConfig
from adit_scale.models.dit import Denoiser
from adit_scale.models.ladder import LADDER, denoiser_parameters

Inputs = tuple[Tensor, Tensor, Tensor]


def seconds(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def dense_inputs(places: np.ndarray, sizes: np.ndarray, seed: int, device: torch.device) -> Inputs:
    """Noise ``(S, N, latent)``, labels ``(S,)`` and padding ``(S, N)`` of some samples."""
    chosen = sizes[places]
    noise_td = sampling_noise(seed, sample_numbers(MOLECULE, places), PackedLayout.from_sizes(chosen), 8)
    x_0_snd, padding_sn = padded(noise_td, torch.from_numpy(chosen))
    domain_s = torch.full((len(places),), MOLECULE)
    return x_0_snd.to(device), domain_s.to(device), padding_sn.to(device)


def largest_difference(denoiser: Denoiser, sizes: np.ndarray, config: SamplingConfig) -> float:
    """Between the latents of both sides, in float32."""
    device = next(denoiser.parameters()).device
    (plan, *_) = plan_batches({MOLECULE: sizes[:64]}, replace(config, precision="fp32"))
    packed_td, _ = batch_latents(denoiser, plan, replace(config, precision="fp32"))
    x_0_snd, domain_s, padding_sn = dense_inputs(plan.places, sizes[:64], config.seed, device)
    dense_snd = DenseSampler(denoiser, config.guidance_scale, config.steps)(x_0_snd, domain_s, padding_sn)
    return float((packed_td[: plan.n_atoms] - dense_snd[~padding_sn]).abs().max())


def measure(args: argparse.Namespace, device: torch.device) -> dict:
    """Rows for the table and what else there is to know of the run."""
    torch.manual_seed(0)
    denoiser = away_from_zero(Denoiser(LADDER[args.rung])).to(device)
    autoencoder = Autoencoder(AutoencoderConfig()).eval().to(device)
    config = SamplingConfig(steps=args.steps, batch_atoms=args.batch_atoms, precision="bf16")
    sizes = draw_sizes(np.array(QM9_HISTOGRAM), args.samples, MOLECULE, seed=0)

    def packed(n: int, precision: str) -> float:
        asked = replace(config, precision=precision)
        ready = in_precision(denoiser, asked)
        return seconds(lambda: list(generate(ready, autoencoder, {MOLECULE: sizes[:n]}, asked)), device)

    def dense(n: int) -> float:
        sampler = DenseSampler(denoiser, config.guidance_scale, config.steps)

        def run() -> None:
            for start in range(0, n, args.dense_sets):
                places = np.arange(start, min(start + args.dense_sets, n))
                sampler(*dense_inputs(places, sizes, config.seed, device)).cpu()

        return seconds(run, device)

    few = min(args.samples, args.dense_samples)
    packed(min(args.samples, 2048), "bf16")  # warm up: kernels are chosen, memory is taken
    dense(min(few, args.dense_sets))
    found = [(packed(args.samples, "bf16"), packed(few, "fp32"), dense(few)) for _ in range(args.rounds)]
    bf16_s, fp32_s, dense_s = (statistics.median(of) for of in zip(*found, strict=True))
    name = f"{args.rung}, sampling of {args.samples:,} molecules, {args.steps} steps"
    baseline = "dense padded, fp32", few / dense_s, "samples/s"
    return {
        "rows": [
            row(f"{name}, packed, bf16", args.samples / bf16_s, *baseline, seconds=bf16_s),
            row(f"{name}, packed, fp32", few / fp32_s, *baseline, seconds=fp32_s * args.samples / few),
        ],
        "model": args.rung,
        "parameters": denoiser_parameters(LADDER[args.rung]),
        "batch_atoms": args.batch_atoms,
        "dense_sets_a_batch": args.dense_sets,
        "dense_samples": few,
        "largest_latent_difference": largest_difference(denoiser, sizes, config),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cpu, with small numbers, to try the script")
    parser.add_argument("--rung", default="dit_b", choices=LADDER)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-atoms", type=int, default=16_384)
    parser.add_argument("--dense-samples", type=int, default=1024, help="samples the baseline is timed on")
    parser.add_argument("--dense-sets", type=int, default=512, help="sets a batch of the baseline")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    args = parser.parse_args()
    device = torch.device(args.device)
    measured = measure(args, device)
    result = record("sampling_gpu", ["torch"], measured.pop("rows"))
    if device.type == "cuda":
        result["machine"]["gpu"] = torch.cuda.get_device_name(device)
    write(f"sampling_gpu-{args.rung}", result | measured, args.out)


if __name__ == "__main__":
    main()

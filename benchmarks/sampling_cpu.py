"""Claim: on a CPU, sampling on packed sets is at least twice as fast as a dense padded sampler in fp32.

    python benchmarks/sampling_cpu.py --threads 2 [--rung dit_192]

Samples are half molecules, half crystals, of sizes drawn from the histograms of real data. The baseline
(dense_sampler.py) runs the same weights in float32 on padded batches, sets in random order, a mask in
``scaled_dot_product_attention``, both halves of the guidance in one batch. Both give latents by Euler with
guidance 2 from the same noise, and in float32 the same latents, which is checked. A rate is samples over
seconds of whole sampling, the padding of the last batches included; decoding, once a sample on either side,
is not. The packed sampler's products are oneDNN's, which some processors run faster than plain torch's: a
second baseline has them too, so that what packing alone is worth can be seen. Few steps are timed, as every
step costs the same. The sides take turns over rounds of fresh sizes.
Prints JSON and writes it to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from dense_sampler import MP20_HISTOGRAM, QM9_HISTOGRAM, DenseSampler, away_from_zero, padded
from record import RESULTS, record, row, write
from torch import Tensor

from adit_scale.atoms import CRYSTAL, MOLECULE, PackedLayout
from adit_scale.diffusion.conditions import draw_sizes, sample_numbers
from adit_scale.diffusion.config import SamplingConfig
from adit_scale.diffusion.generate import batch_latents, plan_batches
from adit_scale.diffusion.inference import in_precision
from adit_scale.diffusion.sampling import sampling_noise
from adit_scale.models.dit import Denoiser
from adit_scale.models.ladder import LADDER, denoiser_parameters
from adit_scale.models.precision import multiplies_bf16

Sizes = dict[int, np.ndarray]
Latents = dict[tuple[int, int], Tensor]
BASELINES = ("dense padded, fp32", "dense padded, fp32, products by oneDNN")


def drawn_sizes(n_samples: int, seed: int) -> Sizes:
    histograms = {MOLECULE: np.array(QM9_HISTOGRAM), CRYSTAL: np.array(MP20_HISTOGRAM)}
    return {domain: draw_sizes(h, n_samples // 2, domain, seed) for domain, h in histograms.items()}


def packed_samples(denoiser: Denoiser, sizes: Sizes, config: SamplingConfig) -> Latents:
    found: Latents = {}
    for plan in plan_batches(sizes, config):
        latents_td, _ = batch_latents(denoiser, plan, config)
        each = latents_td[: plan.n_atoms].split(plan.sizes.tolist())
        found.update({(plan.domain, i): x for i, x in zip(plan.places.tolist(), each, strict=True)})
    return found


def dense_samples(denoiser: Denoiser, sizes: Sizes, config: SamplingConfig, sets: int, seed: int) -> Latents:
    sampler = DenseSampler(denoiser, config.guidance_scale, config.steps)
    every = [(domain, i) for domain, of in sizes.items() for i in range(len(of))]
    order = np.random.default_rng(seed).permutation(len(every))
    found: Latents = {}
    for start in range(0, len(every), sets):
        chosen = [every[k] for k in order[start : start + sets]]
        sizes_s = torch.tensor([int(sizes[domain][i]) for domain, i in chosen])
        number_s = torch.cat([sample_numbers(domain, np.array([i])) for domain, i in chosen])
        noise_td = sampling_noise(config.seed, number_s, PackedLayout.from_sizes(sizes_s.numpy()), 8)
        x_0_snd, padding_sn = padded(noise_td, sizes_s)
        x_snd = sampler(x_0_snd, torch.tensor([domain for domain, _ in chosen]), padding_sn)
        found.update({key: x[:n] for key, x, n in zip(chosen, x_snd, sizes_s.tolist(), strict=True)})
    return found


def measure(args: argparse.Namespace) -> dict:
    """Rows for the table and what else there is to know of the run."""
    torch.manual_seed(0)
    denoiser = away_from_zero(Denoiser(LADDER[args.rung]))
    config = SamplingConfig(steps=args.steps, batch_atoms=args.batch_atoms, precision="fp32")
    half = replace(config, precision="bf16")
    nets = {"packed, fp32": (in_precision(denoiser, config), config)}
    if multiplies_bf16(torch.device("cpu")):
        nets["packed, bf16"] = (in_precision(denoiser, half), half)
    plain, fast = BASELINES
    dense = {plain: denoiser, fast: in_precision(denoiser, config)}
    names = [*dense, *nets]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    difference: dict[str, float] = dict.fromkeys(nets, 0.0)
    for round_ in range(args.rounds + 1):  # the first warms up and is the smallest
        sizes = drawn_sizes(args.samples if round_ else 64, seed=round_)
        latents: dict[str, Latents] = {}
        for k in range(len(names)):
            name = names[(round_ + k) % len(names)]
            start = time.perf_counter()
            if name in nets:
                latents[name] = packed_samples(nets[name][0], sizes, nets[name][1])
            else:
                latents[name] = dense_samples(dense[name], sizes, config, args.dense_sets, seed=round_)
            if round_:
                seconds[name].append(time.perf_counter() - start)
        for name in nets:
            found, expected = latents[name], latents[plain]
            most = max(float((found[key] - expected[key]).abs().max()) for key in expected)
            difference[name] = max(difference[name], most)
    assert difference["packed, fp32"] < 1e-4, difference
    rates = {name: [args.samples / s for s in of] for name, of in seconds.items()}
    what = f"{args.rung}, {args.steps} guided steps of sampling"
    return {
        "rows": [compare(what, name, plain, rates) for name in nets]
        + [compare(what, next(iter(nets)), fast, rates)],
        "model": args.rung,
        "parameters": denoiser_parameters(LADDER[args.rung]),
        "samples_a_round": args.samples,
        "rounds": args.rounds,
        "steps": args.steps,
        "batch_atoms": args.batch_atoms,
        "dense_sets_a_batch": args.dense_sets,
        "largest_latent_difference": difference,
    }


def compare(what: str, name: str, baseline: str, rates: dict[str, list[float]]) -> dict:
    """Medians over rounds, and how far the ratio of a single round goes to either side."""
    each = [a / b for a, b in zip(rates[name], rates[baseline], strict=True)]
    value, against = statistics.median(rates[name]), statistics.median(rates[baseline])
    return row(
        f"{what}, {name}", value, baseline, against, "samples/s",
        ratio_range=[min(each), max(each)],
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rung", default="dit_s", choices=LADDER)
    parser.add_argument("--samples", type=int, default=1024, help="samples a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="timed steps; each costs the same")
    parser.add_argument("--batch-atoms", type=int, default=1024)
    parser.add_argument("--dense-sets", type=int, default=64, help="sets a batch of the dense sampler")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    measured = measure(args)
    result = record("sampling_cpu", ["torch"], measured.pop("rows"))
    result["machine"]["threads"] = args.threads
    write(f"sampling_cpu-{args.rung}", result | measured, args.out)


if __name__ == "__main__":
    main()

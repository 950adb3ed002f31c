"""Claim: on a CPU, sampling on packed sets is at least twice as fast as a dense padded sampler in fp32.

    python benchmarks/sampling_cpu.py --threads 2 [--rung dit_64|dit_192]

Samples are half molecules, half crystals, of sizes drawn from the histograms of real data. The baseline
(dense_sampler.py) runs the same weights in float32 on padded batches, sets in random order, a mask in
``scaled_dot_product_attention``, both halves of the guidance in one batch. Both give latents by Euler with
guidance 2 from the same noise, and in float32 the same latents, which is checked. A rate is samples over
seconds of whole sampling, the padding of the last batches included; decoding, once a sample on either side,
is not. The packed sampler's products are oneDNN's, which some processors run faster than plain torch's: a
second baseline has them too, so that what packing alone is worth can be seen. Few steps are timed, as every
step costs the same. The sides take turns over rounds of fresh sizes. One side has as many processes as
threads, of one thread each, as `adit sample` runs small networks; they have started before time is taken, and
their samples are the same to the bit, which is checked.
Prints JSON and writes it to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from dense_sampler import MP20_HISTOGRAM, QM9_HISTOGRAM, DenseSampler, away_from_zero, padded
from limits import measured_limits
from record import RESULTS, record, row, write
from torch import Tensor

from adit_scale.atoms import CRYSTAL, MOLECULE, PackedLayout
from adit_scale.diffusion.conditions import draw_sizes, sample_numbers
from adit_scale.diffusion.config import SamplingConfig
from adit_scale.diffusion.generate import Sampler, plan_batches
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


def packed_samples(
    denoiser: Denoiser, config: SamplingConfig, sizes: Sizes, seed: int, rank: int = 0, world_size: int = 1
) -> Latents:
    found: Latents = {}
    plans = plan_batches(sizes, config)  # whatever the seed, which is for the dense sampler's order
    sampler = Sampler(denoiser, config, plans)
    for plan in plans[rank::world_size]:
        latents_td, _ = sampler.latents(plan)
        each = latents_td[: plan.n_atoms].split(plan.sizes.tolist())
        found.update({(plan.domain, i): x for i, x in zip(plan.places.tolist(), each, strict=True)})
    return found


def dense_samples(denoiser: Denoiser, config: SamplingConfig, sets: int, sizes: Sizes, seed: int) -> Latents:
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


def network(rung: str) -> Denoiser:
    torch.manual_seed(0)
    return away_from_zero(Denoiser(LADDER[rung]))


class Processes:
    """Processes of one thread that each draw their share of the batches."""

    def __init__(self, n: int, rung: str, config: SamplingConfig) -> None:
        context = get_context("spawn")
        ends = [context.Pipe() for _ in range(n)]
        self.pipes = [own for own, _ in ends]
        for rank, (_, theirs) in enumerate(ends):
            arguments = theirs, rung, config, rank, n
            context.Process(target=share_of_samples, args=arguments, daemon=True).start()

    def __call__(self, sizes: Sizes, _: int) -> Latents:
        for pipe in self.pipes:
            pipe.send(sizes)
        found = [pipe.recv() for pipe in self.pipes]
        return {key: torch.from_numpy(x) for part in found for key, x in part.items()}

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.send(None)


def share_of_samples(pipe: Connection, rung: str, config: SamplingConfig, rank: int, n: int) -> None:
    torch.set_num_threads(1)
    denoiser = in_precision(network(rung), config)
    while (sizes := pipe.recv()) is not None:
        drawn = packed_samples(denoiser, config, sizes, 0, rank, n)
        pipe.send({key: x.numpy() for key, x in drawn.items()})


def measure(args: argparse.Namespace) -> dict:
    """Rows for the table and what else there is to know of the run."""
    denoiser = network(args.rung)
    config = SamplingConfig(steps=args.steps, batch_atoms=args.batch_atoms, precision="fp32")
    half = replace(config, precision="bf16")
    nets = {"packed, fp32": (in_precision(denoiser, config), config)}
    if multiplies_bf16(torch.device("cpu")):
        nets["packed, bf16"] = (in_precision(denoiser, half), half)
    plain, fast = BASELINES
    dense = {plain: denoiser, fast: in_precision(denoiser, config)}
    best = list(nets)[-1]
    split = f"{best}, {args.threads} processes of one thread"
    processes = Processes(args.threads, args.rung, nets[best][1])
    sides: dict[str, Callable[[Sizes, int], Latents]] = {
        **{name: partial(dense_samples, net, config, args.dense_sets) for name, net in dense.items()},
        **{name: partial(packed_samples, *of) for name, of in nets.items()},
        split: processes,
    }
    names = list(sides)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    difference: dict[str, float] = dict.fromkeys(nets, 0.0)
    for round_ in range(args.rounds + 1):  # the first warms up and is the smallest
        sizes = drawn_sizes(args.samples if round_ else 64, seed=round_)
        latents: dict[str, Latents] = {}
        for k in range(len(names)):
            name = names[(round_ + k) % len(names)]
            start = time.perf_counter()
            latents[name] = sides[name](sizes, round_)
            if round_:
                seconds[name].append(time.perf_counter() - start)
        for name in nets:
            found, expected = latents[name], latents[plain]
            most = max(float((found[key] - expected[key]).abs().max()) for key in expected)
            difference[name] = max(difference[name], most)
        assert all(torch.equal(x, latents[best][key]) for key, x in latents[split].items())
    processes.close()
    assert difference["packed, fp32"] < 1e-4, difference
    rates = {name: [args.samples / s for s in of] for name, of in seconds.items()}
    shared = [a / b for a, b in zip(rates[split], rates[best], strict=True)]
    what = f"{args.rung}, {args.steps} guided steps of sampling"
    return {
        "rows": [compare(what, name, plain, rates) for name in nets]
        + [
            compare(what, split, plain, rates) | {"times_one_process": statistics.median(shared)},
            compare(what, next(iter(nets)), fast, rates),
        ],
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
    limits = measured_limits("cpu", args.threads)
    result = record("sampling_cpu", ["torch"], measured.pop("rows"), limits)
    write(f"sampling_cpu-{args.rung}", result | measured, args.out)


if __name__ == "__main__":
    main()

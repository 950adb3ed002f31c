"""Claim: an H200 draws 10,000 molecules (DiT-B, 100 steps) in 20 s, 1,000 crystals (DiT-S, 25) in 0.5 s.

    python benchmarks/sampling_gpu.py --kind qm9|mp20 [--rung dit_b|dit_s] [--device cpu --tiny]

Guidance 2. Timed as a user waits for it: from sizes to decoded atoms and cells on the host, the paper's
autoencoder included, with random weights; CUDA graphs are recorded before. What recording costs stands in
rows of their own, the first batch of a fresh sampler. Evaluations without graphs, and with compiled blocks,
are timed on one batch, as every batch costs the same. The baseline (dense_sampler.py) has the same weights in
float32 (no TF32), batches of 512 sets in random order padded to the longest, both halves of the guidance in
one batch, and decodes nothing; it is timed on fewer samples. Sides with and without graphs must give the same
bits, and in float32 the packed and the dense sampler the same latents. MFU counts the matrix products of real
atoms, over the rate of one large product in bf16 (limits.py). Writes benchmarks/results/
sampling_gpu-RUNG-KIND.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
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
from adit_scale.diffusion.generate import Sampler, for_device, network_passes, plan_batches
from adit_scale.diffusion.sampling import sampling_noise
from adit_scale.models.autoencoder import Autoencoder
from adit_scale.models.config import AutoencoderConfig, DenoiserConfig
from adit_scale.models.dit import Denoiser
from adit_scale.models.ladder import LADDER, denoiser_parameters, n_mat


@dataclass(frozen=True)
class Kind:
    domain: int
    histogram: list[int]
    name: str
    rung: str
    samples: int
    steps: int
    few: int  # about one batch of 16,896 atoms


KINDS = {
    "qm9": Kind(MOLECULE, QM9_HISTOGRAM, "molecules of QM9's sizes", "dit_b", 10_000, 100, 900),
    "mp20": Kind(CRYSTAL, MP20_HISTOGRAM, "crystals of MP20's sizes", "dit_s", 1_000, 25, 1_000),
}
TINY = {"rung": "dit_64", "samples": 12, "steps": 3, "rounds": 1, "dense_samples": 6}
GRAPHS, EAGER, COMPILED = "CUDA graphs", "no graphs", "CUDA graphs of compiled blocks"
SAMPLE_ROWS = 64  # samples that both precisions' latents are compared on


@dataclass(frozen=True)
class Networks:
    denoiser: Denoiser
    autoencoder: Autoencoder
    device: torch.device

    @staticmethod
    def of(rung: str, device: torch.device) -> Networks:
        torch.manual_seed(0)
        denoiser = away_from_zero(Denoiser(LADDER[rung])).to(device).eval()
        return Networks(denoiser, Autoencoder(AutoencoderConfig()).eval().to(device), device)

    def finish(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, run: Callable[[], object]) -> float:
        self.finish()
        start = time.perf_counter()
        run()
        self.finish()
        return time.perf_counter() - start


@dataclass(frozen=True)
class Times:
    """first_s: of a fresh sampler's first batch; again_s: of the same later; all_s: of all, or NaN."""

    first_s: float
    again_s: float
    all_s: float


def packed(
    nets: Networks, config: SamplingConfig, sizes: dict[int, np.ndarray], again: int, rounds: int
) -> Times:
    """Medians of so many draws of the first batch and of everything."""
    plans = plan_batches(sizes, config)
    with Sampler(nets.denoiser, config, plans) as sampler:

        def draw(some: slice) -> float:
            def run() -> None:
                for _ in sampler.batches(nets.autoencoder, plan_batches(sizes, config)[some]):
                    pass

            return nets.seconds(run)

        first_s = draw(slice(1))
        again_s = statistics.median(draw(slice(1)) for _ in range(again))
        every_s = [draw(slice(None)) for _ in range(rounds)]
        return Times(first_s, again_s, statistics.median(every_s) if every_s else float("nan"))


def dense(nets: Networks, config: SamplingConfig, sizes_n: np.ndarray, domain: int, sets: int) -> float:
    sampler = DenseSampler(nets.denoiser, config.guidance_scale, config.steps)

    def run() -> None:
        for start in range(0, len(sizes_n), sets):
            places = np.arange(start, min(start + sets, len(sizes_n)))
            sampler(*dense_inputs(places, sizes_n, config.seed, domain, nets.device)).cpu()

    run_few = dense_inputs(np.arange(min(4, len(sizes_n))), sizes_n, config.seed, domain, nets.device)
    DenseSampler(nets.denoiser, config.guidance_scale, 2)(*run_few)  # kernels are chosen
    return nets.seconds(run)


def dense_inputs(
    places: np.ndarray, sizes_n: np.ndarray, seed: int, domain: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Noise ``(S, N, latent)``, labels ``(S,)`` and padding ``(S, N)`` of some samples."""
    chosen = sizes_n[places]
    noise_td = sampling_noise(seed, sample_numbers(domain, places), PackedLayout.from_sizes(chosen), 8)
    x_0_snd, padding_sn = padded(noise_td, torch.from_numpy(chosen))
    return x_0_snd.to(device), torch.full((len(places),), domain, device=device), padding_sn.to(device)


def one_batch(nets: Networks, config: SamplingConfig, sizes_n: np.ndarray, domain: int) -> Tensor:
    """Latents of the samples of the first batch, without its tail."""
    plan, *_ = plans = plan_batches({domain: sizes_n}, config)
    with Sampler(nets.denoiser, config, plans) as sampler:
        return sampler.latents(plan)[0][: plan.n_atoms].clone()


def from_dense(nets: Networks, config: SamplingConfig, sizes_n: np.ndarray, domain: int) -> float:
    """The largest difference between the latents of the packed and the dense sampler, both in float32."""
    config = replace(config, precision="fp32", cuda_graphs="auto")
    packed_td = one_batch(nets, config, sizes_n, domain)
    places = plan_batches({domain: sizes_n}, config)[0].places
    x_0_snd, domain_s, padding_sn = dense_inputs(places, sizes_n, config.seed, domain, nets.device)
    dense_snd = DenseSampler(nets.denoiser, config.guidance_scale, config.steps)(
        x_0_snd, domain_s, padding_sn
    )
    return float((packed_td - dense_snd[~padding_sn]).abs().max())


def product_flops(config: DenoiserConfig, sizes_n: np.ndarray) -> float:
    """Of one pass over real atoms: products and attention of the blocks; one row of adaLN is nothing."""
    pairs = float((sizes_n.astype(np.int64) ** 2).sum())
    return 2.0 * n_mat(config) * int(sizes_n.sum()) + 4.0 * config.width * config.depth * pairs


def measure(args: argparse.Namespace, kind: Kind, device: torch.device) -> dict:
    """Rows for the table and what else there is to know of the run."""
    nets = Networks.of(args.rung, device)
    on_gpu = device.type == "cuda"
    asked = SamplingConfig(steps=args.steps, batch_atoms=args.batch_atoms, precision="bf16")
    config = for_device(asked, device)
    sizes_n = draw_sizes(np.array(kind.histogram), args.samples, kind.domain, seed=0)
    few_n = sizes_n[: args.dense_samples]
    eager = replace(config, cuda_graphs="off")
    sides = {GRAPHS: config, EAGER: eager} if on_gpu else {EAGER: eager}
    if on_gpu and not args.no_compile:
        sides[COMPILED] = replace(config, compile=True)
    main, *others = sides
    every, few = {kind.domain: sizes_n}, {kind.domain: few_n}
    times = {main: packed(nets, sides[main], every, args.rounds, args.rounds)}
    dense_s = dense(nets, config, few_n, kind.domain, args.dense_sets)
    times |= {name: packed(nets, sides[name], every, args.rounds, 0) for name in others}
    fp32 = packed(nets, replace(eager, precision="fp32"), few, 1, 1)
    limits = measured_limits(device.type, torch.get_num_threads())
    flops = product_flops(nets.denoiser.config, sizes_n) * network_passes(config)
    name = f"{args.rung}, {args.steps} guided steps, {kind.name}"
    baseline = "dense padded, fp32", len(few_n) / dense_s, "samples/s"
    found = times[main]
    rows = [
        row(f"{name}, {args.samples:,} samples, bf16, {main}", args.samples / found.all_s, *baseline,
            seconds=found.all_s, mfu=flops / found.all_s / limits["matmul_bf16_flops_per_s"]),
        row(f"{name}, {len(few_n):,} samples, packed in fp32", len(few_n) / fp32.all_s, *baseline,
            took_s=fp32.all_s),
    ]  # fmt: skip
    rows += [
        row(f"{name}, evaluations of one batch, {other}", args.steps / times[other].again_s,
            f"evaluations, {main}", args.steps / found.again_s, "evaluations/s")
        for other in others
    ]  # fmt: skip
    rows += [
        row(f"{name}, first batch of a sampler, {side}", of.first_s, "the same batch again", of.again_s, "s",
            before_replay_s=of.first_s - of.again_s)
        for side, of in times.items()
    ]  # fmt: skip
    return {
        "rows": rows,
        "limits": limits,
        "model": args.rung,
        "parameters": denoiser_parameters(LADDER[args.rung]),
        "batch_atoms": config.batch_atoms,
        "batches": len(plan_batches({kind.domain: sizes_n}, config)),
        "product_flops": flops,
        "dense_sets_a_batch": args.dense_sets,
        "dense_samples": len(few_n),
        **checks(nets, sides, few_n, kind.domain, config),
    }


def checks(
    nets: Networks, sides: dict[str, SamplingConfig], few_n: np.ndarray, domain: int, config: SamplingConfig
) -> dict:
    """That all sides draw the same samples. Raises AssertionError."""
    drawn = {side: one_batch(nets, asked, few_n, domain) for side, asked in sides.items()}
    off = {side: float((x_td - drawn[EAGER]).abs().max()) for side, x_td in drawn.items()}
    assert off.get(GRAPHS, 0.0) == 0.0, off
    packed_from_dense = from_dense(nets, config, few_n[:SAMPLE_ROWS], domain)
    assert packed_from_dense < 1e-3, packed_from_dense
    return {"largest_difference_fp32_from_dense": packed_from_dense, "largest_difference_from_no_graphs": off}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cpu, with --tiny, to try the script")
    parser.add_argument("--kind", default="qm9", choices=KINDS)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--rung", choices=LADDER, help="dit_b for qm9, dit_s for mp20")
    parser.add_argument("--samples", type=int, help="10,000 for qm9, 1,000 for mp20")
    parser.add_argument("--steps", type=int, help="100 for qm9, 25 for mp20")
    parser.add_argument("--dense-samples", type=int, help="of all sides but the first; about one batch")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--batch-atoms", type=int, default=0, help="0: what suits the device")
    parser.add_argument("--dense-sets", type=int, default=512, help="sets a batch of the baseline")
    parser.add_argument("--no-compile", action="store_true", help="leave out compiled blocks")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    args = parser.parse_args()
    kind = KINDS[args.kind]
    usual = {"rung": kind.rung, "samples": kind.samples, "steps": kind.steps, "rounds": 2}
    usual = {**usual, "dense_samples": kind.few, **(TINY if args.tiny else {})}
    for key, value in usual.items():
        setattr(args, key, value if getattr(args, key) is None else getattr(args, key))
    measured = measure(args, kind, torch.device(args.device))
    result = record("sampling_gpu", ["torch"], measured.pop("rows"), measured.pop("limits"))
    write(f"sampling_gpu-{args.rung}-{args.kind}", result | measured, args.out)


if __name__ == "__main__":
    main()

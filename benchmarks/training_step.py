"""Claim: a packed bf16 training step is 2 (QM9+MP20) or 4 (GEOM-DRUGS) times as fast as a dense padded one.

    python benchmarks/training_step.py --device cpu|cuda --rung dit_s --mix qm9_mp20|geom_drugs

That is on a CPU; the targets of a GPU are in targets.py. Rates are of real atoms, medians over turns. The
baseline is a dense padded float32 batch of the same sets in random order through torch.nn.MultiheadAttention,
cut into batches of at most 256 sets, as the recipe trains (dense_denoiser.py). All sides start from the same
weights and do the same: forward, flow-matching loss, backward, clipping, AdamW, no self-conditioning pass.
bf16 sides keep float32 master weights. After a warm-up they take turns, in rotating order, so that a busy
machine slows all. On CUDA there is a side for each step of the fast path, and dense sides in TF32 and bf16,
which tell what is packing from what is precision. MFU is the FLOPs of a forward over real sets, times 3, over
the device's measured product rate in the same precision. Loss curves over the same batches are compared too.
Prints JSON and writes it to benchmarks/results/training_step-{cpu|gpu}-{rung}-{mix}.json.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dense_denoiser import MIXES, away_from_zero
from limits import measured_limits
from record import RESULTS, record, row, write
from step_sides import (
    Batch,
    PaddedSets,
    Side,
    Variant,
    cut_padded,
    dense_loss,
    draw_batches,
    packed_inputs,
)

from adit_scale.models.dit import Denoiser
from adit_scale.models.ladder import LADDER, denoiser_parameters, forward_flops

BASELINE = "dense padded, fp32"
# Largest relative difference of a bf16 loss from the fp32 one of the same step; both begin as one.
LOSS_BOUND = 0.01
# A batch of the recipe's 256 sets on a CPU; on a GPU, what fills it.
ATOMS = {"cpu": {"qm9_mp20": 3584, "geom_drugs": 12_288}, "cuda": dict.fromkeys(MIXES, 16_384)}
BATCHES = {"cpu": {"qm9_mp20": 6, "geom_drugs": 3}, "cuda": dict.fromkeys(MIXES, 15)}
STEPS_A_TURN = {"cpu": 1, "cuda": 5}

_BF16 = torch.bfloat16
VARIANTS: dict[str, Variant] = {
    "dense": Variant(BASELINE, packed=False),
    "dense_tf32": Variant("dense padded, TF32", packed=False, tf32=True),
    "dense_bf16": Variant("dense padded, bf16", packed=False, dtype=_BF16),
    "fp32": Variant("packed, fp32"),
    "bf16": Variant("packed, bf16", dtype=_BF16),
    "compile": Variant("packed, bf16, compile", dtype=_BF16, compiled=True, capacity=True),
    "flash": Variant("packed, bf16, flash", dtype=_BF16, attention="flash", capacity=True),
    "flash_triton": Variant(
        "packed, bf16, flash, triton", dtype=_BF16, attention="flash", kernels="triton", capacity=True
    ),
    "flash_compile": Variant(
        "packed, bf16, flash, compile", dtype=_BF16, attention="flash", compiled=True, capacity=True
    ),
    "flash_triton_compile": Variant(
        "packed, bf16, flash, triton, compile",
        dtype=_BF16,
        attention="flash",
        kernels="triton",
        compiled=True,
        capacity=True,
    ),
}


@dataclass(frozen=True)
class StepOptions:
    """What is measured. atoms: of a batch. batches: timed, after a warm-up turn. 0 fits device and mix.

    sides: keys of VARIANTS; empty is all that the device can run, compiled ones with ``compiled`` alone.
    kernels: auto, torch (no triton sides) or triton (no others beside their like). dense_sets: most of a
    padded batch; halved while a GPU's memory does not hold it.
    """

    device: str = "cpu"
    rung: str = "dit_s"
    mix: str = "qm9_mp20"
    threads: int = 2
    atoms: int = 0
    batches: int = 0
    compiled: bool = False
    kernels: str = "auto"
    sides: tuple[str, ...] = ()
    dense_sets: int = 256
    seed: int = 0


def chosen_sides(options: StepOptions) -> list[str]:
    """Keys of the sides to run, the baseline first."""
    if options.sides:
        return list(options.sides)
    if options.device == "cpu":
        found = ["dense", "fp32", *(["bf16", "compile"] if multiplies_bf16() else [])]
    else:
        found = [key for key in VARIANTS if key != "compile"]
    if not options.compiled:
        found = [key for key in found if not VARIANTS[key].compiled]
    if options.kernels == "torch":
        found = [key for key in found if VARIANTS[key].kernels == "torch"]
    if options.kernels == "triton":
        found = [key for key in found if not key.startswith("flash") or VARIANTS[key].kernels == "triton"]
    return found


def multiplies_bf16() -> bool:
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def compare_steps(options: StepOptions) -> dict[str, Any]:
    """Rows for the table and what else there is to know of the run."""
    device, config = torch.device(options.device), LADDER[options.rung]
    atoms = options.atoms or ATOMS[device.type][options.mix]
    n_timed = options.batches or BATCHES[device.type][options.mix]
    a_turn = min(STEPS_A_TURN[device.type], n_timed)
    n_batches = (1 + n_timed // a_turn) * a_turn
    limits = measured_limits(device.type, options.threads)
    torch.compiler.reset()  # what an earlier call compiled counts against torch's limit a block
    torch.manual_seed(options.seed)
    weights = away_from_zero(Denoiser(config)).to(device)
    rng = np.random.default_rng(options.seed)
    batches = draw_batches(rng, options.mix, n_batches, atoms, config.latent, device)
    sides = {key: Side(VARIANTS[key], weights) for key in chosen_sides(options)}
    dense_sets = fit_dense_sets(sides, batches, options.dense_sets)
    difference = largest_difference(sides, batches[0]) if {"dense", "fp32"} <= set(sides) else None
    turns = [batches[i : i + a_turn] for i in range(0, n_batches, a_turn)]
    too_large = warm_up(sides, turns[0])
    keys = list(sides)
    for i, turn in enumerate(turns[1:]):
        for k in range(len(keys)):
            sides[keys[(i + k) % len(keys)]].turn(turn)
    timed = turns[1:]
    padded_places = sum(s.padding_sn.numel() for b in batches[a_turn:] for s in b.padded_sets)
    n_atoms = sum(b.n_atoms for b in batches[a_turn:])
    return {
        "rows": _rows(options, sides, timed, limits),
        "model": options.rung,
        "parameters": denoiser_parameters(config),
        "options": asdict(options) | {"sides": list(sides)},
        "timed_batches": n_batches - a_turn,
        "atoms_a_batch": n_atoms / (n_batches - a_turn),
        "sets_a_batch": sum(len(b.sizes) for b in batches[a_turn:]) / (n_batches - a_turn),
        "dense_sets_a_batch": dense_sets,
        "atoms_over_padded_places": n_atoms / padded_places if padded_places else None,
        "largest_output_difference": difference,
        "does_not_fit": too_large,
        "loss_parity": loss_parity(sides),
    }


def warm_up(sides: dict[str, Side], turn: list[Batch]) -> list[str]:
    """One turn of each side; those that the GPU's memory does not hold leave, and are returned.

    Raises torch.cuda.OutOfMemoryError where none is left.
    """
    too_large = []
    for key in list(sides):
        try:
            sides[key].turn(turn, timed=False)
        except torch.cuda.OutOfMemoryError:
            if len(sides) == 1:
                raise
            del sides[key]
            too_large.append(key)
            torch.cuda.empty_cache()
    return too_large


def fit_dense_sets(sides: Mapping[str, Side], batches: list[Batch], dense_sets: int) -> int:
    """Cut all batches into padded ones of as many sets as a GPU's memory holds; returns their number."""
    dense = [side for side in sides.values() if not side.variant.packed]
    if not dense:
        return dense_sets
    while True:
        rng = np.random.default_rng(1)
        for batch in batches:
            batch.padded_sets = cut_padded(batch, dense_sets, rng)
        largest = max((s for b in batches for s in b.padded_sets), key=lambda s: s.padding_sn.numel())
        if all(_fits(side, largest, sides) for side in dense):
            return dense_sets
        dense_sets //= 2
        torch.cuda.empty_cache()


def _fits(side: Side, padded_sets: PaddedSets, sides: Mapping[str, Side]) -> bool:
    """Whether forward and backward run beside what all optimizers are going to keep."""
    moments = 2 * 4 * sum(p.numel() for s in sides.values() for p in s.masters)
    try:
        reserved = torch.empty(moments, dtype=torch.uint8, device=padded_sets.t_s.device)
        dense_loss(side.model, padded_sets).backward()
        del reserved
    except torch.cuda.OutOfMemoryError:
        if len(padded_sets.t_s) == 1:
            raise
        return False
    finally:
        side.forget_gradients()
    return True


@torch.no_grad()
def largest_difference(sides: Mapping[str, Side], batch: Batch) -> float:
    """Between the outputs of the dense and the packed side in float32, both untrained."""
    packed_td = sides["fp32"].model(*packed_inputs(batch, fixed=False)[0])
    found = 0.0
    for sets in batch.padded_sets:
        dense_snd = sides["dense"].model(sets.x_t_snd, sets.t_s, sets.domain_s, sets.padding_sn)
        found = max(found, float((packed_td[sets.atoms] - dense_snd[~sets.padding_sn]).abs().max()))
    return found


def loss_parity(sides: Mapping[str, Side]) -> dict[str, Any] | None:
    """How far the loss of each side goes from that of a float32 side at the same step, relative."""
    exact = next((key for key in ("fp32", "dense") if key in sides), None)
    if exact is None:
        return None
    curves = {key: np.array([float(loss) for loss in side.losses]) for key, side in sides.items()}
    apart = {
        VARIANTS[key].name: float(np.abs(curve / curves[exact] - 1).max())
        for key, curve in curves.items()
        if key != exact
    }
    worst = max(apart.values(), default=0.0)
    return {
        "from": VARIANTS[exact].name,
        "steps": len(curves[exact]),
        "loss_first": float(curves[exact][0]),
        "loss_last": float(curves[exact][-1]),
        "largest_relative_difference": apart,
        "bound": LOSS_BOUND,
        "within": bool(worst <= LOSS_BOUND),
    }


def _rows(
    options: StepOptions, sides: Mapping[str, Side], timed: list[list[Batch]], limits: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Each side against the baseline, and against the rate of products that the device was seen to reach."""
    config = LADDER[options.rung]
    atoms = [sum(b.n_atoms for b in turn) for turn in timed]
    flops = [3 * sum(forward_flops(config, b.sizes) for b in turn) for turn in timed]
    rates = {key: [a / s for a, s in zip(atoms, side.seconds, strict=True)] for key, side in sides.items()}
    rows = []
    for key, side in sides.items():
        variant = side.variant
        what = f"{options.rung} step, {options.mix}, {variant.name}"
        if "dense" in rates and key != "dense":
            each = [a / b for a, b in zip(rates[key], rates["dense"], strict=True)]
            medians = statistics.median(rates[key]), statistics.median(rates["dense"])
            by_cpu = [b / a for a, b in zip(side.cpu_seconds, sides["dense"].cpu_seconds, strict=True)]
            more = {} if options.device == "cuda" else {"ratio_of_processor_time": statistics.median(by_cpu)}
            rows.append(
                row(
                    what,
                    medians[0],
                    BASELINE,
                    medians[1],
                    "atoms/s",
                    ratio_range=[min(each), max(each)],
                    **more,
                )
            )
        reached = statistics.median(f / s for f, s in zip(flops, side.seconds, strict=True))
        products = "fp32" if variant.dtype == torch.float32 else "bf16"
        size, limit = limits[f"matmul_{products}_size"], limits[f"matmul_{products}_flops_per_s"]
        baseline = f"matrix product, {products}, {size}³"
        rows.append(row(f"{what}, MFU", reached / 1e9, baseline, limit / 1e9, "GFLOP/s"))
    return rows


def save(options: StepOptions, measured: dict[str, Any], folder: Path = RESULTS) -> None:
    """Write what compare_steps found."""
    place = "gpu" if options.device == "cuda" else "cpu"
    limits = measured_limits(options.device, options.threads)
    rows = measured.pop("rows")
    result = record("training_step", ["torch"], rows, limits)
    write(f"training_step-{place}-{options.rung}-{options.mix}", result | measured, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rung", default="dit_s", choices=LADDER)
    parser.add_argument("--mix", default="qm9_mp20", choices=MIXES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--atoms", type=int, default=0, help="a batch; 0 fits device and mix")
    parser.add_argument("--batches", type=int, default=0, help="timed batches; 0 fits device and mix")
    parser.add_argument("--compile", action="store_true", help="compiled sides too")
    parser.add_argument("--kernels", default="auto", choices=("auto", "torch", "triton"))
    parser.add_argument("--sides", default="", help=f"of {','.join(VARIANTS)}; the device's own by default")
    parser.add_argument("--dense-sets", type=int, default=256, help="most sets of a padded batch")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    args = parser.parse_args()
    sides = tuple(args.sides.split(",")) if args.sides else ()
    if unknown := set(sides) - set(VARIANTS):
        parser.error(f"--sides has {unknown.pop()!r}; expected some of {','.join(VARIANTS)}")
    options = StepOptions(
        args.device, args.rung, args.mix, args.threads, args.atoms, args.batches, args.compile, args.kernels,
        sides, args.dense_sets,
    )  # fmt: skip
    torch.set_num_threads(args.threads)
    save(options, compare_steps(options), args.out)


if __name__ == "__main__":
    main()

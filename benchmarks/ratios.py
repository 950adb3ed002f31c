"""The ratios that must not fall: quick versions of the speed benchmarks, for a test to hold against a record.

    python benchmarks/ratios.py [--record] [--only WORD]

Each ratio is of two sides of one process that take turns at the same work, by processor time on one thread,
the best of several rounds on each side: other work on the machine only ever makes a round longer. They are
smaller than the ratios of docs/benchmarks.md, as the models and batches are. tests/benchmarks/test_ratios.py
fails where one falls more than 15% below the record on the same kind of machine. --record writes
benchmarks/results/ratios.json anew: after a change that makes something faster, or slower for a reason.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import RESULTS, machine, record, row, write

from adit_scale.models.precision import multiplies_bf16

RECORD = RESULTS / "ratios.json"
RECORDED_TIMES = 3  # a record is the median of so many measurements
STEPS = {"qm9_mp20": 1024, "geom_drugs": 2048}  # atoms a batch
STEP_RUNG, STEP_ROUNDS, STEP_SETS = "dit_128", 10, 64
SAMPLING_RUNG, SAMPLES, SAMPLING_ROUNDS = "dit_128", 128, 10
DATA_SETS, DATA_S, DATA_ROUNDS = 2_000, 0.15, 12
Ratios = dict[str, float]
Work = Callable[[], object]


def taking_turns(sides: Mapping[str, Work], rounds: int) -> dict[str, float]:
    """Processor seconds of each side's best round; the first round warms up."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for i in range(rounds + 1):
        for k in range(len(names)):
            name = names[(i + k) % len(names)]
            begin_s = time.process_time()
            sides[name]()
            if i:
                found[name].append(time.process_time() - begin_s)
    return {name: min(of) for name, of in found.items()}


def training(mix: str) -> Ratios:
    """Packed steps over dense padded ones."""
    from step_sides import Side, cut_padded, draw_batches
    from training_step import VARIANTS, away_from_zero

    from adit_scale.models.dit import Denoiser
    from adit_scale.models.ladder import LADDER

    torch.manual_seed(0)
    weights = away_from_zero(Denoiser(LADDER[STEP_RUNG]))
    rng = np.random.default_rng(0)
    (batch,) = draw_batches(rng, mix, 1, STEPS[mix], weights.config.latent, torch.device("cpu"))
    batch.padded_sets = cut_padded(batch, STEP_SETS, rng)
    keys = ["dense", "fp32", *_bf16("bf16")]
    sides = {key: Side(VARIANTS[key], weights) for key in keys}

    seconds = taking_turns({key: partial(side.turn, [batch]) for key, side in sides.items()}, STEP_ROUNDS)
    what = f"{STEP_RUNG} step, {mix}, {{}} over dense padded, fp32"
    return {what.format(VARIANTS[key].name): seconds["dense"] / seconds[key] for key in keys[1:]}


def sampling() -> Ratios:
    """Packed guided sampling over a dense padded sampler's."""
    import sampling_cpu

    from adit_scale.diffusion.config import SamplingConfig
    from adit_scale.diffusion.inference import in_precision

    denoiser = sampling_cpu.network(SAMPLING_RUNG)
    sizes = sampling_cpu.drawn_sizes(SAMPLES, seed=0)
    plain = SamplingConfig(steps=2, batch_atoms=1024, precision="fp32")

    def packed(precision: str) -> Work:
        config = replace(plain, precision=precision)
        net = in_precision(denoiser, config)
        return lambda: sampling_cpu.packed_samples(net, config, sizes=sizes, seed=0)

    sides: dict[str, Work] = {
        "dense": lambda: sampling_cpu.dense_samples(denoiser, plain, sets=64, sizes=sizes, seed=0),
        **{precision: packed(precision) for precision in ("fp32", *_bf16("bf16"))},
    }
    seconds = taking_turns(sides, SAMPLING_ROUNDS)
    what = f"{SAMPLING_RUNG} sampling, packed, {{}} over dense padded, fp32"
    return {what.format(key): seconds["dense"] / seconds[key] for key in sides if key != "dense"}


def data_path() -> Ratios:
    """Ready batches from shards over those of a per-sample WebDataset pipeline."""
    import data_throughput as data

    from adit_scale.data.build import build_from_sets
    from adit_scale.data.config import DataConfig
    from adit_scale.data.loader import BatchLoader

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        split = DataConfig(validation_fraction=0, test_fraction=0, build_workers=1)
        made_up = data.structures(DATA_SETS, Path("made up, as no file has this name"))
        small = build_from_sets(made_up, folder / "shards", split)
        n_shards = data.write_samples(small, folder)
        config = replace(split, shards=str(folder / "shards"))
        with BatchLoader(
            config, seed=0, atom_budget=data.STEP_ATOMS, micro_batch_atoms=data.STEP_ATOMS
        ) as loader:
            ours, theirs = (
                data.steps(loader, augmented=True),
                data.per_sample(folder, n_shards, collated=True),
            )
            rates = [
                (data.timed(ours, DATA_S)[0], data.timed(theirs, DATA_S)[0]) for _ in range(DATA_ROUNDS + 1)
            ]
    best, best_of_theirs = (max(of) for of in zip(*rates[1:], strict=True))
    return {"ready batches over WebDataset, one .npz a sample": best / best_of_theirs}


MEASURES: dict[str, Callable[[], Ratios]] = {
    "training, QM9 and MP20": lambda: training("qm9_mp20"),
    "training, GEOM-DRUGS": lambda: training("geom_drugs"),
    "sampling": sampling,
    "data path": data_path,
}


def _bf16(name: str) -> list[str]:
    return [name] if multiplies_bf16(torch.device("cpu")) else []


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def recorded(path: Path = RECORD) -> dict[str, Any]:
    """``kind`` of machine, ``torch``, and the ``ratios`` by the name of their measure."""
    found = json.loads(path.read_text())
    ratios: dict[str, Ratios] = {}
    for one in found["rows"]:
        ratios.setdefault(one["measure"], {})[one["what"]] = one["value"]
    return {"kind": found["machine"]["kind"], "torch": found["versions"]["torch"], "ratios": ratios}


def unlike(path: Path = RECORD) -> str:
    """Why the record says nothing about this machine; "" where it does."""
    if not path.is_file():
        return f"no record at {path}"
    found = recorded(path)
    pairs = (("machine", found["kind"], machine()["kind"]), ("torch", found["torch"], torch.__version__))
    return "; ".join(
        f"recorded with {what} {theirs}, this is {ours}" for what, theirs, ours in pairs if theirs != ours
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.name}: quiet machines only")
    parser.add_argument("--only", default="", metavar="WORD", help="measures with this in their name")
    args = parser.parse_args()
    if args.record and args.only:
        parser.error("--record measures everything; got --only too")
    known = recorded()["ratios"] if RECORD.is_file() else {}
    rows = []
    with one_thread():
        for name in (name for name in MEASURES if args.only in name):
            times = [MEASURES[name]() for _ in range(RECORDED_TIMES if args.record else 1)]
            for what in times[0]:
                value, before = (
                    statistics.median(of[what] for of in times),
                    known.get(name, {}).get(what, 0.0),
                )
                more = {"range": [min(of[what] for of in times), max(of[what] for of in times)]}
                rows.append(row(what, value, "recorded before", before, "times", measure=name, **more))
    if args.record:
        write("ratios", record("ratios", ["torch"], rows))
        return
    for one in rows:
        print(f"{one['what']}: {one['value']:.2f}, recorded {one['baseline_value']:.2f}")


if __name__ == "__main__":
    main()

"""Claim: ready batches from shards come at least 40 times as fast as from a per-sample WebDataset pipeline.

    python benchmarks/data_throughput.py

Ready is packed (16,384 atoms a step), augmented and a torch tensor. Both sides hold the same structures: QM9
molecules of --source, repeated with a little noise, or made-up ones of QM9's sizes where there is no file.
Both run in this process on the one core it is bound to, in turns, after a warm-up. Rates are sets a second of
processor time, so that other work on the machine counts little; those by the clock stand in the result too.

per sample: one .npz a structure in WebDataset shards, ``.decode()``, then collated by one concatenation a
column into the same packed batch and augmented by the same code; no shuffling, no digests.
shards: ``BatchLoader.step``, in the exact order of training, digests checked, then the same augmentation. The
shards hold the structures many times, so that they are far larger than what the reader keeps decoded.
Also: decoding alone, bytes a structure, and in a process of its own the memory of reading all the shards.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import torch
import webdataset
from dense_denoiser import QM9_HISTOGRAM
from limits import measured_limits
from record import RESULTS, record, row, write

from adit_scale.atoms import AtomSet
from adit_scale.data.augment import augment
from adit_scale.data.build import build_from_sets
from adit_scale.data.columns import SetColumns
from adit_scale.data.config import DataConfig
from adit_scale.data.loader import BatchLoader
from adit_scale.data.manifest import SET_DTYPE, SPLITS, Block, Manifest, Shard, encode_rows, sets_file
from adit_scale.data.packing import pack
from adit_scale.data.shards import ShardReader
from adit_scale.data.sources import Source, read_source
from adit_scale.data.storage import LocalFolder

STEP_ATOMS = 16_384
SAMPLES_A_SHARD = 10_000
SEED = 0
Rates = list[tuple[float, float]]  # a round: by processor time, by the clock


def structures(n_sets: int, source: Path) -> Iterator[AtomSet]:
    """n_sets molecules, no two alike."""
    rng = np.random.default_rng(SEED)
    base = list(_real(source) if source.is_file() else _made_up(rng))
    for i, molecule in zip(range(n_sets), chain.from_iterable(repeat(base)), strict=False):
        noise = rng.normal(scale=0.02, size=molecule.positions.shape)
        yield replace(molecule, positions=molecule.positions + noise, dataset="qm9", id=f"gdb_{i}", group="")


def _real(source: Path) -> Iterator[AtomSet]:
    items = read_source(Source(source, "qm9"), DataConfig())
    return (item for item in items if isinstance(item, AtomSet))


def _made_up(rng: np.random.Generator) -> Iterator[AtomSet]:
    counts = np.repeat(np.arange(len(QM9_HISTOGRAM)), QM9_HISTOGRAM)
    for n in counts.tolist():
        numbers = rng.choice([1, 6, 7, 8], n, p=[0.51, 0.35, 0.06, 0.08])
        yield AtomSet(numbers, rng.normal(size=(n, 3)) * 2, np.zeros((3, 3)), False, "qm9", 0, "made-up")


def write_samples(manifest: Manifest, folder: Path) -> int:
    """The same structures, one .npz each, in tar files of 10,000; the number of tar files."""
    reader = ShardReader(manifest, "train")
    n_shards = 0
    for first in range(0, len(reader.index), SAMPLES_A_SHARD):
        places = np.arange(first, min(first + SAMPLES_A_SHARD, len(reader.index)))
        with tarfile.open(folder / f"samples-{n_shards:06d}.tar", "w") as archive:
            for place, molecule in zip(places, reader.read_sets(places), strict=True):
                buffer = io.BytesIO()
                np.savez(
                    buffer,
                    numbers=molecule.numbers.astype(np.uint8),
                    positions=molecule.positions.astype(np.float32),
                    cell=molecule.cell.astype(np.float32),
                    spacegroup=np.int16(molecule.spacegroup),
                )
                header = tarfile.TarInfo(f"{place:09d}.npz")
                header.size = buffer.tell()
                buffer.seek(0)
                archive.addfile(header, buffer)
        n_shards += 1
    return n_shards


def per_sample(folder: Path, n_shards: int, collated: bool) -> Iterator[int]:
    """Sets in each batch of the pipeline that the claim is about; collated or only decoded."""
    urls = [str(folder / f"samples-{i:06d}.tar") for i in range(n_shards)]
    lot: list[dict] = []
    n_atoms = 0
    for sample in webdataset.WebDataset(urls, shardshuffle=False).decode().repeat():
        lot.append({name: sample["npz"][name] for name in ("numbers", "positions", "cell", "spacegroup")})
        n_atoms += len(lot[-1]["numbers"])
        if n_atoms >= STEP_ATOMS:
            if collated:
                _collate(lot)
            yield len(lot)
            lot, n_atoms = [], 0


def _collate(lot: list[dict]) -> None:
    lot.sort(key=lambda sample: len(sample["numbers"]))
    columns = SetColumns.from_arrays(
        sizes_s=np.array([len(sample["numbers"]) for sample in lot]),
        numbers_t=np.concatenate([sample["numbers"] for sample in lot]),
        positions_t3=np.concatenate([sample["positions"] for sample in lot]),
        cells_s33=np.stack([sample["cell"] for sample in lot]),
        dataset_s=np.zeros(len(lot)),
        spacegroup_s=np.stack([sample["spacegroup"] for sample in lot]),
    )
    index = np.arange(len(lot))
    augment(pack(columns, index, np.zeros_like(index), np.zeros_like(index)), SEED)


def decoded_blocks(manifest: Manifest) -> Iterator[int]:
    """Sets of each block, read, checked and decoded."""
    while True:
        reader = ShardReader(manifest, "train", cache_bytes=0)
        for block in reader.index.blocks:
            reader.read_columns(np.arange(block.first_set, block.first_set + block.n_sets))
            yield block.n_sets


def steps(loader: BatchLoader, augmented: bool) -> Iterator[int]:
    step = 0
    while True:
        result = loader.step(step)
        for batch in result.batches:
            if augmented:
                augment(batch, SEED)
        yield result.n_sets
        step += 1


def timed(work: Iterator[int], seconds: float) -> tuple[float, float]:
    """Sets a second of processor time, all threads together, over so many seconds of it; and of the clock."""
    n_sets, start, clock = 0, time.process_time(), time.perf_counter()
    while (elapsed := time.process_time() - start) < seconds:
        n_sets += next(work)
    return n_sets / elapsed, n_sets / (time.perf_counter() - clock)


def measure(folder: Path, args: argparse.Namespace) -> list[dict]:
    config = DataConfig(validation_fraction=0, test_fraction=0, build_workers=1)
    small = build_from_sets(structures(args.sets, args.source), folder / "small", config)
    n_shards = write_samples(small, folder)
    n_bytes = enlarge(small, folder / "large", int(args.gib * 2**30))
    config = replace(config, shards=str(folder / "large"))
    loader = BatchLoader(config, seed=SEED, atom_budget=STEP_ATOMS, micro_batch_atoms=STEP_ATOMS)
    sides = {
        "decode, per sample": per_sample(folder, n_shards, collated=False),
        "decode": decoded_blocks(loader.manifest),
        "full, per sample": per_sample(folder, n_shards, collated=True),
        "read and pack": steps(loader, augmented=False),
        "full": steps(loader, augmented=True),
    }
    rates: dict[str, Rates] = {name: [] for name in sides}
    for work in sides.values():
        timed(work, args.seconds / 2)
    for _ in range(args.rounds):
        for name, work in sides.items():
            gc.collect()
            rates[name].append(timed(work, args.seconds))
    loader.close()
    block_bytes = sum(block.stop - block.start for block in small.blocks["train"]) / args.sets
    sample_bytes = sum(path.stat().st_size for path in folder.glob("samples-*.tar")) / args.sets
    baseline = "WebDataset, one .npz a sample"
    return [
        compare(
            "ready batches (read, packed, augmented)", rates["full"], baseline, rates["full, per sample"]
        ),
        compare("read and packed", rates["read and pack"], f"{baseline}, ready", rates["full, per sample"]),
        compare("decoding alone", rates["decode"], f"{baseline}, decoding", rates["decode, per sample"]),
        row("disk space of a structure", block_bytes, baseline, sample_bytes, "bytes"),
        memory(folder / "large", n_bytes),
    ]


def compare(what: str, rates: Rates, baseline: str, baseline_rates: Rates) -> dict:
    """Medians over rounds, and how far the ratio of a single round goes to either side."""
    each = [a / b for (a, _), (b, _) in zip(rates, baseline_rates, strict=True)]
    processor, clock = (
        [statistics.median(rate[kind] for rate in side) for side in (rates, baseline_rates)]
        for kind in (0, 1)
    )
    by_clock = {"by_clock": clock[0], "baseline_by_clock": clock[1]}
    return row(
        what, processor[0], baseline, processor[1], "sets/s", ratio_range=[min(each), max(each)], **by_clock
    )


def enlarge(small: Manifest, folder: Path, n_bytes: int) -> int:
    """A data set of at least n_bytes from the blocks of another, each under a key of its own."""
    index = small.split("train")
    originals = [
        (small.storage.read_range(b.shard, b.start, b.stop), index.rows(b.first_set, b.first_set + b.n_sets))
        for b in index.blocks[:32]
        if small.storage.size(b.shard) != b.stop  # without the end-of-archive mark
    ]
    folder.mkdir()
    blocks: list[Block] = []
    shards: list[Shard] = []
    rows: list[np.ndarray] = []
    written, first_set = 0, 0
    while written < n_bytes:
        name = f"train-{len(shards):06d}.tar"
        contents = b""
        for _ in range(16):
            data, own = originals[len(blocks) % len(originals)]
            key = f"{len(blocks):06d}"
            data = _renamed(data, key)
            digest = hashlib.sha256(data).hexdigest()
            start = len(contents)
            blocks.append(Block(name, key, start, start + len(data), digest, first_set, len(own)))
            rows.append(own)
            contents += data
            first_set += len(own)
        (folder / name).write_bytes(contents)
        shards.append(Shard(name, len(contents), hashlib.sha256(contents).hexdigest()))
        written += len(contents)
    nothing = np.zeros(0, SET_DTYPE)
    tables = {s: encode_rows(np.concatenate(rows) if s == "train" else nothing) for s in SPLITS}
    for split, table in tables.items():
        (folder / sets_file(split)).write_bytes(table)
    Manifest(
        datasets=small.datasets,
        descriptions=small.descriptions,
        shards={"train": shards, "val": [], "test": []},
        blocks={"train": blocks, "val": [], "test": []},
        sets_sha256={split: hashlib.sha256(table).hexdigest() for split, table in tables.items()},
        storage=LocalFolder(folder),
    ).save(folder)
    return written


def _renamed(data: bytes, key: str) -> bytes:
    """A block with another key in its tar headers."""
    changed = bytearray(data)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            member.name = key + member.name[len(key) :]
            changed[member.offset : member.offset_data] = member.tobuf(tarfile.USTAR_FORMAT)
    return bytes(changed)


def memory(folder: Path, n_bytes: int) -> dict:
    """Peak memory of a process that reads a data set once in the order of training."""
    command = [sys.executable, str(Path(__file__).with_name("read_epoch.py")), str(folder), str(STEP_ATOMS)]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    what = "peak memory of a process that reads a whole data set in training order, imports included"
    return row(what, answer["peak_mib"], "the data set on disk", n_bytes / 2**20, "MiB", **answer)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sets", type=int, default=40_000, help="different structures")
    parser.add_argument("--gib", type=float, default=1.0, help="of shards that hold them again and again")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each side in a round")
    parser.add_argument("--source", type=Path, default=Path("../shared/data/qm9_sample.extxyz.gz"))
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    args = parser.parse_args()
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), args)
    limits = measured_limits("cpu", threads=1)
    result = record("data_throughput", ["torch", "numpy", "webdataset"], rows, limits)
    result["structures"] = args.source.name if args.source.is_file() else "made up"
    write(
        "data_throughput", result | {"sets": args.sets, "gib": args.gib, "step_atoms": STEP_ATOMS}, args.out
    )


if __name__ == "__main__":
    main()

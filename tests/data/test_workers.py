"""Worker processes: the same batches as without, whatever happens to the run around them."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from adit_scale.data.build import build_from_sets
from adit_scale.data.config import DataConfig
from adit_scale.data.loader import BatchLoader, StepBatches
from adit_scale.data.workers import ProcessPreparer
from adit_scale.errors import DataError
from tests.data.conftest import molecule

STEPS = [*range(9), 30, 31, 3, 4]  # in order, then jumps


def loader(folder: Path, workers: int, **changes) -> BatchLoader:
    options = {"seed": 7, "atom_budget": 300, "micro_batch_atoms": 160} | changes
    return BatchLoader(DataConfig(shards=str(folder), repeat={"mols": 1.5}, workers=workers), **options)


def pids(source: BatchLoader) -> list[int]:
    assert isinstance(source._preparer, ProcessPreparer)
    return source._preparer.pids


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def assert_same(a: StepBatches, b: StepBatches) -> None:
    assert (a.n_sets, a.n_atoms, a.n_rounds, a.cursor) == (b.n_sets, b.n_atoms, b.n_rounds, b.cursor)
    assert np.array_equal(a.sizes, b.sizes)
    assert a.sizes.dtype == b.sizes.dtype
    for x, y in zip(a.batches, b.batches, strict=True):
        for one, other in ((x, y), (x.layout, y.layout)):
            for name in (f.name for f in fields(one)):
                left, right = getattr(one, name), getattr(other, name)
                if isinstance(left, torch.Tensor):
                    assert left.dtype == right.dtype
                    assert torch.equal(left, right), name
                elif name != "layout":
                    assert left == right, name


def test_batches_do_not_depend_on_the_number_of_workers(small_data: Path) -> None:
    """Nor on signals that tell the run to stop; and none of them stays behind."""
    options = {"rank": 1, "world_size": 3, "capacity": True}
    sources = [loader(small_data, workers, **options) for workers in (1, 2, 3, 4)]
    assert all(source._started is None for source in sources)  # not before a step is asked for
    everyone = [pid for source in sources for pid in pids(source)]
    assert len(everyone) == 10
    stops = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)

    def stop_all() -> None:
        for pid in everyone:
            for number in stops:
                os.kill(pid, number)

    stop_all()  # also while they start
    with loader(small_data, 0, **options) as thread:
        expected = {step: thread.step(step) for step in STEPS}
    for step in STEPS:
        for source in sources:
            assert_same(source.step(step), expected[step])
        if step == 4:
            stop_all()
    sources[2].seek(5, expected[4].cursor)
    assert_same(sources[2].step(5), expected[5])
    for source in sources:
        source.close()
    assert not any(is_alive(pid) for pid in everyone)
    assert not [t for t in threading.enumerate() if t.name.startswith("batches")]


def test_errors_of_a_worker(tmp_path: Path) -> None:
    """A damaged shard is named in one line as without workers; a worker that dies gives one clear error."""
    sets = [molecule(np.random.default_rng(0), 3, f"m{i}") for i in range(40)]
    build_from_sets(sets, tmp_path / "d", DataConfig(block_sets=10, validation_fraction=0, test_fraction=0))
    with loader(tmp_path / "d", 1, atom_budget=30) as source:
        source.step(0)
        (pid,) = pids(source)
        shard = tmp_path / "d/train-000000.tar"
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 1
        with loader(tmp_path / "d", 1, atom_budget=30) as damaged:
            shard.write_bytes(data)
            with pytest.raises(
                DataError, match=r"train-000000\.tar: block 00000\d: expected sha256"
            ) as error:
                damaged.step(0)
            assert "\n" not in str(error.value)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(
            DataError, match=rf"data worker {pid} ended with signal SIGKILL before step \d+ was"
        ):
            [source.step(step) for step in range(1, 9)]
        start_s = time.monotonic()
    assert time.monotonic() - start_s < 5
    assert not is_alive(pid)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("workers", [0, 1])
def test_pinned_batches(small_data: Path, workers: int) -> None:
    with loader(small_data, workers, pin_memory=True) as pinned, loader(small_data, 0) as plain:
        step, expected = pinned.step(0), plain.step(0)
        assert_same(step, expected)
        for batch in step.batches:
            assert batch.positions_t3.is_pinned()
            assert batch.layout.offsets.is_pinned()
            assert torch.equal(batch.to("cuda").positions_t3.cpu(), batch.positions_t3)

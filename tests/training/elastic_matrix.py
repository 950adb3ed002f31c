"""Every (ZeRO stage, world size) taken up by every other: ``python -m tests.training.elastic_matrix``.

A small run is saved after 4 steps by each of the stages and world sizes; every other takes up its checkpoint,
writes what it then holds into a checkpoint of its own, and makes one more step. Printed: a table of cells in
which every master weight, moment and average equals the source's bit for bit, and how far the next step's
loss is from that of the same stage and world size going on. ``--short``: the corners only.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tests.faults.zygote import Zygote
from tests.training import runs

SAVED_STEP = 4
# A loss of one more step, relative: sums in another order in fp32, another rounding of gradients in bf16.
BOUNDS = {"fp32": 1e-6, "bf16": 1e-4}
KEYS = ("master", "exp_avg", "exp_avg_sq", "ema")


class Layout(NamedTuple):
    precision: str
    stage: int
    world: int

    def __str__(self) -> str:
        return f"{self.precision} z{self.stage} w{self.world}"

    @property
    def folder(self) -> str:
        return str(self).replace(" ", "-")


class Cell(NamedTuple):
    source: Layout
    target: Layout
    differing: list[str]  # "key of parameter" not equal bit for bit
    deviation: float  # of the next step's loss, relative


FULL = [
    Layout(precision, stage, world)
    for precision, first in (("fp32", 0), ("bf16", 1))
    for stage in range(first, 4)
    for world in (1, 2, 4)
]
SHORT = [
    Layout("fp32", 0, 1),
    Layout("fp32", 1, 4),
    Layout("fp32", 3, 4),
    Layout("bf16", 2, 1),
    Layout("bf16", 3, 4),
]


def matrix(work: Path, layouts: Sequence[Layout]) -> list[Cell]:
    """Run it all below ``work``. Layouts of one precision take up each other's checkpoints."""
    shards = runs.small_data(work / "shards", n_sets=60)
    _random_autoencoder(work / "autoencoder", shards)
    for layout in layouts:
        _prepare(work / "sources" / layout.folder, shards, layout, SAVED_STEP)
    pairs = [(s, t) for s in layouts for t in layouts if s.precision == t.precision]

    def cells(target: Layout) -> list[Path]:
        return [work / "cells" / f"{s.folder}--{t.folder}" for s, t in pairs if t == target]

    with Zygote() as zygote:
        _run_all(zygote, work, layouts, lambda layout: [work / "sources" / layout.folder])
        for source, target in pairs:
            folder = work / "cells" / f"{source.folder}--{target.folder}"
            shutil.copytree(
                work / "sources" / source.folder,
                folder,
                ignore=shutil.ignore_patterns("weights", "heartbeat"),
            )
            _prepare(folder, shards, target, SAVED_STEP + 1)
        _run_all(zygote, work, layouts, cells)
    return [_compare(work, source, target) for source, target in pairs]


def _random_autoencoder(folder: Path, shards: Path) -> None:
    import torch

    from adit_scale.models.autoencoder import Autoencoder
    from adit_scale.training import weights

    torch.manual_seed(0)
    config = runs.small_study(shards).model.autoencoder
    weights.save(folder, config, Autoencoder(config).state_dict())


def _prepare(folder: Path, shards: Path, layout: Layout, steps: int) -> None:
    config = runs.small_study(
        shards, steps, world_size=layout.world, zero_stage=layout.stage, precision=layout.precision
    )
    optim = replace(config.diffusion.optim, schedule="constant")
    config.diffusion = replace(config.diffusion, optim=optim, validate_every_steps=100, validation_sets=2)
    runs.prepare(folder, config, "diffusion")


def _run_all(zygote: Zygote, work: Path, layouts: Sequence[Layout], folders_of) -> None:
    """One start of processes a world size, its runs one after the other."""
    for world in sorted({layout.world for layout in layouts}):
        folders = [str(f) for layout in layouts if layout.world == world for f in folders_of(layout)]
        log = work / f"log-{len(list(work.glob('log-*')))}.txt"
        target = "tests.training.elastic_matrix:train_all"
        codes = zygote.start(target, str(work / "autoencoder"), folders, world_size=world, log=log).wait(1200)
        assert not any(codes), log.read_text()[-6000:]


def _compare(work: Path, source: Layout, target: Layout) -> Cell:
    import torch

    from adit_scale.tracking.journal import read_journal, series
    from adit_scale.training.checkpoint import Checkpoint, step_folder

    cell = work / "cells" / f"{source.folder}--{target.folder}"
    saved = Checkpoint(step_folder(work / "sources" / source.folder / "checkpoints", SAVED_STEP))
    loaded = Checkpoint(step_folder(cell / "loaded", SAVED_STEP))
    differing = []
    for name, shape in saved.state.shapes.items():
        for key in KEYS:
            before, after = (c.read(name, 0, math.prod(shape), key) for c in (saved, loaded))
            if not torch.equal(before.view(torch.int32), after.view(torch.int32)):
                differing.append(f"{key} of {name}")
    unchanged = work / "cells" / f"{source.folder}--{source.folder}"
    steps, losses = series(read_journal(cell), "train/loss")
    _, expected = series(read_journal(unchanged), "train/loss")
    assert steps == list(range(1, SAVED_STEP + 2)), steps
    assert losses[:SAVED_STEP] == expected[:SAVED_STEP]
    return Cell(source, target, differing, abs(losses[-1] / expected[-1] - 1))


def train_all(autoencoder: str, folders: list[str]) -> int:
    """One rank: each run writes down what it holds right after loading, then trains."""
    import torch

    from adit_scale.training.retention import Policy
    from adit_scale.training.trainer import Trainer
    from adit_scale.training.writer import CheckpointWriter

    fit = Trainer.fit

    def dump_and_fit(trainer: Trainer) -> bool:
        if trainer.state.step:
            to = CheckpointWriter(trainer.folder / "loaded", torch.device("cpu"), Policy(), background=False)
            to.save(trainer.state, trainer.tensors())
        return fit(trainer)

    Trainer.fit = dump_and_fit  # type: ignore[method-assign, assignment]
    torch.set_num_threads(1)
    runs.main(["--autoencoder", autoencoder, *folders])
    return 0


def table(cells: Sequence[Cell]) -> str:
    """Rows are sources, columns targets: deviation of the next loss, or the number of differing tensors."""
    lines = []
    for precision in sorted({c.source.precision for c in cells}, reverse=True):
        of = {(c.source, c.target): c for c in cells if c.source.precision == precision}
        layouts = list(dict.fromkeys(source for source, _ in of))
        short = {layout: f"z{layout.stage} w{layout.world}" for layout in layouts}
        lines.append(f"{precision}: loss of the next step, relative to the same layout going on")
        lines.append("from \\ to  " + "".join(f"{short[t]:>9}" for t in layouts))
        for s in layouts:
            row = [
                f"{len(of[s, t].differing)} differ" if of[s, t].differing else f"{of[s, t].deviation:.0e}"
                for t in layouts
            ]
            lines.append(f"{short[s]:<11}" + "".join(f"{text:>9}" for text in row))
        worst = max(c.deviation for c in of.values())
        equal = sum(not c.differing for c in of.values())
        lines.append(
            f"{equal} of {len(of)} cells equal bit for bit after loading; largest deviation {worst:.1e} "
            f"(bound {BOUNDS[precision]:.0e})\n"
        )
    return "\n".join(lines)


def failures(cells: Sequence[Cell]) -> list[Cell]:
    return [c for c in cells if c.differing or not c.deviation <= BOUNDS[c.source.precision]]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="five layouts instead of all")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        cells = matrix(Path(work), SHORT if options.short else FULL)
    print(table(cells))
    bad = failures(cells)
    for cell in bad:
        print(f"FAILED {cell.source} -> {cell.target}: {cell.differing[:3]} {cell.deviation:.2e}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

"""A small study's folders as its nodes leave them, without anything having been trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from adit_scale import config as settings
from adit_scale.atoms import AtomSet
from adit_scale.config import StudyConfig
from adit_scale.data.build import build_from_sets
from adit_scale.data.config import DataConfig
from adit_scale.jobs.attempts import append_end, append_start
from adit_scale.jobs.node import CONFIG, NodeFolder, Result
from adit_scale.models.ladder import LADDER
from adit_scale.tracking.journal import SIDE_FOLDER, Journal
from adit_scale.training.peaks import DEVICE_TAG

RATES = {"crystal/validity": {"successes": 30, "trials": 40}}


def data_set(folder: Path) -> DataConfig:
    """60 molecules of 4 atoms and 40 crystals of 2, a tenth of each held out."""
    rng = np.random.default_rng(0)
    sets = [
        AtomSet(np.array([6, 1, 1, 8]), rng.normal(size=(4, 3)), np.zeros((3, 3)), False, "mols", id=f"m{i}")
        for i in range(60)
    ]
    sets += [
        AtomSet(np.array([11, 17]), rng.uniform(size=(2, 3)) * 3, np.eye(3) * 3, True, "xtals", 1, id=f"x{i}")
        for i in range(40)
    ]
    data = DataConfig(shards=str(folder), validation_fraction=0.1, test_fraction=0, build_workers=1)
    build_from_sets(sets, folder, data)
    return data


class Folders:
    """Of one study below ``runs``; ``add`` a point, then ``report``."""

    def __init__(self, runs: Path, name: str, data: DataConfig) -> None:
        self.folder, self.name = runs / name, name
        self.base = StudyConfig(data=data)
        self.base.sweep = replace(
            self.base.sweep, name=name, hypothesis=f"of {name}", grid={"model/denoiser": ["dit_32"]}
        )
        self.inputs: dict[str, Path] = {}
        self.axes: dict[str, dict[str, Any]] = {}
        self.shards = self._node("shards", "", {}, self.base, {"fingerprint": "f00d"})
        self.autoencoder = self._node("autoencoder", "", {"shards": self.shards}, self.base, {})
        self.reference = self._node(
            "reference",
            "",
            {"shards": self.shards},
            self.base,
            {
                "scores": RATES,
                "reconstruction_scores": RATES,
                "leakage": {"crystal": {"n_held_out": 40, "n_leaked": 1}},
            },
        )

    def config(self, size: str = "dit_32", lr: float = 1e-3, **data: Any) -> StudyConfig:
        config = replace(self.base, data=replace(self.base.data, **data))
        config.parallel = replace(config.parallel, world_size=2)
        config.model = replace(config.model, denoiser=replace(LADDER[size]))
        config.diffusion = replace(config.diffusion, steps=20, optim=replace(config.diffusion.optim, lr=lr))
        return config

    def add(self, label: str, config: StudyConfig, done: bool = True, scored: bool = True) -> Path:
        """A point with its run and, where scored, its evaluation."""
        inputs = {"shards": self.shards, "autoencoder": self.autoencoder}
        run = self._node("diffusion", label, inputs, config, {} if done else None)
        write_journal(run, config, last=20 if done else 10)
        write_attempts(run)
        self.inputs |= {f"reference/{label}": self.reference, f"diffusion/{label}": run}
        self.axes[label] = {"model/denoiser": config.model.denoiser.name}
        if scored:
            evaluation = self._node(
                "evaluation", label, {"diffusion": run}, config, {"scores": RATES} if done else None
            )
            self.inputs[f"evaluation/{label}"] = evaluation
        return run

    def report(self) -> NodeFolder:
        path = self.folder / "report-0"
        path.mkdir(exist_ok=True)
        node = NodeFolder(
            path, "report", "r", "", self.name, self.inputs, optional_inputs=True, points=self.axes
        )
        node.save()
        settings.save(self.base, path / CONFIG)
        return node

    def _node(
        self,
        kind: str,
        label: str,
        inputs: dict[str, Path],
        config: StudyConfig,
        done: dict[str, Any] | None,
    ) -> Path:
        path = self.folder / "-".join(filter(None, (kind, label, "0123")))
        path.mkdir(parents=True)
        node = NodeFolder(path, kind, f"id of {self.name} {kind} {label}", label, self.name, inputs)
        node.save()
        settings.save(config, path / CONFIG)
        if done is not None:
            node.succeed(Result((), done), wall_s=7.0)
        return path


def write_journal(run: Path, config: StudyConfig, last: int) -> None:
    """A line of training every 5 steps, a validation every 10."""
    with Journal(run) as journal:
        tree = {"parallel": {"precision": "bf16"}}
        journal.log_params(tree)
        journal.log_tags({DEVICE_TAG: "NVIDIA H200"})
        for step in range(5, last + 1, 5):
            seen = {"train/atoms_seen": 32 * step, "train/sets_seen": 10 * step}
            flops = {"train/flops_cum": 1e6 * step, "train/flops_total_cum": 3e6 * step}
            clock = {"time_s": 1000.0 + step, "atoms_per_s": 100.0 * step, "mfu": 0.3}
            journal.log_metrics(step, {"train/loss": 20.0 / step, **seen, **flops}, clock)
            if step % 10 == 0:
                losses = {"": 30.0 / step, "/molecule": 20.0 / step, "/crystal": 40.0 / step}
                named = {f"validation/loss{part}": loss for part, loss in losses.items()}
                named |= {"validation/constant_predictor_loss": 9.0}
                named |= {"validation/flops_cum": 1e6 * step, "validation/atoms_seen": 32 * step}
                journal.log_metrics(step, named, {"time_s": 1000.5 + step})
    with Journal(run / SIDE_FOLDER) as side:
        rate = {"": 0.5, "_lower": 0.4, "_upper": 0.6, "_trials": 64}
        side.log_metrics(10, {f"samples/crystal/validity{end}": value for end, value in rate.items()})


def write_attempts(run: Path) -> None:
    """Two attempts of two ranks: the first was killed at 1012 s, the second took 36 s."""
    append_start(run, tasks=2)
    append_start(run, tasks=2)
    append_end(run, 0, "done", "")
    lines = [json.loads(line) for line in (run / "attempts.jsonl").read_text().splitlines()]
    for line, at in zip(lines, (1000.0, 1013.0, 1049.0), strict=True):
        line["time"] = at
    (run / "attempts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

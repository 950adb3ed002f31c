"""`adit advise` on the folders of a study with a planted law, and its mistakes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adit_scale import cli
from adit_scale import config as settings
from adit_scale.config import StudyConfig
from adit_scale.data.config import DataConfig
from adit_scale.jobs.node import CONFIG, NodeFolder, Result
from adit_scale.models.ladder import LADDER, denoiser_parameters, training_flops
from adit_scale.scaling.config import SweepConfig
from adit_scale.tracking.journal import Journal
from tests.training.runs import REPO

SIZES = ("dit_32", "dit_64", "dit_96", "dit_128", "dit_192", "dit_256")
E, A, ALPHA, B, BETA = 0.5, 20.0, 0.32, 300.0, 0.40
ENCODER = 1e6  # FLOPs an atom
NOISE = 0.002


def node(root: Path, kind: str, label: str, inputs: dict[str, Path], config: StudyConfig) -> NodeFolder:
    path = root / f"{kind}-{label}"
    path.mkdir(parents=True)
    found = NodeFolder(path, kind, f"{kind}{label}", label, root.name, inputs)
    found.save()
    settings.save(config, path / CONFIG)
    return found


def planted_study(root: Path, amounts: tuple[float, ...]) -> Path:
    """What launch.py and its jobs leave of a study without evaluations: every size at every D."""
    rng = np.random.default_rng(0)
    config = StudyConfig(
        data=DataConfig(shards=str(REPO / "shards" / "demo")),
        sweep=SweepConfig(name=root.name, hypothesis="planted", bootstrap=100),
    )
    shards = node(root, "shards", "", {}, config)
    shards.succeed(Result(values={"fingerprint": "f"}), 1.0)
    autoencoder = node(root, "autoencoder", "", {"shards": shards.path}, config)
    inputs = {}
    for size in SIZES:
        shape = LADDER[size]
        n = denoiser_parameters(shape)
        flops = training_flops(shape, [16], 0.5) / 16
        own = replace(config, model=replace(config.model, denoiser=shape))
        for d in amounts:
            label = f"{size}-d{d:g}"
            parents = {"shards": shards.path, "autoencoder": autoencoder.path}
            run = node(root, "diffusion", label, parents, own)
            loss = (E + A * n**-ALPHA + B * d**-BETA) * np.exp(NOISE * rng.standard_normal())
            with Journal(run.path) as journal:
                journal.log_metrics(
                    100,
                    {"train/atoms_seen": d, "train/sets_seen": d / 16, "train/flops_cum": flops * d,
                     "train/flops_total_cum": (flops + ENCODER) * d, "validation/loss": float(loss)},
                    {},
                )  # fmt: skip
            run.succeed(Result(), 1.0)
            inputs[f"diffusion/{label}"] = run.path
    node(root, "report", "", inputs, config)
    return root


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    return planted_study(tmp_path_factory.mktemp("runs") / "planted", (2.5e7, 1e8, 4e8))


def test_the_optimum_of_a_planted_study_is_inside_its_interval(study, capsys):
    words = [f"study={study}", "gpu_hours=0.1", "gpu=h200", "mfu=0.5"]
    assert cli.main(["advise", *words, "json"]) == 0
    record = json.loads(capsys.readouterr().out)
    flops = 0.1 * 3600 * 989.4e12 * 0.5
    assert record["budget"]["flops_total"] == pytest.approx(flops)
    # The truth on the ladder's own costs, searched over all sizes.
    sizes = np.geomspace(1e5, 1e10, 20_000)
    known = sorted((denoiser_parameters(r), training_flops(r, [16], 0.5) / 16) for r in LADDER.values())
    cost = ENCODER + np.exp(np.interp(np.log(sizes), *np.log(known).T))
    losses = E + A * sizes**-ALPHA + B * (flops / cost) ** -BETA
    best = int(losses.argmin())
    for key, truth in (("n", sizes[best]), ("d", flops / cost[best]), ("loss", losses[best])):
        interval = record["optimum"][key]["interval"]
        assert interval["low"] < truth < interval["high"], key
    assert record["optimum"]["loss"]["value"] == pytest.approx(losses[best], rel=0.02)
    assert any("extrapolates" in warning for warning in record["warnings"])
    assert cli.main(["advise", *words, "loss=0.7", "price=2"]) == 0
    text = capsys.readouterr().out
    assert "planted: 0.1 GPU-hours of H200 for 0.2" in text
    assert "a loss of 0.7 needs" in text


def test_without_several_amounts_of_data_it_says_what_to_run(tmp_path, capsys):
    study = planted_study(tmp_path / "one_budget", (1e8,))
    assert cli.main(["advise", f"study={study}", "gpu_hours=1", "gpu=h200"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: no L(N, D) to advise from: ")
    assert "sweep=" in line


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("gpu_hours=1 gpu=h200", "study is missing; expected study=FOLDER"),
        ("study=x gpu=h200", "gpu_hours is missing; expected gpu_hours=N, or loss=X"),
        ("study=x gpu_hours=1", "gpu is missing; expected a GPU such as gpu=h100"),
        ("study=x gpu_hours=0 gpu=h200", "gpu_hours is 0; expected a number over 0"),
        ("study=x gpu_hours=1 gpu=h200 mfu=40", "mfu is 40; expected a number over 0 and at most 1"),
        ("study=x gpu_hours=1 gpu=h200 loss=nan", "loss is nan; expected a number over 0"),
        ("study=x gpu_hour=1", "gpu_hour=1: no such word of adit advise; did you mean gpu_hours or gpu?"),
        ("study=nowhere gpu_hours=1 gpu=h200", "nowhere: no study there"),
        ("study=nowhere gpu_hours=1 gpu=abacus", "gpu is 'abacus'; expected one of a100, b200"),
    ],
)
def test_a_mistake_is_one_line(words, says, capsys):
    assert cli.main(["advise", *words.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line

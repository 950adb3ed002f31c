"""Overrides to a typed study, and mistakes to one line that says what there is."""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from omegaconf import DictConfig

from adit_scale.errors import ConfigError
from launchers import compose
from launchers.compose import CONFIGS, choices, compose_run, compose_study


def test_the_papers_study():
    study = compose_study(["sweep=scaling"])
    assert [point.label for point in study.points] == ["dit_s", "dit_b", "dit_l", "dit_xl"]
    assert [point.config.model.denoiser.width for point in study.points] == [384, 768, 1024, 1152]
    config = study.config
    assert (config.model.autoencoder.width, config.model.autoencoder.encoder_depth) == (512, 8)
    for stage in (config.autoencoder, config.diffusion):
        assert (stage.optim.lr, stage.optim.weight_decay, stage.optim.gradient_clip) == (1e-4, 0.0, 10.0)
        assert stage.optim.ema_decay == 0.9999
    assert (config.sampling.steps, config.sampling.guidance_scale) == (100, 2.0)
    assert (config.diffusion.label_dropout, config.diffusion.self_conditioning) == (0.1, 0.5)


def test_a_comma_list_is_an_axis_and_an_override_of_an_axis_replaces_it():
    study = compose_study(["model/denoiser=dit_64,dit_128", "seed=0,1", "diffusion.steps=7"])
    assert [point.label for point in study.points] == [
        "dit_64-seed0",
        "dit_64-seed1",
        "dit_128-seed0",
        "dit_128-seed1",
    ]
    assert study.config.sweep.grid == {"model/denoiser": ["dit_64", "dit_128"], "seed": [0, 1]}
    assert {point.config.diffusion.steps for point in study.points} == {7}
    assert [point.config.seed for point in study.points] == [0, 1, 0, 1]
    assert [p.label for p in compose_study(["model/denoiser=dit_b"]).points] == ["dit_b"]


def test_by_size_settings_yield_to_the_command_line():
    by_size = "+sweep.overrides_by_size={dit_64:['diffusion.optim.lr=0.5','diffusion.steps=9']}"
    points = compose_study([by_size, "model/denoiser=dit_32,dit_64", "diffusion.steps=7"]).points
    assert [point.config.diffusion.steps for point in points] == [7, 7]
    assert points[1].config.diffusion.optim.lr == 0.5
    assert points[0].config.diffusion.optim.lr != 0.5


MIXTURES = {
    "groups, numbers, sizes": (
        ["data=demo,qm9_mp20", "diffusion.optim.lr=1e-3,2", "seed=0,7", "data.cache=a,'1e-3'"],
        32,
    ),
    "tables that are merged": (["data.repeat={qm9:1},{}", "+data.repeat.qm9=5", "seed=0,1"], 8),
    "a table and an entry of it": (["diffusion.optim={lr:1e-3},{beta1:0.5}", "diffusion.optim.lr=1,2"], 8),
    "an entry and the table": (["diffusion.optim.lr=1,2", "diffusion.optim={beta1:0.5},{beta1:0.6}"], 8),
    "lists, words, flags": (
        ["evaluation.protocols=[edm],[edm,adit]", "sampling.atoms=9,drawn", "data.deduplicate=true,no"],
        16,
    ),
    "what jobs take": (["parallel.zero_stage=1,2", "parallel.micro_batch_atoms=300,400"], 8),
    "readers of the environment": (["runs='${oc.env:HOME}/runs'", "seed=0,1,2"], 6),
    "readers of other settings": (["autoencoder.steps='${diffusion.steps}'", "diffusion.steps=3,4"], 4),
    "values that read": (["diffusion.steps='${autoencoder.steps}',5", "seed=0,1"], 8),
    "a zip": (["+sweep.zip.a={data:[demo,files],diffusion.steps:[4,5],seed:[8,9]}", "evaluation=full"], 4),
}


@pytest.mark.parametrize("name", MIXTURES)
def test_points_are_what_hydra_composes_one_by_one(name, monkeypatch):
    by_size = "+sweep.overrides_by_size={dit_64:['diffusion.optim.lr=0.5','diffusion.steps=9']}"
    words, n_points = MIXTURES[name]
    words = [by_size, "model/denoiser=dit_32,dit_64", *words]
    points = compose_study(words).points
    monkeypatch.setattr(compose, "fields_of", lambda axes, groups: {})
    one_by_one = compose_study(words).points
    assert len(points) == n_points
    for ours, hydras in zip(points, one_by_one, strict=True):
        assert ours == hydras
        assert repr(asdict(ours.config)) == repr(asdict(hydras.config))  # 1, 1.0 and True are not the same


def test_two_hundred_points_compose_in_seconds(monkeypatch):
    composed: list[list[str]] = []
    hydra = compose._compose

    def counted(words: list[str]) -> DictConfig:
        composed.append(words)
        return hydra(words)

    monkeypatch.setattr(compose, "_compose", counted)
    start = time.process_time()
    study = compose_study(["sweep=scaling", "seed=" + ",".join(map(str, range(50)))])
    assert len(study.points) == 200
    assert [study.points[-1].label, study.points[-1].config.seed] == ["dit_xl-seed49", 49]
    assert len(composed) == 5  # the study and its four sizes
    assert time.process_time() - start < 3


@pytest.fixture
def iso(tmp_path):
    """Configs with a study whose sizes have steps of their own."""
    configs = Path(shutil.copytree(CONFIGS, tmp_path / "configs"))
    (configs / "sweep" / "iso.yaml").write_text(
        "# @package _global_\n"
        "sweep:\n"
        "  name: iso\n"
        "  hypothesis: At equal compute a middle size is best.\n"
        "  zip:\n"
        "    iso: {model/denoiser: [dit_64, dit_128], diffusion.steps: [200, 100]}\n"
    )
    return configs


def test_the_axes_of_a_zip_advance_together(iso):
    study = compose_study(["sweep=iso", "seed=0,1"], iso)
    assert [(p.label, p.config.model.denoiser.width, p.config.diffusion.steps) for p in study.points] == [
        ("dit_64-seed0-steps200", 64, 200),
        ("dit_128-seed0-steps100", 128, 100),
        ("dit_64-seed1-steps200", 64, 200),
        ("dit_128-seed1-steps100", 128, 100),
    ]
    three = ["model/denoiser=dit_32,dit_64,dit_96", "diffusion.steps=3,2,1"]
    longer = compose_study(["sweep=iso", *three], iso)
    assert [p.label for p in longer.points] == ["dit_32-steps3", "dit_64-steps2", "dit_96-steps1"]
    assert longer.config.sweep.zip == {
        "iso": {"model/denoiser": ["dit_32", "dit_64", "dit_96"], "diffusion.steps": [3, 2, 1]}
    }


def test_a_zip_can_be_left_out(iso):
    words = ["sweep=iso", "~sweep.zip.iso", "diffusion.steps=7"]
    assert [p.label for p in compose_study([*words, "model/denoiser=dit_64,dit_96"], iso).points] == [
        "dit_64",
        "dit_96",
    ]
    assert [p.label for p in compose_study([*words, "seed=0,1", "model/denoiser=dit_b"], iso).points] == [
        "dit_b-seed0",
        "dit_b-seed1",
    ]


def test_excluded_points_are_left_out():
    words = ["model/denoiser=dit_64,dit_96,dit_128", "seed=0,1"]
    study = compose_study([*words, "sweep.exclude=[{model/denoiser:[dit_96,dit_128],seed:1}]"])
    assert [p.label for p in study.points] == [
        "dit_64-seed0",
        "dit_64-seed1",
        "dit_96-seed0",
        "dit_128-seed0",
    ]
    two = compose_study([*words, "sweep.exclude=[{model/denoiser:dit_64},{seed:0}]"])
    assert [p.label for p in two.points] == ["dit_96-seed1", "dit_128-seed1"]


def test_a_single_run_has_no_axes(iso):
    config = compose_run(["sweep=iso", "diffusion.steps=7", "model/denoiser=dit_b"], iso)
    assert (config.diffusion.steps, config.model.denoiser.name, config.seed) == (7, "dit_b", 0)
    with pytest.raises(ConfigError, match=r"seed has 2 values; expected one"):
        compose_run(["seed=0,1"])


def test_quoted_values_stay_text():
    names = ["1e-3", "true", "a b", 'say "x" \\', "é", "dit_s"]
    words = ",".join("'" + name.replace("\\", "\\\\") + "'" for name in names)
    study = compose_study(["model/denoiser=dit_32", f"data.cache={words}", "seed=0,1"])
    assert [p.config.data.cache for p in study.points] == [name for name in names for _ in range(2)]


MISTAKES = {
    "sweep=scalling": "sweep=scalling: no such choice (did you mean scaling?); "
    "expected one of autoencoder, chinchilla, isoflop, lr, sampling, scaling, scaling_demo, seeds, transfer",
    "diffusion.stepz=3": "diffusion.stepz=3: no such setting; diffusion has steps, atom_budget, optim,",
    "diffusionn.steps=3": "the root has seed, runs, data,",
    "launcher.paralel=3": "launcher has kind, parallel,",
    "model/denoiser=dit_z": "expected one of dit_128, dit_160, dit_192,",
    "modell/denoiser=dit_s": "no such group (did you mean model/denoiser?)",
    "diffusion.steps=abc": "diffusion.steps=abc: Value 'abc' of type 'str' could not be converted to Integer",
    "data.repeat.qm9=2": "to add an entry to data.repeat, write +data.repeat.qm9=2",
    "+foo=1": "foo: no such setting; expected one of seed, runs, data,",
    "a=b=[c": "a=b=[c: not an override",
    "launcher.parallel=0": "launcher.parallel is 0; expected at least 1",
    "model/denoiser=dit_s,dit_s": "sweep.grid names a point twice: dit_s",
    "seed=range(1,3)": "seed=range(1,3): not a list of values",
    "+sweep.overrides_by_size={dit_q:['seed=1']}": "sweep.overrides_by_size.dit_q: no such size",
}


AXES = ["model/denoiser=dit_64,dit_96", "seed=0,1"]
MISTAKES_OF_AXES = [
    (
        ["+sweep.zip.a={model/denoiser:[dit_s]}"],
        "sweep.zip.a.model/denoiser is an axis of sweep.grid too; exp",
    ),
    (
        ["sweep=iso", "diffusion.steps=5"],
        "sweep.zip.iso has 2 of model/denoiser and 1 of diffusion.steps; expected as many values of each: "
        "override all axes of the zip together, or remove it with '~sweep.zip.iso'",
    ),
    (
        ["sweep=iso", "~sweep.zip.iso", "seed=0,1"],
        "sweep.grid has no sizes; expected sweep.grid.model/denoiser: [rung, ...]",
    ),
    (["+sweep.zip.a={}"], "sweep.zip.a is empty; expected axes with as many values each"),
    (["+sweep.zip.a={seed:[]}"], "sweep.zip.a.seed is []; expected a list of values"),
    (["+sweep.zip.a={seed:3}"], "+sweep.zip.a={seed:3}: "),
    ([*AXES, "sweep.exclude=[{seed:2}]"], "sweep.exclude[0] is {'seed': 2} and matches no point; expected"),
    ([*AXES, "sweep.exclude=[{seed:0},{sead:1}]"], "sweep.exclude[1] names sead; expected axes: model/den"),
    ([*AXES, "sweep.exclude=[{seed:0},{seed:1}]"], "sweep.exclude leaves out all 4 points; expected"),
    (
        ["sweep=iso", "diffusion.steps=5,5", "model/denoiser=dit_s,dit_s"],
        "sweep.grid and sweep.zip name a point twice: dit_s-steps5",
    ),
    (["diffusion.optim.lr=1,-1"], "diffusion.optim.lr is -1.0; expected more than 0"),
    (["diffusion.steps=1,x"], "diffusion.steps=x: Value 'x' of type 'str' could not be converted to Integer"),
    (["diffusion.stepz=1,2"], "diffusion.stepz=1: no such setting; diffusion has steps, atom_budget, optim,"),
    (["data.repeat={qm9:1},{qm9:-1}"], "data.repeat"),
    (["+sweep.overrides_by_size={dit_32:['parallel.tim=3']}", "seed=0,1"], "parallel.tim=3: no such setting"),
    (
        ["+sweep.overrides_by_size={dit_64:['launcher.nodes=3']}"],
        "sweep.overrides_by_size.dit_64 has 'launcher.nodes=3': a study has one launcher; what the jobs of a "
        "size take is launcher.by_size.dit_64.nodes",
    ),
    (["launcher.nodes=1,2"], "launcher.nodes is an axis; expected one value: a study has one launcher"),
    (
        ["launcher=slurm", "+launcher.by_size.dit_65.nodes=2"],
        "launcher.by_size.dit_65: no such size (did you mean ",
    ),
    (
        ["+launcher.by_size.dit_64.nodez=2"],
        "launcher.by_size.dit_64.nodez: no such setting (did you mean nodes?)",
    ),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES_OF_AXES)
def test_a_mistake_in_the_axes_is_one_line(words, message, iso):
    with pytest.raises(ConfigError) as caught:
        compose_study(words, iso)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("word", MISTAKES)
def test_a_mistake_is_one_line(word):
    with pytest.raises(ConfigError) as caught:
        compose_study([word])
    assert MISTAKES[word] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_profiles_of_clusters():
    def asked(profile: str, kind: str, size: str = "") -> tuple[int, int, int, str, int, int]:
        r = compose_study(["sweep=scaling", f"launcher={profile}"]).launcher.resources(kind, size)
        return (r.nodes, r.ranks_per_node, r.gpus_per_node, r.partition, r.zero_stage, r.micro_batch_atoms)

    assert asked("slurm", "diffusion", "dit_xl") == (1, 1, 0, "", -1, 0)
    assert asked("dev_cluster", "diffusion", "dit_64") == (1, 1, 0, "dev", -1, 0)
    assert asked("dev_cluster", "diffusion", "dit_128") == (2, 2, 0, "dev", -1, 0)
    assert asked("dev_cluster", "evaluation") == (1, 1, 0, "dev", -1, 0)
    assert asked("slurm_example_h100", "diffusion", "dit_s") == (1, 2, 2, "gpu", -1, 8192)
    assert asked("slurm_example_h100", "diffusion", "dit_xl") == (2, 8, 8, "gpu", 2, 2048)
    assert asked("slurm_example_h100", "autoencoder") == (1, 4, 4, "gpu", -1, 8192)
    assert asked("slurm_example_h100", "evaluation") == (1, 1, 0, "cpu", -1, 0)


def test_every_choice_of_every_group_composes():
    words = [f"{group}={name}" for group, names in choices().items() for name in names]
    assert len(words) > 20
    assert CONFIGS.is_dir()
    for word in words:
        compose_run([word])


def test_the_example_in_the_papers_study_is_right(tmp_path):
    configs = Path(shutil.copytree(CONFIGS, tmp_path / "configs"))
    text = (CONFIGS / "sweep" / "scaling.yaml").read_text()
    example = re.findall(r"^#   (\w+: .*)$", text, re.MULTILINE)
    assert len(example) == 4
    body = "".join(f"  {line}\n" for line in ["name: mine", "hypothesis: none", *example])
    (configs / "sweep" / "mine.yaml").write_text(f"# @package _global_\nsweep:\n{body}")
    points = compose_study(["sweep=mine"], configs).points
    assert len(points) == 8
    assert [(p.config.diffusion.steps, p.config.diffusion.optim.warmup_steps) for p in points[:2]] == [
        (100000, 1000),
        (400000, 4000),
    ]
    assert {p.config.diffusion.optim.lr for p in points if p.axes["model/denoiser"] == "dit_b"} == {5e-5}
    assert {p.axes["seed"] for p in points if p.axes["model/denoiser"] == "dit_b"} == {0}

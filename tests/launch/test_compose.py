"""Overrides to a typed study, and mistakes to one line that says what there is."""

from __future__ import annotations

import pytest

from adit_scale.errors import ConfigError
from launchers.compose import CONFIGS, choices, compose_study


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


MISTAKES = {
    "sweep=scalling": "sweep=scalling: no such choice (did you mean scaling?); "
    "expected one of scaling, scaling_demo",
    "diffusion.stepz=3": "diffusion.stepz=3: no such setting; diffusion has steps, atom_budget, optim,",
    "diffusionn.steps=3": "the root has seed, runs, data,",
    "launcher.paralel=3": "launcher has kind, parallel,",
    "model/denoiser=dit_z": "expected one of dit_128, dit_192,",
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


@pytest.mark.parametrize("word", MISTAKES)
def test_a_mistake_is_one_line(word):
    with pytest.raises(ConfigError) as caught:
        compose_study([word])
    assert MISTAKES[word] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_choice_of_every_group_composes():
    words = [f"{group}={name}" for group, names in choices().items() for name in names]
    assert len(words) > 20
    assert CONFIGS.is_dir()
    for word in words:
        one_point = [] if word.startswith("model/denoiser") else ["model/denoiser=dit_32"]
        assert len(compose_study([word, *one_point]).points) == 1

"""What is asked of samples, chosen or drawn."""

from __future__ import annotations

import numpy as np
import pytest

from adit_scale.atoms import CRYSTAL, MOLECULE
from adit_scale.config import StudyConfig
from adit_scale.diffusion.conditions import (
    check_spacegroups,
    draw_domains,
    draw_spacegroups,
    sizes_asked,
    spacegroups_asked,
)
from adit_scale.diffusion.config import SamplingConfig
from adit_scale.errors import ConfigError, DataError
from adit_scale.models.config import DenoiserConfig

HISTOGRAM = np.zeros(231, dtype=np.int64)
HISTOGRAM[[0, 12, 225]] = 100, 300, 600


def test_spacegroups_follow_the_histogram_and_belong_to_their_sample():
    drawn = draw_spacegroups(HISTOGRAM, 20_000, CRYSTAL, seed=0)
    share = np.bincount(drawn, minlength=231) / len(drawn)
    np.testing.assert_allclose(share, HISTOGRAM / 1000, atol=0.014)  # four standard errors
    assert set(drawn) == {0, 12, 225}
    assert (draw_spacegroups(HISTOGRAM, 10, CRYSTAL, 0) == drawn[:10]).all()
    assert (draw_spacegroups(HISTOGRAM, 100, CRYSTAL, 1) != drawn[:100]).any()


def test_sizes_and_spacegroups_are_independent():
    sizes = sizes_asked(SamplingConfig(), np.array([0, 1, 1]), 20_000, CRYSTAL)
    spacegroups = draw_spacegroups(np.array([1, 1]), 20_000, CRYSTAL, seed=0)
    assert abs(np.corrcoef(sizes, spacegroups)[0, 1]) < 4 / 20_000**0.5


def test_chosen_conditions_need_no_histogram():
    config = SamplingConfig(atoms="8", spacegroup="225")
    assert sizes_asked(config, np.array([0]), 3, MOLECULE).tolist() == [8, 8, 8]
    chosen = spacegroups_asked(config, None, 3, CRYSTAL)
    assert chosen is not None
    assert chosen.tolist() == [225, 225, 225]
    assert spacegroups_asked(config, None, 3, MOLECULE) is None
    assert spacegroups_asked(SamplingConfig(), HISTOGRAM, 3, CRYSTAL) is None


def test_drawn_conditions():
    config = SamplingConfig(spacegroup="drawn", seed=3)
    drawn = spacegroups_asked(config, HISTOGRAM, 50, CRYSTAL)
    assert drawn is not None
    assert (drawn == draw_spacegroups(HISTOGRAM, 50, CRYSTAL, 3)).all()
    with pytest.raises(DataError, match="spacegroups of the training data are not known"):
        spacegroups_asked(config, None, 3, CRYSTAL)


def test_domains_in_proportion_to_the_training_sets():
    counts = draw_domains({CRYSTAL: 3000, MOLECULE: 1000}, 10_000, seed=0)
    assert sum(counts.values()) == 10_000
    assert counts[CRYSTAL] == pytest.approx(7500, abs=180)  # four standard errors
    fewer = draw_domains({CRYSTAL: 3000, MOLECULE: 1000}, 9_000, seed=0)
    assert all(0 <= counts[d] - fewer[d] <= 1000 for d in counts)  # the first 9,000 are the same


def test_spacegroups_of_a_denoiser_without_labels():
    check_spacegroups(True, DenoiserConfig(spacegroup_conditioning=True))
    check_spacegroups(False, DenoiserConfig())
    with pytest.raises(ConfigError, match="the denoiser dit_s was trained without; set"):
        check_spacegroups(True, DenoiserConfig())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"steps": 1}, "sampling.steps is 1; expected at least 2"),
        ({"solver": "rk4"}, "sampling.solver is 'rk4'; expected one of euler, heun, midpoint"),
        ({"precision": "fp16"}, "sampling.precision is 'fp16'; expected one of auto, fp32, bf16"),
        (
            {"time_grid": "log"},
            "sampling.time_grid is 'log'; expected one of uniform, power, shifted, cosine",
        ),
        (
            {"guidance_t_low": 0.8, "guidance_t_high": 0.2},
            "guidance_t_low is 0.8, sampling.guidance_t_high is 0.2; expected low to be at most high",
        ),
        ({"guidance_t_high": 1.5}, "sampling.guidance_t_high is 1.5; expected 0.0 to 1.0"),
        ({"guidance_scale": float("nan")}, "sampling.guidance_scale is nan"),
        ({"atoms": "0"}, "sampling.atoms is 0; expected 'drawn' or a number from 1 to 65535"),
        ({"atoms": "many"}, "sampling.atoms is many; expected 'drawn'"),
        ({"spacegroup": "231"}, "sampling.spacegroup is 231; expected 'none', 'drawn' or a number from 1 to"),
        ({"batch_sets": -1}, "sampling.batch_sets is -1; expected at least 0"),
    ],
)
def test_bad_settings(settings: dict, expected: str):
    with pytest.raises(ConfigError) as caught:
        SamplingConfig(**settings).validate()
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_study_learns_of_missing_labels_before_it_trains():
    study = StudyConfig(sampling=SamplingConfig(spacegroup="drawn"))
    with pytest.raises(ConfigError, match="or train with model"):
        study.validate()
    study.model.denoiser.spacegroup_conditioning = True
    study.validate()

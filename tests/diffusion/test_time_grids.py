from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adit_scale.diffusion.time_grids import TIME_GRIDS, time_grid
from adit_scale.errors import ConfigError


@st.composite
def grids(draw) -> tuple[str, float | None]:
    name = draw(st.sampled_from(sorted(TIME_GRIDS)))
    grid = TIME_GRIDS[name]
    if grid.default is None:
        return name, None
    return name, draw(st.none() | st.floats(grid.low, grid.high))


@given(grids(), st.integers(2, 1000))
def test_grids_rise_from_noise_to_data(grid: tuple[str, float | None], steps: int):
    times = time_grid(steps, *grid)
    assert len(times) == steps
    assert (times[0], times[-1]) == (0.01, 1.0)  # exactly
    assert all(a <= b for a, b in pairwise(times))
    assert all(t < 1.0 for t in times[:-1])  # the slope is divided by 1 - t


def test_uniform_is_the_recipes():
    assert time_grid(5) == pytest.approx([0.01, 0.2575, 0.505, 0.7525, 1.0], abs=1e-15)
    assert time_grid(1) == [1.0]


@pytest.mark.parametrize(
    ("name", "parameter", "middle"),
    [
        ("power", 3.0, 0.01 + 0.99 / 8),
        ("power", None, 0.01 + 0.99 / 4),
        ("shifted", 3.0, 0.01 + 0.99 / 4),  # of the noise share: 3/2 / (1 + 2/2) = 3/4
        ("shifted", 1.0, 0.505),
        ("cosine", None, 0.505),
    ],
)
def test_middle_by_hand(name: str, parameter: float | None, middle: float):
    assert time_grid(3, name, parameter)[1] == pytest.approx(middle, abs=1e-15)


def test_cosine_has_the_signal_to_noise_ratio_of_the_cosine_schedule():
    u = 0.3
    g = TIME_GRIDS["cosine"].g(u, 0.0)
    assert g / (1 - g) == pytest.approx(math.cos(math.pi * (1 - u) / 2) / math.sin(math.pi * (1 - u) / 2))


@pytest.mark.parametrize(
    ("name", "parameter", "expected"),
    [
        ("linear", None, "time_grid is 'linear'; expected one of uniform, power, shifted, cosine"),
        ("power", 9.0, r"time_grid_parameter is 9.0; expected 0.2 to 5.0"),
        ("shifted", float("nan"), "expected 0.05 to 20.0"),
        ("cosine", 1.0, "the time grid 'cosine' has none; leave it null"),
    ],
)
def test_unknown_grids_and_parameters(name: str, parameter: float | None, expected: str):
    with pytest.raises(ConfigError, match=expected):
        time_grid(10, name, parameter)

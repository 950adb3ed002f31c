"""Axes to points: products, zips and exclusions."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from adit_scale.errors import ConfigError
from adit_scale.models.ladder import LADDER
from adit_scale.scaling.config import SIZE_AXIS, SweepConfig
from adit_scale.scaling.points import point_label, sweep_points

AXES = ("seed", "data", "diffusion.steps", "diffusion.optim.lr", "autoencoder.optim.lr")
VALUES = st.one_of(st.integers(0, 99), st.sampled_from(["demo", "qm9", "mp20"]), st.floats(1e-5, 1e-2))


@st.composite
def sweeps(draw) -> SweepConfig:
    """Of 1 to 6 axes, the size among them, shared out among the grid and up to two zips."""
    names = draw(st.permutations([SIZE_AXIS, *draw(st.sets(st.sampled_from(AXES)))]))
    homes = draw(st.lists(st.sampled_from(["", "a", "b"]), min_size=len(names), max_size=len(names)))
    lengths = {home: draw(st.integers(1, 3)) for home in ("a", "b")}
    sweep = SweepConfig()
    for axis, home in zip(names, homes, strict=True):
        n = lengths[home] if home else draw(st.integers(1, 3))
        part = sweep.zip.setdefault(home, {}) if home else sweep.grid
        kind = st.sampled_from(list(LADDER)) if axis == SIZE_AXIS else VALUES
        part[axis] = draw(st.lists(kind, min_size=n, max_size=n, unique_by=str))
    return sweep


def enumerated(sweep: SweepConfig) -> list[dict]:
    """The points again, by indices: of grid and zips, the last running fastest."""
    factors = [{axis: values} for axis, values in sweep.grid.items()] + list(sweep.zip.values())
    lengths = [len(next(iter(factor.values()))) for factor in factors]
    return [
        {axis: values[i] for i, factor in zip(at, factors, strict=True) for axis, values in factor.items()}
        for at in itertools.product(*map(range, lengths))
    ]


@settings(deadline=None)
@given(sweeps(), st.data())
def test_points_are_the_product_without_exclusions(sweep, data):
    sweep.validate()
    everything = enumerated(sweep)
    assert sweep_points(sweep) == everything
    exclude = []
    for _ in range(data.draw(st.integers(0, 2))):
        point = data.draw(st.sampled_from(everything))
        axes = data.draw(st.sets(st.sampled_from(sorted(point)), min_size=1))
        exclude.append({axis: point[axis] for axis in sorted(axes)})
    left = [p for p in everything if not any(entry.items() <= p.items() for entry in exclude)]
    assume(left)
    points = sweep_points(replace(sweep, exclude=exclude))
    assert points == left
    labels = [point_label(point) for point in points]
    assert len(set(labels)) == len(labels)
    assert all(label.startswith(point[SIZE_AXIS]) for label, point in zip(labels, points, strict=True))


def test_an_exclusion_may_list_values():
    grid = {SIZE_AXIS: ["dit_s", "dit_b", "dit_l"], "seed": [0, 1], "evaluation.protocols": [["edm"]]}
    entry = {SIZE_AXIS: ["dit_b", "dit_l"], "seed": 1, "evaluation.protocols": ["edm"]}
    points = sweep_points(SweepConfig(grid=grid, exclude=[entry]))
    assert [(p[SIZE_AXIS], p["seed"]) for p in points] == [
        ("dit_s", 0),
        ("dit_s", 1),
        ("dit_b", 0),
        ("dit_l", 0),
    ]


def test_a_sweep_without_axes_is_one_point():
    assert sweep_points(SweepConfig()) == [{}]


def test_values_of_one_label_are_refused():
    sweep = SweepConfig(grid={SIZE_AXIS: ["dit_s"], "data.shards": ["a/b", "a:b"]})
    with pytest.raises(ConfigError, match=r"names a point twice: dit_s-shardsa_b; expected different values"):
        sweep_points(sweep)

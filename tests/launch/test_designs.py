"""The designs of configs/sweep: what their points are, and that studies made before keep their ids."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from adit_scale.errors import ConfigError
from adit_scale.models.ladder import training_flops
from launchers.compose import Study, compose_study
from launchers.cost_table import table_text, to_record
from launchers.costs import study_costs
from launchers.graph import Graph, study_graph
from launchers.slurm import plan_arrays

REPO = Path(__file__).resolve().parents[2]
SWEEPS = sorted(path.stem for path in (REPO / "configs/sweep").glob("*.yaml"))
# Of nodes that studies of earlier versions have finished, over the shards of the repository.
IDS = {
    "scaling_demo": {
        "shards demo": "3208b1b8b6584032a425e61a806337d4cdbae37c2d66c205a1fc75fbf0ae8298",
        "autoencoder": "019375761fa85ab68f788018e8eba5d501decac606febb5e294f5867583154de",
        "reference": "52b62f29b29c0234ed031132bd23b05e30b194f77184f7426288f8195f5641b6",
        "diffusion dit_32": "d81695ce707da3cb42ae7cb513c70a9e953606673fe2f8ff2f13c33cf797f9d2",
        "evaluation dit_32": "d726c603f9433eb82481258e7bf553ec45e8d4ce17a71e11de8133c2fce69151",
        "diffusion dit_128": "c9d77cfbc115e405fda2c0db7abf0f5d2acf841c25167229df36c84355124a95",
        "evaluation dit_128": "f670a773b39063b7d5b41b1b277b349d590ce98d94c876aceefb4eeab8d3ab30",
        "report": "7ba4382b59ccbab5a4870d0e4ae469936b8edd43d5c22038475deb30cf084de1",
    },
    "scaling": {
        "autoencoder": "80eca56a5122ad8ffa5af67d4d80f8a3c3778e13125a4ed3b6e63f1393558e72",
        "reference": "03b0e62ecb4ef44772a563cac8ef2d58c514c3bbc56de68fdbd98dfeb2e7d45e",
        "diffusion dit_s": "1e55872925c52b4be11d815461ee7fd3dc0c365abb26077192a26cc3a6a5ce4c",
        "evaluation dit_xl": "8e8a286e4e3d556871a63edbf6b4e1c739b0e55e84029e10c990403f91acd949",
        "report": "696429b539c799e5f1141aa98a4e979c738450719c9cc02952fc99f810551e4c",
    },
}
SETTINGS_THEN = {"scaling_demo": ["diffusion.latent_cache=0"]}  # where the files have changed since


@cache
def composed(*words: str) -> Study:
    return compose_study([*words, "runs=/nowhere/runs"])


@cache
def graph_of(*words: str) -> Graph:
    study = composed(*words)
    return study_graph(study.config, study.points, study.folder, study.launcher)


def ids(*words: str) -> dict[str, str]:
    return {node.name: node.id for node in graph_of(*words).nodes}


@pytest.mark.parametrize("sweep", IDS)
def test_nodes_of_earlier_versions_keep_their_ids(sweep):
    found = ids(f"sweep={sweep}", *SETTINGS_THEN.get(sweep, ()))
    assert {name: found[name] for name in IDS[sweep]} == IDS[sweep]


@pytest.mark.parametrize(
    "word", ["diffusion.optim.base_width=128", "sweep.reuse=true", "sweep.min_steps=100"]
)
def test_settings_that_decide_nothing_change_no_id(word):
    assert ids("sweep=scaling_demo", word) == ids("sweep=scaling_demo")


def test_settings_that_came_later_change_the_id_where_they_decide():
    before, after = (
        ids("sweep=scaling_demo"),
        ids("sweep=scaling_demo", "diffusion.optim.parametrization=mup"),
    )
    changed = {name.split()[0] for name in before if before[name] != after[name]}
    assert changed == {"diffusion", "evaluation", "report"}


@pytest.mark.parametrize("sweep", SWEEPS)
@pytest.mark.parametrize("scale", ["demo", "paper"])
def test_every_design_has_a_plan(sweep, scale):
    words = (f"sweep={sweep}", f"scale={scale}")
    study = composed(*words)
    assert study.config.sweep.name == sweep
    assert study.config.sweep.hypothesis
    graph = graph_of(*words)
    found = study_costs(study, graph)
    assert len({p.point for p in found.points}) == len(study.points) >= 4
    assert all(p.run.gpu_hours > 0 for p in found.points)
    scored = [p.scoring is not None for p in found.points]
    assert all(scored) if study.config.sweep.evaluate else not any(scored)
    assert (
        bool(graph.of_kind("evaluation")) == bool(graph.of_kind("reference")) == study.config.sweep.evaluate
    )
    text, record = table_text(found), to_record(found)
    assert all(point.label in text for point in study.points)
    assert max(len(line) for line in text.splitlines() if line.startswith(("dit", "to do"))) <= 120
    assert len(record["points"]) == len(study.points)
    assert graph.nodes[-1].points.keys() == {point.label for point in study.points}
    small = max(p.memory_bytes for p in found.points) < 2**30
    assert small == (scale == "demo" or sweep == "scaling_demo")


# -- budgets ---------------------------------------------------------------------------------------------

BUDGETS = ("sweep=scaling_demo", "sweep.budgets_flops=[3e11,3e12]")


def test_a_budget_gives_each_size_its_steps():
    study = composed(*BUDGETS)
    assert [p.label for p in study.points] == [
        f"dit_{d}-C{c}" for d in (32, 64, 96, 128) for c in ("3e+11", "3e+12") if (d, c) != (128, "3e+11")
    ]
    for point in study.points:
        stage = point.config.diffusion
        one_set = training_flops(point.config.model.denoiser, [16], stage.self_conditioning)
        flops = stage.steps * one_set * stage.atom_budget / 16
        assert abs(flops / point.axes["sweep.budgets_flops"] - 1) <= 0.5 / stage.steps
        assert stage.optim.warmup_steps == min(100, stage.steps // 10)
    assert study.notes == ("dit_128-C3e+11 is left out: 50 steps, fewer than sweep.min_steps",)
    found = study_costs(study, graph_of(*BUDGETS))
    assert study.notes[0] in table_text(found)
    assert to_record(found)["left_out"] == list(study.notes)
    measured = [p.flops / p.axes["sweep.budgets_flops"] for p in found.points]
    assert max(abs(ratio - 1) for ratio in measured) < 0.05  # sets of these data are not all of 16 atoms


def test_budget_points_can_be_excluded_and_left_out():
    exclude = "sweep.exclude=[{model/denoiser:[dit_32,dit_64],sweep.budgets_flops:3e12}]"
    labels = [p.label for p in composed(*BUDGETS, exclude, "sweep.min_steps=10").points]
    assert labels[:3] == ["dit_32-C3e+11", "dit_64-C3e+11", "dit_96-C3e+11"]
    assert labels[-2:] == ["dit_128-C3e+11", "dit_128-C3e+12"]
    with pytest.raises(ConfigError, match=r"all 4 points have fewer steps than sweep.min_steps=100"):
        composed("sweep=scaling_demo", "sweep.budgets_flops=[1e8]")


# -- decays ----------------------------------------------------------------------------------------------

DECAYS = ("sweep=scaling_demo", "sweep.decays=0.5,1,2", "model/denoiser=dit_32,dit_64", "seed=0,1")


def test_decays_share_a_trunk():
    study, graph = composed(*DECAYS), graph_of(*DECAYS)
    assert [p.label for p in study.points][:4] == [
        "dit_32-seed0-x0.5", "dit_32-seed0-x1", "dit_32-seed0-x2", "dit_32-seed1-x0.5",
    ]  # fmt: skip
    trunks = [node for node in graph.of_kind("diffusion") if node.label.endswith("-trunk")]
    assert [node.label for node in trunks] == [f"dit_{d}-seed{s}-trunk" for d in (32, 64) for s in (0, 1)]
    for trunk in trunks:
        stage = trunk.config.diffusion
        assert (stage.steps, stage.branch_steps) == (5600, [1400, 2800, 5600])
        assert (stage.optim.schedule, stage.trunk_digest) == ("constant", "")
    for point in study.points:
        branch, stage = graph.node_of("diffusion", point.label), point.config.diffusion
        assert branch.inputs["trunk"].label == point.label.rpartition("-")[0] + "-trunk"
        assert stage.steps == 4000 * point.axes["sweep.decays"]
        assert (stage.optim.schedule, stage.optim.decay_from) == ("decay", round(0.7 * stage.steps))
        evaluation = graph.node_of("evaluation", point.label)
        assert evaluation.inputs["diffusion"] is branch
    assert not [name for name in graph.nodes[-1].inputs if "trunk" in name]  # no point


def test_slurm_waits_for_each_trunk():
    graph = graph_of(*DECAYS)
    arrays = plan_arrays(graph, graph.nodes, {})
    by_node = {node.id: array for array in arrays for node in array.nodes}
    trunks = {node.id for node in graph.nodes if node.label.endswith("-trunk")}
    assert len({id(by_node[trunk]) for trunk in trunks}) == 1  # one array: all wait for the autoencoder
    for node in graph.of_kind("diffusion"):
        if (trunk := node.inputs.get("trunk")) is not None:
            array = by_node[node.id]
            assert trunk in array.before
            assert {n.inputs["trunk"].id for n in array.nodes} == {trunk.id}
            assert len(array.nodes) == 3
    for node in graph.of_kind("evaluation"):
        assert by_node[node.id].partner is by_node[node.inputs["diffusion"].id]


def test_a_trunk_is_another_where_its_checkpoints_are():
    fewer, other = (
        ids(*DECAYS[:1], f"sweep.decays={decays}", *DECAYS[2:]) for decays in ("[1,2]", "[0.5,1,2]")
    )
    assert fewer["diffusion dit_32-seed0-trunk"] != other["diffusion dit_32-seed0-trunk"]


def test_the_cost_of_a_trunk_is_counted_once():
    found = study_costs(composed(*DECAYS), graph_of(*DECAYS))
    wsd = study_costs(composed(*DECAYS[:1], *DECAYS[2:]), graph_of(*DECAYS[:1], *DECAYS[2:]))
    whole = {p.point: p for p in wsd.points}["dit_32-seed0"]  # 4000 steps
    branch = {p.point: p for p in found.points}["dit_32-seed0-x1"]
    assert branch.flops == pytest.approx(whole.flops)  # what the model cost
    assert branch.run.flops == pytest.approx(0.3 * whole.run.flops)
    assert [job.name for job in found.trunks][:2] == [
        "diffusion dit_32-seed0-trunk",
        "diffusion dit_32-seed1-trunk",
    ]
    assert found.trunks[0].flops == pytest.approx(5600 / 4000 * whole.run.flops)
    of_size = sum(p.run.flops for p in found.points if p.point.startswith("dit_32-seed0"))
    assert of_size + found.trunks[0].flops == pytest.approx((0.3 * 3.5 + 1.4) * whole.run.flops)
    assert "trunks" in table_text(found)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sweep.decays=[1]", "sweep.budgets_flops=[1e12]"), "are both given; expected one of them"),
        (("sweep.decays=[1,-2]",), r"sweep.decays has -2.0; expected numbers above 0"),
        (("sweep.decays=[0.01]",), "sweep.decays has 0.01: of its 40 steps the decay begins at 28, the"),
        (("sweep.decays=[1]", "diffusion.optim.schedule=cosine"), "expected wsd or constant"),
        (("sweep.decays=[1]", "diffusion.steps=1000,2000"), "diffusion.steps is an axis, and sweep.decays"),
        (("sweep.decays=[1,1]",), "name a point twice|names a point twice"),
        (("sweep.exclude=[{sweep.decays:1}]",), r"sweep.exclude\[0\] names sweep.decays; expected axes:"),
    ],
)  # fmt: skip
def test_designs_that_cannot_be(words, message):
    with pytest.raises(ConfigError, match=message) as caught:
        compose_study(["sweep=scaling_demo", *words])
    assert len(str(caught.value).splitlines()) == 1


# -- what points share -----------------------------------------------------------------------------------


def test_transfer_shares_the_joint_autoencoder_and_the_runs_of_scaling():
    words = ("sweep=transfer", "scale=demo", "model/denoiser=dit_32,dit_64")
    graph, scaling = graph_of(*words), ids("sweep=scaling", "scale=demo", "model/denoiser=dit_32,dit_64")
    assert len(graph.of_kind("autoencoder")) == len(graph.of_kind("reference")) == 1
    for size in ("dit_32", "dit_64"):
        assert graph.node_of("diffusion", f"{size}-joint").id == scaling[f"diffusion {size}"]
        assert graph.node_of("evaluation", f"{size}-joint").id == scaling[f"evaluation {size}"]
    alone = graph.node_of("evaluation", "dit_32-molecule-equal_samples")
    assert (alone.config.sampling.crystals, alone.config.sampling.molecules) == (0, 1000)
    assert alone.inputs["diffusion"].config.data.domain == "molecule"
    assert alone.inputs["autoencoder"].config.data.domain == ""
    assert len({node.id for node in graph.of_kind("diffusion")}) == 10
    costs = {p.point: p for p in study_costs(composed(*words), graph).points}
    parts = [costs[f"dit_32-{domain}-equal_samples"] for domain in ("molecule", "crystal")]
    assert sum(p.flops for p in parts) == pytest.approx(costs["dit_32-joint"].flops)
    assert sum(p.atoms for p in parts) == pytest.approx(costs["dit_32-joint"].atoms)
    equal = costs["dit_32-crystal-equal_flops"]
    assert equal.flops == pytest.approx(costs["dit_32-joint"].flops, rel=0.05)
    assert equal.atoms == pytest.approx(costs["dit_32-joint"].atoms)


def test_points_that_differ_in_sampling_share_their_run():
    words = ("sweep=sampling", "scale=demo")
    graph = graph_of(*words)
    assert [node.label for node in graph.of_kind("diffusion")] == ["dit_64"]
    assert len(graph.of_kind("evaluation")) == 10
    assert ids("sweep=scaling_demo")["diffusion dit_64"] == graph.of_kind("diffusion")[0].id
    found = study_costs(composed(*words), graph)
    assert sum(job.name == "diffusion dit_64" for job in found.jobs) == 1


def test_an_autoencoder_study_trains_each_autoencoder():
    graph = graph_of("sweep=autoencoder", "scale=demo")
    shapes = [node.config.model.autoencoder for node in graph.of_kind("autoencoder")]
    assert [(s.width, s.latent) for s in shapes] == [(64, 8), (96, 8), (128, 8), (128, 4), (128, 16)]
    assert [n.config.model.denoiser.latent for n in graph.of_kind("diffusion")] == [8, 8, 8, 4, 16]
    assert len(graph.of_kind("reference")) == 5

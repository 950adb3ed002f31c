"""Which arrays a graph becomes, what they wait for, and what sbatch is asked. On a cluster: tests/slurm."""

from __future__ import annotations

from pathlib import Path

import pytest
from submitit.slurm.slurm import _make_sbatch_string

from adit_scale.config import StudyConfig
from adit_scale.errors import ConfigError
from adit_scale.scaling.config import SweepConfig
from adit_scale.tracking.config import TrackingConfig
from launchers.config import LauncherConfig, Resources
from launchers.graph import Graph, Node, spread
from launchers.identity import node_id
from launchers.slurm import Array, Submitter, dependency, plan_arrays

SMALL, LARGE = Resources(), Resources(nodes=2, tasks_per_node=4)


def make(kind: str, label: str, inputs: dict[str, Node], resources: Resources = SMALL, **more) -> Node:
    id_ = node_id(kind, {"label": label}, {name: node.id for name, node in inputs.items()})
    config = StudyConfig(sweep=SweepConfig(grid={"model/denoiser": ["dit_s"]}))
    return Node(
        kind, label, id_, Path("/runs") / f"{kind}-{label}", config, inputs, resources=resources, **more
    )


def study(large: int = 1, evaluations: int = 1) -> Graph:
    """Three points, the last ``large`` of them on other resources; so many evaluations of each run."""
    shards = make("shards", "", {})
    autoencoder = make("autoencoder", "", {"shards": shards})
    nodes, inputs = [shards, autoencoder], {}
    for i in range(3):
        resources = LARGE if i >= 3 - large else SMALL
        sources = {"shards": shards, "autoencoder": autoencoder}
        run = make("diffusion", f"p{i}", sources, resources)
        nodes.append(run)
        inputs[f"diffusion/p{i}"] = run
        for j in range(evaluations):
            scored = make("evaluation", f"p{i}-{j}", {**sources, "diffusion": run})
            nodes.append(scored)
            inputs[f"evaluation/p{i}-{j}"] = scored
    nodes.append(make("report", "", inputs, optional_inputs=True))
    return Graph("study", Path("/runs"), tuple(nodes))


def planned(
    graph: Graph, todo: list[Node], queued: dict[str, str] | None = None
) -> list[tuple[str, int, str]]:
    """Kind, size and dependency of each array, with job ids 100, 101, ... in the order of submission."""
    jobs, found = dict(queued or {}), []
    for i, array in enumerate(plan_arrays(graph, todo, jobs)):
        found.append((array.kind, len(array.nodes), dependency(array, jobs)))
        array.job_id = str(100 + i)
        jobs |= {node.id: f"{100 + i}_{k}" for k, node in enumerate(array.nodes)}
    return found


def test_points_are_arrays_by_resources_and_each_evaluation_follows_its_own_run():
    graph = study()
    assert planned(graph, list(graph.nodes)) == [
        ("shards", 1, ""),
        ("autoencoder", 1, "afterok:100_0"),
        ("diffusion", 2, "afterok:100_0:101_0"),
        ("evaluation", 2, "aftercorr:102"),
        ("diffusion", 1, "afterok:100_0:101_0"),
        ("evaluation", 1, "aftercorr:104"),
        ("report", 1, "afterany:102:103:104:105"),
    ]


def test_two_evaluations_of_a_run_are_two_arrays():
    graph = study(large=0, evaluations=2)
    found = planned(graph, list(graph.nodes))
    assert found[2:5] == [
        ("diffusion", 3, "afterok:100_0:101_0"),
        ("evaluation", 3, "aftercorr:102"),
        ("evaluation", 3, "aftercorr:102"),
    ]


def test_an_evaluation_without_its_neighbours_waits_for_its_run_alone():
    graph = study(large=0)
    left = [n for n in graph.nodes if n.kind == "diffusion" or n.label in ("p0-0", "p2-0")]
    assert planned(graph, left) == [
        ("diffusion", 3, ""),
        ("evaluation", 1, "afterok:100_0"),
        ("evaluation", 1, "afterok:100_2"),
    ]


def test_what_is_queued_is_waited_for_and_what_is_done_is_not():
    graph = study(large=0)
    run = graph.nodes[2]
    left = [n for n in graph.nodes if n.kind in ("evaluation", "report")]
    assert planned(graph, left, {run.id: "7_3"}) == [
        ("evaluation", 1, "afterok:7_3"),
        ("evaluation", 2, ""),
        ("report", 1, "afterany:7:100:101"),
    ]


def test_two_hundred_points_of_four_sizes_are_eight_arrays():
    shards = make("shards", "", {})
    nodes = [shards]
    for i in range(200):
        run = make("diffusion", f"p{i}", {"shards": shards}, Resources(nodes=1 + i % 4))
        nodes += [run, make("evaluation", f"p{i}", {"diffusion": run})]
    arrays = plan_arrays(Graph("study", Path("/runs"), tuple(nodes)), nodes, {})
    assert [len(array.nodes) for array in arrays] == [1, *[50] * 8]


def test_no_array_is_larger_than_slurm_takes():
    nodes = []
    for i in range(1500):
        nodes.append(make("diffusion", f"p{i}", {}))
        nodes.append(make("evaluation", f"p{i}", {"diffusion": nodes[-1]}))
    arrays = plan_arrays(Graph("study", Path("/runs"), tuple(nodes)), nodes, {})
    assert [(a.kind, len(a.nodes)) for a in arrays] == [
        ("diffusion", 1000),
        ("evaluation", 1000),
        ("diffusion", 500),
        ("evaluation", 500),
    ]
    assert arrays[3].partner is arrays[2]


def sbatch_lines(launcher: LauncherConfig, array: Array) -> list[str]:
    submitter = Submitter(study(), launcher, Path("/runs/code/a b"), TrackingConfig())
    options = submitter.options(array, {"x": "12_0"}, Path("/runs/slurm/abc"))
    return _make_sbatch_string("run", Path("/runs/slurm/abc"), **options).splitlines()


def test_what_sbatch_is_asked():
    launcher = LauncherConfig(
        kind="slurm",
        partition="gpu",
        account="lab",
        time_min=60,
        mem_gib=16,
        modules=["cuda/13.0"],
        setup=["ulimit -c 0"],
        environment={"NCCL_DEBUG": "WARN; rm -rf /"},
        mail_user="ana@lab.org",
        parallel=5,
        by_size={"dit_l": {"nodes": 2, "gpus_per_node": 8}},
    )
    nodes = [node for node in study().nodes if node.kind == "diffusion"]
    lines = sbatch_lines(launcher, Array("diffusion", launcher.resources("diffusion", "dit_l"), nodes=nodes))
    options = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")}
    assert {"--partition=gpu", "--account=lab", "--time=60", "--mem=16G"} <= options
    assert {"--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--cpus-per-task=4"} <= options
    assert {"--signal=B:USR2@120", "--requeue", "--open-mode=append", "--comment=adit:abc"} <= options
    assert {"--kill-on-invalid-dep=yes", "--mail-type=FAIL,ARRAY_TASKS"} <= options
    assert not any(option.startswith("--wckey") for option in options)
    setup = lines[lines.index("# setup") + 1 : lines.index("# command")]
    assert [line for line in setup if line] == [
        "module load cuda/13.0",
        "export PYTHONPATH='/runs/code/a b'",
        "export NCCL_DEBUG='WARN; rm -rf /'",
        "ulimit -c 0",
        "cd '/runs/code/a b'",
    ]


def test_jobs_without_training_are_one_process_and_shards_and_report_need_no_gpu():
    launcher = LauncherConfig(
        kind="slurm", nodes=4, gpus_per_node=8, by_kind={"report": {"partition": "cpu"}}
    )
    assert launcher.resources("diffusion", "dit_s").world_size == 32
    assert launcher.resources("evaluation").world_size == 1
    assert launcher.resources("evaluation").gpus_per_node == 1
    assert launcher.resources("report") == Resources(tasks_per_node=1, partition="cpu")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"by_kind": {"sampling": {}}}, "launcher.by_kind.sampling: no such kind of job"),
        (
            {"by_size": {"dit_l": {"nods": 2}}},
            r"by_size.dit_l.nods: no such setting \(did you mean nodes\?\)",
        ),
        ({"by_size": {"dit_l": {"nodes": "2"}}}, "by_size.dit_l.nodes is '2'; expected a value of type int"),
        ({"by_kind": {"report": {"nodes": 2}}}, "by_kind.report: 2 nodes and 1 tasks a node"),
        ({"gpus_per_node": 2, "tasks_per_node": 4}, "tasks_per_node is 4, gpus_per_node is 2"),
        ({"time_min": 2}, "launcher.signal_before_s is 120, launcher.time_min is 2"),
        ({"time_min": 0}, "launcher.time_min is 0; expected at least 1"),
        ({"environment": {"A B": "1"}}, "launcher.environment: 'A B'"),
    ],
)
def test_wrong_resources_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        LauncherConfig(kind="slurm", **settings).validate()


def test_ranks_come_from_the_resources_or_from_the_study():
    config = StudyConfig(sweep=SweepConfig(grid={"model/denoiser": ["dit_s"]}))
    resources, found = spread(Resources(nodes=2, gpus_per_node=8, zero_stage=2, micro_batch_atoms=99), config)
    assert (found.parallel.world_size, found.parallel.zero_stage) == (16, 2)
    assert found.parallel.micro_batch_atoms == 99
    assert spread(Resources(nodes=2), config)[1].parallel.world_size == 2
    config.parallel.world_size = 4
    resources, found = spread(Resources(nodes=2), config)
    assert (resources.ranks_per_node, found.parallel.world_size) == (2, 4)
    with pytest.raises(ConfigError, match="world_size is 4, but the launcher gives dit_s 1 x 8 ranks"):
        spread(Resources(gpus_per_node=8), config)
    with pytest.raises(ConfigError, match=r"launcher\.nodes 3; expected a multiple"):
        spread(Resources(nodes=3), config)

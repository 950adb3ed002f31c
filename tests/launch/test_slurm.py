"""What is asked of sbatch, as submitit writes it. Running it needs a cluster (marker slurm)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from submitit.slurm.slurm import _make_sbatch_string

from adit_scale.errors import ConfigError
from launchers.config import LauncherConfig
from launchers.graph import Node
from launchers.slurm import job_parameters, submit_graph
from tests.launch.nodes import diamond


def sbatch_options(node: Node, jobs: dict[str, str], launcher: LauncherConfig) -> set[str]:
    text = _make_sbatch_string(command="run", folder=Path("/x"), **job_parameters(node, launcher, jobs))
    return {line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")}


def test_dependencies_follow_the_graph(tmp_path):
    top, left, _, _, report = diamond(tmp_path).nodes
    launcher = LauncherConfig(kind="slurm", partition="gpu", account="lab", time_min=60, mem_gib=16)
    jobs = {top.id: "11", left.id: "12"}
    options = sbatch_options(left, {top.id: "11"}, launcher)
    assert {"--dependency=afterok:11", "--kill-on-invalid-dep=yes"} <= options
    assert {"--partition=gpu", "--account=lab"} <= options
    assert {"--time=60", "--mem=16G", "--nodes=1", "--signal=USR2@120"} <= options
    report_options = sbatch_options(report, jobs, launcher)
    assert {"--dependency=afterany:12", "--kill-on-invalid-dep=no"} <= report_options
    assert not any(option.startswith("--dependency") for option in sbatch_options(top, {}, launcher))


def test_training_asks_for_a_gpu_a_process(tmp_path):
    node = diamond(tmp_path).nodes[0]
    training = Node("diffusion", "x", node.id, node.folder, node.config, processes=4)
    launcher = LauncherConfig(kind="slurm", gpus_per_node=8, cpus_per_task=6)
    options = sbatch_options(training, {}, launcher)
    assert {"--gpus-per-node=4", "--cpus-per-task=24"} <= options
    assert not any("gpus" in option for option in sbatch_options(node, {}, launcher))
    with pytest.raises(ConfigError, match=r"parallel.world_size is 4, launcher.gpus_per_node is 2"):
        job_parameters(training, LauncherConfig(kind="slurm", gpus_per_node=2), {})


@pytest.mark.skipif(shutil.which("sbatch") is not None, reason="this machine has SLURM")
def test_without_sbatch_one_line(tmp_path):
    with pytest.raises(ConfigError, match="launcher=slurm: no sbatch on this machine"):
        submit_graph(diamond(tmp_path), LauncherConfig(kind="slurm"))

"""What a real SLURM offers and refuses, said before any job is queued."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from adit_scale.errors import ConfigError
from launchers.config import Resources
from launchers.preflight import Job, preflight

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("dev_cluster")]


def check(tmp_path: Path, disk_bytes: float = 1e6, **resources) -> None:
    job = Job("diffusion jobs", Resources(**{"cpus_per_task": 1, "time_min": 5, **resources}))
    preflight([job], tmp_path / "runs" / "study", disk_bytes)


def test_what_the_cluster_can_do_passes_quickly(tmp_path):
    begin = time.monotonic()
    check(tmp_path)
    check(tmp_path, partition="dev", nodes=2, tasks_per_node=2, account="lab", qos="normal", mem_gib=2)
    check(tmp_path, partition="short,dev", time_min=200)  # one of them is enough
    assert time.monotonic() - begin < 5
    assert list((tmp_path / "runs" / "study").iterdir()) == []


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ({"partition": "gpu"}, r"launcher.partition: no partition 'gpu' on this cluster; expected .*dev"),
        ({"partition": "short", "time_min": 6}, r"launcher.time_min is 6 .* allows 5 .*launcher.time_min=5"),
        ({"time_min": 241}, r"launcher.time_min is 241 .*partition dev allows 240 minutes"),
        ({"tasks_per_node": 5}, r"5 CPUs a node .* \(launcher.cpus_per_task 1 x 5 ranks\).* dev has 4"),
        ({"mem_gib": 16}, r"16 GiB a node .*\(launcher.mem_gib\), the largest .* has 15"),
        ({"gpus_per_node": 3}, r"3 GPUs a node .*\(launcher.gpus_per_node\).* has 2"),
        ({"nodes": 3}, r"3 nodes .*\(launcher.nodes\), partition dev has 2 such"),
        ({"account": "nobody"}, r"launcher.account=nobody: you have no rights to it; expected one of lab"),
        ({"account": "guest"}, r"launcher.account=guest: you have no rights to it"),
        ({"partition": "far"}, r"runs: .* file system of this machine .* jobs run on far1 \(far-away\)"),
        ({"qos": "high"}, r"launcher.qos=high: you have no rights to it; expected one of normal"),
    ],
)  # fmt: skip
def test_what_it_can_not_is_refused_in_one_line(tmp_path, resources, said):
    with pytest.raises(ConfigError, match=said) as error:
        check(tmp_path, **resources)
    assert "\n" not in str(error.value)


def test_a_full_disk_and_a_folder_that_can_not_be_written(tmp_path):
    with pytest.raises(ConfigError, match=r"will write about 931322\.6 GiB, .* has .* free"):
        check(tmp_path, disk_bytes=1e15)
    (tmp_path / "file").write_text("")
    job = Job("diffusion jobs", Resources(cpus_per_task=1, time_min=5))
    with pytest.raises(ConfigError, match=r"runs: .*/file/study: cannot be written \(Not a directory\)"):
        preflight([job], tmp_path / "file" / "study", 1)


def test_a_controller_that_is_down_is_named(tmp_path, monkeypatch):
    conf = tmp_path / "slurm.conf"
    conf.write_text("ClusterName=none\nSlurmctldHost=localhost\nSlurmctldPort=9\nMessageTimeout=1\n")
    monkeypatch.setenv("SLURM_CONF", str(conf))
    with pytest.raises(ConfigError, match=r"scontrol show partition failed .*is the SLURM controller up"):
        check(tmp_path)


def test_training_without_gpus_beside_gpus_is_noted(tmp_path):
    asked = Resources(cpus_per_task=1, time_min=5)
    jobs = [Job("diffusion jobs", asked, trains=True), Job("report jobs", Resources(time_min=6))]
    (note,) = preflight(jobs, tmp_path / "runs", 1e6)
    assert note.startswith("note: diffusion jobs ask for no GPU, though nodes of partition dev have some")

"""What is refused before a job is queued. Tests marked slurm ask a real cluster (launchers/dev_cluster)."""

from __future__ import annotations

import re
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from adit_scale.errors import ConfigError
from launchers.compose import compose_study
from launchers.config import Resources
from launchers.graph import study_graph
from launchers.preflight import (
    NodeOffer,
    Partition,
    check_programs,
    gpus_of,
    input_places,
    minutes,
    refusal,
)
from launchers.shared_folders import check_shared, file_system, local_kind

HERE = socket.gethostname().partition(".")[0]
MOUNTS = r"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
40 27 0:50 / /home rw,relatime shared:1 - nfs4 server:/home rw,vers=4.2
41 40 0:51 / /home/scratch rw,relatime shared:2 master:1 - lustre 10.0.0.1@o2ib:/scratch rw
42 27 0:52 / /mnt/my\040disk rw - xfs /dev/vdb rw
43 27 0:53 / /over rw - ext4 /dev/vdc rw
44 43 0:54 / /over rw - nfs server:/over rw
"""
NODES = f"""
NodeName=login1 Arch=x86_64 NodeAddr=login1 NodeHostName={HERE} State=IDLE Partitions=cpu
NodeName=gpu7 Arch=x86_64 NodeAddr=10.0.0.7 NodeHostName=gpu7.cluster.local State=IDLE Partitions=gpu,long
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [("UNLIMITED", None), ("00:05:00", 5), ("04:00:00", 240), ("2-12:30:00", 3630), ("1:30", 1.5)],
)
def test_slurms_times(text, expected):
    assert minutes(text) == expected


@pytest.mark.parametrize(
    ("gres", "expected"),
    [
        ("(null)", 0),
        ("gpu:8", 8),
        ("gpu:a100:4(S:0-1)", 4),
        ("gpu:a100:2(S:0),gpu:v100:1,shard:8", 3),
        ("gpu", 1),
        ("craynetwork:4", 0),
    ],
)
def test_gpus_of_a_node(gres, expected):
    assert gpus_of(gres) == expected


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/runs", "ext4"),
        ("/home/ana/runs", "nfs4"),
        ("/home/scratch/ana", "lustre"),
        ("/homework", "ext4"),
        ("/mnt/my disk/runs", "xfs"),
        ("/over/runs", "nfs"),
    ],
)
def test_the_file_system_of_a_folder(path, kind):
    assert file_system(Path(path), MOUNTS) == kind


def test_addresses_and_folders_still_to_be_made(tmp_path):
    assert local_kind("s3://bucket/shards") is None
    assert local_kind(str(tmp_path / "not" / "there")) == local_kind(str(tmp_path))


def test_a_local_folder_is_refused_where_a_node_is_elsewhere(tmp_path, monkeypatch):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    monkeypatch.setattr("launchers.shared_folders.MOUNTS", mounts)
    with pytest.raises(ConfigError) as error:
        check_shared({"runs": "/home/runs", "data.shards": "/var/shards"}, ["gpu"], lambda: NODES)
    line = str(error.value)
    assert line.startswith("data.shards: /var/shards is on ext4")
    assert "jobs run on gpu7 (gpu7.cluster.local)" in line
    assert "launcher.runs_are_shared=true" in line
    check_shared({"runs": "/var/runs"}, ["cpu"], lambda: NODES)  # its only node is this machine
    check_shared({"runs": "/home/runs"}, ["gpu"], lambda: pytest.fail("nothing is local"))


PARTITION = Partition("gpu", "UP", False, 60.0, 4, {"AllowAccounts": "lab,chem", "DenyQos": "long"})
OFFERS = [NodeOffer("n1", 64, 500_000, 8), NodeOffer("n2", 64, 250_000, 8), NodeOffer("n3", 32, 500_000, 4)]


@pytest.mark.parametrize(
    ("partition", "resources", "said"),
    [
        (replace(PARTITION, state="DRAIN"), {}, "launcher.partition=gpu is DRAIN; expected one that is UP"),
        (PARTITION, {"nodes": 5}, "launcher.nodes is 5 .*allows 4 a job"),
        (PARTITION, {"account": "bio"}, "launcher.account=bio may not use .*expected one of lab,chem"),
        (PARTITION, {"qos": "long"}, "launcher.qos=long may not use .*expected none of long"),
        (PARTITION, {"nodes": 2, "mem_gib": 400, "gpus_per_node": 8}, "2 nodes of 32 CPUs, 400 GiB .*has 1"),
        (PARTITION, {"gpus_per_node": 8, "cpus_per_task": 9}, r"72 CPUs a node .*9 x 8 ranks.* has 64"),
    ],
)  # fmt: skip
def test_what_a_partition_refuses(partition, resources, said):
    reason = refusal("diffusion jobs", Resources(**{"time_min": 60, **resources}), partition, OFFERS)
    assert reason is not None
    assert re.search(said, reason), reason


def test_what_a_partition_takes():
    most = Resources(time_min=60, nodes=2, gpus_per_node=8, cpus_per_task=8, mem_gib=240, account="chem")
    assert refusal("diffusion jobs", most, PARTITION, OFFERS) is None
    assert refusal("diffusion jobs", Resources(), PARTITION, []) is not None


def test_without_slurm_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"launcher=slurm: no sbatch on this machine.*launcher=local"):
        check_programs()


def test_what_jobs_read(tmp_path):
    (tmp_path / "a.xyz").write_text("1\n\nHe 0 0 0\n")
    words = [f'data.sources=["small={tmp_path}/a.xyz"]', f"data.shards={tmp_path}/s", f"runs={tmp_path}/runs"]
    study = compose_study(["sweep=scaling_demo", *words])
    graph = study_graph(study.config, study.points, study.folder)
    assert input_places(graph) == {"data.shards": f"{tmp_path}/s", "data.sources": f"{tmp_path}/a.xyz"}

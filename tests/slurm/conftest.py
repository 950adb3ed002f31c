"""The cluster of the tests marked slurm.

One process runs them (`make test-slurm`): they share a few processors, and some of them take nodes away.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, dev_folder, is_up, missing_programs


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The one SLURM_CONF names, or the dev cluster that is up, or one started for these tests and stopped
    behind them. SLURM_CONF names it while they run. Skips where there is none and none can be started."""
    dev = dev_folder() / "slurm.conf"
    named = Path(os.environ.get("SLURM_CONF", dev))
    found = Cluster(named, dev_folder() if named == dev else None)
    stands = is_up(named)
    if not stands:
        if named != dev:
            pytest.skip(f"no SLURM controller answers behind SLURM_CONF={named}")
        if missing := missing_programs():
            pytest.skip(f"no {', '.join(missing)} here; launchers/dev_cluster/up.sh --install brings them")
        if "PYTEST_XDIST_WORKER" in os.environ:
            pytest.skip("no SLURM is up, and each worker would start one: make test-slurm")
        found.up()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(named))
        yield found
    if not stands:
        found.down()


@pytest.fixture(scope="session")
def dev_cluster(cluster: Cluster) -> Cluster:
    """One whose daemons may be harmed."""
    if cluster.folder is None:
        pytest.skip("this cluster is not a dev cluster: its nodes are left alone")
    return cluster

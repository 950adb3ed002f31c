"""The shards' node: it builds, or checks that what stands is what is asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from adit_scale.config import StudyConfig
from adit_scale.data.config import DataConfig
from adit_scale.data.manifest import Manifest
from adit_scale.errors import DataError
from adit_scale.jobs import shards
from adit_scale.jobs.node import NodeFolder


def run(tmp_path: Path, data: DataConfig) -> dict[str, object]:
    node = NodeFolder(tmp_path, "shards", "0" * 64, "", "study", {}, False)
    return dict(shards.run(node, replace(StudyConfig(), data=data)).values)


def test_builds_from_words_and_checks_what_stands(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.xyz").write_text("".join(f"2\n\nC 0 0 0\nO 0 0 1.{k:02}\n" for k in range(40)))
    (tmp_path / "val.txt").write_text("a/3\n")
    data = DataConfig(
        shards=str(tmp_path / "shards"),
        sources=[f"co:train={tmp_path}/a.xyz", f"co:test={tmp_path}/b.xyz"],
        split_lists={"val": str(tmp_path / "val.txt")},
    )
    built = run(tmp_path, data)
    assert built["n_sets"] == {"train": 39, "val": 1, "test": 40}
    assert run(tmp_path, replace(data, build_workers=5, cache_gib=1.0)) == built
    assert Manifest.load(tmp_path / "shards").fingerprint == built["fingerprint"]
    other = f"co:val={tmp_path}/b.xyz"
    with pytest.raises(DataError, match=r"built from other files than data\.sources"):
        run(tmp_path, replace(data, sources=[data.sources[0], other]))
    with pytest.raises(DataError, match=r"co was built with max_atoms=0; data\.max_atoms asks for 9; remove"):
        run(tmp_path, replace(data, max_atoms=9))
    (tmp_path / "val.txt").write_text("a/4\n")
    with pytest.raises(DataError, match=r"co was built with split_lists="):
        run(tmp_path, data)
    assert run(tmp_path, replace(data, sources=[])) == built

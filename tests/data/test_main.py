"""The command line: what it builds, what it prints, how it fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adit_scale.data.__main__ import main
from adit_scale.data.shards import Manifest
from tests.data.test_sources import CIF, WATER, write_csv


def test_build_then_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mols.xyz").write_text(WATER.replace("id=water", "") * 30 + "1\nid=odd\nQq 0 0 0\n")
    crystals = write_csv(tmp_path / "xtals.csv", [CIF] * 40)
    out = tmp_path / "shards"
    build = ["build", str(tmp_path / "mols.xyz"), str(crystals), "--out", str(out), "--block-sets", "16"]
    assert main(build) == 0
    printed = capsys.readouterr().out
    manifest = Manifest.load(out)
    assert manifest.datasets == ["mols", "xtals"]
    assert sum(len(manifest.split(split)) for split in ("train", "val", "test")) == 70
    assert len(manifest.blocks["train"]) == -(-len(manifest.split("train")) // 16)
    assert f"fingerprint {manifest.fingerprint}" in printed
    assert "1 left out" in printed
    assert "mols odd: unknown element 'Qq'" in printed
    assert json.loads((out / "rejected.jsonl").read_text()) == {
        "id": "odd",
        "index": 30,
        "reason": "unknown element 'Qq'",
        "source": "mols",
    }
    assert main(["verify", str(out)]) == 0
    assert "every block is as it was written" in capsys.readouterr().out

    assert main(build) == 2
    assert main([*build, "--overwrite"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        f"error: {out}: holds a data set already; choose another folder or ask to overwrite it"
    ]
    assert Manifest.load(out).fingerprint == manifest.fingerprint


def test_damage_and_missing_source_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", str(tmp_path / "no.xyz"), "--out", str(tmp_path / "d")]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/no.xyz: no such file; check data.sources\n"
    assert not (tmp_path / "d").exists()
    crystals = write_csv(tmp_path / "xtals.csv", [CIF] * 40)
    assert main(["build", str(crystals), "--out", str(tmp_path / "d")]) == 0
    shard = tmp_path / "d/train-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-2000])
    capsys.readouterr()
    assert main(["verify", str(tmp_path / "d")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {shard}: block ")

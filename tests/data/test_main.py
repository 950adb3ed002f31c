"""``adit data``: what the commands do, print and return."""

from __future__ import annotations

import io
import json
import random
import re
from pathlib import Path

import ase.io
import pytest
import yaml

from adit_scale.data.__main__ import main
from adit_scale.data.config import SPLITS
from adit_scale.data.manifest import Manifest
from adit_scale.data.tools import catalogue
from adit_scale.data.tools.catalogue import DataSet, RemoteFile
from adit_scale.data.tools.progress import ProgressBar
from tests.conftest import REPO
from tests.data.nasty_server import serve
from tests.data.range_server import serving

WATER = '3\nid="{name}" Properties=species:S:1:pos:R:3\nO 0 0 0.{n}\nH 0 0.7 -0.5\nH 0 -0.7 -0.5\n'


def write_molecules(path: Path, n_sets: int) -> Path:
    path.write_text("".join(WATER.format(name=f"w{n}", n=n) for n in range(n_sets)))
    return path


def test_build_verify_info_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_molecules(tmp_path / "mols.xyz", 60)
    path.write_text(path.read_text() + "1\nid=odd\nQq 0 0 0\n")
    out = tmp_path / "shards"
    build = ["build", str(path), "--out", str(out), "--block-sets", "16", "--workers", "1"]
    assert main(build) == 0
    printed = capsys.readouterr().out
    manifest = Manifest.load(out)
    assert manifest.datasets == ["mols"]
    assert sum(manifest.n_sets(split) for split in SPLITS) == 60
    assert len(manifest.blocks["train"]) == -(-manifest.n_sets("train") // 16)
    assert f"fingerprint {manifest.fingerprint}" in printed
    assert f"1 left out, listed in {out}/rejected.jsonl; the first, mols odd: unknown element 'Qq'" in printed
    assert json.loads((out / "rejected.jsonl").read_text())["reason"] == "unknown element 'Qq'"

    assert main(build) == 2
    assert capsys.readouterr().err.startswith(f"error: {out}: holds a data set already; ")
    assert main([*build, "--overwrite"]) == 0
    assert Manifest.load(out).fingerprint == manifest.fingerprint

    assert main(["verify", str(out)]) == 0
    assert f"{out}: every block is as it was written\n" in capsys.readouterr().out
    assert main(["info", str(out), "--out", str(tmp_path / "pictures")]) == 0
    printed = capsys.readouterr().out
    assert "atoms       3 to 3 a structure, 3.0 on average, 180 in all" in printed
    assert printed.endswith(f"{tmp_path}/pictures/mols.png\n")

    to, ids = tmp_path / "back.extxyz", tmp_path / "ids.txt"
    words = ["export", str(out), "--split", "train", "--range", "2:5", "--to", str(to), "--list", str(ids)]
    assert main(words) == 0
    assert f"{to}: 3 structures\n" in capsys.readouterr().out
    names = [atoms.info["id"] for atoms in ase.io.iread(to, format="extxyz")]
    assert ids.read_text() == "".join(f"mols\t{name}\n" for name in names)
    assert main(["export", str(out), "--split", "train", "--ids-from", str(ids), "--to", str(to)]) == 0
    assert [atoms.info["id"] for atoms in ase.io.iread(to, format="extxyz")] == names


def test_every_conversion_setting_has_its_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_molecules(tmp_path / "mols.xyz", 40)
    (tmp_path / "val.txt").write_text("mols\tw3\nw4\n")
    words = "--validation-fraction 0 --test-fraction 0 --split-salt x --split-by composition --max-atoms 9 "
    words += "--conformers 2 --spacegroups stated --symprec 0.1 --block-sets 8 --blocks-per-shard 2 "
    words += f"--workers 1 --remove-hydrogens --qm9-uncharacterized --split-list val={tmp_path}/val.txt"
    out = tmp_path / "d"
    assert main(["build", f"some={path}", "--out", str(out), *words.replace("mols\t", "").split()]) == 2
    assert "mols" in capsys.readouterr().err  # the list names another data set
    assert main(["build", f"mols={path}", "--out", str(out), *words.split()]) == 0
    manifest = Manifest.load(out)
    assert manifest.n_sets("val") == 2
    assert manifest.n_sets("test") == 0
    assert len(manifest.shards["train"]) == 3
    assert set(manifest.descriptions["mols"]["elements"]) == {"O"}


def test_damage_is_named_block_by_block(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_molecules(tmp_path / "mols.xyz", 60)
    out = tmp_path / "d"
    assert main(["build", str(path), "--out", str(out), "--block-sets", "8", "--workers", "1"]) == 0
    blocks = Manifest.load(out).blocks["train"]
    shard = out / "train-000000.tar"
    data = bytearray(shard.read_bytes())
    for bad in (blocks[1], blocks[3]):
        data[bad.start + 700] ^= 4
    shard.write_bytes(data)
    capsys.readouterr()
    assert main(["verify", str(out)]) == 1
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert len(lines) == 2
    for line, bad in zip(lines, (blocks[1], blocks[3]), strict=True):
        assert line.startswith(f"error: {shard}: block {bad.key}: expected sha256 {bad.sha256}, found ")
    assert said.out == ""
    (out / "manifest.json").write_text("{")
    assert main(["verify", str(out)]) == 1
    assert re.match(rf"error: {out}/manifest.json: not readable as JSON", capsys.readouterr().err)
    assert main(["verify", str(tmp_path / "nowhere")]) == 2


def test_shards_at_an_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = write_molecules(tmp_path / "mols.xyz", 60)
    assert main(["build", str(path), "--out", str(tmp_path / "d"), "--workers", "1"]) == 0
    assert main(["info", str(tmp_path / "d")]) == 0
    here = capsys.readouterr().out.splitlines()[-4:]
    with serving(tmp_path / "d") as server:
        assert main(["info", server.address]) == 0
        assert capsys.readouterr().out.splitlines()[-4:] == here
        assert main(["verify", server.address]) == 0
        to = tmp_path / "m.extxyz"
        assert main(["export", server.address, "--split", "val", "--to", str(to)]) == 0
        assert len(list(ase.io.iread(to, format="extxyz"))) == Manifest.load(tmp_path / "d").n_sets("val")


def test_missing_source_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", str(tmp_path / "no.xyz"), "--out", str(tmp_path / "d")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/no.xyz: no such file")
    assert not (tmp_path / "d").exists()


def test_fetch_then_build_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with serve() as server:
        server.files["/mirror/train.xyz"] = write_molecules(tmp_path / "t.xyz", 9).read_bytes()
        server.files["/mirror/val.xyz"] = write_molecules(tmp_path / "v.xyz", 4).read_bytes()
        files = tuple(RemoteFile(f"{s}.xyz", f"http://127.0.0.1:9/{s}") for s in ("train", "val"))
        words = ("toy:train=train.xyz", "toy:val=val.xyz")
        toy = DataSet("toy", "toys", 13, 1, "CC0", "https://toy", "Toy 2020", files, words, {}, "all of it")
        monkeypatch.setitem(catalogue.CATALOGUE, "toy", toy)
        build = ["build", "toy", "--out", "d", "--workers", "1"]
        assert main(build) == 2
        assert capsys.readouterr().err == (
            "error: raw/toy/train.xyz: no such file; run `adit data fetch toy` first\n"
        )
        assert main(["fetch", "toy", "--mirror", f"{server.address}/mirror"]) == 0
    said = capsys.readouterr().out
    assert "toy: toys; licence CC0; please cite Toy 2020\n" in said
    assert "toy: not confirmed with the publisher: all of it\n" in said
    assert said.count("recorded at first use") == 2
    assert main(build) == 0
    assert "4 left out, listed in d/rejected.jsonl; the first, toy w0: id 'w0' stands twice in toy" in (
        capsys.readouterr().out
    )
    assert main(["fetch", "toy"]) == 0
    assert capsys.readouterr().out.count("is there already") == 2


def test_a_catalogue_data_set_brings_its_splits_settings_and_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "raw/toy").mkdir(parents=True)
    write_molecules(tmp_path / "raw/toy/train.xyz", 9)
    (tmp_path / "raw/toy/val.xyz").write_text(WATER.format(name="v0", n=3))
    toy = DataSet("toy", "toys", 13, 1, "CC0", "https://toy", "Toy 2020", (),
                  ("toy:train=train.xyz", "toy:val=val.xyz"), {"max_atoms": 150})  # fmt: skip
    monkeypatch.setitem(catalogue.CATALOGUE, "toy", toy)
    out = tmp_path / "d"
    build = ["build", "toy", "--raw", str(tmp_path / "raw"), "--out", str(out), "--workers", "1"]
    assert main(build) == 0
    assert "--max-atoms 150, as is usual for toy; this holds for all sources" in capsys.readouterr().out
    manifest = Manifest.load(out)
    assert [manifest.n_sets(split) for split in SPLITS] == [9, 1, 0]
    assert manifest.descriptions["toy"]["licence"] == "CC0"
    assert manifest.descriptions["toy"]["citation"] == "Toy 2020"
    assert main([*build, "--overwrite", "--max-atoms", "2"]) == 2
    assert "3 atoms; data.max_atoms is 2" in capsys.readouterr().err


@pytest.mark.parametrize("name", [*catalogue.CATALOGUE][:-1])
def test_studies_find_what_fetch_brings(name: str) -> None:
    """The catalogue but its last, whose sources are 50 files."""
    study = yaml.safe_load((REPO / f"configs/data/{name}.yaml").read_text())
    known = catalogue.CATALOGUE[name]
    sources = [word.replace("=", f"=raw/{name}/") for word in known.sources]
    assert study == {"name": name, "shards": "", "sources": sources, **known.settings}


def test_list_names_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines() if not line.startswith(" ")] == list(
        catalogue.CATALOGUE
    )
    assert main(["list", "--markdown"]) == 0
    assert capsys.readouterr().out == catalogue.markdown()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_in_a_log_and_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    log = io.StringIO()
    with ProgressBar("structures", log) as bar:
        bar("reading", 0, 10_000)
        for done in range(1000, 5000, 1000):
            now_s += 4.0
            bar("reading", done, 10_000)
        bar("writing", 3, None)
    assert log.getvalue().splitlines() == [
        "reading: 3,000 of 10,000 structures, 250 structures/s, 0:28 left",
        "reading: 4,000 of 10,000 structures, 250 structures/s, 0:24 left",
    ]
    terminal = Terminal()
    rng = random.Random(0)
    with ProgressBar("B", terminal) as bar:
        for done in range(0, 2_000_001, 100_000):
            now_s += rng.random()
            bar("fetching [x]", done, 2_000_000)
    assert "fetching [x]" in terminal.getvalue()
    assert "2.0 MB of 2.0 MB" in terminal.getvalue()
    assert "kB/s" in terminal.getvalue()

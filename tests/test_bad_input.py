"""Bad input as a user meets it: one clear line and the right exit status, and nothing else is lost."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import launch
from adit_scale.data.__main__ import main as data_command
from adit_scale.data.demo.__main__ import main as demo_command
from adit_scale.tracking.__main__ import main as tracking_command
from adit_scale.tracking.config import without_credentials
from adit_scale.training import checkpoint
from adit_scale.training.writer import CheckpointWriter
from launchers.compose import compose_study
from launchers.graph import study_graph

CIF = """# generated using pymatgen
data_NaCl
_symmetry_space_group_name_H-M   'P 1'
_cell_length_a   3.9
_cell_length_b   4.0
_cell_length_c   4.1
_cell_angle_alpha   60.0
_cell_angle_beta   61.0
_cell_angle_gamma   62.0
_symmetry_Int_Tables_number   1
_chemical_formula_structural   NaCl
_chemical_formula_sum   'Na1 Cl1'
_cell_volume   45.0
_cell_formula_units_Z   1
loop_
 _symmetry_equiv_pos_site_id
 _symmetry_equiv_pos_as_xyz
  1  'x, y, z'
loop_
 _atom_site_type_symbol
 _atom_site_label
 _atom_site_symmetry_multiplicity
 _atom_site_fract_x
 _atom_site_fract_y
 _atom_site_fract_z
 _atom_site_occupancy
  Na  Na0  1  0.00000000  0.10000000  0.20000000  1
  Cl  Cl1  1  0.50000000  -0.40000000  1.70000000  1
"""
REPO = Path(__file__).resolve().parents[1]
SECRET = "hunter2"
UNREACHABLE = f"http://someone:{SECRET}@127.0.0.1:9"

WORDS = {
    "autoencoder.steps=-1": "autoencoder.steps is -1; expected at least 1",
    "diffusion.atom_budget=0": "diffusion.atom_budget is 0; expected at least 1",
    "diffusion.optim.lr=0": "diffusion.optim.lr is 0.0; expected more than 0",
    "autoencoder.optim.lr=nan": "autoencoder.optim.lr is nan; expected a finite number",
    "autoencoder.optim.schedule=cosin": "autoencoder.optim.schedule is 'cosin'; expected one of constant,",
    "diffusion.label_dropout=2": "diffusion.label_dropout is 2.0; expected 0 to 1",
    "autoencoder.loss_weights.kl=-1": "autoencoder.loss_weights.kl is -1.0; expected at least 0",
    "model.denoiser.heads=0": "model.denoiser.heads is 0; expected at least 1",
    "parallel.threads=-1": "parallel.threads is -1; expected at least 0",
    "seed=-1": "seed is -1; expected at least 0",
    "sampling.steps=x": "sampling.steps=x: Value 'x' of type 'str' could not be converted to Integer",
    "+diffusion.foo=1": "diffusion.foo: no such setting; expected one of steps, atom_budget,",
    "diffusion=3": "diffusion=3: no such choice; expected one of demo, paper",
    "=3": "=3: not an override; expected key=value",
    "sweep.name=../x": "sweep.name is '../x'; expected the name of one folder",
    "data=files": "data.sources is empty; expected files such as 'data.sources=[",
    "data.sources=[a b.xyz]": "data.sources: a b.xyz: no such file; check data.sources",
    "data.shards=/nowhere": "/nowhere/manifest.json: no such file; build the shards or set data.shards",
    f"tracking.uri=ftp://someone:{SECRET}@host": "tracking.uri: got 'ftp://***@host'; expected sqlite:///",
}


@pytest.mark.parametrize("word", WORDS)
def test_a_wrong_word_is_one_line_with_its_full_key(word, tmp_path, capsys):
    assert launch.main([word, f"runs={tmp_path}/runs"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"launch.py: {WORDS[word]}")
    assert err.count("\n") == 1
    assert SECRET not in err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path, capsys):
    (file := tmp_path / "file").touch()
    source = tmp_path / "w.xyz"
    source.write_text("1\n\nO 0 0 0\n")
    below = file / "below"
    assert launch.main([f"runs={below}", "tracking=none"]) == 2
    assert data_command(["build", str(source), "--out", str(below / "shards")]) == 2
    assert demo_command(["--out", str(below / "shards")]) == 2  # at once, not after a corpus is made
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" (")[0] for line in lines] == [
        f"launch.py: {below}/scaling_demo: cannot be written",
        f"error: {below}: cannot be written",
        f"error: {below}: cannot be written",
    ]


FILES = {
    "empty.xyz": (b"", "no usable structure among 0 in empty.xyz; expected at least one"),
    "cut.xyz.gz": (b"\x1f\x8b\x08\x00", "cannot be read to its end"),
    "binary.xyz": (b"\xff\xfe\x00", "among 1 in binary.xyz; the first was left out: not UTF-8 text"),
    "table.csv": (b"a,b\n1,2\n", "table.csv: no column 'cif'; found a, b"),
    "notes.txt": (b"x", "notes.txt: unknown kind of file; expected .xyz, .extxyz, .csv"),
}


@pytest.mark.parametrize("name", FILES)
def test_an_unusable_file_leaves_one_line_and_no_folder(name, tmp_path, capsys):
    content, message = FILES[name]
    (tmp_path / name).write_bytes(content)
    assert data_command(["build", str(tmp_path / name), "--out", str(tmp_path / "shards")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_store_that_cannot_be_used_is_named_without_its_password(tmp_path, capsys):
    def sync(runs: Path, uri: str) -> tuple[int, str]:
        status = tracking_command(["sync", str(runs), "--uri", uri])
        (line,) = capsys.readouterr().err.splitlines()
        assert SECRET not in line
        return status, line

    status, line = sync(tmp_path / "no", "sqlite:///x.db")
    assert (status, line) == (
        2,
        f"error: {tmp_path}/no: no such folder; expected a folder that holds run folders",
    )
    assert sync(tmp_path, "ftp://host")[0] == 2
    for uri in (UNREACHABLE, "sqlite:////proc/no/m.db", f"mssql+no://someone:{SECRET}@127.0.0.1/db"):
        status, line = sync(tmp_path, uri)
        assert status == 1
        assert line.startswith(f"error: tracking store {without_credentials(uri)}: ")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("sqlite:////a b/m.db", "sqlite:////a b/m.db"),
        ("http://localhost:5000", "http://localhost:5000"),
        ("see http://u:p@x@host/a and https://t@h", "see http://***@host/a and https://***@h"),
        ("mysql://h/db?user=u&Password=p&ssl=1", "mysql://h/db?user=u&Password=***&ssl=1"),
    ],
)
def test_addresses_are_shown_without_secrets(address, shown):
    assert without_credentials(address) == shown


def mixed_sources(folder: Path) -> list[Path]:
    """Molecules and crystals with bad ones between them, in a folder with a space in its name."""
    folder.mkdir()
    bad = [
        "3\nid=nan\nO 0 0 nan\nH 1 0 0\nH 0 1 0\n",
        "1\nid=heavy\n100 0 0 0\n",
        "4\nid=short\nO 0 0 0\nH 1 0 0\n",
    ]
    water = [f"3\nid=w{i}\nO 0 0 0\nH 0.9 0.1 {i}e-3\nH -0.3 0.9 0\n" for i in range(80)]
    (molecules := folder / "mols.xyz").write_text("".join([*water[:40], *bad, *water[40:]]))
    return [molecules, _write_csv(folder / "xtals.csv", [CIF] * 60 + ["not a cif", ""])]


def _write_csv(path: Path, cifs: list[str]) -> Path:
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["material_id", "cif", "spacegroup.number"])
        table.writerows([f"mp-{i}", cif, "225"] for i, cif in enumerate(cifs))
    return path


REASONS = {
    "nan": "position of atom 0 is [0.0, 0.0, nan]",
    "heavy": "atomic number 100; expected 1 to 99",
    "short": "4 atoms announced, 2 rows found",
    "mp-60": "unreadable CIF: expected a data_ block",
    "mp-61": "empty CIF",
}


def test_a_damaged_shard_is_one_line_naming_shard_and_block(tmp_path, capfd):
    out = tmp_path / "my shards"
    sources = [str(path) for path in mixed_sources(tmp_path / "my files")]
    assert data_command(["build", *sources, "--out", str(out), "--block-sets", "16"]) == 0
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert {row["id"]: row["reason"] for row in rejected} == REASONS
    assert capfd.readouterr().err == ""  # none of the CIF parser's warnings
    shard = out / "train-000000.tar"
    content = shard.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    for damaged in (bytes(flipped), content[:-5000]):
        shard.write_bytes(damaged)
        assert data_command(["verify", str(out)]) == 1
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith(f"error: {shard}: block 0000")
        assert "expected sha256 " in line
    shard.unlink()
    assert data_command(["verify", str(out)]) == 1
    assert capfd.readouterr().err.startswith(f"error: {shard}: no such file; copy it with the shards")


@pytest.mark.slow
def test_a_bad_point_costs_neither_the_others_nor_the_report(tmp_path, single_process):
    """Bad structures, a store that is down, and one point with a checkpoint of another model size."""
    sources = ",".join(map(str, mixed_sources(tmp_path / "my files")))
    stage = (
        "steps=4",
        "atom_budget=64",
        "validate_every_steps=4",
        "validation_sets=4",
        "checkpoint_every_steps=4",
    )
    words = [
        "sweep=scaling_demo", "sweep.name=tiny", "model/denoiser=dit_32,dit_64", "model/autoencoder=tiny",
        *(f"{name}.{setting}" for name in ("autoencoder", "diffusion") for setting in stage),
        "diffusion.samples_every_steps=0", "sampling.crystals=4", "sampling.molecules=4", "sampling.steps=3",
        "evaluation.reference_sets=8", "sweep.bootstrap=100", "launcher.parallel=1", "parallel.threads=1",
        "data=files", f"data.shards={tmp_path}/my shards", f"data.sources=[{sources}]",
        f"runs={tmp_path}/runs", f"tracking.uri={UNREACHABLE}",
    ]  # fmt: skip
    study = compose_study(words)
    wrong = study_graph(study.config, study.points, study.folder).node_of("diffusion", "dit_64").folder
    with CheckpointWriter(wrong / "checkpoints", torch.device("cpu")) as writer:
        writer.save(checkpoint.TrainState(step=2, shapes={"network.x": [32]}), {})

    done = subprocess.run(
        [sys.executable, "launch.py", *words], cwd=REPO, capture_output=True, text=True, check=False
    )
    printed = done.stdout + done.stderr
    assert done.returncode == 1, printed
    assert "Traceback" not in printed
    assert "1 of 2 points" in printed
    reason = json.loads((wrong / "FAILED.json").read_text())["reason"]
    assert reason.startswith(f"{wrong}/checkpoints/step-00000002: parameter network.")
    assert "expected a checkpoint of the same model size" in reason
    assert f"diffusion dit_64: {reason}" in printed
    assert "evaluation dit_64: blocked by diffusion dit_64" in printed
    assert (wrong / "checkpoints/step-00000002/COMMITTED").is_file()  # nothing of the user's is deleted
    rejected = [json.loads(line) for line in (tmp_path / "my shards/rejected.jsonl").read_text().splitlines()]
    assert {row["id"]: row["reason"] for row in rejected} == REASONS

    assert "tracking store http://***@127.0.0.1:9: " in printed
    assert "the journals hold it: run `python -m adit_scale.tracking sync" in printed
    assert SECRET not in printed
    written = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert len(written) > 20
    assert [path for path in written if SECRET.encode() in path.read_bytes()] == []

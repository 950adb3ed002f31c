"""The folder of samples: what is written is read back, and nothing else is taken for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from adit_scale.atoms import CRYSTAL, MOLECULE, AtomSet, PackedLayout
from adit_scale.data.config import DataConfig
from adit_scale.data.manifest import open_manifest
from adit_scale.data.sources import read_source
from adit_scale.diffusion.generate import GeneratedBatch
from adit_scale.errors import ConfigError, DataError
from adit_scale.evaluation.decode import Invalid, decode_sets
from adit_scale.evaluation.sample_files import finish
from adit_scale.evaluation.samples import SampleColumns, SampleFolder, read_samples, samples_digest
from adit_scale.models.autoencoder import Decoded

RECORD = {"samples": {"crystal": 3, "molecule": 2}, "settings": {"steps": 4, "seed": 0}, "parts": 3}
WATER = [[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]


def columns(domain: int, index: list[int], sizes: list[int], seed: int = 0) -> SampleColumns:
    rng = np.random.default_rng(seed + domain)
    total, n = sum(sizes), len(index)
    return SampleColumns(
        domain=domain,
        index_s=np.array(index, np.int64),
        offsets=np.cumsum([0, *sizes]),
        spacegroup_s=np.arange(n).astype(np.int16),
        numbers_t=rng.integers(1, 20, total).astype(np.uint8),
        positions_t3=rng.normal(0, 3, (total, 3)).astype(np.float32),
        fractional_t3=rng.random((total, 3)).astype(np.float32),
        lengths_s3=rng.uniform(3, 6, (n, 3)).astype(np.float32),
        angles_s3=np.full((n, 3), np.pi / 2, np.float32),
    )


@pytest.fixture
def parts() -> list[SampleColumns]:
    """Three crystals over two parts, out of order; two molecules, the second water."""
    first, second = columns(CRYSTAL, [2, 0], [4, 1]), columns(CRYSTAL, [1], [3], seed=9)
    molecules = columns(MOLECULE, [0, 1], [5, 3])
    molecules.numbers_t[5:], molecules.positions_t3[5:] = [8, 1, 1], WATER
    return [first, second, molecules]


@pytest.fixture
def folder(tmp_path, parts) -> SampleFolder:
    made = SampleFolder.begin(tmp_path / "s", RECORD, {})
    for number, part in enumerate(parts):
        made.write(number, part)
    return made


def test_samples_come_back_in_order_with_their_ids(folder, parts):
    found = read_samples(folder.path)
    assert [one.id for one in found[CRYSTAL]] == ["crystal-0", "crystal-1", "crystal-2"]
    assert [len(one) for one in found[CRYSTAL]] == [1, 3, 4]
    assert [one.id for one in found[MOLECULE]] == ["molecule-0", "molecule-1"]
    last = found[CRYSTAL][2]
    assert isinstance(last, AtomSet)
    assert last.numbers.tolist() == parts[0].numbers_t[:4].tolist()
    np.testing.assert_array_equal(last.fractional.round(6), parts[0].fractional_t3[:4].astype(float).round(6))
    joined = folder.columns()
    assert joined[CRYSTAL].spacegroup_s.tolist() == [1, 0, 0]
    assert joined[CRYSTAL].offsets.tolist() == [0, 1, 4, 8]


def test_how_samples_were_batched_leaves_no_trace(folder, tmp_path, parts):
    whole = SampleFolder.begin(tmp_path / "t", {**RECORD, "parts": 2}, {})
    joined = folder.columns()
    whole.write(0, joined[CRYSTAL])
    whole.write(1, parts[2])
    assert samples_digest(whole.columns()) == samples_digest(joined)
    changed = joined[CRYSTAL]
    changed.positions_t3[3, 1] = np.nextafter(changed.positions_t3[3, 1], np.float32(9))
    assert samples_digest({**joined, CRYSTAL: changed}) != samples_digest(folder.columns())


def test_a_decoded_batch_gives_the_sets_that_decoding_gives():
    """Non-finite logits, coordinates and cells keep their reasons through the folder's columns."""
    layout = PackedLayout.from_sizes([2, 1, 3, 1])
    torch.manual_seed(0)
    decoded = Decoded(
        torch.randn(7, 100),
        torch.randn(7, 3),
        torch.randn(7, 3),
        torch.rand(4, 3) + 2,
        torch.full((4, 3), 1.5),
    )
    decoded.atom_type_logits_t100[0, 7] = torch.nan
    decoded.fractional_t3[2, 0] = torch.inf
    decoded.lengths_s3[2, 1] = -1.0
    for domain in (CRYSTAL, MOLECULE):
        batch = GeneratedBatch(decoded, layout, torch.full((4,), domain), torch.arange(4))
        found = SampleColumns.from_batch(batch).to_sets()
        expected = decode_sets(decoded, layout, batch.domain_s)
        assert [type(one) for one in found] == [type(one) for one in expected]
        for one, other in zip(found, expected, strict=True):
            if isinstance(one, Invalid):
                assert one.reason == other.reason
                assert one.numbers.tolist() == other.numbers.tolist()
            else:
                np.testing.assert_array_equal(one.positions, other.positions)
    assert found[0].numbers[0] == 0  # unknown where a logit was NaN


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "1 of 3 parts are missing, the first 000001.safetensors"),
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "000001.safetensors: cannot be read"),
        (lambda path: path.write_bytes(b""), "000001.safetensors: cannot be read"),
        (lambda path: flip(path, -3), "000001.safetensors: its values are not those that were written"),
        (lambda path: path.write_bytes((path.parent / "000000.safetensors").read_bytes()), "other samples"),
    ],
)
def test_a_damaged_part_is_named(folder, damage, message):
    damage(folder.part(1))
    with pytest.raises(DataError, match=message):
        read_samples(folder.path)


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_parts_that_repeat_a_sample_are_told(folder):
    folder.write(1, columns(CRYSTAL, [2], [3]))
    with pytest.raises(DataError, match="do not hold crystals 0 to 2, each once"):
        read_samples(folder.path)


def test_a_part_of_other_settings_is_told(folder, tmp_path):
    other = SampleFolder.begin(tmp_path / "other", {**RECORD, "settings": {"steps": 5, "seed": 0}}, {})
    other.write(1, columns(CRYSTAL, [1], [3]))
    folder.part(1).write_bytes(other.part(1).read_bytes())
    assert folder.fault(1) == "belongs to other samples than sampling.json describes"
    assert folder.fault(0) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {"steps": 5, "seed": 0}}, "steps=4, not steps=5"),
        ({"settings": {"steps": 4, "seed": 1}}, "seed=0, not seed=1"),
        ({"samples": {"crystal": 3}}, "samples.molecule=2, not samples.molecule=None"),
        ({"weights": {"denoiser": "ab"}}, "weights.denoiser=None, not weights.denoiser=ab"),
    ],
)
def test_a_folder_of_other_samples_is_refused(folder, change, message):
    before = (folder.path / "sampling.json").read_bytes()
    with pytest.raises(ConfigError, match=message):
        SampleFolder.begin(folder.path, {**RECORD, **change}, {})
    assert (folder.path / "sampling.json").read_bytes() == before
    assert SampleFolder.begin(folder.path, RECORD, {"other": "words"}).missing() == []
    assert SampleFolder.begin(folder.path, {**RECORD, **change}, {}, start_over=True).missing() == [0, 1, 2]


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "node.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"holds node.json and no samples"):
        SampleFolder.begin(tmp_path, RECORD, {})
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "run.log").write_text("a log does not matter")
    SampleFolder.begin(tmp_path / "log", RECORD, {})
    with pytest.raises(DataError, match="no such file; expected a folder that `adit sample"):
        read_samples(tmp_path / "nothing")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format_version": 1, "draws": {"parts": "x", "samples": {}}}']
)
def test_a_damaged_description_is_told(folder, text):
    (folder.path / "sampling.json").write_text(text)
    with pytest.raises(DataError, match=r"sampling.json: damaged"):
        read_samples(folder.path)


def test_every_format_is_read_back(folder):
    done = finish(folder, ("extxyz", "cif", "cifs", "sdf", "shards"))
    samples = read_samples(folder.path)
    for name in ("crystals.extxyz", "crystals.cif", "crystals/crystal-1.cif"):
        for one in read_source(folder.path / name):
            twin = samples[CRYSTAL][int(one.id.rpartition("-")[2])]
            assert sorted(one.numbers.tolist()) == sorted(twin.numbers.tolist())
            np.testing.assert_allclose(np.linalg.det(one.cell), np.linalg.det(twin.cell), rtol=1e-5)
    (water,) = [one for one in read_source(folder.path / "molecules.sdf") if one.id == "molecule-1"]
    np.testing.assert_allclose(water.positions, samples[MOLECULE][1].positions, atol=1e-4)
    record = (folder.path / "molecules.sdf").read_text().split("$$$$\n")[1]
    assert record.splitlines()[3][:6] == "  3  2"  # three atoms, two bonds
    assert record.count("  1  0") >= 2
    manifest = open_manifest(DataConfig(shards=str(folder.path / "shards")))
    assert manifest.datasets == ["sampled_crystals", "sampled_molecules"]
    assert sum(manifest.n_sets(split) for split in ("train", "val", "test")) == 5
    assert {name: entry["samples"] for name, entry in done["files"].items()} == {
        "extxyz": 5, "cif": 3, "cifs": 3, "sdf": 2, "shards": 5,
    }  # fmt: skip


def test_what_a_format_cannot_hold_is_counted(tmp_path):
    """Atoms in one place, atoms too far away, too many, and no system of atoms at all."""
    many = columns(MOLECULE, [0], [1001])
    far, same, broken = columns(MOLECULE, [1], [2]), columns(MOLECULE, [2], [2]), columns(MOLECULE, [3], [2])
    far.positions_t3[0] = 3e4
    same.positions_t3[:] = 1.0
    broken.positions_t3[1, 2] = np.nan
    close = columns(MOLECULE, [4], [60])
    close.numbers_t[:], close.positions_t3[:] = 6, close.positions_t3 * 0.01  # all atoms bonded to all
    folder = SampleFolder.begin(tmp_path / "s", {"samples": {"molecule": 5}, "parts": 5}, {})
    for number, part in enumerate((many, far, same, broken, close)):
        folder.write(number, part)
    done = finish(folder, ("extxyz", "sdf", "shards", "cif"))
    assert done["samples"]["molecule"] == {
        "drawn": 5, "invalid": 1, "reasons": {"coordinates are not finite": 1},
    }  # fmt: skip
    assert done["files"]["extxyz"]["samples"] == 4
    sdf = done["files"]["sdf"]
    assert sdf["samples"] == 1
    assert sdf["left_out"] == {
        "has 1001 atoms; SDF (V2000) holds 999": 1,
        "reaches beyond 9999.9999 angstrom": 1,
        "has 1770 bonds; SDF (V2000) holds 999": 1,
    }
    shards = done["files"]["shards"]
    assert shards["samples"] == 2
    assert shards["left_out"]["two atoms stand at the same place"] == 1
    assert done["files"]["cif"] == {"files": [], "samples": 0, "left_out": {}}


def test_formats_are_added_later_and_lost_files_are_written_again(folder):
    finish(folder, ("extxyz",))
    first = (folder.path / "molecules.extxyz").read_bytes()
    (folder.path / "molecules.extxyz").unlink()
    done = finish(folder, ("extxyz", "sdf"))
    assert (folder.path / "molecules.extxyz").read_bytes() == first
    assert set(done["files"]) == {"extxyz", "sdf"}
    stamp = (folder.path / "DONE.json").stat().st_mtime_ns
    assert finish(folder, ("sdf",)) == done
    assert (folder.path / "DONE.json").stat().st_mtime_ns == stamp
    (folder.path / "DONE.json").write_text("{torn")
    assert finish(folder, ("sdf",))["digest"] == done["digest"]


def test_nothing_is_finished_before_all_parts_are_there(folder):
    folder.part(2).unlink()
    with pytest.raises(DataError, match="1 of 3 parts are missing"):
        finish(folder)
    assert not (folder.path / "DONE.json").exists()


def test_leftovers_of_killed_writers_go(folder):
    left = folder.path / "parts" / ".000001.safetensors.4711.part"
    left.write_bytes(b"half")
    assert folder.missing() == []
    finish(folder)
    assert not left.exists()
    assert json.loads((folder.path / "DONE.json").read_text())["samples"]["crystal"]["drawn"] == 3

"""No damage to a data set goes unnoticed, and the error says where it is."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adit_scale.data.blocks import decode_block, parse_block
from adit_scale.data.build import build_from_sets
from adit_scale.data.config import DataConfig
from adit_scale.data.integrity import BlockSource, find_damage, verify
from adit_scale.data.manifest import SPLITS, Manifest, encode_rows
from adit_scale.data.shards import ShardReader
from adit_scale.data.storage import LocalFolder
from adit_scale.errors import DataError
from tests.data.conftest import crystal, molecule

SHARD = "train-000000.tar"


class Flipped(LocalFolder):
    """A folder with one bit of one file flipped as it is read."""

    place, bit = 0, 0

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        data = bytearray(super().read_range(name, start, stop))
        if start <= self.place < stop:
            data[self.place - start] ^= 1 << self.bit
        return bytes(data)


@pytest.fixture(scope="module")
def one_shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two blocks in one shard; tests must not write to it."""
    rng = np.random.default_rng(1)
    folder = tmp_path_factory.mktemp("flip") / "data"
    sets = [molecule(rng, 3, f"m{i}") for i in range(4)] + [crystal(rng, 4, f"x{i}") for i in range(2)]
    build_from_sets(sets, folder, DataConfig(block_sets=3, validation_fraction=0, test_fraction=0))
    return folder


@pytest.fixture
def copied(one_shard: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(one_shard, tmp_path / "data"))


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the tables of a manifest and give it the fingerprint they ask for."""
    path = folder / "manifest.json"
    tree = json.loads(path.read_text())
    change(tree)
    identity = {key: tree[key] for key in ("schema_version", "datasets")}
    parts = ("blocks", "sets_sha256", "shards")
    identity["splits"] = {s: {part: tree["splits"][s][part] for part in parts} for s in SPLITS}
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    tree["fingerprint"] = hashlib.sha256(canonical.encode()).hexdigest()
    path.write_text(json.dumps(tree))


def test_every_flipped_bit_is_found_and_named(one_shard: Path) -> None:
    """2,000 of them, anywhere: tar header, npy header, payload, padding, end-of-archive mark."""
    storage = Flipped(one_shard)
    manifest = Manifest.load(storage)
    whole = (one_shard / SHARD).read_bytes()
    first, last = manifest.blocks["train"]
    rng = np.random.default_rng(0)
    edges = [0, 511, 512, first.stop - 1, first.stop, len(whole) - 1024, len(whole) - 1]
    places = np.concatenate([edges, rng.integers(0, len(whole), 2000 - len(edges))])
    for place in places.tolist():
        storage.place, storage.bit = place, int(rng.integers(8))
        block = first if place < first.stop else last
        damaged = storage.read_range(SHARD, block.start, block.stop)
        assert damaged != whole[block.start : block.stop]
        with pytest.raises(DataError) as caught:
            ShardReader(manifest, "train").read_columns(np.array([block.first_set]))
        found = hashlib.sha256(damaged).hexdigest()
        assert str(caught.value) == (
            f"{one_shard}/{SHARD}: block {block.key}: expected sha256 {block.sha256}, found {found}; "
            f"copy or build the shard again"
        )


def test_each_kind_of_byte_was_among_them(one_shard: Path) -> None:
    data = (one_shard / SHARD).read_bytes()
    assert data[-1024:] == bytes(1024)
    assert data[257:262] == b"ustar"
    assert data[512:518] == b"\x93NUMPY"
    assert 0 in data[512 + 128 : 1024]


@pytest.mark.parametrize("cut", [0, 100, 5000, -1024, -1])
def test_truncated_shard(copied: Path, cut: int) -> None:
    path = copied / SHARD
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    left = len(whole[:cut])
    manifest = Manifest.load(copied)
    block = next(b for b in manifest.blocks["train"] if b.stop > left)
    found = hashlib.sha256(whole[block.start : left]).hexdigest()
    with pytest.raises(DataError) as caught:
        ShardReader(manifest, "train").read_columns(np.array([0]))
    for part in (SHARD, f"block {block.key}", block.sha256, found, f"{left} bytes long", str(len(whole))):
        assert part in str(caught.value)


def test_a_shard_cut_while_it_is_read(copied: Path) -> None:
    manifest = Manifest.load(copied)
    reader = ShardReader(manifest, "train")
    reader.read_columns(np.array([0]))
    n_bytes = (copied / SHARD).stat().st_size
    with (copied / SHARD).open("r+b") as file:
        file.truncate(n_bytes - 5)
    with pytest.raises(DataError, match=rf"block 000001: .*\({n_bytes - 5} bytes long; expected {n_bytes}\)"):
        reader.read_columns(np.array([5]))


def test_lengthened_missing_and_stray_shards(copied: Path) -> None:
    path = copied / SHARD
    shutil.copy(path, copied / "train-000001.tar")
    with pytest.raises(DataError, match=r"train-000001\.tar: not in the manifest; remove it"):
        verify(copied)
    (copied / "train-000001.tar").unlink()
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DataError, match="block 000001: expected sha256"):
        verify(copied)
    path.unlink()
    with pytest.raises(DataError, match=r"train-000000\.tar: no such file"):
        verify(copied)


def test_a_copy_of_another_shard_is_recognised(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    config = DataConfig(block_sets=2, blocks_per_shard=1, validation_fraction=0, test_fraction=0)
    manifest = build_from_sets([molecule(rng, 5, f"m{i}") for i in range(4)], tmp_path / "d", config)
    first, second = manifest.shards["train"]
    assert first.n_bytes == second.n_bytes
    shutil.copy(tmp_path / "d" / first.file, tmp_path / "d" / second.file)
    with pytest.raises(
        DataError, match=rf"{second.file}: block 000001: .*\(that is block 000000 of {first.file}"
    ):
        verify(tmp_path / "d")


def test_verify_lists_everything_that_is_wrong(small_data: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(small_data, tmp_path / "data"))
    seen: list[tuple[int, int]] = []
    manifest = verify(folder, lambda done, total: seen.append((done, total)))
    total = sum(shard.n_bytes for split in SPLITS for shard in manifest.shards[split])
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    blocks = manifest.blocks["train"]
    assert len(blocks) > 4
    for block in blocks[1:4]:
        with (folder / block.shard).open("r+b") as file:
            file.seek(block.start + 700)
            byte = file.read(1)[0]
            file.seek(block.start + 700)
            file.write(bytes([byte ^ 4]))
    damage = find_damage(manifest)
    assert [line.split(": ")[1] for line in damage] == [f"block {b.key}" for b in blocks[1:4]]
    with pytest.raises(DataError) as caught:
        verify(folder)
    assert str(caught.value).startswith("3 faults: ")
    assert "\n" not in str(caught.value)
    assert all(f"{b.shard}: block {b.key}" in str(caught.value) for b in blocks[1:4])


def test_rows_and_statistics_are_held_against_the_shards(copied: Path) -> None:
    manifest = Manifest.load(copied)
    rows = manifest.split("train").rows(0, 6).copy()
    rows["n_atoms"][1] += 1
    rows["domain"][4] = 3 - rows["domain"][4]
    data = encode_rows(rows)
    (copied / "train.sets.npy").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    rewrite(copied, lambda tree: tree["splits"]["train"].update(sets_sha256=digest))
    with pytest.raises(DataError, match=r"^2 faults: .*block 000000: atom counts differ from the rows of tr"):
        verify(copied)


def test_statistics_that_the_data_do_not_bear_out(copied: Path) -> None:
    rewrite(copied, lambda tree: tree["descriptions"]["xtals"]["atom_counts"].update({"4": 3}))
    with pytest.raises(DataError, match=r"manifest\.json: atom_counts of xtals differ from its structures"):
        verify(copied)


def test_contents_that_no_model_could_use_are_named(copied: Path) -> None:
    """A block may match its digest and still be wrong, when another program wrote it."""
    path = copied / SHARD
    data = bytearray(path.read_bytes())
    data[512 + 128] = 0  # the first atomic number
    path.write_bytes(data)

    def sign(tree: dict[str, Any]) -> None:
        train = tree["splits"]["train"]
        block = train["blocks"][0]
        block["sha256"] = hashlib.sha256(data[: block["stop"]]).hexdigest()
        train["shards"][0]["sha256"] = hashlib.sha256(data).hexdigest()

    rewrite(copied, sign)
    with pytest.raises(DataError, match=r"block 000000: atomic numbers 0 to .*; expected 1 to 99"):
        verify(copied)
    rewrite(copied, lambda tree: tree["splits"]["train"]["shards"][0].update(sha256="0" * 64))
    damage = find_damage(Manifest.load(copied))
    assert len(damage) == 1  # the block is bad; the shard's digest is not asked too


def test_a_wrong_digest_of_a_whole_shard(copied: Path) -> None:
    rewrite(copied, lambda tree: tree["splits"]["train"]["shards"][0].update(sha256="0" * 64))
    with pytest.raises(DataError, match=r"train-000000\.tar: expected sha256 0{64}, found [0-9a-f]{64};"):
        verify(copied)


def test_damaged_manifest(copied: Path) -> None:
    path = copied / "manifest.json"
    text = path.read_text()
    tree = json.loads(text)
    tree["descriptions"] = 3
    without = {key: value for key, value in json.loads(text).items() if key != "splits"}
    for damaged, reason in (
        (text.replace('"datasets": [', '"datasets": ["more",'), "expected fingerprint"),
        (text[:200], "not readable as JSON"),
        ("[" * 100_000, "not readable as JSON"),
        ("[]", "schema version None"),
        (text.replace('"schema_version": 2', '"schema_version": 7'), "schema version 7; expected 2"),
        ('{"schema_version": 2}', "damaged table"),
        (json.dumps(without), "damaged table"),
        (json.dumps(tree), "damaged table"),
    ):
        path.write_text(damaged)
        with pytest.raises(DataError, match=reason) as caught:
            Manifest.load(copied)
        assert str(caught.value).startswith(f"{path}: ")
    path.write_text(text)
    rows = bytearray((copied / "train.sets.npy").read_bytes())
    rows[-3] ^= 1
    (copied / "train.sets.npy").write_bytes(rows)
    with pytest.raises(DataError, match=r"train\.sets\.npy: expected sha256"):
        Manifest.load(copied)
    (copied / "train.sets.npy").unlink()
    with pytest.raises(DataError, match=r"train\.sets\.npy: no such file"):
        Manifest.load(copied)
    path.unlink()
    with pytest.raises(DataError, match=r"manifest\.json: no such file; build the shards"):
        Manifest.load(copied)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not readable as JSON"):
        Manifest.load(copied)


TABLES: list[tuple[str, Any]] = [
    ("is no plain file name", lambda t: t["shards"][0].update(file="../x.tar")),
    ("is no plain file name", lambda t: t["shards"][0].update(file="/etc/passwd")),
    ("is no plain file name", lambda t: t["shards"][0].update(file="a\\b.tar")),
    ("is no plain file name", lambda t: t["shards"][0].update(file="")),
    ("is no plain file name", lambda t: t["shards"][0].update(file=7)),
    ("is listed twice", lambda t: t["shards"].append(dict(t["shards"][0]))),
    ("have the same sha256", lambda t: t["shards"].append({**t["shards"][0], "file": "train-000001.tar"})),
    ("is no sha256 in hex", lambda t: t["shards"][0].update(sha256="abc")),
    ("bytes long; expected at least 1", lambda t: t["shards"][0].update(n_bytes=-1)),
    ("bytes long; expected at least 1", lambda t: t["shards"][0].update(n_bytes="12")),
    ("no block of train covers", lambda t: t["blocks"].pop()),
    ("no block of train covers", lambda t: t["shards"].append(
        {"file": "z.tar", "n_bytes": 4, "sha256": "0" * 64})),
    ("expected byte 0 of no shard", lambda t: t["shards"].pop()),
    ("lies at byte", lambda t: t["blocks"][1].update(start=7)),
    ("lies at byte", lambda t: t["blocks"].reverse()),
    ("lies at byte", lambda t: t["blocks"][1].update(shard="../x.tar")),
    ("its sets from 4; expected", lambda t: t["blocks"][1].update(first_set=4)),
    ("tile the shard", lambda t: t["blocks"][1].update(stop=10**9)),
    ("tile the shard", lambda t: t["blocks"][1].update(key=t["blocks"][0]["key"])),
    ("tile the shard", lambda t: t["blocks"][0].update(n_sets=0)),
    ("damaged table", lambda t: t["blocks"][0].update(n_sets=3.0)),
    ("damaged table", lambda t: t["blocks"][0].update(extra=1)),
    ("damaged table", lambda t: t["blocks"].append(None)),
    ("damaged table", lambda t: t.update(shards=5)),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "change"), TABLES, ids=[f"{i}" for i in range(len(TABLES))])
def test_tables_that_describe_no_data_set(copied: Path, reason: str, change: Any) -> None:
    """Even where the fingerprint was made to fit."""
    rewrite(copied, lambda tree: change(tree["splits"]["train"]))
    with pytest.raises(DataError, match=reason) as caught:
        Manifest.load(copied)
    assert str(caught.value).startswith(f"{copied}/manifest.json: ")
    assert "\n" not in str(caught.value)


def test_the_fingerprint_is_of_the_json_of_the_tables(small_data: Path) -> None:
    manifest = Manifest.load(small_data)
    identity = {
        "schema_version": 2,
        "datasets": manifest.datasets,
        "splits": {
            split: {
                "shards": [asdict(shard) for shard in manifest.shards[split]],
                "blocks": [asdict(block) for block in manifest.blocks[split]],
                "sets_sha256": manifest.sets_sha256[split],
            }
            for split in SPLITS
        },
    }
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    assert manifest.fingerprint == hashlib.sha256(canonical.encode()).hexdigest()
    assert replace(manifest, datasets=[*manifest.datasets, "x"]).fingerprint != manifest.fingerprint


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_block_of_another_form_is_an_error_never_a_guess(one_shard: Path, data: st.DataObject) -> None:
    """Bytes that match no digest never come this far; those that do may still be of another program."""
    block = Manifest.load(one_shard).blocks["train"][0]
    whole = bytearray((one_shard / SHARD).read_bytes()[block.start : block.stop])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([len(whole), len(whole) - 512, 513, 0]))
    try:
        parsed = parse_block(bytes(whole[:cut]))
        parsed.ids()
    except DataError:
        return
    assert parsed.n_sets == 3
    assert len(parsed.arrays["positions.npy"]) == parsed.arrays["offsets.npy"][-1]


def test_members_are_read_as_numpy_and_tarfile_read_them(small_data: Path) -> None:
    import io
    import tarfile

    manifest = Manifest.load(small_data)
    source = BlockSource(manifest, "train")
    for number in range(len(manifest.blocks["train"])):
        data = source.read_bytes(number)
        parsed = parse_block(data)
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for name in archive.getnames():
                content = archive.extractfile(name).read()
                if name.endswith(".npy"):
                    expected = np.load(io.BytesIO(content), allow_pickle=False)
                    found = parsed.arrays[name.partition(".")[2]]
                    assert found.dtype == expected.dtype
                    assert np.array_equal(found, expected)
                else:
                    assert json.loads(content) == parsed.ids() == decode_block(data)[1]

"""Shards at an address: the same data as from the folder, whatever the network and the cache do."""

from __future__ import annotations

import base64
import logging
import multiprocessing
import os
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from adit_scale.data.augment import augment
from adit_scale.data.config import DataConfig
from adit_scale.data.integrity import verify
from adit_scale.data.loader import BatchLoader
from adit_scale.data.manifest import SPLITS, Manifest
from adit_scale.data.range_cache import RangeCache
from adit_scale.data.shards import ShardReader
from adit_scale.data.storage import open_storage
from adit_scale.errors import DataError
from tests.data.range_server import RangeServer, serving

pytest.importorskip("fsspec", reason="fsspec is not installed: pip install 'adit-scale[remote]'")
pytest.importorskip("aiohttp", reason="aiohttp is not installed: pip install 'adit-scale[remote]'")

from adit_scale.data import remote
from adit_scale.data.remote import RemoteFolder, without_credentials


@pytest.fixture(autouse=True)
def _no_proxy_and_no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.setattr(remote, "_RETRY_AFTER_S", (0.01, 0.01, 0.01))


@pytest.fixture
def server(small_data: Path) -> Iterator[RangeServer]:
    with serving(small_data) as server:
        yield server


def read_all(place: RemoteFolder | Path) -> list[list]:
    manifest = Manifest.load(place)
    return [
        [
            (s.id, s.numbers.tolist(), s.positions.tolist())
            for s in reader.read_sets(np.arange(len(reader.index)))
        ]
        for reader in (ShardReader(manifest, split) for split in SPLITS)
    ]


def first_sets(place: RemoteFolder) -> np.ndarray:
    return ShardReader(Manifest.load(place), "train").read_columns(np.arange(5)).positions_t3


def cached(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_http_gives_what_the_folder_holds(server: RangeServer, small_data: Path, tmp_path: Path) -> None:
    storage = RemoteFolder(server.address, str(tmp_path))
    assert read_all(storage) == read_all(small_data)
    assert verify(RemoteFolder(server.address, str(tmp_path))).fingerprint == verify(small_data).fingerprint
    assert str(storage) == server.address


def test_blocks_are_fetched_once_and_then_read_here(server: RangeServer, tmp_path: Path) -> None:
    for _ in range(2):
        read_all(RemoteFolder(server.address, str(tmp_path)))
    manifest = Manifest.load(RemoteFolder(server.address, str(tmp_path)))
    gets = {shard.file: server.requests[shard.file] for s in SPLITS for shard in manifest.shards[s]}
    blocks = [block.shard for s in SPLITS for block in manifest.blocks[s]]
    assert gets == {name: blocks.count(name) for name in gets}
    assert server.requests["manifest.json"] == 3  # always read anew
    assert server.requests["train.sets.npy"] == 1


@pytest.mark.parametrize("world_size", [1, 2])
def test_training_sees_the_same_batches(
    server: RangeServer, small_data: Path, tmp_path: Path, world_size: int
) -> None:
    local = DataConfig(shards=str(small_data))
    away = replace(local, shards=server.address, cache=str(tmp_path))
    for rank in range(world_size):
        settings = {"seed": 1, "atom_budget": 256, "micro_batch_atoms": 128, "rank": rank}
        loaders = [BatchLoader(data, **settings, world_size=world_size) for data in (local, away)]
        for step in (0, 1, 2, 12):
            here, there = (loader.step(step).batches for loader in loaders)
            assert len(here) == len(there) > 0
            for a, b in zip(here, there, strict=True):
                assert torch.equal(augment(a, 1).positions_t3, augment(b, 1).positions_t3)
                assert torch.equal(a.set_index_s, b.set_index_s)
        for loader in loaders:
            loader.close()


@pytest.mark.parametrize("fault", ["cut", "wrong", "503", "429", "500"])
def test_a_passing_fault_is_got_over(
    server: RangeServer, small_data: Path, tmp_path: Path, fault: str
) -> None:
    storage = RemoteFolder(server.address, str(tmp_path))
    manifest = Manifest.load(storage)
    server.fault, server.n_faults = fault, 1
    assert [s.id for s in ShardReader(manifest, "train").read_sets(np.arange(60))] == [
        s.id for s in ShardReader(Manifest.load(small_data), "train").read_sets(np.arange(60))
    ]
    assert server.n_faults == 0


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("cut", r"train-000000\.tar: cannot be read after 4 tries \(.+\); check the address and the network"),
        ("503", r"train-000000\.tar: cannot be read after 4 tries \(HTTP 503\)"),
        ("404", r"train-000000\.tar: no such file; check data\.shards"),
        ("403", r"train-000000\.tar: access refused \(403\); check the credentials"),
        ("400", r"train-000000\.tar: the server answers HTTP 400"),
        ("wrong", r"train-000000\.tar: block 000000: expected sha256 [0-9a-f]{64}, found [0-9a-f]{64}"),
    ],
)
def test_a_lasting_fault_is_one_line(server: RangeServer, tmp_path: Path, fault: str, text: str) -> None:
    storage = RemoteFolder(server.address, str(tmp_path))
    reader = ShardReader(Manifest.load(storage), "train")
    server.fault, server.n_faults = fault, 10**6
    with pytest.raises(DataError, match=text) as caught:
        reader.read_columns(np.arange(5))
    assert str(caught.value).startswith(server.address)
    assert "\n" not in str(caught.value)


def test_wrong_places_are_one_line(server: RangeServer, small_data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"elsewhere/manifest\.json: no such file; check data\.shards"):
        Manifest.load(RemoteFolder(server.address.replace("/set", "/elsewhere"), str(tmp_path)))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(
        DataError, match=rf"127\.0\.0\.1:{port}/set/manifest\.json: cannot be read after 4 tries"
    ):
        Manifest.load(RemoteFolder(f"http://127.0.0.1:{port}/set", str(tmp_path)))
    with pytest.raises(DataError, match=r"nosuch:// is not supported here"):
        Manifest.load(RemoteFolder("nosuch://place/set", str(tmp_path)))
    for wrong in ("://place", "http://[::1/set"):
        with pytest.raises(DataError, match=r"data\.shards is no folder and no address"):
            RemoteFolder(wrong, str(tmp_path))
    server.ranges = False
    with pytest.raises(DataError, match=r"train-000000\.tar: the server ignores byte ranges"):
        first_sets(RemoteFolder(server.address, str(tmp_path)))
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/cache: cannot be made .* set data\.cache"):
        RemoteFolder(server.address, str(tmp_path / "file" / "cache"))


def test_a_server_that_says_nothing(
    server: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_READ_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/set"
        started = time.monotonic()
        with pytest.raises(DataError, match="cannot be read after 4 tries"):
            Manifest.load(RemoteFolder(address, str(tmp_path)))
        assert time.monotonic() - started < 10


def test_passwords_and_tokens_are_used_but_never_shown(
    server: RangeServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server.password = "Basic " + base64.b64encode(b"me:hunter2").decode()
    secret = server.address.replace("http://", "http://me:hunter2@") + "?token=hunter3"
    assert without_credentials(secret) == server.address
    storage = RemoteFolder(secret, str(tmp_path))
    assert len(first_sets(storage)) > 0
    texts = [str(storage)]
    for fault in ("503", "404", "403", "cut"):
        server.fault, server.n_faults = fault, 10**6
        with pytest.raises(DataError) as caught:
            storage.read_range("train-000000.tar", 1, 9)
        texts.append(str(caught.value))
        # so that a traceback does not show the address either
        assert caught.value.__context__ is None or caught.value.__suppress_context__
    server.password = "Basic other"
    with pytest.raises(DataError, match="access refused") as caught:
        Manifest.load(RemoteFolder(secret, str(tmp_path / "other")))
    assert caplog.records  # the tries
    for text in [*texts, str(caught.value), caplog.text, *map(str, cached(tmp_path))]:
        assert "hunter" not in text


def test_a_damaged_cache_heals(server: RangeServer, tmp_path: Path) -> None:
    expected = first_sets(RemoteFolder(server.address, str(tmp_path)))
    for damage in ("flip", "cut", "remove"):
        for path in cached(tmp_path):
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 16
            path.write_bytes(data if damage == "flip" else data[:-7])
            if damage == "remove":
                path.unlink()
        assert np.array_equal(first_sets(RemoteFolder(server.address, str(tmp_path))), expected)


def test_an_entry_that_goes_while_it_is_needed(server: RangeServer, tmp_path: Path) -> None:
    reader = ShardReader(Manifest.load(RemoteFolder(server.address, str(tmp_path))), "train", cache_bytes=0)
    expected = reader.read_columns(np.arange(30)).positions_t3
    shutil.rmtree(tmp_path)
    assert np.array_equal(reader.read_columns(np.arange(30)).positions_t3, expected)
    assert len(reader.index.rows(0, 5)) == 5


def test_another_data_set_at_the_same_address(
    server: RangeServer, small_data: Path, tmp_path: Path, some_sets: list, small_config: DataConfig
) -> None:
    from adit_scale.data.build import build_from_sets

    server.folder = tmp_path / "served"
    shutil.copytree(small_data, server.folder)
    first = Manifest.load(RemoteFolder(server.address, str(tmp_path / "cache")))
    other = build_from_sets(some_sets[:-1], server.folder, small_config, overwrite=True)
    found = RemoteFolder(server.address, str(tmp_path / "cache"))
    assert Manifest.load(found).fingerprint == other.fingerprint != first.fingerprint
    assert read_all(found) == read_all(server.folder)


def test_the_cache_is_bounded_and_drops_what_was_used_longest_ago(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path, 64_000)
    keys = [RangeCache.key("a", str(i)) for i in range(300)]
    for i, key in enumerate(keys):
        cache.write(key, bytes(1000))
        assert cache.read(keys[0], 1000) is not None or i > 300  # used all the time
        assert sum(path.stat().st_size for path in cached(tmp_path)) <= 64_000
        os.utime(cache._entry(key), (i, i)) if i else None  # clocks are coarser than this loop
    assert len(cached(tmp_path)) >= 50
    assert cache.read(keys[-1], 1000) is not None
    assert cache.read(keys[1], 1000) is None
    larger = RangeCache.key("large")
    assert cache.write(larger, bytes(100_000)) is not None
    assert cache.path_of(larger, 100_000) is not None  # the entry just written stays


def test_leftovers_of_killed_processes_go(tmp_path: Path) -> None:
    (tmp_path / "ab").mkdir()
    old, new = tmp_path / "ab" / ".part-old", tmp_path / "ab" / ".part-new"
    old.write_bytes(b"1")
    new.write_bytes(b"1")
    os.utime(old, (1, 1))
    RangeCache(tmp_path, 1000).write(RangeCache.key("x"), b"data")
    assert not old.exists()
    assert new.exists()


def test_a_full_disk_only_costs_the_cache(
    server: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    storage = RemoteFolder(server.address, str(tmp_path))
    reader = ShardReader(Manifest.load(storage), "train")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("adit_scale.data.range_cache.tempfile.mkstemp", full)
    assert len(reader.read_columns(np.arange(40)).sizes_s) == 40
    assert caplog.text.count("cannot keep blocks here (No space left on device)") == 1
    with pytest.raises(DataError, match=r"cannot be written; set data\.cache to a folder with room"):
        Manifest.load(RemoteFolder(server.address, str(tmp_path)))


def _read_in_child(storage: RemoteFolder, results: multiprocessing.Queue) -> None:
    results.put(float(np.abs(first_sets(storage)).sum()))


def test_processes_share_a_cache_and_an_open_storage_survives_a_fork(
    server: RangeServer, tmp_path: Path
) -> None:
    storage = RemoteFolder(server.address, str(tmp_path))
    expected = float(np.abs(first_sets(storage)).sum())
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    children = [context.Process(target=_read_in_child, args=(storage, results)) for _ in range(4)]
    for child in children:
        child.start()
    assert [results.get(timeout=30) for _ in children] == [expected] * 4
    for child in children:
        child.join()


def test_memory_and_file_addresses(small_data: Path, tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for path in small_data.iterdir():
        memory.pipe_file(f"/adit/{path.name}", path.read_bytes())
    for address in ("memory://adit", f"file://{small_data}"):
        storage = open_storage(address, str(tmp_path / "c"), 0.01)
        assert isinstance(storage, RemoteFolder)
        assert read_all(storage) == read_all(small_data)
    memory.rm("/adit", recursive=True)


def test_s3(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'adit-scale[remote]'")
    moto_server = pytest.importorskip(
        "moto.server", reason="moto is not installed: pip install 'moto[server]'"
    )
    import s3fs

    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3 = s3fs.S3FileSystem(skip_instance_cache=True)
        s3.mkdir("bucket")
        s3.put(f"{small_data}/", "bucket/set/", recursive=True)
        storage = RemoteFolder("s3://bucket/set", str(tmp_path))
        assert read_all(storage) == read_all(small_data)
        assert read_all(RemoteFolder("s3://bucket/set", str(tmp_path))) == read_all(small_data)
        with pytest.raises(
            DataError, match=r"^s3://bucket/none/manifest\.json: no such file; check data\.shards"
        ):
            Manifest.load(RemoteFolder("s3://bucket/none", str(tmp_path)))
        with pytest.raises(DataError, match=r"^s3://nobucket/set/manifest\.json: no such file"):
            Manifest.load(RemoteFolder("s3://nobucket/set", str(tmp_path)))
        s3.rm("bucket/set/train-000001.tar")
        with pytest.raises(DataError, match=r"train-000001\.tar: no such file"):
            verify(RemoteFolder("s3://bucket/set", str(tmp_path / "fresh")))
    finally:
        server.stop()

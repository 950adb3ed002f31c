"""Tensors are read from files of torch.save without a line of the files' code being run."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from adit_scale.errors import CheckpointError
from adit_scale.models.adit_state import read_state
from adit_scale.models.torch_archive import (
    Name,
    TorchArchive,
    UnreadableArchive,
    is_tensor,
    run_inert,
    texts_and_values,
)

TENSORS = {
    "plain": torch.arange(6.0).reshape(2, 3),
    "transposed": torch.arange(6.0).reshape(2, 3).T,
    "half": torch.tensor([1.5, -2.0], dtype=torch.float16),
    "bfloat": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "double": torch.tensor(3.25, dtype=torch.float64),
    "count": torch.tensor([1, 2, 3]),
    "flag": torch.tensor([True, False]),
    "empty": torch.zeros(0, 4),
    "slice": torch.arange(10.0)[3:7],
}


def read(path: Path) -> dict[str, torch.Tensor]:
    with TorchArchive(path) as archive:
        root = archive.root.get("state_dict") or archive.root
        return {k: archive.tensor(note) for k, note in texts_and_values(root) if is_tensor(note)}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_tensor_is_what_was_saved(tmp_path, protocol):
    shared = torch.arange(4.0)
    saved = {**TENSORS, "tied": shared, "tied_too": shared, "parameter": torch.nn.Parameter(torch.ones(2))}
    torch.save({"state_dict": saved}, tmp_path / "a.pt", pickle_protocol=protocol)
    found = read(tmp_path / "a.pt")
    assert found.keys() == saved.keys()
    for name, tensor in found.items():
        assert tensor.dtype == saved[name].dtype
        assert torch.equal(tensor, saved[name].detach())
        assert tensor.is_contiguous()
    found["plain"].add_(1)  # of its own memory, and the file is as it was
    assert torch.equal(read(tmp_path / "a.pt")["plain"], TENSORS["plain"])


def test_a_file_without_checksums_is_read(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    torch.save(TENSORS, tmp_path / "a.pt")
    torch.serialization.set_crc32_options(before)
    assert torch.equal(read(tmp_path / "a.pt")["plain"], TENSORS["plain"])


# -- hostile programs -------------------------------------------------------------------------------------


class Reduces:
    def __init__(self, *reduction: object) -> None:
        self.reduction = reduction

    def __reduce__(self) -> tuple:
        return self.reduction


class Built:
    """A state that a class of the attacker's choice would be given."""

    def __reduce__(self) -> tuple:
        return (type, ("X", (), {}), {"__setstate__": os.system})


def attacks(command: str) -> dict[str, bytes]:
    """Programs that make Python's own unpickler run ``command``, in every way that there is an opcode for."""
    system = b"cos\nsystem\n"
    rebuild = b"torch._utils\n_rebuild_tensor_v2"
    short = b"\x8c" + bytes([len(command)]) + command.encode()
    text = b"(S'" + command.encode() + b"'\n"
    return {
        "reduce": pickle.dumps({"state_dict": Reduces(os.system, (command,))}, 2),
        "reduce_in_a_list": pickle.dumps({"a": [1, {"b": (Reduces(os.system, (command,)),)}]}, 4),
        "protocol_0": system + text + b"tR.",
        "inst": text + b"ios\nsystem\n.",
        "obj": b"(" + system + b"S'" + command.encode() + b"'\no.",
        "stack_global": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + short + b"\x85R.",
        "newobj": b"\x80\x02" + system + text + b"t\x81.",
        "newobj_ex": b"\x80\x04" + system + text + b"t}\x92.",
        "builtins_eval": pickle.dumps(Reduces(eval, (f"__import__('os').system({command!r})",)), 2),
        "build": pickle.dumps({"state_dict": Built()}, 2),
        "call_of_a_call": b"\x80\x02cbuiltins\ngetattr\n(cos\nsys\nS'x'\ntR" + text + b"tR.",
        "persistent_id": b"\x80\x02" + system + text + b"tRQ.",
        "tensor_of_a_call": b"\x80\x02c" + rebuild + b"\n(" + system + text + b"tRK\x00))tR.",
    }  # fmt: skip


def as_torch_file(path: Path, program: bytes, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", program)
        file.writestr("archive/byteorder", b"little")
        for name, data in members.items():
            file.writestr(f"archive/data/{name.removeprefix('s')}", data)
    return path


@pytest.mark.parametrize("name", attacks("x"))
def test_no_program_runs(tmp_path, name):
    mark = tmp_path / "ran"
    program = attacks(f"touch {mark}")[name]
    path = as_torch_file(tmp_path / "evil.ckpt", program)
    with pytest.raises(CheckpointError, match=r"evil.ckpt: "):
        read_state(path)
    inert = run_inert(program)
    assert not mark.exists()
    del inert
    assert not mark.exists()


def test_the_attacks_are_real(tmp_path):
    """Python's own unpickler does run them; else the test above would say nothing."""
    for name in ("reduce", "inst", "obj", "stack_global", "protocol_0"):
        mark = tmp_path / name
        pickle.loads(attacks(f"touch {mark}")[name])
        assert mark.exists(), name


def test_weights_beside_an_attack_are_read_and_the_attack_is_not_run(tmp_path):
    mark = tmp_path / "ran"
    evil = Reduces(os.system, (f"touch {mark}",))
    torch.save({"state_dict": TENSORS, "hyper_parameters": evil, "callbacks": [evil]}, tmp_path / "a.ckpt")
    assert torch.equal(read(tmp_path / "a.ckpt")["plain"], TENSORS["plain"])
    assert not mark.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"",
        b".",
        b"\x80\x02}",
        b"\x80\x02}q\x00h\x05.",  # a memo that is not there
        b"\x80\x02(((((t.",
        b"\x80\x02u.",
        b"\x80\x02\x8e" + struct.pack("<Q", 1 << 60) + b"x.",  # BINBYTES8 of an exabyte
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 50) + b"x.",  # BYTEARRAY8
        b"\x80\x02r"
        + struct.pack("<I", 0xFFFFFFFF)
        + b".",  # a memo of four billion entries of an empty stack
        b"\x80\x02I" + b"9" * 100_000 + b"\n.",
        b"\xff\xff.",
        b"\x80\x02X\x02\x00\x00\x00\xff\xff.",  # not UTF-8
    ],
)
def test_a_program_without_sense_is_one_error(tmp_path, program):
    with pytest.raises(CheckpointError) as error:
        read_state(as_torch_file(tmp_path / "a.ckpt", program))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


def test_depth_and_memo_numbers_cost_nothing(tmp_path):
    deep = b"\x80\x02" + b"(" * 20_000 + b"t" * 20_000 + b"."
    nested = b"\x80\x02)" + b"\x85" * 20_000 + b"."
    lists = b"\x80\x02]" + b"]" * 20_000 + b"a" * 20_000 + b"."
    far = b"\x80\x02Nr" + struct.pack("<I", 0xFFFFFFF0) + b"."
    for number, program in enumerate((deep, nested, lists, far)):
        run_inert(program)
        with pytest.raises(CheckpointError, match="no state_dict"):
            read_state(as_torch_file(tmp_path / f"{number}.ckpt", program))


def tensor_program(
    size: tuple, stride: tuple, offset: object, n: object, storage: str = "FloatStorage"
) -> bytes:
    """``{"state_dict": {"w": tensor}}`` with these numbers in it."""
    storage_id = ("storage", Global(f"torch {storage}"), "0", "cpu", n)
    note = ReducesAs(
        "torch._utils _rebuild_tensor_v2", (Persistent(storage_id), offset, size, stride, False, {})
    )
    return dumps({"state_dict": {"w": note}})


class Global(str):
    pass


class Persistent(tuple):
    pass


class ReducesAs(tuple):
    def __new__(cls, *args: object) -> ReducesAs:
        return super().__new__(cls, args)


def dumps(value: object) -> bytes:
    """A pickle written by hand, so that it may say what no object does."""
    return b"\x80\x02" + _dump(value) + b"."


def _dump(value: object) -> bytes:
    if isinstance(value, Global):
        return b"c" + value.replace(" ", "\n").encode() + b"\n"
    if isinstance(value, Persistent):
        return _dump(tuple(value)) + b"Q"
    if isinstance(value, ReducesAs):
        return _dump(Global(value[0])) + _dump(value[1]) + b"R"
    if isinstance(value, dict):
        return b"}(" + b"".join(_dump(k) + _dump(v) for k, v in value.items()) + b"u"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(_dump, value)) + b"t"
    body = pickle.dumps(value, 2)
    return body[2:-1]


@pytest.mark.parametrize(
    ("size", "stride", "offset", "n", "message"),
    [
        ((2, 3), (3, 1), 1, 6, "reaches out of its storage"),
        ((2, 3), (4, 1), 0, 6, "reaches out of its storage"),
        ((7,), (1,), 0, 6, "reaches out of its storage"),
        ((1 << 40,), (0,), 0, 6, "reaches out of its storage"),
        ((1 << 30, 1 << 30), (0, 0), 0, 6, "reaches out of its storage"),
        ((-1,), (1,), 0, 6, "make no sense"),
        ((2,), (-1,), 3, 6, "make no sense"),
        ((2,), (1,), -1, 6, "make no sense"),
        ((2,), (1, 1), 0, 6, "make no sense"),
        ((2.0,), (1,), 0, 6, "make no sense"),
        ((True,), (1,), 0, 6, "make no sense"),
        ((1,) * 9, (1,) * 9, 0, 6, "make no sense"),
        ((1 << 60,), (1,), 0, 1 << 60, "make no sense"),
        ((2,), (1,), 0, "6", "make no sense"),
        ("ab", (1,), 0, 6, "of a kind that is not known"),
    ],
)
def test_sizes_and_strides_stay_inside_the_storage(tmp_path, size, stride, offset, n, message):
    path = as_torch_file(tmp_path / "a.ckpt", tensor_program(size, stride, offset, n), s0=bytes(24))
    with pytest.raises(CheckpointError, match=message):
        read_state(path)
    with TorchArchive(path) as archive, pytest.raises(UnreadableArchive, match=message):
        archive.tensor(archive.root.get("state_dict").get("w"))


def test_the_hand_written_program_is_a_tensor(tmp_path):
    data = struct.pack("<6f", *range(6))
    path = as_torch_file(tmp_path / "a.ckpt", tensor_program((2, 2), (3, 1), 1, 6), s0=data)
    assert read(path)["w"].tolist() == [[1, 2], [4, 5]]
    unknown = as_torch_file(tmp_path / "b.ckpt", tensor_program((2,), (1,), 0, 6, "OtherStorage"), s0=data)
    with pytest.raises(CheckpointError, match="of a kind that is not known"):
        read_state(unknown)
    short = as_torch_file(tmp_path / "d.ckpt", tensor_program((2,), (1,), 0, 7), s0=data)
    with TorchArchive(short) as archive, pytest.raises(UnreadableArchive, match="has 24 bytes, expected 28"):
        archive.tensor(archive.root.get("state_dict").get("w"))
    missing = as_torch_file(tmp_path / "c.ckpt", tensor_program((2,), (1,), 0, 6), s1=data)
    with TorchArchive(missing) as archive, pytest.raises(UnreadableArchive, match="'0' is missing"):
        archive.tensor(archive.root.get("state_dict").get("w"))


def test_files_of_another_kind(tmp_path):
    torch.save(TENSORS, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(
        CheckpointError, match=r"not a zip file as torch writes since version 1.6.*save its state_dict"
    ):
        read_state(tmp_path / "old.pt")
    torch.save(TENSORS, tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    for keep in (0, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "torn.pt").write_bytes(whole[:keep])
        with pytest.raises(CheckpointError, match=r"torn.pt"):
            read_state(tmp_path / "torn.pt")
    with zipfile.ZipFile(tmp_path / "small.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", pickle.dumps({}) + bytes(10_000))
    with pytest.raises(CheckpointError, match="is compressed; torch stores"):
        read_state(tmp_path / "small.pt")
    with zipfile.ZipFile(tmp_path / "two.pt", "w") as file:
        file.writestr("a/data.pkl", pickle.dumps({}))
        file.writestr("b/data.pkl", pickle.dumps({}))
    with pytest.raises(CheckpointError, match=r"holds 2 files data\.pkl"):
        read_state(tmp_path / "two.pt")


def test_mutated_files_never_crash(tmp_path):
    """Every byte counts for something: a changed file is refused, or its tensors have their sizes."""
    torch.save(
        {"state_dict": {"w": TENSORS["plain"], "v": TENSORS["count"]}, "epoch": 1}, tmp_path / "a.ckpt"
    )
    whole = (tmp_path / "a.ckpt").read_bytes()
    generator = torch.Generator().manual_seed(0)
    refused = 0
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(int(torch.randint(1, 4, (1,), generator=generator))):
            place = int(torch.randint(len(data), (1,), generator=generator))
            data[place] = int(torch.randint(256, (1,), generator=generator))
        (tmp_path / "b.ckpt").write_bytes(data)
        try:
            found = read(tmp_path / "b.ckpt")
        except UnreadableArchive:
            refused += 1
        else:
            assert all(tensor.numel() <= 6 for tensor in found.values())
    assert refused > 20


def test_names_are_only_names():
    assert run_inert(b"\x80\x02cno.such.module\nNothing\n.") == Name("no.such.module Nothing")

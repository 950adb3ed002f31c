"""Tensors of a file that ``torch.save`` wrote, read without unpickling.

A pickle is a program. This reader runs none of it: it walks over the opcodes with a machine whose values are
plain Python data and *names*. A class or function stays a name, a call of one stays a note of who was called
with what, and nothing is ever imported, called or constructed; so a checkpoint may hold settings, callbacks
and optimizers of any class without harm. Afterwards those notes that say "rebuild a tensor from this storage"
are turned into tensors from the file's raw bytes, with every size, stride and offset checked.

The layout is that of torch's zip files (since 1.6): ``NAME/data.pkl``, ``NAME/data/KEY`` for each storage,
``NAME/byteorder``. Opcodes: Python's ``pickletools``, which reads arguments and runs nothing either.
"""

from __future__ import annotations

import math
import mmap
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

_FAR = 1 << 48  # numbers of a storage
MAX_PICKLE_BYTES = 1 << 28  # the program; tensors stand beside it
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")  # of a zip member: signature, …, length of name, length of extra
_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_REBUILD_TENSOR = "torch._utils _rebuild_tensor_v2"
_REBUILD_PARAMETER = "torch._utils _rebuild_parameter"


class UnreadableArchive(Exception):
    """Why a file cannot be read, in one line."""


@dataclass(frozen=True)
class Name:
    """A class or function, by module and name; nothing was imported."""

    text: str


@dataclass(eq=False)
class Note:
    """What a pickle builds, as far as it is plain: never the object itself.

    made_by: the function that would be called or the class that would be made, None of a dict or list; args:
    with what. items, pairs: what would be appended and set. state: what it would be given.
    """

    made_by: Any = None
    args: Any = ()
    items: list[Any] = field(default_factory=list)
    pairs: list[tuple[Any, Any]] = field(default_factory=list)
    state: Any = None

    def get(self, key: str) -> Any:
        """The value set last under a text key; None where there is none."""
        return next(
            (value for own, value in reversed(self.pairs) if isinstance(own, str) and own == key), None
        )


@dataclass(frozen=True)
class StorageNote:
    """A persistent id: where a tensor's numbers stand."""

    id: Any


class TorchArchive:
    """An opened file. ``root`` is a Note of the dictionary that was saved; close with ``with``.

    Raises UnreadableArchive for a file of another kind, a torn one, and one whose program makes no sense.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as stream:
            self._members = _members(stream)
            # Copy on write: torch wants memory that it could write to; nothing reaches the file.
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        if "byteorder" in self._members and self._bytes("byteorder") != b"little":
            raise UnreadableArchive("was written on a big-endian machine; save it again on a usual one")
        if self._members["data.pkl"].file_size > MAX_PICKLE_BYTES:
            raise UnreadableArchive(f"its data.pkl is over {MAX_PICKLE_BYTES:,} bytes; that is no checkpoint")
        self.root = run_inert(self._bytes("data.pkl"))

    def __enter__(self) -> TorchArchive:
        return self

    def __exit__(self, *_: object) -> None:
        self._map.close()

    @property
    def n_bytes(self) -> int:
        return len(self._map)

    def tensor(self, note: Any) -> Tensor:
        """The tensor that a note describes, in memory of its own. Raises UnreadableArchive."""
        parts = _parts(note)
        dtype, size = parts.dtype, parts.size
        name = f"data/{parts.key}"
        if name not in self._members:
            raise UnreadableArchive(f"its storage {parts.key!r} is missing: copy the file again")
        start, n_bytes = self._place(name)
        if n_bytes != parts.n_elements * dtype.itemsize:
            raise UnreadableArchive(
                f"its storage {parts.key!r} has {n_bytes:,} bytes, expected "
                f"{parts.n_elements * dtype.itemsize:,}: copy the file again"
            )
        if not math.prod(size):
            return torch.empty(size, dtype=dtype)
        whole = torch.frombuffer(self._map, dtype=dtype, count=parts.n_elements, offset=start)
        return whole.as_strided(size, parts.stride, parts.offset).clone(memory_format=torch.contiguous_format)

    def _bytes(self, name: str) -> bytes:
        start, n_bytes = self._place(name)
        return self._map[start : start + n_bytes]

    def _place(self, name: str) -> tuple[int, int]:
        """Where a member's bytes begin, and how many: torch stores, never compresses."""
        info = self._members[name]
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise UnreadableArchive(f"its {name} is compressed; torch stores")
        header = self._map[info.header_offset : info.header_offset + _LOCAL_HEADER.size]
        if len(header) != _LOCAL_HEADER.size or header[:4] != b"PK\x03\x04":
            raise UnreadableArchive(f"its {name} does not stand where the file says: copy it again")
        name_length, extra_length = _LOCAL_HEADER.unpack(header)[-2:]
        start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
        if start + info.file_size > len(self._map):
            raise UnreadableArchive(f"its {name} ends early: copy the file again")
        return start, info.file_size


def n_bytes_of(note: Any) -> int:
    """Of the tensor that a note describes. Raises UnreadableArchive."""
    parts = _parts(note)
    return math.prod(parts.size) * parts.dtype.itemsize


def _members(stream: BinaryIO) -> dict[str, zipfile.ZipInfo]:
    """The members of torch's folder in the zip file, by their names in it."""
    try:
        members = {info.filename: info for info in zipfile.ZipFile(stream).infolist()}
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        ValueError,
        OverflowError,
        EOFError,
        struct.error,
    ) as error:
        raise UnreadableArchive(f"is not a zip file as torch writes since version 1.6 ({error})") from error
    programs = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(programs) != 1:
        raise UnreadableArchive(f"holds {len(programs)} files data.pkl; expected one, as torch writes")
    prefix = programs[0].removesuffix("data.pkl")
    return {n.removeprefix(prefix): info for n, info in members.items() if n.startswith(prefix)}


def is_tensor(note: Any) -> bool:
    """Whether a value of the archive describes a tensor."""
    inner = _without_parameter(note)
    return isinstance(inner, Note) and inner.made_by == Name(_REBUILD_TENSOR)


def _without_parameter(note: Any) -> Any:
    if isinstance(note, Note) and note.made_by == Name(_REBUILD_PARAMETER) and isinstance(note.args, tuple):
        return note.args[0] if note.args else None
    return note


@dataclass(frozen=True)
class _TensorParts:
    key: str
    dtype: torch.dtype
    n_elements: int
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def _parts(note: Any) -> _TensorParts:
    """What a tensor's note says, checked: it lies inside its storage and holds no more than it."""
    note = _without_parameter(note)
    try:
        storage, offset, size, stride = note.args[:4]
        kind, storage_type, key, _, n_elements = storage.id
        dtype = _DTYPES[storage_type.text.partition(" ")[2]]
    except (AttributeError, TypeError, ValueError, KeyError, IndexError) as error:
        raise UnreadableArchive("holds a tensor of a kind that is not known here") from error
    if (
        kind != "storage"
        or not isinstance(key, str)
        or not (isinstance(size, tuple) and isinstance(stride, tuple))
    ):
        raise UnreadableArchive("holds a tensor of a kind that is not known here")
    numbers = [offset, n_elements, *size, *stride]
    if (
        not all(type(n) is int and 0 <= n < _FAR for n in numbers)
        or len(size) != len(stride)
        or len(size) > 8
    ):
        raise UnreadableArchive("holds a tensor whose size and strides make no sense")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count and (count > n_elements or last >= n_elements):
        raise UnreadableArchive(
            f"holds a tensor of size {size}, stride {stride} and offset {offset}, which reaches out of its "
            f"storage of {n_elements:,} numbers"
        )
    return _TensorParts(key, dtype, n_elements, offset, size, stride)


# -- the machine ------------------------------------------------------------------------------------------

_MARK = object()
_Stack = list[Any]


def run_inert(program: bytes) -> Any:
    """The value a pickle leaves, as plain data, Names and Notes. Raises UnreadableArchive."""
    stack: _Stack = []
    memo: dict[Any, Any] = {}
    try:
        for opcode, argument, _ in pickletools.genops(program):
            name = opcode.name
            if name in _PUSH_ARGUMENT:
                stack.append(argument)
            elif name in _PUT:
                memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
            elif name in _GET:
                stack.append(memo[argument])
            elif name == "STOP":
                return stack[-1]
            else:
                _STEPS[name](stack, argument)
    except (ValueError, IndexError, KeyError, TypeError, struct.error, OverflowError, MemoryError) as error:
        raise UnreadableArchive(f"its data.pkl makes no sense ({str(error)[:200]})") from error
    raise UnreadableArchive("its data.pkl has no end")


_PUSH_ARGUMENT = frozenset((
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
))  # fmt: skip
_PUT = frozenset(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"))
_GET = frozenset(("GET", "BINGET", "LONG_BINGET"))


def _above_mark(stack: _Stack) -> list[Any]:
    """What stands above the newest mark, taken off with the mark."""
    place = len(stack) - 1
    while stack[place] is not _MARK:
        place -= 1
        if place < 0:
            raise IndexError("no mark")
    values = stack[place + 1 :]
    del stack[place:]
    return values


def _top(stack: _Stack) -> Note:
    """What items are added to. Anything else than a note is of no interest."""
    return stack[-1] if isinstance(stack[-1], Note) else Note()


def _tuple_of(count: int) -> Callable[[_Stack, Any], None]:
    def step(stack: _Stack, _: Any) -> None:
        if len(stack) < count:
            raise IndexError("an empty stack")
        values = tuple(stack[-count:])
        del stack[-count:]
        stack.append(values)

    return step


def _append(stack: _Stack, _: Any) -> None:
    value = stack.pop()
    _top(stack).items.append(value)


def _append_all(stack: _Stack, _: Any) -> None:
    values = _above_mark(stack)
    _top(stack).items.extend(values)


def _set(stack: _Stack, _: Any) -> None:
    value, key = stack.pop(), stack.pop()
    _top(stack).pairs.append((key, value))


def _set_all(stack: _Stack, _: Any) -> None:
    values = _above_mark(stack)
    _top(stack).pairs.extend(_pairs(values))


def _stack_name(stack: _Stack, _: Any) -> None:
    own, module = stack.pop(), stack.pop()
    known = isinstance(own, str) and isinstance(module, str)
    stack.append(Name(f"{module} {own}") if known else _NAMELESS)


def _called(stack: _Stack, _: Any) -> None:
    args, made_by = stack.pop(), stack.pop()
    stack.append(Note(made_by, args))


def _called_with_keywords(stack: _Stack, _: Any) -> None:
    keywords, args, made_by = stack.pop(), stack.pop(), stack.pop()
    stack.append(Note(made_by, (args, keywords)))


def _object(stack: _Stack, _: Any) -> None:
    made_by, *args = _above_mark(stack)
    stack.append(Note(made_by, tuple(args)))


def _state(stack: _Stack, _: Any) -> None:
    state = stack.pop()
    _top(stack).state = state


_NAMELESS = Name("")
# Where an unpickler would import or call, a name or a note is left.
_STEPS: dict[str, Callable[[_Stack, Any], object]] = {
    **dict.fromkeys(("PROTO", "FRAME", "READONLY_BUFFER"), lambda stack, _: None),
    "NONE": lambda stack, _: stack.append(None),
    "NEWTRUE": lambda stack, _: stack.append(True),
    "NEWFALSE": lambda stack, _: stack.append(False),
    "MARK": lambda stack, _: stack.append(_MARK),
    "POP": lambda stack, _: stack.pop(),
    "POP_MARK": lambda stack, _: _above_mark(stack),
    "DUP": lambda stack, _: stack.append(stack[-1]),
    "EMPTY_TUPLE": lambda stack, _: stack.append(()),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"), lambda stack, _: stack.append(Note())),
    **{f"TUPLE{count}": _tuple_of(count) for count in (1, 2, 3)},
    "TUPLE": lambda stack, _: stack.append(tuple(_above_mark(stack))),
    **dict.fromkeys(("LIST", "FROZENSET"), lambda stack, _: stack.append(Note(items=_above_mark(stack)))),
    "DICT": lambda stack, _: stack.append(Note(pairs=_pairs(_above_mark(stack)))),
    "APPEND": _append,
    **dict.fromkeys(("APPENDS", "ADDITEMS"), _append_all),
    "SETITEM": _set,
    "SETITEMS": _set_all,
    "BINPERSID": lambda stack, _: stack.append(StorageNote(stack.pop())),
    "PERSID": lambda stack, id_: stack.append(StorageNote(id_)),
    "GLOBAL": lambda stack, name: stack.append(Name(name)),
    "STACK_GLOBAL": _stack_name,
    **dict.fromkeys(("EXT1", "EXT2", "EXT4", "NEXT_BUFFER"), lambda stack, _: stack.append(_NAMELESS)),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _called),
    "NEWOBJ_EX": _called_with_keywords,
    "OBJ": _object,
    "INST": lambda stack, name: stack.append(Note(Name(name), tuple(_above_mark(stack)))),
    "BUILD": _state,
}


def _pairs(values: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(values[::2], values[1::2], strict=True))


def texts_and_values(note: Any) -> Iterator[tuple[str, Any]]:
    """Entries of a dictionary whose keys are texts; nothing of another kind of value."""
    for key, value in note.pairs if isinstance(note, Note) else ():
        if isinstance(key, str):
            yield key, value

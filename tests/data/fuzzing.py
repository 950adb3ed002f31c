"""Damage done to files on purpose, to see that a reader never takes it for something it is not."""

from __future__ import annotations

import random
from collections.abc import Iterator

_JUNK = (
    b"\x00", b"\xff\xfe", b"\xc3\x28", b"\xed\xa0\x80", b"\r", b"\x85", b"\xc2\xa0", b"\xe2\x80\xa8", b"\x1c",
    "٣".encode(), b"\t", b"\n", b" ", b"'", b'"', b"{", b"[", b"\\", b"=", b"-", b"_", b"#", b";",
    b"%00", b"\x0c",
)  # fmt: skip
_NUMBERS = (
    b"nan", b"-nan", b"NaN", b"inf", b"-inf", b"Infinity", b"1e999", b"-1e308", b"1e-400",
    b"99999999999999999999",
    b"-1", b"0", b"1_0", b"0x10", b"1d3", b"1.0(3)", b"1,5", b"1.2.3", b"--1", b"+", b".", b"1e",
    b"4294967296", b"9" * 5000,
)  # fmt: skip


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to three injuries of random kinds at random places. The same ``rng`` state gives the same bytes."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(_INJURIES)(data, rng)
    return data


def mutants(originals: list[bytes], count: int, seed: int = 0) -> Iterator[bytes]:
    """``count`` damaged versions of the originals, in turn."""
    rng = random.Random(seed)
    for i in range(count):
        yield mutate(originals[i % len(originals)], rng)


def _place(data: bytes, rng: random.Random) -> int:
    return rng.randint(0, len(data))


def _cut_end(data: bytes, rng: random.Random) -> bytes:
    return data[: _place(data, rng)]


def _cut_out(data: bytes, rng: random.Random) -> bytes:
    start = _place(data, rng)
    return data[:start] + data[start + rng.choice((1, 1, 2, 4, 16, 100)) :]


def _flip_bit(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return data
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _swap_pieces(data: bytes, rng: random.Random) -> bytes:
    a, b, c = sorted(_place(data, rng) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def _put_in_junk(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + rng.choice(_JUNK) + data[at:]


def _overwrite_bytes(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, rng)
    junk = rng.randbytes(rng.choice((1, 2, 4, 8)))
    return data[:at] + junk + data[at + len(junk) :]


def _replace_word(data: bytes, rng: random.Random) -> bytes:
    """A word, most often a number, becomes another of the same file or an odd number."""
    words = data.split()
    if not words:
        return data
    word = rng.choice(words)
    new = rng.choice((rng.choice(_NUMBERS), rng.choice(words), b"", word + b"0", word[::-1]))
    start = data.find(word, _place(data, rng))
    start = start if start >= 0 else data.find(word)
    return data[:start] + new + data[start + len(word) :]


def _change_digit(data: bytes, rng: random.Random) -> bytes:
    digits = [i for i in (_place(data, rng) for _ in range(40)) if data[i : i + 1].isdigit()]
    if not digits:
        return data
    at = digits[0]
    return data[:at] + rng.choice(b"0123456789.-e ".decode()).encode() + data[at + 1 :]


def _change_count(data: bytes, rng: random.Random) -> bytes:
    """A number that stands alone on a line, or begins one, grows or shrinks."""
    lines = data.split(b"\n")
    counts = [i for i, line in enumerate(lines) if line.split()[:1] and line.split()[0].isdigit()]
    if not counts:
        return data
    at = rng.choice(counts)
    word = lines[at].split()[0]
    value = int(word[:20]) + rng.choice((-2, -1, 1, 2, 10, 10**6))
    lines[at] = lines[at].replace(word, str(value).encode(), 1)
    return b"\n".join(lines)


def _edit_lines(data: bytes, rng: random.Random) -> bytes:
    """A line is deleted, doubled, moved, emptied, or joined to the next."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    line = lines.pop(at)
    kind = rng.randrange(5)
    if kind == 1:
        lines[at:at] = [line, line]
    elif kind == 2:
        lines.insert(rng.randint(0, len(lines)), line)
    elif kind == 3:
        lines.insert(at, b"")
    elif kind == 4 and at < len(lines):
        lines[at] = line + lines[at]
    return b"\n".join(lines)


def _line_ends(data: bytes, rng: random.Random) -> bytes:
    return data.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n", b" \n")), rng.choice((1, 3, -1)))


_INJURIES = (
    _cut_end, _cut_out, _flip_bit, _swap_pieces, _put_in_junk, _put_in_junk, _overwrite_bytes, _replace_word,
    _replace_word, _change_digit, _change_digit, _change_count, _edit_lines, _edit_lines, _line_ends,
)  # fmt: skip

"""The order of the visits to the sets of a split, epoch by epoch and window by window.

In epoch e the blocks of the split are permuted, and neighbouring blocks of that order form windows bounded in
bytes. Inside a window the visits are mixed: those to one block are permuted and spread evenly over the
window, each at a random place of its own share, so that any stretch of the window takes about as many sets
from every block. All of it follows from (fingerprint, seed, epoch) by integer arithmetic; a window is
computed when it is reached and nothing of the size of the split is held in memory.

Shapes: _v visits of a window, _b blocks of it, _s sets of it (before repeats).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from adit_scale.data.columns import cumulative
from adit_scale.data.config import domain_name
from adit_scale.data.manifest import SET_DTYPE, SplitIndex, size_counts
from adit_scale.errors import ConfigError
from adit_scale.randomness import stream_key

WINDOW_BYTES = 64 << 20
HOME_BITS = 24
_KEPT = 2  # windows and epochs: a step may span the end of one and the start of the next
_JITTER_BITS = 20
_FRACTION_BITS = 44
_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_WORD = (1 << 64) - 1


@dataclass(frozen=True)
class Window:
    """The visits of one window, in order.

    set_index_v: int64. repetition_v: int64, counts the visits to a set within an epoch from 0. sizes_v:
    uint16 atoms. block_v: the block of each, counted within the window. ends_v: int64, atoms up to and with
    each visit. home_b: int64 in [0, 2^HOME_BITS), where the middle of each block lies in the window.
    own_v: bool, of the domain that alone is taken from the steps of both; None takes all.
    """

    set_index_v: np.ndarray
    repetition_v: np.ndarray
    sizes_v: np.ndarray
    block_v: np.ndarray
    ends_v: np.ndarray
    home_b: np.ndarray
    own_v: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.set_index_v)


@dataclass(frozen=True)
class EpochBlocks:
    """The blocks of an epoch in order, ``(n_blocks,)`` int64, and where each window begins among them."""

    block: np.ndarray
    window_start: np.ndarray

    @property
    def n_windows(self) -> int:
        return len(self.window_start) - 1


class VisitOrder:
    """The visits of every epoch, open at any window.

    repeat: visits an epoch by data set name; 1 where a name is missing. A set is visited floor(r) or ceil(r)
        times an epoch, and exactly r·k times in any k epochs in a row where r·k is whole.
    window_bytes: how many bytes of shards are mixed at once; a window may pass it by less than a block.
    domain, domain_match: see DataConfig; a code of DOMAINS.
    """

    def __init__(
        self,
        index: SplitIndex,
        datasets: list[str],
        *,
        fingerprint: str,
        seed: int,
        repeat: dict[str, float],
        window_bytes: int = WINDOW_BYTES,
        domain: int = 0,
        domain_match: str = "flops",
    ) -> None:
        self._index = index
        self._domain, self._marked_only = domain, domain_match == "samples"
        self._seed = seed
        self._window_bytes = window_bytes
        self._purpose = f"order/{fingerprint}/{index.name}"
        rates = _rates(datasets, repeat)
        self._numerator = np.array([rate.numerator for rate in rates], dtype=np.int64)
        self._denominator = np.array([rate.denominator for rate in rates], dtype=np.int64)
        self._every_set_once = all(rate == 1 for rate in rates) and (not domain or self._marked_only)
        self._earlier_bd: np.ndarray | None = None  # sets of each data set in the blocks before
        if domain:
            self._check_visits(size_counts(index, len(datasets), domain).sum(axis=1))
        if not self._every_set_once:
            counts_bd = dataset_counts(index, len(datasets))
            self._check_visits(counts_bd.sum(axis=0))
            self._earlier_bd = np.cumsum(counts_bd, axis=0) - counts_bd
        self._epochs: OrderedDict[int, EpochBlocks] = OrderedDict()
        self._windows: OrderedDict[tuple[int, int], Window] = OrderedDict()

    @property
    def identity(self) -> str:
        """What the order follows from, apart from the seed."""
        rates = ",".join(f"{p}/{q}" for p, q in zip(self._numerator, self._denominator, strict=True))
        domain = f"/domain {self._domain}" if self._domain and not self._marked_only else ""
        return f"{self._purpose}/{self._window_bytes}/{rates}{domain}"

    def _check_visits(self, n_sets_d: np.ndarray) -> None:
        """Raises ConfigError where no data set that has sets is visited."""
        if not (self._numerator[n_sets_d > 0] > 0).any():
            of_domain = f" of data.domain={domain_name(self._domain)}" if self._domain else ""
            raise ConfigError(
                f"no set{of_domain} of split {self._index.name!r} is ever visited; raise data.repeat or add "
                "data"
            )

    def epoch(self, epoch: int) -> EpochBlocks:
        """The blocks of an epoch, counted from 0."""
        return _kept(self._epochs, epoch, lambda: self._permuted_blocks(epoch))

    def window(self, epoch: int, window: int) -> Window:
        """The visits of a window of an epoch; both count from 0."""
        return _kept(self._windows, (epoch, window), lambda: self._mixed(epoch, window))

    def _permuted_blocks(self, epoch: int) -> EpochBlocks:
        block = np.arange(len(self._index.block_bytes))
        keys = visit_keys(self._seed, f"{self._purpose}/block", epoch, np.zeros_like(block), block)
        order = np.argsort(keys, kind="stable")
        window = cumulative(self._index.block_bytes[order])[:-1] // self._window_bytes
        starts = np.flatnonzero(np.diff(window, prepend=-1))
        return EpochBlocks(order, np.append(starts, len(order)))

    def _mixed(self, epoch: int, window: int) -> Window:
        blocks = self.epoch(epoch)
        block_b = blocks.block[blocks.window_start[window] : blocks.window_start[window + 1]]
        first_b, stop_b = self._index.first_set[block_b], self._index.first_set[block_b + 1]
        # Rows as plain words: numpy joins and copies those far faster than records.
        words = [
            self._index.rows(first, stop).view(np.uint32)
            for first, stop in zip(first_b.tolist(), stop_b.tolist(), strict=True)
        ]
        rows_s = np.concatenate(words).view(SET_DTYPE)
        starts_b = cumulative(stop_b - first_b)
        set_index_v = np.repeat(first_b - starts_b[:-1], stop_b - first_b) + np.arange(len(rows_s))
        sizes_v = np.ascontiguousarray(rows_s["n_atoms"])
        repetition_v = np.zeros(len(rows_s), dtype=np.int64)
        domain_s = rows_s["domain"]
        if not self._every_set_once:
            n_visits_s = self._n_visits(epoch, block_b, starts_b, rows_s["dataset"])
            if self._domain and not self._marked_only:
                n_visits_s[rows_s["domain"] != self._domain] = 0
            domain_s = np.repeat(domain_s, n_visits_s)
            totals = cumulative(n_visits_s)
            set_index_v = np.repeat(set_index_v, n_visits_s)
            sizes_v = np.repeat(sizes_v, n_visits_s)
            repetition_v = np.arange(totals[-1]) - np.repeat(totals[:-1], n_visits_s)
            starts_b = totals[starts_b]
        keys_v = visit_keys(self._seed, f"{self._purpose}/visit", epoch, repetition_v, set_index_v)
        order, block_v = _spread(keys_v, starts_b)
        sizes_v = sizes_v[order]
        bytes_b = self._index.block_bytes[block_b]
        middle_b = cumulative(bytes_b)[:-1] + bytes_b // 2
        return Window(
            set_index_v[order],
            repetition_v[order] if repetition_v.any() else repetition_v,
            sizes_v,
            block_v,
            np.cumsum(sizes_v, dtype=np.int64),
            (middle_b << HOME_BITS) // bytes_b.sum(),
            domain_s[order] == self._domain if self._marked_only and self._domain else None,
        )

    def _n_visits(
        self, epoch: int, block_b: np.ndarray, starts_b: np.ndarray, dataset_s: np.ndarray
    ) -> np.ndarray:
        """Visits to each set in this epoch: where its phase passes a whole number.

        Phases go through a data set's sets, in order, by the golden ratio, so that any stretch of them, and
        so every epoch and every block, holds about r visits a set.
        """
        assert self._earlier_bd is not None
        n_visits_s = np.zeros(len(dataset_s), dtype=np.int64)
        for d in np.unique(dataset_s):
            numerator, denominator = int(self._numerator[d]), int(self._denominator[d])
            if denominator == 1:
                n_visits_s[dataset_s == d] = numerator
                continue
            own_s = dataset_s == d
            before_s = cumulative(own_s)
            number_b = self._earlier_bd[block_b, d] - before_s[starts_b[:-1]]
            number_s = (np.repeat(number_b, np.diff(starts_b)) + before_s[:-1])[own_s]
            offset = stream_key(self._seed, f"{self._purpose}/phase/{d}") & _WORD
            turn_s = number_s.astype(np.uint64) * np.uint64(_GOLDEN) + np.uint64(offset)
            phase_s = ((turn_s >> np.uint64(32)) * np.uint64(denominator) >> np.uint64(32)).astype(np.int64)
            phase_s += numerator * epoch % denominator
            n_visits_s[own_s] = (phase_s + numerator) // denominator - phase_s // denominator
        return n_visits_s


def _spread(keys_v: np.ndarray, starts_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An order of the visits, ``(n,)``, and the block of each in that order.

    keys_v: uint64. starts_b: the first visit of each block, then their number. The visits to a block get
    ranks 0, 1, … by key; a visit's place is (rank + a random fraction) / the block's number of visits. Keys,
    places and visits' numbers share words of 64 bits, because sorting values is several times as fast as
    sorting indices.
    """
    n_visits, counts_b = len(keys_v), np.diff(starts_b)
    number_bits = max(1, (n_visits - 1).bit_length())
    block_bits = max(1, (len(counts_b) - 1).bit_length())
    assert number_bits + block_bits <= 64 - 16, f"{n_visits} visits to {len(counts_b)} blocks in a window"
    number_v = np.arange(n_visits, dtype=np.uint64)
    mask = np.uint64((1 << number_bits) - 1)

    block_v = np.repeat(np.arange(len(counts_b), dtype=np.uint64), counts_b)
    words_v = keys_v >> np.uint64(block_bits + number_bits)
    words_v <<= np.uint64(number_bits)
    words_v |= number_v
    words_v |= block_v << np.uint64(64 - block_bits)
    words_v.sort()
    by_rank_v = (words_v & mask).astype(np.int64)

    fraction_bits = min(_FRACTION_BITS, 64 - number_bits)
    place_v = number_v - np.repeat(starts_b[:-1].astype(np.uint64), counts_b)
    place_v <<= np.uint64(_JITTER_BITS)
    place_v |= keys_v[by_rank_v] & np.uint64((1 << _JITTER_BITS) - 1)
    place_v <<= np.uint64(fraction_bits - _JITTER_BITS)
    place_v //= np.repeat(counts_b.astype(np.uint64), counts_b)
    place_v <<= np.uint64(number_bits)
    place_v |= number_v
    place_v.sort()
    ranked_v = (place_v & mask).astype(np.int64)
    return by_rank_v[ranked_v], block_v[ranked_v].astype(np.int64)


def visit_keys(
    seed: int, purpose: str, epoch: int, repetition_v: np.ndarray, set_index_v: np.ndarray
) -> np.ndarray:
    """The keys of ``randomness.set_keys`` as uint64, ``(n,)``, computed in place."""
    start = _mix_word((stream_key(seed, purpose) + _GOLDEN * (epoch + 1)) & _WORD)
    key_v = repetition_v.astype(np.uint64)
    if repetition_v.any():
        _mix(key_v, np.uint64(start))
    else:
        key_v.fill(_mix_word((start + _GOLDEN) & _WORD))
    word_v = set_index_v.astype(np.uint64)
    return _mix(word_v, key_v)


def _mix(word_v: np.ndarray, key_v: np.ndarray | np.uint64) -> np.ndarray:
    """SplitMix64 of key + golden·(word + 1), written over ``word_v``."""
    shifted_v = np.empty_like(word_v)
    word_v += np.uint64(1)
    word_v *= np.uint64(_GOLDEN)
    word_v += key_v
    for shift, factor in ((30, _MIX_1), (27, _MIX_2), (31, None)):
        word_v ^= np.right_shift(word_v, np.uint64(shift), out=shifted_v)
        if factor is not None:
            word_v *= np.uint64(factor)
    return word_v


def _mix_word(word: int) -> int:
    word = ((word ^ (word >> 30)) * _MIX_1) & _WORD
    word = ((word ^ (word >> 27)) * _MIX_2) & _WORD
    return word ^ (word >> 31)


def dataset_counts(index: SplitIndex, n_datasets: int) -> np.ndarray:
    """Sets of each data set in each block, ``(n_blocks, n_datasets)`` int64."""
    n_blocks = len(index.block_bytes)
    counts = np.zeros(n_blocks * n_datasets, dtype=np.int64)
    for first, rows in index.chunks():
        block = index.block_of(np.arange(first, first + len(rows)))
        low = int(block[0])
        part = np.bincount((block - low) * n_datasets + rows["dataset"])
        counts[low * n_datasets : low * n_datasets + len(part)] += part
    return counts.reshape(n_blocks, n_datasets)


def _rates(datasets: list[str], repeat: dict[str, float]) -> list[Fraction]:
    """Visits an epoch of each data set's sets, as exact fractions."""
    unknown = sorted(set(repeat) - set(datasets))
    if unknown:
        raise ConfigError(
            f"data.repeat.{unknown[0]}: no such data set; expected one of {', '.join(datasets)}"
        )
    return [Fraction(repeat.get(name, 1.0)).limit_denominator(10**6) for name in datasets]


def _kept(cache, key, make):
    """The cached value of a key, made where it is missing; the oldest goes when there are too many."""
    if key not in cache:
        cache[key] = make()
        if len(cache) > _KEPT:
            cache.popitem(last=False)
    cache.move_to_end(key)
    return cache[key]

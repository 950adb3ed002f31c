"""The sets of a step dealt out to ranks and rounds of micro-batches, in level loads, keeping to blocks.

The sets stand in a line by where their blocks lie in the window; the line is cut into stretches of equal
atoms, so each rank meets few blocks, and the same ones step after step. A cut is made exact by exchanging a
few sets near it. Where micro-batches hold few sets, a stretch goes to several neighbouring micro-batches and
its sets are dealt out largest first.

Shapes: _s sets in line, _c cuts, _w places of the window around a cut, _g stretches, _b micro-batches of one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adit_scale.data.columns import cumulative
from adit_scale.errors import ConfigError

_REACH = 12  # sets to either side of a cut that may change sides
_EXCHANGES, _NEAR = 3, 1
_STARTS = (0, 1, -1, 2, -2, 3, -3)
_STRETCH_SETS = 16  # a stretch holds about as many sets or more
_FAR = np.int64(1) << 40  # more atoms than any step has
# Micro-batches of as many sets come out level: a load seldom passes its equal share by more atoms than these.
_SPARE_ATOMS = 4
_ROUND_TO = 8


@dataclass(frozen=True)
class Dealing:
    """order: places in the step, ``(n,)``, micro-batch after micro-batch; a rank's rounds are neighbours.

    bounds: where each begins in ``order``, then n: ``(world_size · n_rounds + 1,)``.
    """

    sizes: np.ndarray
    order: np.ndarray
    bounds: np.ndarray
    world_size: int
    n_rounds: int

    def of_rank(self, rank: int) -> list[np.ndarray]:
        """Places in the step of the sets of each of a rank's micro-batches; by size, then by place."""
        first = rank * self.n_rounds
        bins = [self.order[self.bounds[b] : self.bounds[b + 1]] for b in range(first, first + self.n_rounds)]
        return [own[np.lexsort((own, self.sizes[own]))] for own in bins]

    @property
    def loads(self) -> np.ndarray:
        """Atoms of each micro-batch, ``(world_size, n_rounds)``."""
        ends = cumulative(self.sizes[self.order])[self.bounds]
        return np.diff(ends).reshape(self.world_size, self.n_rounds)


def deal(
    sizes: np.ndarray,
    world_size: int,
    capacity_atoms: int,
    capacity_sets: int | None = None,
    home: np.ndarray | None = None,
    n_rounds: int = 1,
) -> Dealing:
    """Deal the sets of a step to the micro-batches of all ranks.

    sizes: ``(n,)`` atoms. home: ``(n,)``, sets near in it lie near on disk, as StepPlan has it; without it
    those near in the step. n_rounds: micro-batches of each rank at the least; there are more where atoms need
    them, or while something does not fit. Some may be empty. Raises ConfigError when a set is larger than a
    micro-batch.
    """
    sizes = np.asarray(sizes, dtype=np.int64)
    if len(sizes) and sizes.max() > capacity_atoms:
        raise ConfigError(
            f"a set has {sizes.max()} atoms and a micro-batch holds {capacity_atoms}; "
            f"raise parallel.micro_batch_atoms to at least {sizes.max()} or rebuild with data.max_atoms"
        )
    line = np.arange(len(sizes)) if home is None else _stable_order(home)
    sizes_s = sizes[line]
    n_rounds = max(1, n_rounds, -(-int(sizes.sum()) // (capacity_atoms * world_size)))
    while True:
        n_bins = n_rounds * world_size
        stretch_bins = min(n_bins, max(1, -(-_STRETCH_SETS * n_bins // max(1, len(sizes)))))
        for bins_together in sorted({stretch_bins, n_bins}):
            bin_s = _fill(sizes_s, n_bins, bins_together)
            counts = np.bincount(bin_s, minlength=n_bins)
            loads = np.bincount(bin_s, weights=sizes_s, minlength=n_bins)
            if loads.max() <= capacity_atoms and (capacity_sets is None or counts.max() <= capacity_sets):
                order = line[_stable_order(bin_s)]
                return Dealing(sizes, order, cumulative(counts), world_size, n_rounds)
        n_rounds += 1


def micro_batches(
    atom_budget: int, world_size: int, micro_batch_atoms: int, mean_atoms: float, largest_atoms: int
) -> tuple[int, int]:
    """Rounds of a step, and a fixed capacity for its micro-batches in atoms that sets seldom fail to fit.

    micro_batch_atoms: upper limit of the capacity. mean_atoms, largest_atoms: of a set. Rounds are as few as
    the limit allows; the capacity is the smallest multiple of 8 that holds an equal share of the budget and a
    little more. So ``atom_budget = rounds · world_size · (capacity - 4)`` wastes least where micro-batches
    hold 16 sets or more, and ``atom_budget = capacity`` where there is one micro-batch a step.
    """
    n_rounds = 0
    while True:
        n_rounds += 1
        n_bins = world_size * n_rounds
        share = -(-atom_budget // n_bins)
        if n_bins == 1:
            spare = 0
        elif share >= _STRETCH_SETS * mean_atoms:
            spare = _SPARE_ATOMS
        else:
            spare = int(np.ceil(mean_atoms))
        capacity = max(share + spare, largest_atoms)
        if capacity <= micro_batch_atoms or share <= largest_atoms:
            return n_rounds, min(micro_batch_atoms, capacity + -capacity % _ROUND_TO)


def _stable_order(home: np.ndarray) -> np.ndarray:
    """Places in order of home. Sorting (home, place) as one word is faster than sorting indices."""
    place_bits = max(1, (len(home) - 1).bit_length())
    words = (home.astype(np.int64) << place_bits) | np.arange(len(home))
    words.sort()
    return words & ((1 << place_bits) - 1)


def _fill(sizes_s: np.ndarray, n_bins: int, bins_together: int) -> np.ndarray:
    """The micro-batch of each set in line, ``(n,)``. bins_together: micro-batches that share a stretch."""
    n_stretches = n_bins // bins_together
    first_bin_g = np.arange(n_stretches + 1) * n_bins // n_stretches
    stretch_s = _cut(sizes_s, first_bin_g)
    if n_stretches == n_bins:
        return stretch_s
    return first_bin_g[stretch_s] + _largest_first(sizes_s, stretch_s, np.diff(first_bin_g))


def _cut(sizes_s: np.ndarray, first_bin_g: np.ndarray) -> np.ndarray:
    """The stretch of each set, ``(n,)``; g goes to micro-batches first_bin_g[g] to first_bin_g[g + 1]."""
    ends = cumulative(sizes_s)
    target_c = ends[-1] * first_bin_g[1:-1] // first_bin_g[-1]
    cut_c = np.searchsorted(ends, target_c, side="right") - 1  # sets before the cut
    short_c = target_c - ends[cut_c]
    stretch_s = np.repeat(np.arange(len(first_bin_g) - 1), np.diff(cut_c, prepend=0, append=len(sizes_s)))
    if not len(cut_c):
        return stretch_s
    around_c = np.concatenate([[0], cut_c, [len(sizes_s)]])
    middle_c = (around_c[1:] + around_c[:-1] + 1) // 2  # no set lies in the windows of two cuts
    low_c, high_c = np.maximum(cut_c - _REACH, middle_c[:-1]), np.minimum(cut_c + _REACH, middle_c[1:])
    place_cw = cut_c[:, None] + np.arange(-_REACH, _REACH)
    inside_cw = (place_cw >= low_c[:, None]) & (place_cw < high_c[:, None])
    sizes_cw = sizes_s[np.where(inside_cw, place_cw, 0)]
    left_cw = _sides(sizes_cw, inside_cw, short_c)
    stretch_cw = np.arange(len(cut_c))[:, None] + ~left_cw
    stretch_s[place_cw[inside_cw]] = stretch_cw[inside_cw]
    return stretch_s


def _sides(sizes_cw: np.ndarray, inside_cw: np.ndarray, short_c: np.ndarray) -> np.ndarray:
    """Which sets of each window go to the left of its cut, bool.

    Where exchanges end off the target, they begin again from a cut a few sets along the line.
    """
    weights_cw = np.where(inside_cw, sizes_cw, 0)
    left_cw = np.zeros_like(inside_cw)
    off_c = np.full(len(short_c), _FAR)
    for shift in _STARTS:
        open_c = np.flatnonzero(off_c > _NEAR)
        if not len(open_c):
            break
        sizes, inside, weights = sizes_cw[open_c], inside_cw[open_c], weights_cw[open_c]
        left = np.broadcast_to(np.arange(2 * _REACH) < _REACH + shift, inside.shape) & inside
        short = short_c[open_c] + weights[:, :_REACH].sum(axis=1) - (weights * left).sum(axis=1)
        for _ in range(_EXCHANGES):
            short = _exchange(sizes, inside, left, short)
        better = np.abs(short) < off_c[open_c]
        left_cw[open_c[better]] = left[better]
        off_c[open_c[better]] = np.abs(short[better])
    return left_cw


def _exchange(
    sizes_cw: np.ndarray, inside_cw: np.ndarray, left_cw: np.ndarray, short_c: np.ndarray
) -> np.ndarray:
    """Bring the left side of each window nearest to its target by one set moved or two exchanged.

    short_c: atoms that the left sides lack. Changes left_cw; returns what they lack then.
    """
    nobody_c1 = np.zeros((len(short_c), 1), dtype=np.int64)
    leaving = np.concatenate([np.where(inside_cw & left_cw, sizes_cw, _FAR), nobody_c1], axis=1)
    coming = np.concatenate([np.where(inside_cw & ~left_cw, sizes_cw, _FAR), nobody_c1], axis=1)
    gain = coming[:, None, :] - leaving[:, :, None]
    impossible = (coming == _FAR)[:, None, :] | (leaving == _FAR)[:, :, None]
    missing = np.where(impossible, _FAR, np.abs(short_c[:, None, None] - gain))
    n_places = leaving.shape[1]
    # Backwards, so that of equal choices the one that moves nobody is taken.
    best = n_places**2 - 1 - missing.reshape(len(short_c), -1)[:, ::-1].argmin(axis=1)
    out, into = np.divmod(best, n_places)
    every = np.arange(len(short_c))
    moved, brought = out < n_places - 1, into < n_places - 1
    left_cw[every[moved], out[moved]] = False
    left_cw[every[brought], into[brought]] = True
    return short_c - gain[every, out, into]


def _largest_first(sizes_s: np.ndarray, stretch_s: np.ndarray, n_bins_g: np.ndarray) -> np.ndarray:
    """The micro-batch within its stretch of each set, ``(n,)``.

    Sets go out largest first, a hand (one for each micro-batch) at a time, the largest of a hand to the
    emptiest micro-batch: atoms level to about the smallest set, numbers of sets to one. All stretches play at
    once.
    """
    order = np.lexsort((-sizes_s, stretch_s))
    count_g = np.bincount(stretch_s, minlength=len(n_bins_g))
    first_g = cumulative(count_g)[:-1]
    seat_b = np.arange(int(n_bins_g.max()))
    exists_gb = seat_b < n_bins_g[:, None]
    loads_gb = np.where(exists_gb, 0, _FAR)
    bin_s = np.empty(len(sizes_s), dtype=np.int64)
    for hand in range(int((-(-count_g // n_bins_g)).max(initial=0))):
        number_gb = hand * n_bins_g[:, None] + seat_b
        dealt_gb = exists_gb & (number_gb < count_g[:, None])
        stretch, seat = np.nonzero(dealt_gb)
        own = order[first_g[stretch] + number_gb[dealt_gb]]
        emptiest = np.argsort(loads_gb, axis=1, kind="stable")[stretch, seat]
        bin_s[own] = emptiest
        loads_gb[stretch, emptiest] += sizes_s[own]
    return bin_s

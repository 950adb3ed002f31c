"""Triton kernels of the modulation; importing this needs Triton.

Forward kernels give each program a few neighbouring atoms, which mostly share one row of the modulation.

Backward kernels give each program a tile of ``TILE`` atoms. A set of at most ``WHOLE`` atoms is summed as a
whole by the tile of its first atom. A larger one is cut at the ends of tiles: each tile writes a part, and
``_sum_parts`` adds a set's parts in the order of its atoms. So no program meets many more atoms than another,
and every sum has one order, given the layout: no atomics, the same bits each time.

Shapes: ``_t`` atoms, ``_s`` sets, ``_r`` rows of conditions, ``_d`` features; in kernels, tiles are
``(ROWS, BLOCK)`` of atoms and features, ``BLOCK`` the power of two that holds all ``WIDTH`` features.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from adit_scale.models.kernels.modulation_torch import NORM_EPS
from adit_scale.models.transformer import at_least_fp32

ATOMS = 8  # of a forward program
TILE = 32  # atoms of a backward program
WHOLE = 64  # the largest set that one backward program sums
ELEMENTS = 2048  # of atoms x features at a time, 16 a thread of 4 warps
STAGES = 1  # of the loads in a backward loop; 2 would load the next atoms ahead, through shared memory
# Numbers that differ between batches: compiled code must not depend on what divides them.
COUNTS = ["n_atoms", "n_sets", "n_tiles"]


@triton.jit(do_not_specialize=COUNTS)
def _norm_forward(
    x_ptr, shift_ptr, scale_ptr, row_ptr, out_ptr, mean_ptr, rstd_ptr,
    n_atoms, x_stride, shift_stride, scale_stride,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, STEPS: tl.constexpr,
    ONE_ROW: tl.constexpr, EPS: tl.constexpr, FLOAT: tl.constexpr,
):  # fmt: skip
    d = tl.arange(0, BLOCK)[None, :]
    for step in range(STEPS):
        t = (tl.program_id(0).to(tl.int64) * STEPS + step) * ROWS + tl.arange(0, ROWS)
        here_t = t < n_atoms
        row = t * 0 if ONE_ROW else tl.load(row_ptr + t, here_t, other=0)
        here = here_t[:, None] & (d < WIDTH)
        x = tl.load(x_ptr + t[:, None] * x_stride + d, here, other=0.0).to(FLOAT)
        shift = tl.load(shift_ptr + row[:, None] * shift_stride + d, here, other=0.0).to(FLOAT)
        scale = tl.load(scale_ptr + row[:, None] * scale_stride + d, here, other=0.0).to(FLOAT)
        mean = tl.sum(x, 1) / WIDTH
        centred = tl.where(d < WIDTH, x - mean[:, None], 0.0)
        rstd = 1 / tl.sqrt(tl.sum(centred * centred, 1) / WIDTH + EPS)
        out = centred * rstd[:, None] * (1 + scale) + shift
        tl.store(out_ptr + t[:, None] * WIDTH + d, out, here)
        tl.store(mean_ptr + t, mean, here_t)
        tl.store(rstd_ptr + t, rstd, here_t)


@triton.jit(do_not_specialize=COUNTS)
def _gate_forward(
    x_ptr, gate_ptr, y_ptr, row_ptr, out_ptr,
    n_atoms, x_stride, gate_stride, y_stride,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, STEPS: tl.constexpr,
    ONE_ROW: tl.constexpr, FLOAT: tl.constexpr,
):  # fmt: skip
    d = tl.arange(0, BLOCK)[None, :]
    for step in range(STEPS):
        t = (tl.program_id(0).to(tl.int64) * STEPS + step) * ROWS + tl.arange(0, ROWS)
        here_t = t < n_atoms
        row = t * 0 if ONE_ROW else tl.load(row_ptr + t, here_t, other=0)
        here = here_t[:, None] & (d < WIDTH)
        x = tl.load(x_ptr + t[:, None] * x_stride + d, here, other=0.0).to(FLOAT)
        y = tl.load(y_ptr + t[:, None] * y_stride + d, here, other=0.0).to(FLOAT)
        gate = tl.load(gate_ptr + row[:, None] * gate_stride + d, here, other=0.0).to(FLOAT)
        tl.store(out_ptr + t[:, None] * WIDTH + d, x + gate * y, here)


@triton.jit
def _own_atoms(atom, start, end, set_ptr, offsets_ptr, WHOLE: tl.constexpr):
    """The set of ``atom``; whether it is summed whole; whether it begins here; the atoms to do; the next."""
    s = tl.load(set_ptr + atom)
    first = tl.load(offsets_ptr + s)
    stop = tl.load(offsets_ptr + s + 1)
    whole = stop - first <= WHOLE
    begins = first >= start
    stop = tl.where(whole, stop, tl.minimum(stop, end))
    begin = tl.where(whole & (first < start), stop, atom)  # the tile before has done it
    return s, whole, begins, begin, stop


@triton.jit
def _store_sum(sum_rd, sums_ptr, parts_ptr, s, tile, whole, begins, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """A set's sum to its place, or that of a part: those of sets that begin in the tile come second."""
    d = tl.arange(0, BLOCK)
    sum_d = tl.sum(sum_rd, 0)
    tl.store(sums_ptr + s * WIDTH + d, sum_d, (d < WIDTH) & whole & begins)
    part = tile * 2 + begins.to(tl.int64)
    tl.store(parts_ptr + part * WIDTH + d, sum_d, (d < WIDTH) & (whole == 0))


@triton.jit(do_not_specialize=COUNTS)
def _norm_backward(
    dout_ptr, x_ptr, scale_ptr, mean_ptr, rstd_ptr, set_ptr, offsets_ptr, dx_ptr, sums_ptr, parts_ptr,
    n_atoms, n_sets, n_tiles, dout_stride, x_stride, scale_stride,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr, WHOLE: tl.constexpr,
    STAGES: tl.constexpr, FLOAT: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0).to(tl.int64)
    start = tile * TILE
    end = tl.minimum(start + TILE, n_atoms)
    d = tl.arange(0, BLOCK)[None, :]
    atom = start
    while atom < end:
        s, whole, begins, begin, stop = _own_atoms(atom, start, end, set_ptr, offsets_ptr, WHOLE)
        scale = 1 + tl.load(scale_ptr + s * scale_stride + d, d < WIDTH, other=0.0).to(FLOAT)
        shift_sum = tl.zeros((ROWS, BLOCK), FLOAT)
        scale_sum = tl.zeros((ROWS, BLOCK), FLOAT)
        for t0 in tl.range(begin, stop, ROWS, num_stages=STAGES):
            t = t0 + tl.arange(0, ROWS)
            here_t = t < stop
            here = here_t[:, None] & (d < WIDTH)
            x = tl.load(x_ptr + t[:, None] * x_stride + d, here, other=0.0).to(FLOAT)
            dout = tl.load(dout_ptr + t[:, None] * dout_stride + d, here, other=0.0).to(FLOAT)
            mean = tl.load(mean_ptr + t, here_t, other=0.0)[:, None]
            rstd = tl.load(rstd_ptr + t, here_t, other=0.0)[:, None]
            normed = tl.where(here, (x - mean) * rstd, 0.0)
            g = dout * scale
            mean_g = tl.sum(g, 1)[:, None] / WIDTH
            mean_gn = tl.sum(g * normed, 1)[:, None] / WIDTH
            tl.store(dx_ptr + t[:, None] * WIDTH + d, rstd * (g - mean_g - normed * mean_gn), here)
            shift_sum += dout
            scale_sum += dout * normed
        _store_sum(shift_sum, sums_ptr, parts_ptr, s, tile, whole, begins, WIDTH, BLOCK)
        _store_sum(
            scale_sum, sums_ptr + n_sets * WIDTH, parts_ptr + n_tiles * 2 * WIDTH, s, tile, whole, begins,
            WIDTH, BLOCK,
        )  # fmt: skip
        atom = stop


@triton.jit(do_not_specialize=COUNTS)
def _gate_backward(
    dout_ptr, gate_ptr, y_ptr, set_ptr, offsets_ptr, dy_ptr, sums_ptr, parts_ptr,
    n_atoms, dout_stride, gate_stride, y_stride,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr, WHOLE: tl.constexpr,
    STAGES: tl.constexpr, FLOAT: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0).to(tl.int64)
    start = tile * TILE
    end = tl.minimum(start + TILE, n_atoms)
    d = tl.arange(0, BLOCK)[None, :]
    atom = start
    while atom < end:
        s, whole, begins, begin, stop = _own_atoms(atom, start, end, set_ptr, offsets_ptr, WHOLE)
        gate = tl.load(gate_ptr + s * gate_stride + d, d < WIDTH, other=0.0).to(FLOAT)
        gate_sum = tl.zeros((ROWS, BLOCK), FLOAT)
        for t0 in tl.range(begin, stop, ROWS, num_stages=STAGES):
            t = t0 + tl.arange(0, ROWS)
            here = (t < stop)[:, None] & (d < WIDTH)
            y = tl.load(y_ptr + t[:, None] * y_stride + d, here, other=0.0).to(FLOAT)
            dout = tl.load(dout_ptr + t[:, None] * dout_stride + d, here, other=0.0).to(FLOAT)
            tl.store(dy_ptr + t[:, None] * WIDTH + d, dout * gate, here)
            gate_sum += dout * y
        _store_sum(gate_sum, sums_ptr, parts_ptr, s, tile, whole, begins, WIDTH, BLOCK)
        atom = stop


@triton.jit(do_not_specialize=COUNTS)
def _sum_parts(
    offsets_ptr, sums_ptr, parts_ptr, n_sets, n_tiles,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr, WHOLE: tl.constexpr,
    FLOAT: tl.constexpr,
):  # fmt: skip
    """Sums of sets that were cut, and zeros for empty ones. Grid: sets, then sums (shift and scale)."""
    s = tl.program_id(0).to(tl.int64)
    which = tl.program_id(1).to(tl.int64)
    first = tl.load(offsets_ptr + s)
    stop = tl.load(offsets_ptr + s + 1)
    if (stop == first) | (stop - first > WHOLE):
        d = tl.arange(0, BLOCK)[None, :]
        first_tile = first // TILE
        tiles_stop = tl.where(stop > first, (stop - 1) // TILE + 1, first_tile)
        total = tl.zeros((ROWS, BLOCK), FLOAT)
        for tile0 in range(first_tile, tiles_stop, ROWS):
            tile = tile0 + tl.arange(0, ROWS)
            part = (which * n_tiles + tile) * 2 + (tile == first_tile).to(tl.int64)
            here = (tile < tiles_stop)[:, None] & (d < WIDTH)
            total += tl.load(parts_ptr + part[:, None] * WIDTH + d, here, other=0.0)
        d = tl.arange(0, BLOCK)
        tl.store(sums_ptr + (which * n_sets + s) * WIDTH + d, tl.sum(total, 0), d < WIDTH)


def tiling(width: int) -> dict[str, int]:
    """What all kernels take, by the width of their rows."""
    block = triton.next_power_of_2(width)
    return {
        "WIDTH": width,
        "BLOCK": block,
        "ROWS": max(1, ELEMENTS // block),
        "num_warps": 4 if block <= ELEMENTS else 8,
    }


def forward_steps(rows: int) -> int:
    return max(1, ATOMS // rows)


def norm_forward(
    x_td: Tensor, shift_rd: Tensor, scale_rd: Tensor, row_of_atom_t: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``modulation.modulated_norm``."""
    x_td, shift_rd, scale_rd = _dense_rows(x_td, shift_rd, scale_rd)
    n_atoms, width = x_td.shape
    out_td = x_td.new_empty(x_td.shape)
    mean_t = x_td.new_empty(n_atoms, dtype=at_least_fp32(x_td.dtype))
    rstd_t = torch.empty_like(mean_t)
    sizes = tiling(width)
    steps = forward_steps(sizes["ROWS"])
    with torch.cuda.device_of(x_td):
        _norm_forward[(triton.cdiv(n_atoms, sizes["ROWS"] * steps),)](
            x_td, shift_rd, scale_rd, row_of_atom_t, out_td, mean_t, rstd_t,
            n_atoms, x_td.stride(0), shift_rd.stride(0), scale_rd.stride(0),
            STEPS=steps, ONE_ROW=row_of_atom_t is None, EPS=NORM_EPS, FLOAT=_triton_float(x_td), **sizes,
        )  # fmt: skip
    return out_td, mean_t, rstd_t


def gate_forward(x_td: Tensor, gate_rd: Tensor, y_td: Tensor, row_of_atom_t: Tensor | None) -> Tensor:
    """See ``modulation.gated_add``."""
    x_td, gate_rd, y_td = _dense_rows(x_td, gate_rd, y_td)
    n_atoms, width = x_td.shape
    out_td = x_td.new_empty(x_td.shape)
    sizes = tiling(width)
    steps = forward_steps(sizes["ROWS"])
    with torch.cuda.device_of(x_td):
        _gate_forward[(triton.cdiv(n_atoms, sizes["ROWS"] * steps),)](
            x_td, gate_rd, y_td, row_of_atom_t, out_td,
            n_atoms, x_td.stride(0), gate_rd.stride(0), y_td.stride(0),
            STEPS=steps, ONE_ROW=row_of_atom_t is None, FLOAT=_triton_float(x_td), **sizes,
        )  # fmt: skip
    return out_td


def norm_backward(
    dout_td: Tensor,
    x_td: Tensor,
    scale_sd: Tensor,
    mean_t: Tensor,
    rstd_t: Tensor,
    set_of_atom_t: Tensor,
    offsets: Tensor,
) -> tuple[Tensor, Tensor]:
    """See ``modulation.modulated_norm_backward``."""
    dout_td, x_td, scale_sd = _dense_rows(dout_td, x_td, scale_sd)
    dx_td = x_td.new_empty(x_td.shape)
    sums_2sd, parts = _sums_and_parts(x_td, scale_sd, 2)
    n_tiles, cut, sizes = parts.shape[1], _cut(x_td), tiling(x_td.shape[1])
    with torch.cuda.device_of(x_td):
        _norm_backward[(n_tiles,)](
            dout_td, x_td, scale_sd, mean_t, rstd_t, set_of_atom_t, offsets, dx_td, sums_2sd, parts,
            x_td.shape[0], scale_sd.shape[0], n_tiles, dout_td.stride(0), x_td.stride(0), scale_sd.stride(0),
            STAGES=STAGES, **cut, **sizes,
        )  # fmt: skip
        _sum_parts[(scale_sd.shape[0], 2)](
            offsets, sums_2sd, parts, scale_sd.shape[0], n_tiles, **cut, **sizes
        )
    return dx_td, sums_2sd


def gate_backward(
    dout_td: Tensor, gate_sd: Tensor, y_td: Tensor, set_of_atom_t: Tensor, offsets: Tensor
) -> tuple[Tensor, Tensor]:
    """See ``modulation.gated_add_backward``."""
    dout_td, gate_sd, y_td = _dense_rows(dout_td, gate_sd, y_td)
    dy_td = y_td.new_empty(y_td.shape)
    sums_1sd, parts = _sums_and_parts(y_td, gate_sd, 1)
    n_tiles, cut, sizes = parts.shape[1], _cut(y_td), tiling(y_td.shape[1])
    with torch.cuda.device_of(y_td):
        _gate_backward[(n_tiles,)](
            dout_td, gate_sd, y_td, set_of_atom_t, offsets, dy_td, sums_1sd, parts,
            y_td.shape[0], dout_td.stride(0), gate_sd.stride(0), y_td.stride(0),
            STAGES=STAGES, **cut, **sizes,
        )  # fmt: skip
        _sum_parts[(gate_sd.shape[0], 1)](offsets, sums_1sd, parts, gate_sd.shape[0], n_tiles, **cut, **sizes)
    return dy_td, sums_1sd[0]


def _sums_and_parts(x_td: Tensor, rows_sd: Tensor, n_sums: int) -> tuple[Tensor, Tensor]:
    """Room for sums by set, in the dtype of the rows, and for parts of tiles, ``(n_sums, tiles, 2, d)``."""
    n_tiles = triton.cdiv(x_td.shape[0], TILE)
    parts = x_td.new_empty(n_sums, n_tiles, 2, x_td.shape[1], dtype=at_least_fp32(x_td.dtype))
    return rows_sd.new_empty(n_sums, *rows_sd.shape), parts


def _cut(x_td: Tensor) -> dict[str, Any]:
    return {"TILE": TILE, "WHOLE": WHOLE, "FLOAT": _triton_float(x_td)}


def _triton_float(x_td: Tensor) -> Any:
    return tl.float64 if x_td.dtype == torch.float64 else tl.float32


def _dense_rows(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Any stride between rows, none within: views of chunks stay, an expanded gradient is copied."""
    return tuple(x if x.stride(-1) == 1 else x.contiguous() for x in tensors)

"""Sums in a fixed order, without atomics: within a tile by row or column, then over the programs' shares."""

# mypy: disable-error-code="import-untyped,no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

# The elements that a result sums, or that a gradient belongs to.
BY_ELEMENT = tl.constexpr(0)
BY_COL = tl.constexpr(1)
BY_ROW = tl.constexpr(2)
IN_ALL = tl.constexpr(3)

_SUM_TILE = 4096


@triton.jit
def rows_and_cols(x, phase, tile_rows, cols, GAPLESS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr):
    """The elements of a tile of whole rows as a (ROWS, COLS) matrix, zero where there is no element.

    GAPLESS: the tile is that matrix. A thread then keeps its elements and sums them before any are exchanged.
    """
    if GAPLESS:
        return x.reshape(ROWS, COLS)
    i = tl.arange(0, ROWS * COLS)
    row, col = i // COLS, i % COLS
    exists = (row < tile_rows) & (col < cols)
    slot = tl.where(exists, row * cols + col + phase, 0)
    return tl.where(exists, tl.gather(x, slot, 0), 0.0).reshape(ROWS, COLS)


@triton.jit(do_not_specialize=["parts", "cols", "part_stride", "col_stride"])
def sum_parts(
    parts_ptr, out_ptr, parts, cols, part_stride, col_stride, divisor, ROWS: tl.constexpr, COLS: tl.constexpr
):
    """A program owns COLS columns and sums their parts, ROWS at a time, in float64."""
    col = tl.program_id(0) * COLS + tl.arange(0, COLS)
    part = tl.arange(0, ROWS)
    total = tl.zeros([ROWS, COLS], tl.float64)
    for first in range(0, parts, ROWS):
        at = (part + first).to(tl.int64)[:, None] * part_stride + col.to(tl.int64)[None, :] * col_stride
        exists = (part < parts - first)[:, None] & (col < cols)[None, :]
        total += tl.load(parts_ptr + at, mask=exists, other=0.0)
    tl.store(out_ptr + col, (tl.sum(total, 0) / divisor).to(tl.float32), mask=col < cols)


def launch_sum_parts(
    parts: Tensor, out: Tensor, count: int, cols: int, part_stride: int, col_stride: int, divisor: float
) -> None:
    """Write to out[c] the sum of parts[p, c] over its ``count`` parts, divided by ``divisor``."""
    wide = min(64, triton.next_power_of_2(cols))
    sum_parts[(-(-cols // wide),)](
        parts,
        out,
        count,
        cols,
        part_stride,
        col_stride,
        float(divisor),  # Triton would compile variants for an integer, for 1 and for multiples of 16
        ROWS=min(_SUM_TILE // wide, triton.next_power_of_2(count)),
        COLS=wide,
        num_warps=8,
        enable_fp_fusion=False,
    )

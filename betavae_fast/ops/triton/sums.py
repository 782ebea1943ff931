"""Sums in a fixed order, without atomics: within a tile by row or column, then over the programs' partial sums."""

# mypy: disable-error-code="import-untyped,no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from betavae_fast.ops.reductions import REDUCTIONS
from betavae_fast.ops.triton.addresses import tile_store
from betavae_fast.ops.triton.partition import Partition

# The elements that one value belongs to: a KL, an NLL or the gradient of one. The words are those of REDUCTIONS; to a
# kernel, both scalar reductions are SUM. ABSENT: there is no such value.
ABSENT = tl.constexpr(-1)
NONE = tl.constexpr(REDUCTIONS["none"])
DIM = tl.constexpr(REDUCTIONS["dim"])
SAMPLE = tl.constexpr(REDUCTIONS["sample"])
SUM = tl.constexpr(REDUCTIONS["sum"])


def summed(reduction: int) -> int:
    """The reduction without its division."""
    return REDUCTIONS["sum"] if reduction == REDUCTIONS["batchmean"] else reduction


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


@triton.jit
def add_partials(
    partials_ptr, out_ptr, first, count, cols, partial_stride, col_stride, divisor,
    ROWS: tl.constexpr, COLS: tl.constexpr, CACHE: tl.constexpr,
):  # fmt: skip
    """Write for COLS columns from ``first`` on the sum of their ``count`` partial sums, over ``divisor``.

    ROWS partial sums are added at a time, in float64. CACHE: the loads' cache modifier.
    """
    col = first + tl.arange(0, COLS)
    partial = tl.arange(0, ROWS)
    total = tl.zeros([ROWS, COLS], tl.float64)
    for start in range(0, count, ROWS):
        at = (partial + start).to(tl.int64)[:, None] * partial_stride + col.to(tl.int64)[None, :] * col_stride
        exists = (partial < count - start)[:, None] & (col < cols)[None, :]
        total += tl.load(partials_ptr + at, mask=exists, other=0.0, cache_modifier=CACHE)
    result = tl.sum(total, 0) / divisor
    result = result if out_ptr.dtype.element_ty == tl.float64 else result.to(tl.float32)
    tile_store(out_ptr + col, result, col < cols, True)


@triton.jit(do_not_specialize=["count", "cols", "partial_stride", "col_stride"])
def _sum_partials(
    partials_ptr, out_ptr, count, cols, partial_stride, col_stride, divisor, ROWS: tl.constexpr, COLS: tl.constexpr
):  # fmt: skip
    first = tl.program_id(0) * COLS
    add_partials(
        partials_ptr, out_ptr, first, count, cols, partial_stride, col_stride, divisor, ROWS, COLS, ""
    )


def tile_of_partials(count: int, cols: int, most: int) -> dict[str, int]:
    """The numbers of partial sums and of columns, at most ``most`` together, that a program adds up at a time."""
    wide = min(64, triton.next_power_of_2(cols))
    return {"ROWS": min(most // wide, triton.next_power_of_2(count)), "COLS": wide}


def sum_partials(
    partials: Tensor,
    out: Tensor,
    count: int,
    partial_stride: int,
    col_stride: int,
    divisor: float = 1.0,
    most: int = _SUM_TILE,
) -> None:
    """Write to out[c] the sum of its ``count`` partial sums, at most ``most`` at a time, divided by ``divisor``."""
    tile = tile_of_partials(count, out.numel(), most)
    _sum_partials[(-(-out.numel() // tile["COLS"]),)](
        partials,
        out,
        count,
        out.numel(),
        partial_stride,
        col_stride,
        float(divisor),  # Triton would compile variants for an integer, for 1 and for multiples of 16
        **tile,
        num_warps=8,
        enable_fp_fusion=False,
    )


class PartialSums:
    """The destination of a forward kernel's partial sums: ``result`` itself if each sum has only one."""

    def __init__(self, result: Tensor, partition: Partition, reduction: int) -> None:
        counts = {DIM.value: partition.chunks, SAMPLE.value: partition.panels, SUM.value: partition.programs}
        self.count = counts.get(reduction, 1)
        self.memory = result if self.count == 1 else result.new_empty(self.count * result.numel())
        self._result = result
        self._strides = (1, self.count) if reduction == SAMPLE.value else (result.numel(), 1)

    def finish(self, divisor: float) -> None:
        if self.count > 1:
            sum_partials(self.memory, self._result, self.count, *self._strides, divisor)

"""The addresses of a tile's slots in memory, with their loads and stores (see partition.py and plans.py)."""

# mypy: disable-error-code="import-untyped,no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

from betavae_fast.ops.triton.numerics import to_bfloat16


def integer_arguments(*tensors: str) -> list[str]:
    """A kernel's integer arguments, which change from batch to batch. None is worth a variant of its own."""
    shape = ("count", "rows", "groups", "cols", "inner_size", "tile_rows", "width", "panels", "chunks")
    return [*shape, *(f"{tensor}_{stride}" for tensor in tensors for stride in ("row", "outer", "inner"))]


@triton.jit
def tile_start(group, panel, tile_rows, width, cols, count, UNIT: tl.constexpr):
    """(number of the tile's first row, number of its first element, number of its elements)."""
    row = tile_rows.to(tl.int64) * group
    start = row * cols + panel.to(tl.int64) * width
    end = tl.minimum((row + tile_rows) * cols, count)
    return row, tl.multiple_of(start, UNIT), tl.minimum(end - start, width).to(tl.int32)


@triton.jit
def slot_valid(slot, size, UNIT: tl.constexpr):
    """The mask of the slots that hold one of the tile's ``size`` elements; ``slot`` is counted from the first."""
    return tl.max_constancy((slot >= 0) & (slot < size), UNIT)


@triton.jit
def slot_place(
    slot, panel, width, cols, inner_size,
    PACKED: tl.constexpr, FLAT: tl.constexpr, SPLIT: tl.constexpr, UNIT: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """(row within the tile, outer, inner) of each slot's run of UNIT neighbours: the indices that strides multiply."""
    if FLAT:
        return slot, slot, slot
    run = slot // UNIT
    if PACKED:
        row = run // (cols // UNIT)
        col = run - row * (cols // UNIT)
    else:
        row = tl.zeros_like(run)
        col = run
    if WIDE:
        row = row.to(tl.int64)
        col = col.to(tl.int64)
    if not PACKED:
        col += panel * (width // UNIT)
    if SPLIT:
        outer = col // (inner_size // UNIT)
        return row, outer, col - outer * (inner_size // UNIT)
    else:
        return row, tl.zeros_like(col), col


@triton.jit
def run_offset(place, slot, strides, FLAT: tl.constexpr, UNIT: tl.constexpr):
    """The offset in a tensor, from the tile's first row, of each slot's run of UNIT neighbours."""
    if FLAT:
        return slot
    return (place[0] * strides[0] + place[1] * strides[1] + place[2] * strides[2]) * UNIT


@triton.jit
def slot_offset(place, slot, strides, FLAT: tl.constexpr, UNIT: tl.constexpr):
    """The offset in a tensor of each slot, from the tile's first row, or from its first element if FLAT."""
    if FLAT:
        return slot
    offset = run_offset(place, slot, strides, FLAT, UNIT) + slot % UNIT
    return tl.max_contiguous(tl.multiple_of(offset, UNIT), UNIT)


@triton.jit
def tile_pointers(ptr, start, row, offset, row_stride, FLAT: tl.constexpr, UNIT: tl.constexpr):
    """Pointers to a tensor's elements of the tile that begins at element ``start``, row ``row``."""
    if FLAT:
        return ptr + start + offset
    else:
        return ptr + row * row_stride * UNIT + offset


@triton.jit
def tile_load(ptr, valid, MASKED: tl.constexpr):
    if MASKED:
        return tl.load(ptr, mask=valid, other=0.0).to(tl.float32)
    else:
        return tl.load(ptr).to(tl.float32)


@triton.jit
def tile_store(ptr, x, valid, MASKED: tl.constexpr):
    x = to_bfloat16(x) if ptr.dtype.element_ty == tl.bfloat16 else x.to(ptr.dtype.element_ty)
    if MASKED:
        tl.store(ptr, x, mask=valid)
    else:
        tl.store(ptr, x)

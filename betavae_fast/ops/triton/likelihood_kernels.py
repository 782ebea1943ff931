"""The two kernels of the likelihood op. A program owns one panel of every ``chunks``-th group of rows."""

# mypy: disable-error-code="import-untyped,no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

from betavae_fast.ops.triton.addresses import (
    integer_arguments,
    run_offset,
    slot_offset,
    slot_place,
    slot_valid,
    tile_load,
    tile_pointers,
    tile_start,
    tile_store,
)
from betavae_fast.ops.triton.likelihood_formulas import element_nll, pixel
from betavae_fast.ops.triton.sums import NONE, SAMPLE, SUM, rows_and_cols


@triton.jit
def _target_offset(
    panel, width, cols, inner_size, target_row, target_outer, target_inner,
    BITS: tl.constexpr, PACKED: tl.constexpr, FLAT: tl.constexpr, SPLIT: tl.constexpr, WIDE: tl.constexpr,
    UNIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The offset in the target of each slot; with BITS, the offset in bits of each run of UNIT slots."""
    strides = (target_row, target_outer, target_inner)
    if BITS:
        slot = tl.arange(0, BLOCK // UNIT) * UNIT
        place = slot_place(slot, panel, width, cols, inner_size, PACKED, FLAT, SPLIT, UNIT, WIDE)
        return run_offset(place, slot, strides, FLAT, UNIT)
    else:
        slot = tl.arange(0, BLOCK)
        place = slot_place(slot, panel, width, cols, inner_size, PACKED, FLAT, SPLIT, UNIT, WIDE)
        return slot_offset(place, slot, strides, FLAT, UNIT)


@triton.jit
def _load_target(
    ptr, start, row, offset, row_stride, size,
    BITS: tl.constexpr, MASKED: tl.constexpr, FLAT: tl.constexpr, UNIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The tile's pixels as numbers from 0 to 1; those of a floating-point target are not scaled."""
    if BITS:
        # A run of UNIT pixels lies within a byte.
        bit = offset + (start if FLAT else row * row_stride * UNIT)
        exists = tl.arange(0, BLOCK // UNIT) * UNIT < size
        byte = tl.load(ptr + (bit >> 3), mask=exists if MASKED else None).to(tl.int32)
        shift = (bit & 7).to(tl.int32)[:, None] + tl.arange(0, UNIT)[None, :]
        return ((byte[:, None] >> shift) & 1).to(tl.float32).reshape(BLOCK)
    else:
        valid = slot_valid(tl.arange(0, BLOCK), size, UNIT)
        at = tile_pointers(ptr, start, row, offset, row_stride, FLAT, UNIT)
        t = tile_load(at, valid, MASKED)
        return pixel(t) if ptr.dtype.element_ty == tl.uint8 else t


@triton.jit(do_not_specialize=integer_arguments("decoded", "target", "nll", "grad"))
def likelihood_forward(
    decoded_ptr, target_ptr, nll_ptr, grad_ptr,
    count, rows, groups, cols, inner_size, tile_rows, width, panels, chunks,
    decoded_row, decoded_outer, decoded_inner, target_row, target_outer, target_inner,
    nll_row, nll_outer, nll_inner, grad_row, grad_outer, grad_inner,
    inverse_width, constant, grad_scale, divisor,
    LIKELIHOOD: tl.constexpr, BITS: tl.constexpr, NLL: tl.constexpr, FINAL: tl.constexpr,
    MASKED: tl.constexpr, PACKED: tl.constexpr, FLAT: tl.constexpr, SPLIT: tl.constexpr, WIDE: tl.constexpr,
    UNIT: tl.constexpr, BLOCK: tl.constexpr, GAPLESS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Write the NLL (its elements, the sums of rows, or this program's partial sum) and grad_scale · its gradient.

    grad_ptr None: no gradient is written. FINAL: the partial sum is the whole sum.
    """
    chunk, panel = tl.program_id(0) // panels, tl.program_id(0) % panels
    slot = tl.arange(0, BLOCK)
    place = slot_place(slot, panel, width, cols, inner_size, PACKED, FLAT, SPLIT, UNIT, WIDE)
    decoded_at = slot_offset(place, slot, (decoded_row, decoded_outer, decoded_inner), FLAT, UNIT)
    target_at = _target_offset(
        panel, width, cols, inner_size, target_row, target_outer, target_inner,
        BITS, PACKED, FLAT, SPLIT, WIDE, UNIT, BLOCK,
    )  # fmt: skip
    nll_at = slot_offset(place, slot, (nll_row, nll_outer, nll_inner), FLAT, UNIT)
    grad_at = slot_offset(place, slot, (grad_row, grad_outer, grad_inner), FLAT, UNIT)
    total = tl.zeros([BLOCK], tl.float32)
    for group in range(chunk, groups, chunks):
        row, start, size = tile_start(group, panel, tile_rows, width, cols, count, UNIT)
        valid = slot_valid(slot, size, UNIT)
        x = tile_load(
            tile_pointers(decoded_ptr, start, row, decoded_at, decoded_row, FLAT, UNIT), valid, MASKED
        )
        t = _load_target(target_ptr, start, row, target_at, target_row, size, BITS, MASKED, FLAT, UNIT, BLOCK)
        nll, grad = element_nll(x, t, inverse_width, constant, LIKELIHOOD)
        if grad_ptr is not None:
            grad_to = tile_pointers(grad_ptr, start, row, grad_at, grad_row, FLAT, UNIT)
            tile_store(grad_to, grad_scale * grad, valid, MASKED)
        if NLL == NONE:
            nll_to = tile_pointers(nll_ptr, start, row, nll_at, nll_row, FLAT, UNIT)
            tile_store(nll_to, nll, valid, MASKED)
        else:
            if MASKED:
                nll = tl.where(valid, nll, 0.0)
            if NLL == SUM:
                total += nll
            elif PACKED:
                i = tl.arange(0, ROWS)
                sums = tl.sum(rows_and_cols(nll, 0, tile_rows, cols, GAPLESS, ROWS, COLS), 1)
                tl.store(nll_ptr + row + i, sums, mask=(i < tile_rows) & (row + i < rows))
            else:
                tl.store(nll_ptr + row * panels + panel, tl.sum(nll, 0))
    if NLL == SUM:
        partial = tl.sum(total, 0)
        if FINAL:
            partial = tl.div_rn(partial, divisor)
        tl.store(nll_ptr + tl.program_id(0), partial)


@triton.jit(do_not_specialize=integer_arguments("decoded", "target", "grad_nll", "grad"))
def likelihood_backward(
    decoded_ptr, target_ptr, grad_nll_ptr, grad_ptr,
    count, rows, groups, cols, inner_size, tile_rows, width, panels, chunks,
    decoded_row, decoded_outer, decoded_inner, target_row, target_outer, target_inner,
    grad_nll_row, grad_nll_outer, grad_nll_inner, grad_row, grad_outer, grad_inner,
    inverse_width, grad_scale,
    LIKELIHOOD: tl.constexpr, BITS: tl.constexpr, NLL: tl.constexpr, FINISH: tl.constexpr,
    MASKED: tl.constexpr, PACKED: tl.constexpr, FLAT: tl.constexpr, SPLIT: tl.constexpr, WIDE: tl.constexpr,
    UNIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the gradient. NLL says what an element of grad_nll belongs to: an element, a row, or all.

    FINISH: forward has already written the gradient for a grad_nll of 1.
    """
    if NLL == SUM:
        of_all = tl.load(grad_nll_ptr).to(tl.float32)
        if FINISH:  # noqa: SIM102 (FINISH is known at compile time)
            if of_all == 1.0:
                return
    chunk, panel = tl.program_id(0) // panels, tl.program_id(0) % panels
    slot = tl.arange(0, BLOCK)
    place = slot_place(slot, panel, width, cols, inner_size, PACKED, FLAT, SPLIT, UNIT, WIDE)
    decoded_at = slot_offset(place, slot, (decoded_row, decoded_outer, decoded_inner), FLAT, UNIT)
    target_at = _target_offset(
        panel, width, cols, inner_size, target_row, target_outer, target_inner,
        BITS, PACKED, FLAT, SPLIT, WIDE, UNIT, BLOCK,
    )  # fmt: skip
    grad_nll_at = slot_offset(place, slot, (grad_nll_row, grad_nll_outer, grad_nll_inner), FLAT, UNIT)
    grad_at = slot_offset(place, slot, (grad_row, grad_outer, grad_inner), FLAT, UNIT)
    for group in range(chunk, groups, chunks):
        row, start, size = tile_start(group, panel, tile_rows, width, cols, count, UNIT)
        valid = slot_valid(slot, size, UNIT)
        if NLL == NONE:
            grad_nll_from = tile_pointers(grad_nll_ptr, start, row, grad_nll_at, grad_nll_row, FLAT, UNIT)
            grad_nll = tile_load(grad_nll_from, valid, MASKED)
        elif NLL == SAMPLE:
            of_row = grad_nll_ptr + row * grad_nll_row
            if PACKED:
                grad_nll = tile_load(of_row + slot // cols * grad_nll_row, valid, MASKED)
            else:
                grad_nll = tl.load(of_row).to(tl.float32)
        else:
            grad_nll = of_all
        x = tile_load(
            tile_pointers(decoded_ptr, start, row, decoded_at, decoded_row, FLAT, UNIT), valid, MASKED
        )
        t = _load_target(target_ptr, start, row, target_at, target_row, size, BITS, MASKED, FLAT, UNIT, BLOCK)
        _, grad = element_nll(x, t, inverse_width, 0.0, LIKELIHOOD)
        grad_to = tile_pointers(grad_ptr, start, row, grad_at, grad_row, FLAT, UNIT)
        tile_store(grad_to, grad_scale * grad_nll * grad, valid, MASKED)

"""The kernels for the bias and ReLU of a hidden layer, in one pass, and for their gradients, in another.

A tile is ROWS positions (rows of a batch, or pixels of an image) of COLS channels. If the channels of a position are
neighbours in memory (LAST), a program takes a panel of channels; if the pixels of a channel are, it takes one channel.
"""

# mypy: disable-error-code="import-untyped,no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

from betavae_fast.ops.triton.addresses import tile_store
from betavae_fast.ops.triton.sums import add_partials

_SIZES = ["positions", "channels", "inner"]


@triton.jit
def _wide(x):
    """x in the dtype of all arithmetic here: float32, or float64 for float64."""
    return x if x.dtype == tl.float64 else x.to(tl.float32)


@triton.jit
def _addresses(
    tile, channel, positions, channels, inner,
    LAST: tl.constexpr, WIDE: tl.constexpr, UNIT: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """(offsets of a tile's elements, mask of those that exist); runs of UNIT neighbours are contiguous and aligned.

    WIDE: offsets may exceed 2³¹.
    """
    if WIDE:
        tile = tile.to(tl.int64)
        channel = channel.to(tl.int64)
    position = tl.arange(0, ROWS) + tile * ROWS
    across: tl.constexpr = UNIT if LAST else 1
    down: tl.constexpr = 1 if LAST else UNIT
    known = tl.max_constancy(position < positions, down)[:, None]
    exists = known & tl.max_constancy(channel < channels, across)[None, :]
    if LAST:
        offset = position[:, None] * channels + channel[None, :]
    else:
        image = position // inner
        start = image * channels * inner + (position - image * inner)
        offset = start[:, None] + (channel * inner)[None, :]
    offset = tl.multiple_of(offset, (down, across))
    return tl.max_contiguous(offset, (down, across)), exists


@triton.jit(do_not_specialize=_SIZES)
def bias_relu(
    x_ptr, bias_ptr, counter_ptr, positions, channels, inner,
    LAST: tl.constexpr, WIDE: tl.constexpr, UNIT: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Write max(x + bias, 0) over x, one tile per program. The first program sets the counter for backward to zero."""
    panels = tl.cdiv(channels, COLS)
    tile, panel = tl.program_id(0) // panels, tl.program_id(0) % panels
    channel = panel * COLS + tl.arange(0, COLS)
    offset, exists = _addresses(tile, channel, positions, channels, inner, LAST, WIDE, UNIT, ROWS)
    x = _wide(tl.load(x_ptr + offset, mask=exists, other=0.0))
    x += tl.load(bias_ptr + channel, mask=channel < channels, other=0.0).to(x.dtype)[None, :]
    tile_store(x_ptr + offset, tl.where(x <= 0.0, 0.0, x), exists, True)  # NaN stays, as in torch
    if tl.program_id(0) == 0:
        tl.store(counter_ptr, 0)


@triton.jit(do_not_specialize=[*_SIZES, "tiles", "chunks"])
def bias_relu_backward(
    grad_ptr, output_ptr, grad_x_ptr, partials_ptr, grad_bias_ptr, counter_ptr,
    positions, channels, inner, tiles, chunks,
    FINAL: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr, UNIT: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, PARTIALS: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """Write the gradient where the output is positive and, for each channel, its sum: the bias's gradient.

    A program owns every ``chunks``-th tile of a panel and adds them up in order. FINAL: one program owns a whole panel.
    Otherwise each program writes its partial sums. With a counter, the program that counts last adds up all of them in
    the order of the chunks, so that the sum does not depend on which program that is.
    """
    panels = tl.cdiv(channels, COLS)
    chunk, panel = tl.program_id(0) // panels, tl.program_id(0) % panels
    channel = panel * COLS + tl.arange(0, COLS)
    total = tl.zeros([ROWS, COLS], tl.float64 if grad_ptr.dtype.element_ty == tl.float64 else tl.float32)
    for tile in range(chunk, tiles, chunks):
        offset, exists = _addresses(tile, channel, positions, channels, inner, LAST, WIDE, UNIT, ROWS)
        output = tl.load(output_ptr + offset, mask=exists, other=0.0)
        grad = _wide(tl.load(grad_ptr + offset, mask=exists, other=0.0))
        grad = tl.where(_wide(output) <= 0.0, 0.0, grad)  # a NaN's gradient passes, as in torch
        tile_store(grad_x_ptr + offset, grad, exists, True)
        total += grad
    partial = tl.sum(total, 0)
    if FINAL:
        tile_store(grad_bias_ptr + channel, partial, channel < channels, True)
    else:
        tl.store(partials_ptr + chunk * channels + channel, partial, mask=channel < channels)
        if counter_ptr is not None:
            # The barrier orders the stores of all threads before the one thread's atomic addition. The addition releases
            # them to the program that counts last; in that program, it acquires what the others have released.
            tl.debug_barrier()
            if tl.atomic_add(counter_ptr, 1, sem="acq_rel", scope="gpu") == chunks * panels - 1:
                # Not from the first-level cache, which is this processor's own: other programs have just written.
                for first in range(0, channels, SUMS):
                    add_partials(
                        partials_ptr,
                        grad_bias_ptr,
                        first,
                        chunks,
                        channels,
                        channels,
                        1,
                        1.0,
                        PARTIALS,
                        SUMS,
                        ".cg",
                    )
                tl.store(counter_ptr, 0)

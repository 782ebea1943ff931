"""The bias and ReLU of a hidden layer in Triton: the choice of tiles, and the launches."""

# mypy: disable-error-code="import-untyped,no-untyped-call"
from __future__ import annotations

from math import gcd
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from betavae_fast.ops.operators import library
from betavae_fast.ops.reductions import kl_dtype
from betavae_fast.ops.triton import bias_relu_kernels as kernels
from betavae_fast.ops.triton.sums import sum_partials, tile_of_partials

# Elements of a tile, and its channels if these are neighbours in memory: 128 bytes in float32.
TILE, PANEL = 4096, 32
# Two or three programs on each processor of a large GPU keep its memory busy, and their partial sums are soon added up.
MOST_PROGRAMS = 256
# Partial sums that are added up at a time: more would cost every program registers, and the processor programs.
PARTIALS = 2048
# Up to this number of tiles, one program sums faster than several whose partial sums have to be added up.
FEW_TILES = 4
_OPTIONS = {"num_warps": 8, "enable_fp_fusion": False}


class _Tiles(NamedTuple):
    """The tiles of a tensor (batch, channels, ...)."""

    positions: int
    channels: int
    inner: int  # neighbours in memory that belong to one channel
    rows: int
    cols: int

    @property
    def tiles(self) -> int:
        return -(-self.positions // self.rows)

    @property
    def panels(self) -> int:
        return -(-self.channels // self.cols)

    @property
    def chunks(self) -> int:
        """The number of programs that share a panel, by shape alone, so that sums do not depend on the GPU."""
        return 1 if self.tiles <= FEW_TILES else min(self.tiles, max(1, MOST_PROGRAMS // self.panels))

    def options(self) -> dict[str, Any]:
        """Arguments that choose the variant of a kernel."""
        last = self.inner == 1
        return {
            "LAST": last,
            "WIDE": self.positions * self.channels >= 1 << 31,
            "UNIT": gcd(8, self.channels if last else self.inner),
            "ROWS": self.rows,
            "COLS": self.cols,
        }


def _tiles(x: Tensor) -> _Tiles:
    channels = x.shape[1]
    positions = x.numel() // channels
    if x.is_contiguous():
        inner = positions // x.shape[0]
    elif x.is_contiguous(memory_format=torch.channels_last):
        inner = 1
    else:
        raise ValueError(f"bias_relu takes contiguous or channels_last tensors, got strides {x.stride()}")
    cols = min(PANEL, triton.next_power_of_2(channels)) if inner == 1 else 1
    return _Tiles(positions, channels, inner, TILE // cols, cols)


def bias_relu_(x: Tensor, bias: Tensor) -> Tensor:
    counter = x.new_empty(1, dtype=torch.int32)
    if x.numel():
        tiles = _tiles(x)
        with torch.cuda.device_of(x):
            kernels.bias_relu[(tiles.tiles * tiles.panels,)](
                x, bias.contiguous(), counter, *tiles[:3], **tiles.options(), **_OPTIONS
            )
    return counter


def bias_relu_backward(
    grad: Tensor, output: Tensor, counter: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    grad_x, grad_bias = torch.empty_like(output), output.new_empty(output.shape[1], dtype=dtype)
    if not output.numel():
        return grad_x, grad_bias.zero_()
    tiles = _tiles(output)
    grad = grad.contiguous(
        memory_format=torch.contiguous_format if output.is_contiguous() else torch.channels_last
    )
    chunks = tiles.chunks
    final = chunks == 1
    partials = None if final else output.new_empty(chunks, tiles.channels, dtype=kl_dtype(output.dtype))
    together = tile_of_partials(chunks, tiles.channels, PARTIALS)
    with torch.cuda.device_of(output):
        kernels.bias_relu_backward[(chunks * tiles.panels,)](
            grad, output, grad_x, partials, grad_bias, None if final else counter,
            *tiles[:3], tiles.tiles, chunks,
            FINAL=final, PARTIALS=together["ROWS"], SUMS=together["COLS"], **tiles.options(), **_OPTIONS,
        )  # fmt: skip
        if partials is not None and counter is None:
            sum_partials(partials, grad_bias, chunks, tiles.channels, 1, most=PARTIALS)
    return grad_x, grad_bias


for _implementation in (bias_relu_, bias_relu_backward):
    library.impl(_implementation.__name__, _implementation, "CUDA")

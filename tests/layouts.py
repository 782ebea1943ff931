"""The memory layouts of a tensor, by name. Gaps are filled with NaN (170 or True), so that reading one is seen.

All layouts except the expanded and overlapping ones keep their values. A test that covers those two computes its
expectation from :func:`dense` copies of the result of :func:`lay_out`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor


def dense(x: Tensor) -> Tensor:
    """Return a contiguous copy, also of a tensor whose elements share memory."""
    return x.clone(memory_format=torch.contiguous_format)


def _in_gaps(x: Tensor, shape: tuple[int, ...], view: Callable[[Tensor], Tensor]) -> Tensor:
    """Write ``x`` into a view of a tensor of ``shape`` that is filled with values that no test expects."""
    laid = view(x.new_full(shape, math.nan if x.is_floating_point() else 170))
    return laid.copy_(x)


def _overlapping(x: Tensor) -> Tensor:
    """Return a tensor whose element (i, j, …) is storage element i + j + …, so that neighbours share memory."""
    return x.flatten().as_strided(x.shape, (1,) * x.dim())


# Each function takes a dense tensor of two dimensions or more.
_ONE_BY_ONE: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": dense,
    "unaligned": lambda x: _in_gaps(x, (x.numel() + 1,), lambda b: b[1:].view(x.shape)),
    "row_strided": lambda x: _in_gaps(x, (2 * x.shape[0], *x.shape[1:]), lambda b: b[::2]),
    "column_strided": lambda x: _in_gaps(x, (*x.shape[:-1], 3 * x.shape[-1]), lambda b: b[..., 1::3]),
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "sliced_transposed": lambda x: _in_gaps(
        x, (x.shape[-1], *x.shape[1:-1], 2 * x.shape[0]), lambda b: b[..., ::2].transpose(0, -1)
    ),
    "expanded_rows": lambda x: x[:1].clone().expand_as(x),
    "expanded_columns": lambda x: x[..., :1].clone().expand_as(x),
    "expanded": lambda x: x.flatten()[0].clone().expand_as(x),
    "overlapping": _overlapping,
    "channels_last": lambda x: x.clone(memory_format=torch.channels_last),
    "sliced_channels_last": lambda x: _in_gaps(
        x,
        (x.shape[0], 2 * x.shape[1], *x.shape[2:]),
        lambda b: b.to(memory_format=torch.channels_last)[:, : x.shape[1]],
    ),
}
_FOUR_DIMENSIONS = ("channels_last", "sliced_channels_last", "packed_channels_last", "mixed_channels_last")

LAYOUTS = (*_ONE_BY_ONE, "packed", "packed_channels_last", "mixed", "mixed_channels_last")
KEEPS_VALUES = tuple(name for name in LAYOUTS if not name.startswith(("expanded", "overlapping")))


def fits(layout: str, dims: int) -> bool:
    """Say if tensors of ``dims`` dimensions can have this layout."""
    return layout == "contiguous" or (dims == 4 if layout in _FOUR_DIMENSIONS else dims >= 2)


def lay_out(layout: str, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Lay out tensors of one shape as ``layout``.

    In the packed layouts the tensors are slices of one tensor along dimension 1, like the result of an encoder's
    ``chunk``. In the mixed layouts each tensor has a layout of its own.
    """
    if layout.startswith("packed"):
        packed = torch.cat(tensors, 1)
        if layout == "packed_channels_last":
            packed = packed.contiguous(memory_format=torch.channels_last)
        return packed.chunk(len(tensors), 1)
    if layout.startswith("mixed"):
        first = "channels_last" if layout == "mixed_channels_last" else "transposed"
        names = (first, "contiguous", "row_strided")
        return tuple(_ONE_BY_ONE[names[i % 3]](x) for i, x in enumerate(tensors))
    return tuple(_ONE_BY_ONE[layout](x) for x in tensors)


# The layouts of gradients that autograd passes to a backward.
GRADIENT_LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "expanded_scalar": lambda x: x.flatten()[0].expand_as(x),
    "expanded_rows": lambda x: x[:1].expand_as(x),
    "expanded_columns": lambda x: x[:, :1].expand_as(x),
    "slice_of_a_cat": lambda x: torch.cat((x * math.nan, x, x * math.nan), 1)[:, x.shape[1] : 2 * x.shape[1]],
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "unaligned": lambda x: torch.cat((x.flatten()[:1], x.flatten()))[1:].view(x.shape),
}


def far_apart(folder: Path, rows: int, columns: int) -> Tensor:
    """Make (rows, columns) bfloat16 zeros whose rows are 2^31 + 1 elements apart, in a sparse file that takes no memory.

    Raises: RuntimeError if such a file cannot be made.
    """
    stride = (1 << 31) + 1
    elements = (rows - 1) * stride + columns
    storage = torch.from_file(str(folder / "sparse"), True, elements, dtype=torch.bfloat16)
    return storage.as_strided((rows, columns), (stride, 1))

"""The tiles of a launch and the places of their elements in memory, for several tensors of one shape at a time."""

# mypy: disable-error-code="import-untyped,no-untyped-call"
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from math import gcd, prod
from typing import Any, NamedTuple

import triton
from torch import Tensor

from betavae_fast.ops.triton.partition import Partition, flat_partition, row_partition


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a contiguous tensor."""
    return tuple(prod(shape[dim + 1 :]) for dim in range(len(shape)))


def are_flat(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> bool:
    """Tell whether all of ``strides`` are those of contiguous tensors."""
    wanted = [(dim, n) for dim, n in enumerate(row_major(shape)) if shape[dim] != 1]
    return all(s[dim] == n for s in strides for dim, n in wanted)


def merge(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """The fewest dimensions that address the same elements: their sizes, and for each tensor their strides."""
    sizes: list[int] = []
    merged: list[list[int]] = [[] for _ in strides]
    for dim in reversed(range(len(shape))):
        if shape[dim] == 1:
            continue
        if sizes and all(s[dim] == m[0] * sizes[0] for s, m in zip(strides, merged, strict=True)):
            sizes[0] *= shape[dim]
            continue
        sizes.insert(0, shape[dim])
        for s, m in zip(strides, merged, strict=True):
            m.insert(0, s[dim])
    return sizes, merged


class Plan(NamedTuple):
    """The tiles of a launch, and the places of their elements in each operand.

    An element is (row, outer, inner); its column is outer * inner_size + inner.
    """

    partition: Partition
    phased: bool  # tiles begin within a Philox block
    flat: bool  # all contiguous: the element's number is its offset
    unit: int  # length of runs that are contiguous and aligned in every operand; strides count runs
    inner_size: int
    split: bool  # outer may exceed 0
    wide: bool  # offsets within a tile may exceed 2³¹
    strides: tuple[tuple[int, int, int], ...]  # (row, outer, inner) of each operand; zeros for an absent one

    def arguments(self, count: int) -> tuple[int, ...]:
        """The kernels' arguments from ``count`` to the last stride."""
        p = self.partition
        sizes = (count, -(-count // p.cols), p.groups, p.cols, self.inner_size, p.tile_rows, p.width)
        return *sizes, p.panels, p.chunks, *chain.from_iterable(self.strides)

    def options(self, count: int) -> dict[str, Any]:
        """The arguments that choose the variant of a kernel and its launch."""
        return {
            "MASKED": not self.partition.is_full(count),
            "PACKED": self.partition.tile_rows > 1,
            "FLAT": self.flat,
            "SPLIT": self.split,
            "WIDE": self.wide,
            "UNIT": self.unit,
            "BLOCK": self.partition.block,
            "num_warps": self.partition.warps,
            "enable_fp_fusion": False,
        }

    def sum_options(self) -> dict[str, Any]:
        """The arguments with which a kernel sums the rows or columns of its tiles."""
        p = self.partition
        return {
            "GAPLESS": p.width == p.block and not self.phased,
            "ROWS": triton.next_power_of_2(p.tile_rows),
            "COLS": triton.next_power_of_2(min(p.cols, p.block)),
        }


def plan(
    shape: Sequence[int],
    operands: Sequence[Sequence[int] | None],
    element_size: int,
    *,
    by_element: bool,
    first_noise: int | None = None,
    shared: int | None = None,
) -> Plan | None:
    """The plan for operands of ``shape``; None if a row of one needs more than two strides.

    Args:
        operands: strides of each operand, in the order of the kernel's arguments; None if it is absent.
        element_size: bytes of an element of the inputs.
        by_element: nothing is summed by row or column, so that rows need not be told apart.
        first_noise: index of the first element's noise in the sequence, if the noise is drawn.
        shared: the index of an operand that rows or columns share, expanded to ``shape``; its strides count elements.
    """
    own = [strides for i, strides in enumerate(operands) if strides is not None and i != shared]
    expanded = [] if shared is None else [strides for strides in (operands[shared],) if strides is not None]
    flat, drawn = are_flat(shape, own), first_noise is not None
    phased = first_noise is not None and first_noise % 4 != 0
    if by_element and flat:
        partition = flat_partition(prod(shape), phased)
    else:
        partition = row_partition(shape[0], prod(shape[1:]))
        phased |= drawn and partition.tile_rows * partition.cols % 4 != 0
    addressed = [*(() if flat else own), *expanded]
    sizes, inner = merge(shape[1:], [s[1:] for s in addressed])
    if len(sizes) > 2:
        return None
    split = len(sizes) == 2
    inner_size = sizes[-1] if sizes else 1
    places = [
        (s[0], within[0] if split else 0, within[-1] if within else 0)
        for s, within in zip(addressed, inner, strict=True)
    ]
    reach = max(
        (
            partition.tile_rows * abs(row)
            + partition.cols // inner_size * abs(outer)
            + inner_size * abs(column)
            for row, outer, column in places
        ),
        default=0,
    )
    shared_strides = places.pop() if expanded else (0, 0, 0)
    # Neighbours that take 16 bytes or more in each large operand.
    run = 8 if element_size == 2 else 4
    unit = 1
    if flat:
        places = [(0, 0, 0)] * len(own)
        if not phased:
            aligned = partition.width if partition.panels == 1 else partition.cols
            unit = gcd(run, prod(shape), partition.width, aligned)
    elif not phased and all(s[2] == 1 for s in places):
        unit = gcd(run, inner_size, partition.width, *(n for s in places for n in s[:2]))
    rest = iter((row // unit, outer // unit, column) for row, outer, column in places)
    strides = tuple(
        shared_strides if i == shared else (0, 0, 0) if given is None else next(rest)
        for i, given in enumerate(operands)
    )
    return Plan(partition, phased, flat, unit, inner_size, split, reach >= 1 << 31, strides)


def stride(x: Tensor | None) -> tuple[int, ...] | None:
    return None if x is None else x.stride()


def contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def through_contiguous(write: Callable[..., None], results: Iterable[Tensor | None]) -> None:
    """Let ``write`` fill contiguous tensors in the place of ``results``, and copy them: no plan fits the results."""
    pairs = [(x, None if x is None else x.new_empty(x.shape)) for x in results]
    write(*(dense for _, dense in pairs))
    for result, dense in pairs:
        if result is not None and dense is not None:
            result.copy_(dense)

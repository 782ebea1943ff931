"""The places of a tile's elements in memory, for several tensors of one shape at a time."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd, prod
from typing import Any, NamedTuple

from betavae_fast.ops.triton.tiles import Tiling


class Layout(NamedTuple):
    """The places of the elements of several tensors of one shape.

    An element is (row, outer, inner); its column is outer * inner_size + inner.
    """

    flat: bool  # all contiguous: the element's number is its offset
    unit: int  # length of runs that are contiguous and aligned in every tensor; strides count runs
    inner_size: int
    split: bool  # outer may exceed 0
    strides: list[tuple[int, int, int]]  # (row, outer, inner) of each tensor
    shared_strides: tuple[int, int, int]  # of the tensor that rows or columns share, in elements
    wide: bool  # offsets within a tile may exceed 2³¹

    def arguments(self, cut: Tiling, count: int) -> tuple[int, ...]:
        """The kernels' arguments from ``count`` to ``chunks``."""
        rows = -(-count // cut.cols)
        return (
            count,
            rows,
            cut.groups,
            cut.cols,
            self.inner_size,
            cut.tile_rows,
            cut.width,
            cut.panels,
            cut.chunks,
        )

    def options(self, cut: Tiling, count: int) -> dict[str, Any]:
        """The arguments that choose the variant of a kernel and its launch."""
        return {
            "MASKED": not cut.is_full(count),
            "PACKED": cut.tile_rows > 1,
            "FLAT": self.flat,
            "SPLIT": self.split,
            "WIDE": self.wide,
            "UNIT": self.unit,
            "BLOCK": cut.block,
            "num_warps": cut.warps,
            "enable_fp_fusion": False,
        }

    def by_element(self) -> Layout:
        """The same layout with runs of one element, for tiles that begin within a Philox block."""
        unit = self.unit
        strides = [(row * unit, outer * unit, inner) for row, outer, inner in self.strides]
        return self._replace(unit=1, strides=strides)


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


def layout(
    shape: Sequence[int],
    strides: Sequence[Sequence[int]],
    shared: Sequence[int] | None,
    run: int,
    cut: Tiling,
) -> Layout | None:
    """The layout of tensors of ``shape`` with ``strides``, and of one that is expanded to it, with strides ``shared``.

    run: number of neighbours that take 16 bytes or more in each large tensor. Returns None if a row needs more than two
    strides.
    """
    flat = are_flat(shape, strides)
    addressed = [*(() if flat else strides), *(() if shared is None else (shared,))]
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
            cut.tile_rows * abs(row) + (cut.cols // inner_size) * abs(outer) + inner_size * abs(column)
            for row, outer, column in places
        ),
        default=0,
    )
    shared_strides = places.pop() if shared is not None else (0, 0, 0)
    if flat:
        unit = gcd(run, prod(shape), cut.width, cut.width if cut.panels == 1 else cut.cols)
        places = [(0, 0, 0)] * len(strides)
    elif all(s[2] == 1 for s in places):
        unit = gcd(run, inner_size, cut.width, *(n for s in places for n in s[:2]))
        places = [(row // unit, outer // unit, 1) for row, outer, _ in places]
    else:
        unit = 1
    return Layout(flat, unit, inner_size, split, places, shared_strides, reach >= 1 << 31)

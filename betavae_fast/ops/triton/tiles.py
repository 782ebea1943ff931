"""How a batch is cut into tiles, and where a tile's elements lie in memory.

A tile has BLOCK slots and holds either some whole rows or one panel of a row, whichever wastes fewer slots.
Its first element may stand in the middle of a Philox block: its slots are then shifted by ``phase``, so that
every fourth slot begins a block.
"""

# mypy: disable-error-code="import-untyped,no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import gcd
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

# Slots of a tile, best first: the next is taken where it is used better by a twentieth. A thread has eight.
BLOCKS = (1024, 512, 2048, 256)
SLOTS_PER_WARP = 256
# Beyond this many programs, each takes several tiles; beyond this many tiles, there are more programs again.
MANY_PROGRAMS = 1024
MOST_TILES = 64
# So few tiles are summed faster by one program than by a second launch.
FEW_TILES = 8


class Tiling(NamedTuple):
    """The tiles of a batch; program (chunk, panel) owns that panel of row groups chunk, chunk + chunks, …"""

    block: int
    groups: int
    tile_rows: int  # whole rows in a tile, a group; 1 where a row is cut into panels
    cols: int
    width: int  # elements of a full tile
    panels: int  # tiles side by side in a row
    chunks: int

    @property
    def programs(self) -> int:
        return self.chunks * self.panels

    @property
    def warps(self) -> int:
        return self.block // SLOTS_PER_WARP

    def is_full(self, count: int) -> bool:
        """Whether every slot of every tile holds an element."""
        full_rows = self.panels == 1 or self.cols % self.width == 0
        return self.width == self.block and full_rows and count % self.block == 0


def _cut(cols: int, block: int) -> tuple[int, int, int]:
    """(rows of a tile, its width, panels) for a tile of ``block`` slots."""
    usable = block if cols % 4 == 0 else block - 4  # room for the phase
    # Tiles of 8 n elements all begin at the same phase, and at aligned addresses.
    step = 8 // gcd(cols, 8)
    rows = usable // cols // step * step
    return (rows, rows * cols, 1) if rows else (1, min(cols, usable), -(-cols // usable))


def _chunks(groups: int, panels: int, group: int) -> int:
    """How many programs share the row groups, of ``group`` elements each, of a panel."""
    # A program's tiles all begin at one phase.
    step = 4 // gcd(group, 4)
    if step == 1 and groups * panels <= FEW_TILES:
        return 1
    tiles = min(MOST_TILES, -(-groups * panels // MANY_PROGRAMS))
    chunks = -(-groups // tiles)
    return min(groups, -(-chunks // step) * step)


@cache
def row_tiling(rows: int, cols: int) -> Tiling:
    """Tiles that know their rows and columns; the same for every layout, so that sums keep their order."""
    best, most_used = BLOCKS[0], 0.0
    for block in BLOCKS:
        tile_rows, _, panels = _cut(cols, block)
        used = tile_rows * cols / (panels * block)
        if used > most_used * 1.05:
            best, most_used = block, used
    tile_rows, width, panels = _cut(cols, best)
    groups = -(-rows // tile_rows)
    return Tiling(best, groups, tile_rows, cols, width, panels, _chunks(groups, panels, tile_rows * cols))


def flat_tiling(count: int, phased: bool) -> Tiling:
    """Tiles of contiguous elements that have no rows to tell apart."""
    block = BLOCKS[0]
    width = block - 4 if phased else block
    groups = -(-count // width)
    return Tiling(block, groups, 1, width, width, 1, _chunks(groups, 1, width))


class Layout(NamedTuple):
    """Where the elements of several tensors of one shape lie.

    An element is (row, outer, inner), its column outer * inner_size + inner.
    """

    flat: bool  # all contiguous: the element's number is its offset
    unit: int  # runs of so many neighbours are contiguous and aligned in every tensor; strides count runs
    inner_size: int
    split: bool  # outer may pass 0
    strides: list[tuple[int, int, int]]  # (row, outer, inner) of each tensor
    shared_strides: tuple[int, int, int]  # of the one that is shared by rows or columns, in elements
    wide: bool  # offsets within a tile may pass 2³¹

    def by_element(self) -> Layout:
        """The same with runs of one element, for tiles that begin within a Philox block."""
        unit = self.unit
        strides = [(row * unit, outer * unit, inner) for row, outer, inner in self.strides]
        return self._replace(unit=1, strides=strides)


def are_flat(tensors: Sequence[Tensor]) -> bool:
    return all(t.is_contiguous() for t in tensors)


def merge(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """The fewest dimensions that address the same elements: their sizes, and per tensor their strides."""
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


def layout(tensors: Sequence[Tensor], shared: Tensor | None, cut: Tiling) -> Layout | None:
    """The layout of ``tensors``, of one shape, the first an input, and of ``shared``, expanded to it.

    None where more than two strides are needed within a row.
    """
    first = tensors[0]
    shape = first.shape
    run = 8 if first.element_size() == 2 else 4
    flat = are_flat(tensors)
    addressed = [*(() if flat else tensors), *(() if shared is None else (shared,))]
    sizes, inner = merge(shape[1:], [t.stride()[1:] for t in addressed])
    if len(sizes) > 2:
        return None
    split = len(sizes) == 2
    inner_size = sizes[-1] if sizes else 1
    strides = [
        (t.stride(0), s[0] if split else 0, s[-1] if s else 0) for t, s in zip(addressed, inner, strict=True)
    ]
    reach = max(
        (
            cut.tile_rows * abs(row) + (cut.cols // inner_size) * abs(outer) + inner_size * abs(column)
            for row, outer, column in strides
        ),
        default=0,
    )
    shared_strides = strides.pop() if shared is not None else (0, 0, 0)
    if flat:
        unit = gcd(run, first.numel(), cut.width, cut.width if cut.panels == 1 else cut.cols)
        strides = [(0, 0, 0)] * len(tensors)
    elif all(s[2] == 1 for s in strides):
        unit = gcd(run, inner_size, cut.width, *(n for s in strides for n in s[:2]))
        strides = [(row // unit, outer // unit, 1) for row, outer, _ in strides]
    else:
        unit = 1
    return Layout(flat, unit, inner_size, split, strides, shared_strides, reach >= 1 << 31)


@triton.jit
def tile_start(group, panel, tile_rows, width, cols, count, UNIT: tl.constexpr):
    """(number of the tile's first row, of its first element, how many elements it has)."""
    row = tile_rows.to(tl.int64) * group
    start = row * cols + panel.to(tl.int64) * width
    end = tl.minimum((row + tile_rows) * cols, count)
    return row, tl.multiple_of(start, UNIT), tl.minimum(end - start, width).to(tl.int32)


@triton.jit
def slot_valid(slot, size, UNIT: tl.constexpr):
    """Which slots hold one of the tile's ``size`` elements; ``slot`` is counted from the first."""
    return tl.max_constancy((slot >= 0) & (slot < size), UNIT)


@triton.jit
def slot_place(
    slot, panel, width, cols, inner_size,
    PACKED: tl.constexpr, FLAT: tl.constexpr, SPLIT: tl.constexpr, UNIT: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """(row within the tile, outer, inner) of each slot's run of UNIT neighbours: what strides multiply."""
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
def slot_offset(place, slot, strides, FLAT: tl.constexpr, UNIT: tl.constexpr):
    """A tensor's offset at each slot from the tile's first row; from its first element if FLAT."""
    if FLAT:
        return slot
    offset = (place[0] * strides[0] + place[1] * strides[1] + place[2] * strides[2]) * UNIT + slot % UNIT
    return tl.max_contiguous(tl.multiple_of(offset, UNIT), UNIT)


@triton.jit
def tile_pointers(ptr, start, row, offset, row_stride, FLAT: tl.constexpr, UNIT: tl.constexpr):
    """Where a tensor has the elements of the tile that begins at element ``start``, row ``row``."""
    if FLAT:
        return ptr + start + offset
    else:
        return ptr + row * row_stride * UNIT + offset

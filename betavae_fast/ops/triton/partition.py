"""The partition of a batch into tiles.

A tile has BLOCK slots and holds either some whole rows or one panel of a row, whichever wastes fewer slots.
If its first element is in the middle of a Philox block, its slots are shifted by ``phase``, so that every fourth slot
begins a block.
"""

from __future__ import annotations

from functools import cache
from math import gcd
from typing import NamedTuple

# Slots of a tile, best first: a later number is taken only if it uses its slots better by 5%. A thread has eight slots.
BLOCKS = (1024, 512, 2048, 256)
SLOTS_PER_WARP = 256
# Beyond MANY_PROGRAMS programs, each takes several tiles; beyond MOST_TILES tiles each, there are more programs again.
MANY_PROGRAMS = 1024
MOST_TILES = 64
# Up to this number of tiles, one program sums faster than a second launch.
FEW_TILES = 8


class Partition(NamedTuple):
    """The tiles of a batch; program (chunk, panel) owns that panel of row groups chunk, chunk + chunks, …"""

    block: int
    groups: int
    tile_rows: int  # whole rows in a tile, which form a group; 1 if a row is cut into panels
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
        """Tell whether every slot of every tile holds an element."""
        full_rows = self.panels == 1 or self.cols % self.width == 0
        return self.width == self.block and full_rows and count % self.block == 0


def _tile_shape(cols: int, block: int) -> tuple[int, int, int]:
    """(rows of a tile, its width, panels) for a tile of ``block`` slots."""
    usable = block if cols % 4 == 0 else block - 4  # room for the phase
    # Tiles of 8 n elements all begin at the same phase, and at aligned addresses.
    step = 8 // gcd(cols, 8)
    rows = usable // cols // step * step
    return (rows, rows * cols, 1) if rows else (1, min(cols, usable), -(-cols // usable))


def _chunks(groups: int, panels: int, group: int) -> int:
    """The number of programs that share a panel's row groups, of ``group`` elements each."""
    # All tiles of a program must begin at the same phase.
    step = 4 // gcd(group, 4)
    if step == 1 and groups * panels <= FEW_TILES:
        return 1
    tiles = min(MOST_TILES, -(-groups * panels // MANY_PROGRAMS))
    chunks = -(-groups // tiles)
    return min(groups, -(-chunks // step) * step)


@cache
def row_partition(rows: int, cols: int) -> Partition:
    """Tiles that keep rows and columns apart. They are the same for every layout, so that sums keep their order."""
    best, most_used = BLOCKS[0], 0.0
    for block in BLOCKS:
        tile_rows, _, panels = _tile_shape(cols, block)
        used = tile_rows * cols / (panels * block)
        if used > most_used * 1.05:
            best, most_used = block, used
    tile_rows, width, panels = _tile_shape(cols, best)
    groups = -(-rows // tile_rows)
    return Partition(best, groups, tile_rows, cols, width, panels, _chunks(groups, panels, tile_rows * cols))


def flat_partition(count: int, phased: bool) -> Partition:
    """Tiles of contiguous elements, without regard to rows."""
    block = BLOCKS[0]
    width = block - 4 if phased else block
    groups = -(-count // width)
    return Partition(block, groups, 1, width, width, 1, _chunks(groups, 1, width))

"""Binary images as bits: eight pixels a byte, and a table that turns a byte back into eight pixels.

Pixel p of an image (row-major over C, H, W) is bit p % 8 of byte p // 8, lowest bit first. Lowest first
because then the same memory read as little-endian words of any width still holds pixel p at bit p % width of
word p // width, so a kernel may load 16 bytes at a time, and a 64-pixel image row is one 64-bit integer.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def pack_bits(pixels: npt.NDArray[np.bool_] | npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Packs images (N, ...), where nonzero is on, into rows (N, ceil(pixels / 8)) of uint8. Spare bits are 0.

    >>> pack_bits(np.array([[1, 0, 0, 0, 0, 0, 0, 0, 1]], dtype=np.uint8))
    array([[1, 1]], dtype=uint8)
    """
    return np.packbits(pixels.reshape(len(pixels), -1) != 0, axis=1, bitorder="little")


def bit_table() -> Tensor:
    """int64 (256,): the eight bytes of entry b, in memory order, are the eight bits of b as 0 or 1.

    One 8-byte element per lookup instead of eight 1-byte ones makes unpacking four times as fast as shifts
    and masks.
    """
    bits = (torch.arange(256).unsqueeze(1) >> torch.arange(8)) & 1
    return bits.to(torch.uint8).view(torch.int64).squeeze(1)


def expand_bytes(packed: Tensor, table: Tensor) -> Tensor:
    """Looks up every byte of `packed` (N, R) in `table`: int64 (N, R), eight pixels of 0 or 1 in each.

    `table` is `bit_table()` on the same device as `packed`.
    """
    # int32, not int64, indices: half the index traffic, and index_select is the fastest of torch's gathers
    # here.
    return table.index_select(0, packed.flatten().int()).view(packed.shape)

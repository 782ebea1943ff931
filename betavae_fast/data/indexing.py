"""Checks the indices that callers pass to a data set."""

from __future__ import annotations

import torch
from torch import Tensor


def check_indices(indices: Tensor, length: int, owner: str) -> None:
    """Refuse indices that are not a 1-D int64 tensor of values in [0, length).

    The range is checked only on the CPU. On a GPU, reading it would stall the stream and break graph capture; there, the
    gather kernel itself asserts the range.

    Raises: TypeError (not an int64 tensor), ValueError (not 1-D), IndexError (out of range).
    """
    if not isinstance(indices, Tensor):
        raise TypeError(f"{owner}: indices must be an int64 tensor, got {type(indices).__name__}")
    if indices.dtype != torch.int64:
        raise TypeError(f"{owner}: indices must be int64, got {indices.dtype}")
    if indices.ndim != 1:
        raise ValueError(f"{owner}: indices must have one dimension, got shape {tuple(indices.shape)}")
    if indices.device.type == "cpu" and indices.numel() > 0:
        low, high = (int(bound) for bound in indices.aminmax())
        if low < 0 or high >= length:
            wrong = low if low < 0 else high
            raise IndexError(
                f"{owner}: index {wrong} is out of range, there are {length} images (0 to {length - 1})"
            )

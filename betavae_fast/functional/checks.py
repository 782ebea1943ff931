"""Checks that the functions share. Every message begins with the name of the function called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from numpy import ndarray
from torch import Tensor

from betavae_fast.ops.backends import Backend, choose

Reduction = Literal["dim", "sample", "batchmean", "sum", "none"]

FLOATING = {
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.float32: "float32",
    torch.float64: "float64",
}


def check_tensor(caller: str, name: str, x: Any, dtypes: Mapping[torch.dtype, str]) -> None:
    """Raise TypeError unless ``x`` is a strided tensor of one of ``dtypes``."""
    if not isinstance(x, Tensor):
        remedy = "; convert it by torch.from_numpy" if isinstance(x, ndarray) else ""
        raise TypeError(f"{caller}: {name} must be a Tensor, got {type(x).__name__} {x!r:.60}{remedy}")
    if x.dtype not in dtypes:
        *most, last = dtypes.values()
        remedy = ""
        if torch.uint8 in dtypes and torch.bool in dtypes and not x.is_complex():
            remedy = "; convert pixels 0…255 by .to(torch.uint8), and pixels 0 or 1 by .bool()"
        raise TypeError(f"{caller}: {name} must be {', '.join(most)} or {last}, got {x.dtype}{remedy}")
    if x.layout is not torch.strided or x.is_nested:
        raise TypeError(
            f"{caller}: {name} must be a strided tensor, got {'nested' if x.is_nested else x.layout}"
        )


def check_reduction(caller: str, reduction: str, known: Mapping[str, int]) -> int:
    """The number that stands for ``reduction`` in the operators' arguments."""
    try:
        return known[reduction]
    except (KeyError, TypeError):
        names = ", ".join(map(repr, known))
        raise ValueError(f"{caller}: reduction must be one of {names}, got {reduction!r}") from None


def choose_backend(caller: str, x: Tensor, backend: Backend) -> str:
    """The name of the backend that computes on ``x``."""
    if not isinstance(backend, str):
        raise TypeError(f"{caller}: backend must be a string, got {backend!r}")
    try:
        return choose(backend, x.device.type, x.dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise type(error)(f"{caller}: {error}") from None

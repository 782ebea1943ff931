"""The registration of implementations in Triton, and the dtype that none of them takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from betavae_fast.ops.operators import library
from betavae_fast.ops.triton.numerics import INTERPRETED


def register(*implementations: Callable[..., Any], suffix: str = "_triton") -> None:
    """Register functions for GPU tensors, and for CPU tensors if Triton's interpreter runs the kernels."""
    for implementation in implementations:
        for key in ("CUDA", "CPU") if INTERPRETED.value else ("CUDA",):
            library.impl(f"{implementation.__name__}{suffix}", implementation, key)


def refuse_float64(op: str, x: Tensor) -> None:
    if x.dtype == torch.float64:
        raise TypeError(
            f"{op}: the triton backend computes in float32, got {x.dtype};"
            ' use backend="reference", or "cpp" on a CPU'
        )

"""The test for gradients that stand for many."""

from __future__ import annotations

import torch
from torch import Tensor


def is_batched(x: Tensor) -> bool:
    """True if x stands for many tensors, under torch.func.vmap or is_grads_batched: one result cannot be theirs."""
    functorch = torch._C._functorch
    return functorch.is_batchedtensor(x) or functorch.is_legacy_batchedtensor(x)

"""The test for batched gradients."""

from __future__ import annotations

import torch
from torch import Tensor


def is_batched(x: Tensor) -> bool:
    """Tell whether ``x`` stands for many tensors, under torch.func.vmap or is_grads_batched."""
    functorch = torch._C._functorch
    return functorch.is_batchedtensor(x) or functorch.is_legacy_batchedtensor(x)

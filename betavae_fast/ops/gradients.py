"""Questions that an autograd.Function asks about the gradients that it is to compute."""

from __future__ import annotations

import torch
from torch import Tensor


def differentiated_twice() -> bool:
    """Tell whether the gradients are to be differentiated again (create_graph=True).

    Then the reference computes them: called as plain torch code, it is differentiable to any order.
    """
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def is_batched(x: Tensor) -> bool:
    """Tell whether ``x`` stands for many tensors, under torch.func.vmap or is_grads_batched."""
    functorch = torch._C._functorch
    return functorch.is_batchedtensor(x) or functorch.is_legacy_batchedtensor(x)

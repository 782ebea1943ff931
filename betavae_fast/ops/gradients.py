"""Questions about the gradients that are to be computed."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad


def differentiated_twice() -> bool:
    """Tell whether the gradients are to be differentiated again, by create_graph=True or a transform around backward.

    Then the reference computes them: called as plain torch code, it is differentiable to any order.
    """
    return (torch.is_grad_enabled() and not torch.compiler.is_compiling()) or transformed()


def is_batched(x: Tensor) -> bool:
    """Tell whether ``x`` stands for many tensors, under torch.func.vmap or is_grads_batched."""
    functorch = torch._C._functorch
    return functorch.is_batchedtensor(x) or functorch.is_legacy_batchedtensor(x)


def needs_plain_torch(*grads: Tensor) -> bool:
    """Tell whether gradients must be computed by plain torch: to be differentiated again, or for batched ``grads``."""
    return torch.is_grad_enabled() or transformed() or any(map(is_batched, grads))


def transformed() -> bool:
    """Tell whether a transform of torch.func or forward-mode differentiation is at work.

    Then the operations are their reference formulas. As plain torch code these can be differentiated and batched in any
    order, whereas a kernel takes neither tangents nor a further dimension.
    """
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0

"""The conversion of many tensors to another dtype in one launch on a GPU, and of their gradients back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from betavae_fast.ops.gradients import needs_plain_torch


def _cast(tensors: Sequence[Tensor], dtypes: Sequence[torch.dtype]) -> list[Tensor]:
    """Copies of ``tensors`` in ``dtypes``, with the same memory layouts."""
    copies = [torch.empty_like(t, dtype=dtype) for t, dtype in zip(tensors, dtypes, strict=True)]
    if copies:
        torch._foreach_copy_(copies, list(tensors))
    return copies


class CastAll(torch.autograd.Function):
    """(dtype, *tensors) -> the tensors in ``dtype``."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        copies = _cast(tensors, [dtype] * len(tensors))
        _, *needed = ctx.needs_input_grad
        ctx.mark_non_differentiable(*(copy for copy, need in zip(copies, needed, strict=True) if not need))
        ctx.set_materialize_grads(False)
        ctx.dtypes = [t.dtype for t in tensors]
        return tuple(copies)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        given = [(i, grad) for i, grad in enumerate(grads) if grad is not None]
        tensors, dtypes = [grad for _, grad in given], [ctx.dtypes[i] for i, _ in given]
        if needs_plain_torch(*tensors):
            # torch._foreach_copy_ can be neither differentiated nor batched.
            cast = [grad.to(dtype) for grad, dtype in zip(tensors, dtypes, strict=True)]
        else:
            cast = _cast(tensors, dtypes)
        results: list[Tensor | None] = [None] * len(grads)
        for (i, _), grad in zip(given, cast, strict=True):
            results[i] = grad
        return None, *results

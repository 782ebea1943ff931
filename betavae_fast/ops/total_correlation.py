"""The autograd.Function of the aggregated posterior's log-densities: it keeps the results, never the B × B terms.

``settings`` is the operators' (first_row, dataset_size, estimator).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from betavae_fast.ops.handles import handles
from betavae_fast.ops.reference import total_correlation as reference

_FORWARD, _BACKWARD = map(handles, ("total_correlation_forward", "total_correlation_backward"))


class AggregatedPosterior(torch.autograd.Function):
    """(z, mu, logvar, settings, backend) -> (joint, marginals): log q(z_i), shape (b,), and log q(z_id), shape (b, D)."""

    @staticmethod
    def forward(ctx, z, mu, logvar, settings, backend):  # type: ignore[no-untyped-def]
        joint, marginals = _FORWARD[backend](z, mu, logvar, *settings)
        ctx.save_for_backward(z, mu, logvar, joint, marginals)
        ctx.settings, ctx.backend = settings, backend
        return joint, marginals

    @staticmethod
    def backward(ctx, grad_joint, grad_marginals):  # type: ignore[no-untyped-def]
        # With create_graph=True the gradients are to be differentiated again: the reference, called as plain torch code,
        # is differentiable to any order.
        twice = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        backward: Any = reference.total_correlation_backward if twice else _BACKWARD[ctx.backend]
        grads: tuple[Tensor, ...] = backward(grad_joint, grad_marginals, *ctx.saved_tensors, *ctx.settings)
        return (
            *(g if need else None for g, need in zip(grads, ctx.needs_input_grad[:3], strict=True)),
            None,
            None,
        )

"""The likelihood op's autograd.Function: where it can, forward leaves the gradient behind, and backward reads nothing.

``settings`` is the operators' (packed, likelihood, scale, reduction).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from betavae_fast.ops.batched import is_batched
from betavae_fast.ops.handles import handles
from betavae_fast.ops.reference import likelihood as reference

_FORWARD, _BACKWARD, _FINISH = map(
    handles, ("likelihood_forward", "likelihood_backward", "likelihood_finish")
)


class Likelihood(torch.autograd.Function):
    """(decoded, target, settings, early, backend) -> nll.

    early: write the gradient in the forward pass, as it is if the NLL's own turns out to be 1, the usual case. What
    that leaves to backward is to look. A second backward through the same graph, or one that finds no gradient left
    behind, computes it from the inputs, and so does one that is batched, which asks for many gradients at once.
    """

    @staticmethod
    def forward(ctx, decoded, target, settings, early, backend):  # type: ignore[no-untyped-def]
        nll, grad = _FORWARD[backend](decoded, target, *settings, early)
        ctx.save_for_backward(decoded, target)
        ctx.settings, ctx.backend = settings, backend
        # No saved tensor: it is to be written to, and to be freed by the first backward.
        ctx.grad = grad if early else None
        return nll

    @staticmethod
    def backward(ctx, grad_nll):  # type: ignore[no-untyped-def]
        decoded, target = ctx.saved_tensors
        # With create_graph=True the gradient is to be differentiated again: the reference, called as plain torch
        # code, is differentiable to any order.
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            grad = reference.likelihood_backward(grad_nll, decoded, target, *ctx.settings)
        elif (grad := ctx.grad) is None or is_batched(grad_nll):
            grad = _BACKWARD[ctx.backend](grad_nll, decoded, target, *ctx.settings)
        else:
            ctx.grad = None
            _FINISH[ctx.backend](grad, grad_nll, decoded, target, *ctx.settings)
        return grad, None, None, None, None


def nll(
    decoded: Tensor,
    target: Tensor,
    settings: tuple[bool, int, float, int],
    scalar: bool,
    backend: str,
) -> Tensor:
    """The NLL, differentiable by ``decoded``; ``scalar``: it is reduced to one number.

    The gradient is not written early where that would be in vain: float16 trains with a scaled loss, whose gradient
    is not 1; what torch.compile traces may not write to what it saved; and plain torch has to wait for a device to see
    whether the gradient is 1.
    """
    early = (
        scalar
        and decoded.requires_grad
        and torch.is_grad_enabled()
        and decoded.dtype != torch.float16
        and not torch.compiler.is_compiling()
        and (backend != "eager" or decoded.device.type == "cpu")
    )
    result: Any = Likelihood.apply(decoded, target, settings, early, backend)
    return result

"""The autograd.Function of the likelihood op. If possible, forward writes the gradient, so that backward reads no pixel.

``settings`` are the operators' (packed, likelihood, scale, reduction).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from betavae_fast.ops.gradients import differentiated_twice, is_batched, transformed
from betavae_fast.ops.operators import Operator
from betavae_fast.ops.reductions import empty_nll
from betavae_fast.ops.reference import likelihood as reference

# grad: the gradient of decoded for a gradient of the NLL of 1 ("batchmean" and "sum").
FORWARD = Operator(
    reference.likelihood_forward,
    lambda a: (
        empty_nll(a.decoded, a.reduction),
        torch.empty_like(a.decoded) if a.need_grad else a.decoded.new_empty(0),
    ),
    results=("nll", "grad"),
)
BACKWARD = Operator(reference.likelihood_backward, lambda a: torch.empty_like(a.decoded))
# Turns the gradient that FORWARD left into BACKWARD's, in place. If grad_nll, which is read on the device, is 1, there is
# nothing to do.
FINISH = Operator(reference.likelihood_finish, lambda a: None, writes=("grad",))


class LikelihoodFunction(torch.autograd.Function):
    """(decoded, target, settings, early, backend) -> nll.

    early: compute the gradient in forward, assuming that the incoming gradient will be 1, as in ``loss.backward()``.
    Backward then only checks that it is. Without a gradient from forward, in a second backward through the same graph,
    and for batched gradients, backward computes the gradient from the inputs.
    """

    @staticmethod
    def forward(ctx, decoded, target, settings, early, backend):  # type: ignore[no-untyped-def]
        nll, grad = FORWARD[backend](decoded, target, *settings, early)
        ctx.save_for_backward(decoded, target)
        ctx.settings, ctx.backend = settings, backend
        # Not a saved tensor, because the first backward writes to it and frees it.
        ctx.grad = grad if early else None
        return nll

    @staticmethod
    def backward(ctx, grad_nll):  # type: ignore[no-untyped-def]
        decoded, target = ctx.saved_tensors
        if differentiated_twice():
            grad = reference.likelihood_backward(grad_nll, decoded, target, *ctx.settings)
        elif (grad := ctx.grad) is None or is_batched(grad_nll):
            grad = BACKWARD[ctx.backend](grad_nll, decoded, target, *ctx.settings)
        else:
            ctx.grad = None
            FINISH[ctx.backend](grad, grad_nll, decoded, target, *ctx.settings)
        return grad, None, None, None, None


def nll(
    decoded: Tensor,
    target: Tensor,
    settings: tuple[bool, int, float, int],
    scalar: bool,
    backend: str,
) -> Tensor:
    """The NLL, differentiable with respect to ``decoded``; ``scalar``: the reduction gives one number.

    The gradient is not computed early if that would be useless: float16 trains with a scaled loss, whose gradient is not
    1; code traced by torch.compile may not write to what it saved; and off the CPU, plain torch would have to wait for
    the device to see whether the gradient is 1.
    """
    if transformed():
        return reference.likelihood_forward(decoded, target.detach(), *settings, False)[0]
    early = (
        scalar
        and decoded.requires_grad
        and torch.is_grad_enabled()
        and decoded.dtype != torch.float16
        and not torch.compiler.is_compiling()
        and (backend != "eager" or decoded.device.type == "cpu")
    )
    result: Any = LikelihoodFunction.apply(decoded, target, settings, early, backend)
    return result

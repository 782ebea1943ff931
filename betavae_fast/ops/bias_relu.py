"""The ReLU of a hidden layer fused with the operation before it, as autograd.Functions for GPUs that Triton supports.

Both save the output of the ReLU, as torch's own does. The gradient passes where the output is positive.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from betavae_fast.ops.gradients import needs_plain_torch
from betavae_fast.ops.operators import common_operator
from betavae_fast.ops.reference import bias_relu as reference

# Writes max(x + bias, 0) over x (B, C, ...), contiguous or channels_last; bias (C,) may have another dtype. Returns a
# counter, int32[1], which is set to zero without a launch of its own.
_BIAS_RELU = common_operator(
    reference.bias_relu_,
    lambda a: a.x.new_empty(1, dtype=torch.int32),
    results=("counter",),
    writes=("x",),
)
# Returns the gradients of x, in the output's memory layout, and of the bias, in ``dtype``. With a counter, which is zero
# before and after, a GPU needs one launch; without one, large batches need a second launch.
_BACKWARD = common_operator(
    reference.bias_relu_backward,
    lambda a: (torch.empty_like(a.output), a.output.new_empty(a.output.shape[1], dtype=a.dtype)),
    results=("grad_x", "grad_bias"),
    writes=("counter",),
)


def _backward(
    grad: Tensor, output: Tensor, counter: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of the ReLU's input and of the bias.

    Plain torch computes them if they are to be differentiated again (create_graph=True) or are batched.
    """
    if needs_plain_torch(grad):
        grad = grad.masked_fill(output.detach() <= 0, 0)
        return grad, grad.sum(reference.all_but_channels(output), dtype=dtype)
    return _BACKWARD(grad, output, counter, dtype)


class BiasReluFunction(torch.autograd.Function):
    """(x, bias) -> max(x + bias, 0), written over x. The bias has one number for each channel, the second dimension."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        ctx.counter, ctx.bias_dtype = _BIAS_RELU(x, bias), bias.dtype
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        (output,) = ctx.saved_tensors
        return _backward(grad, output, ctx.counter, ctx.bias_dtype)


class LinearReluFunction(torch.autograd.Function):
    """(x, weight, bias) -> max(x weightᵀ + bias, 0). x and weight have one dtype, in which the bias is added."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        # cuBLASLt adds the bias and applies the ReLU at the end of its matrix product.
        output = torch._addmm_activation(bias.to(x.dtype), x, weight.t())
        ctx.save_for_backward(x, weight, output)
        ctx.bias_dtype = bias.dtype
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor]:
        x, weight, output = ctx.saved_tensors
        need_x, need_weight, _ = ctx.needs_input_grad
        grad, grad_bias = _backward(grad, output, None, ctx.bias_dtype)
        return grad @ weight if need_x else None, grad.t() @ x if need_weight else None, grad_bias

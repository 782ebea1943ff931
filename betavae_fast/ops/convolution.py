"""The convolutions with kernel 4, stride 2 and padding 1 in bfloat16, with bias and ReLU, as an autograd.Function."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor

from betavae_fast.ops.backends import CPP_LIBRARY, missing
from betavae_fast.ops.gradients import needs_plain_torch
from betavae_fast.ops.operators import common_operator
from betavae_fast.ops.reference import convolution as reference


def _empty_images(x: Tensor, channels: int, height: int, width: int) -> Tensor:
    sizes = (x.shape[0], channels, height, width)
    return torch.empty(sizes, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _empty_output(a: Any) -> Tensor:
    height, width = a.x.shape[2:]
    if a.transposed:
        return _empty_images(a.x, a.weight.shape[1], 2 * height, 2 * width)
    return _empty_images(a.x, a.weight.shape[0], height // 2, width // 2)


# Both take x, and the gradient and output of y, in bfloat16 and channels_last; weight in float32 or bfloat16; bias in
# float32. The gradients of weight and bias are in float32.
_FORWARD = common_operator(reference.convolution, _empty_output)
_BACKWARD = common_operator(
    reference.convolution_backward,
    lambda a: (
        _empty_images(a.x, *a.x.shape[1:]) if a.need_x else a.x.new_empty(0),
        torch.empty_like(a.weight, dtype=torch.float32),
        a.grad.new_empty(a.grad.shape[1], dtype=torch.float32),
    ),
    results=("grad_x", "grad_weight", "grad_bias"),
)


def serves(weight: Tensor) -> bool:
    """True if this CPU has kernels for a convolution with that weight, which are faster than oneDNN's."""
    coarse, fine, *kernel = weight.shape
    return kernel == [4, 4] and _serves(coarse, fine)


@cache
def _serves(coarse: int, fine: int) -> bool:
    if missing("cpp"):
        return False
    answer = ctypes.CDLL(str(CPP_LIBRARY)).betavae_fast_convolves
    answer.restype, answer.argtypes = ctypes.c_bool, [ctypes.c_int64, ctypes.c_int64]
    return bool(answer(coarse, fine))


class ConvolutionFunction(torch.autograd.Function):
    """(x, weight, bias, transposed, relu) -> y, with the dtypes of the operators."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, transposed: bool, relu: bool) -> Tensor:
        y: Tensor = _FORWARD(x.contiguous(memory_format=torch.channels_last), weight, bias, transposed, relu)
        ctx.save_for_backward(x, weight, y if relu else None)
        ctx.transposed = transposed
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y = ctx.saved_tensors
        need_x, *_ = ctx.needs_input_grad
        if needs_plain_torch(grad):
            output = None if y is None else y.detach()
            gradients = reference.convolution_backward(grad, output, x, weight, ctx.transposed, need_x)
        else:
            x, grad = (t.contiguous(memory_format=torch.channels_last) for t in (x, grad))
            gradients = _BACKWARD(grad, y, x, weight, ctx.transposed, need_x)
        return gradients[0] if need_x else None, *gradients[1:], None, None

"""The convolutions with kernel 4, stride 2 and padding 1 in plain torch: the reference of the kernels.

An ordinary convolution halves height and width, a transposed one doubles them; bias and ReLU follow. The weight has the
shape (channels of the smaller image, channels of the larger one, 4, 4) in both.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def convolution(x: Tensor, weight: Tensor, bias: Tensor, transposed: bool, relu: bool) -> Tensor:
    convolve = F.conv_transpose2d if transposed else F.conv2d
    y = convolve(x, weight.to(x.dtype), bias.to(x.dtype), stride=2, padding=1)
    return y.relu() if relu else y


def convolution_backward(
    grad: Tensor, output: Tensor | None, x: Tensor, weight: Tensor, transposed: bool, need_x: bool
) -> tuple[Tensor, Tensor, Tensor]:
    if output is not None:
        grad = grad.masked_fill(output <= 0, 0)
    settings = ((2, 2), (1, 1), (1, 1), transposed, (0, 0), 1)
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward.default(
        grad, x, weight.to(x.dtype), None, *settings, (need_x, True, False)
    )
    return x.new_empty(0) if grad_x is None else grad_x, grad_weight.float(), grad.float().sum((0, 2, 3))

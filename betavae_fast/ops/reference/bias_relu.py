"""The bias and ReLU of a hidden layer in plain torch: the reference with which the kernels are compared.

y = max(x + b, 0), with one b for each channel, the dimension after the batch. ∂y/∂x is 1 where y > 0 and 0 elsewhere. The
gradient of b is the gradient of x summed over all other dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from betavae_fast.ops.reductions import wide


def all_but_channels(x: Tensor) -> list[int]:
    """The dimensions over which the gradient of the bias is summed."""
    return [dim for dim in range(x.dim()) if dim != 1]


def bias_relu_(x: Tensor, bias: Tensor) -> Tensor:
    x.add_(bias.view(-1, *[1] * (x.dim() - 2))).relu_()
    return x.new_zeros(1, dtype=torch.int32)


def bias_relu_backward(
    grad: Tensor, output: Tensor, counter: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    masked = grad.masked_fill(output <= 0, 0)
    return torch.empty_like(output).copy_(masked), wide(masked).sum(all_but_channels(output)).to(dtype)

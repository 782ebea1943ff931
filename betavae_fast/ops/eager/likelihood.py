"""The pixel likelihoods in plain torch, for installations without kernels.

They compute in the inputs' dtype, at least float32. The formulas are the reference's.
"""

from __future__ import annotations

from math import log, pi
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from betavae_fast.ops.eager.groups import row_groups, total
from betavae_fast.ops.operators import library
from betavae_fast.ops.reductions import LIKELIHOODS, REDUCTIONS, empty_nll, kl_dtype, widest_dtype


def _pixels(target: Tensor, packed: bool, like: Tensor) -> Tensor:
    """The target in the dtype of the computation, with the shape of ``like``."""
    dtype = kl_dtype(like.dtype)
    if packed:
        bits = target.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8, device=target.device) & 1
        return bits.flatten(1)[:, : like.shape[1:].numel()].reshape(like.shape).to(dtype)
    if target.dtype == torch.bool:
        return target.view(torch.uint8).to(dtype)  # converting bytes is several times as fast
    return target.to(dtype).div_(255) if target.dtype == torch.uint8 else target.to(dtype)


def _operands(x: Tensor, t: Tensor, likelihood: int, scale: float) -> tuple[Tensor, Tensor]:
    """The two operands of the NLL and its gradient: x and t for a Bernoulli, else (x − t) / s, twice."""
    if likelihood == LIKELIHOODS["bernoulli"]:
        return x, t
    deviation = x - t
    return (deviation,) * 2 if scale == 1 else (deviation.div_(scale),) * 2


def _dense(x: Tensor) -> Tensor:
    """``x`` without gaps in memory, because torch's vector code rounds differently from its loops over strides."""
    if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last):
        return x
    return x.clone()


def _element_nll(x: Tensor, t: Tensor, likelihood: int) -> Tensor:
    """Each pixel's NLL without its factor and its constant."""
    if likelihood == LIKELIHOODS["bernoulli"]:
        # log(1 + e^x) − x t; beyond 40 the logarithm is x to the last digit, also in float64.
        return softplus(_dense(x), threshold=40).addcmul_(x, t, value=-1)
    return x.square() if likelihood == LIKELIHOODS["gaussian"] else x.abs()


def _constant(likelihood: int, scale: float) -> float:
    """The constant of each pixel's NLL. A Bernoulli's has none."""
    return log(scale) + 0.5 * log(2 * pi) if likelihood == LIKELIHOODS["gaussian"] else log(2 * scale)


def _element_grad(
    x: Tensor, t: Tensor, likelihood: int, scratch: Tensor | None = None, has_nan: bool = True
) -> Tensor:
    """Each pixel's gradient without its factor. Writes to ``scratch``, if given, of x's size, and may overwrite x."""
    if likelihood == LIKELIHOODS["bernoulli"]:
        return torch.sigmoid(x, out=scratch).sub_(t)
    if likelihood == LIKELIHOODS["gaussian"]:
        return x
    sign = torch.sign(x, out=scratch)
    return x.clamp_(sign, sign) if has_nan else sign  # NaN, whose sign is 0, stays NaN


def _has_nan(total: Tensor) -> bool:
    """Tell whether a NaN may be among the summed terms. Off the CPU this is True, to avoid waiting for the device."""
    return total.device.type != "cpu" or bool(total.isnan())


def _broadcast(grad_nll: Tensor, decoded: Tensor, likelihood: int, scale: float, reduction: int) -> Tensor:
    """The factor that turns ``_element_grad`` into the gradient of the reduced NLL."""
    if reduction == REDUCTIONS["sample"]:
        grad_nll = grad_nll.view(-1, *(1,) * (decoded.dim() - 1))
    elif reduction == REDUCTIONS["batchmean"]:
        grad_nll = grad_nll / decoded.shape[0]
    if likelihood != LIKELIHOODS["bernoulli"]:
        grad_nll = grad_nll / scale
    return grad_nll.expand_as(decoded)


def likelihood_forward(
    decoded: Tensor,
    target: Tensor,
    packed: bool,
    likelihood: int,
    scale: float,
    reduction: int,
    need_grad: bool,
) -> tuple[Tensor, Tensor]:
    nll, sums = empty_nll(decoded, reduction), []
    for_each_row = reduction in (REDUCTIONS["none"], REDUCTIONS["sample"])
    grad = factor = None
    if need_grad:
        grad = torch.empty_like(decoded)
        factor = _broadcast(nll.new_ones(()), decoded, likelihood, scale, reduction)
    for x, t, g, out_nll, out_grad in row_groups(
        decoded, target, factor, nll if for_each_row else None, grad
    ):
        operands = _operands(x.to(nll.dtype), _pixels(t, packed, x), likelihood, scale)
        element = _element_nll(*operands, likelihood)
        if reduction == REDUCTIONS["none"]:
            out_nll.copy_(element)
        else:
            images = torch.sum(element.unsqueeze(-1), tuple(range(1, decoded.dim() + 1)), out=out_nll)
            sums.append(images.sum(dtype=widest_dtype(decoded.device)))
        if out_grad is not None:
            has_nan = likelihood == LIKELIHOODS["laplace"] and _has_nan(sums[-1])
            slope = _element_grad(*operands, likelihood, element, has_nan)
            torch.mul(slope, g, out=out_grad)
    summed = nll if for_each_row else total(sums)
    if likelihood == LIKELIHOODS["gaussian"]:
        summed.mul_(0.5)
    count = 1 if reduction == REDUCTIONS["none"] else decoded.shape[1:].numel()
    if reduction == REDUCTIONS["batchmean"]:
        summed.div_(decoded.shape[0])
    elif reduction == REDUCTIONS["sum"]:
        count *= decoded.shape[0]
    if likelihood != LIKELIHOODS["bernoulli"]:
        summed.add_(count * _constant(likelihood, scale))
    return nll.copy_(summed), decoded.new_empty(0) if grad is None else grad


def likelihood_backward(
    grad_nll: Tensor,
    decoded: Tensor,
    target: Tensor,
    packed: bool,
    likelihood: int,
    scale: float,
    reduction: int,
) -> Tensor:
    grad = torch.empty_like(decoded)
    factor = _broadcast(grad_nll, decoded, likelihood, scale, reduction)
    for x, t, g, out in row_groups(decoded, target, factor, grad):
        operands = _operands(x.to(kl_dtype(x.dtype)), _pixels(t, packed, x), likelihood, scale)
        torch.mul(_element_grad(*operands, likelihood), g, out=out)
    return grad


def likelihood_finish(grad: Tensor, grad_nll: Tensor, *inputs: Any) -> None:
    if grad_nll.item() != 1:
        grad.copy_(likelihood_backward(grad_nll, *inputs))


for _implementation in (likelihood_forward, likelihood_backward, likelihood_finish):
    library.impl(f"{_implementation.__name__}_eager", _implementation, "CompositeExplicitAutograd")

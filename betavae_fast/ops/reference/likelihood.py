"""The pixel likelihoods in plain torch: the reference with which the kernels are compared.

It computes in float64 for every dtype of the inputs, and rounds once. On a device without float64 it computes in float32.

−log p(t | x) per pixel, in nats, and its gradient with respect to x, the decoder's output:
    bernoulli  max(x, 0) − x t + log1p(exp(−|x|))      sigmoid(x) − t        x: logit
    gaussian   ½ ((x − t) / s)² + log s + ½ log 2π      (x − t) / s²          x: mean, s: standard deviation
    laplace    |x − t| / s + log 2s                     sign(x − t) / s       x: mean, s: diversity
"""

from __future__ import annotations

from math import log, pi

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from betavae_fast.ops.reductions import LIKELIHOODS, REDUCTIONS, empty_nll, stored, wide, widest_dtype


def _pixels(target: Tensor, packed: bool, like: Tensor) -> Tensor:
    """The target in the widest dtype, with the shape of ``like``."""
    if packed:
        bits = target.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8, device=target.device) & 1
        return wide(bits.flatten(1)[:, : like.shape[1:].numel()].reshape(like.shape))
    return wide(target) / 255 if target.dtype == torch.uint8 else wide(target)


def _sign(x: Tensor) -> Tensor:
    """The sign of ``x``; of NaN it is NaN, and not 0 as torch's."""
    return torch.where(x.isnan(), x, torch.sign(x))


def _element_nll(x: Tensor, t: Tensor, likelihood: int, scale: float) -> Tensor:
    if likelihood == LIKELIHOODS["bernoulli"]:
        # −|x| is written so that its derivative at 0 is 1. Thus torch finds the right derivatives of the sum there, too.
        return relu(x) - x * t + softplus(torch.where(x > 0, -x, x))
    if likelihood == LIKELIHOODS["gaussian"]:
        return 0.5 * ((x - t) / scale).square() + (log(scale) + 0.5 * log(2 * pi))
    # |x − t|, whose derivative here is 0 at 0 and NaN at NaN.
    return (x - t) * _sign(x - t).detach() / scale + log(2 * scale)


def _element_grad(x: Tensor, t: Tensor, likelihood: int, scale: float) -> Tensor:
    if likelihood == LIKELIHOODS["bernoulli"]:
        return torch.sigmoid(x) - t
    if likelihood == LIKELIHOODS["gaussian"]:
        return (x - t) / scale**2
    return _sign(x - t) / scale


def _broadcast(grad_nll: Tensor, decoded: Tensor, reduction: int) -> Tensor:
    """The gradient of each pixel's NLL, from the gradient of the reduced NLL."""
    grad_nll = wide(grad_nll)
    if reduction == REDUCTIONS["sample"]:
        return grad_nll.view(-1, *(1,) * (decoded.dim() - 1))
    return grad_nll / decoded.shape[0] if reduction == REDUCTIONS["batchmean"] else grad_nll


def likelihood_forward(
    decoded: Tensor,
    target: Tensor,
    packed: bool,
    likelihood: int,
    scale: float,
    reduction: int,
    need_grad: bool,
) -> tuple[Tensor, Tensor]:
    nll = _element_nll(wide(decoded), _pixels(target, packed, decoded), likelihood, scale)
    if reduction == REDUCTIONS["sample"]:
        nll = nll.unsqueeze(-1).flatten(1).sum(1)
    elif reduction == REDUCTIONS["batchmean"]:
        nll = nll.sum() / decoded.shape[0]
    elif reduction == REDUCTIONS["sum"]:
        nll = nll.sum()
    grad = decoded.new_empty(0)
    if need_grad:
        one = torch.ones((), dtype=widest_dtype(decoded.device), device=decoded.device)
        grad = likelihood_backward(one, decoded, target, packed, likelihood, scale, reduction)
    return stored(nll, empty_nll(decoded, reduction)), grad


def likelihood_backward(
    grad_nll: Tensor,
    decoded: Tensor,
    target: Tensor,
    packed: bool,
    likelihood: int,
    scale: float,
    reduction: int,
) -> Tensor:
    element = _element_grad(wide(decoded), _pixels(target, packed, decoded), likelihood, scale)
    return stored(element * _broadcast(grad_nll, decoded, reduction), torch.empty_like(decoded))


def likelihood_finish(
    grad: Tensor,
    grad_nll: Tensor,
    decoded: Tensor,
    target: Tensor,
    packed: bool,
    likelihood: int,
    scale: float,
    reduction: int,
) -> None:
    grad.copy_(likelihood_backward(grad_nll, decoded, target, packed, likelihood, scale, reduction))

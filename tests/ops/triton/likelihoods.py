"""Pixels for the likelihood's tests, and the exact and the plain results that measure its errors."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from betavae_fast import PackedBits
from betavae_fast.ops.reductions import LIKELIHOODS, REDUCTIONS
from betavae_fast.ops.reference import likelihood as reference
from tests.budget import reduce, wide

KINDS = ("float32", "own", "uint8", "bool", "bits")
NLL_REDUCTIONS = ("none", "sample", "batchmean", "sum")
SCALES = {"bernoulli": 1.0, "gaussian": 0.3, "laplace": 0.7}


def pixels(shape: tuple[int, ...], dtype: torch.dtype, kind: str) -> Tensor:
    """Pixels of each kind. The pixels of "bits" are still bool."""
    grey = torch.randint(256, shape, generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    if kind == "uint8":
        return grey
    return (
        grey > 127 if kind in ("bool", "bits") else (grey / 255).to(dtype if kind == "own" else torch.float32)
    )


def as_taken(target: Tensor, kind: str) -> Tensor:
    """``target`` in the form that the operators take."""
    return PackedBits.pack(target).rows if kind == "bits" else target


def settings(likelihood: str, kind: str, reduction: str) -> tuple[bool, int, float, int]:
    return kind == "bits", LIKELIHOODS[likelihood], SCALES[likelihood], REDUCTIONS[reduction]


def exact_likelihood(
    decoded: Tensor, target: Tensor, grad_nll: Tensor, likelihood: str, reduction: str
) -> tuple[object, object]:
    """The NLL and the gradient in float64."""
    arguments = (decoded.double(), target.double() if target.is_floating_point() else target)
    mode = settings(likelihood, "", reduction)
    nll, _ = reference.likelihood_forward(*arguments, *mode, False)
    return wide(nll), wide(reference.likelihood_backward(grad_nll, *arguments, *mode))


def plain_likelihood(
    decoded: Tensor, target: Tensor, grad_nll: Tensor, likelihood: str, reduction: str
) -> tuple[Tensor, Tensor]:
    """The formula as written by hand, in float32."""
    x, scale = decoded.float().requires_grad_(), SCALES[likelihood]
    t = target.float() / 255 if target.dtype == torch.uint8 else target.float()
    if likelihood == "bernoulli":
        nll = F.binary_cross_entropy_with_logits(x, t, reduction="none")
    elif likelihood == "gaussian":
        nll = 0.5 * ((x - t) / scale).square() + (math.log(scale) + 0.5 * math.log(2 * math.pi))
    else:
        nll = (x - t).abs() / scale + math.log(2 * scale)
    nll = reduce(nll, reduction)
    return nll.detach(), torch.autograd.grad(nll, x, grad_nll)[0]

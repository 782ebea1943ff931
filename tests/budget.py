"""The error budget every backend is held to: twice the plain float32 formula's error, plus one rounding.

What is exact comes from float64 (from the processor's extended precision for float64 itself); what is
tolerable comes from the formula one would write by hand, in float32 (float64 for float64 input).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

Array = np.ndarray[Any, Any]

# log σ² is drawn from each of these: the error that is allowed at 80 nats would hide everything near 0.
LOGVAR_BUCKETS = {
    "|v|<=1e-3": (-1e-3, 1e-3),
    "|v|<=0.1": (-0.1, 0.1),
    "|v|<=1": (-1.0, 1.0),
    "|v|<=4": (-4.0, 4.0),
    "|v|<=20": (-20.0, 20.0),
    "-100<=v<=80": (-100.0, 80.0),
}


# |x| of the decoder's output is at most this.
LOGIT_BUCKETS = {"|x|<=1e-3": 1e-3, "|x|<=1": 1.0, "|x|<=10": 10.0, "|x|<=100": 100.0}


class Latent(NamedTuple):
    """Everything the latent op returns, forward and backward."""

    z: Any
    kl: Any
    grad_mu: Any
    grad_logvar: Any


def wide(x: Tensor) -> Array:
    """``x`` in the precision that counts as exact beside it."""
    if x.dtype != torch.float64:
        return x.detach().double().numpy()
    if np.finfo(np.longdouble).eps >= np.finfo(np.float64).eps:
        pytest.skip("no precision beyond float64 here to measure float64 against")
    return x.detach().numpy().astype(np.longdouble)


def reduce(kl: Any, reduction: str) -> Any:
    """The reductions by their definition; ``kl`` is an array or a tensor."""
    rows = kl.reshape(kl.shape[0], -1).sum(1)
    return {
        "none": lambda: kl,
        "dim": lambda: kl.mean(0),
        "sample": lambda: rows,
        "batchmean": lambda: rows.sum() / kl.shape[0],
        "sum": lambda: rows.sum(),
    }[reduction]()


def exact_latent(
    mu: Tensor, logvar: Tensor, eps: Tensor, grad_z: Tensor, grad_kl: Tensor, reduction: str
) -> Latent:
    """The mathematics: z = μ + exp(½v) ε, KL = ½(μ² + expm1(v) − v), and their gradients by hand."""
    m, v, e, gz, gk = (
        wide(x.to(torch.float64) if mu.dtype == torch.float64 else x)
        for x in (mu, logvar, eps, grad_z, grad_kl)
    )
    if reduction == "sample":
        gk = gk.reshape(-1, *[1] * (m.ndim - 1))
    elif reduction in ("dim", "batchmean"):
        gk = gk / m.shape[0]
    sigma = np.exp(v / 2)
    # expm1(v) - v cancels even in float64 when v is small: its Taylor series does not.
    series = np.zeros_like(v)
    for k in range(15, 1, -1):
        series = (series * v + 1) / k
    excess = np.where(np.abs(v) < 0.05, series * v * v, np.expm1(v) - v)
    return Latent(
        z=m + sigma * e,
        kl=reduce((m * m + excess) / 2, reduction),
        grad_mu=gz + gk * m,
        grad_logvar=gz * sigma * e / 2 + gk * np.expm1(v) / 2,
    )


def plain_latent(
    mu: Tensor, logvar: Tensor, eps: Tensor, grad_z: Tensor, grad_kl: Tensor, reduction: str
) -> Latent:
    """What one writes by hand, in float32 whatever the input's dtype (float64 for float64)."""
    compute = torch.float64 if mu.dtype == torch.float64 else torch.float32
    m, v = (x.detach().to(compute).requires_grad_() for x in (mu, logvar))
    z = m + torch.exp(0.5 * v) * eps.to(compute)
    kl = reduce(0.5 * (m * m + torch.expm1(v) - v), reduction)
    grads = torch.autograd.grad([z, kl], [m, v], [grad_z.to(compute), grad_kl.to(compute)])
    return Latent(z.detach(), kl.detach(), *grads)


class Nll(NamedTuple):
    """Everything the likelihood op returns, forward and backward."""

    nll: Any
    grad: Any


def exact_nll(
    decoded: Tensor, pixels: Tensor, likelihood: str, scale: float, reduction: str, grad_nll: Tensor
) -> Nll:
    """The mathematics of −log p(t | x) and its gradient by x; pixels: bool, uint8 or floating point, no packed bits."""
    x, t, g = (
        wide(y.to(torch.float64) if decoded.dtype == torch.float64 else y)
        for y in (decoded, pixels, grad_nll)
    )
    if pixels.dtype == torch.uint8:
        t = t / 255
    if reduction == "sample":
        g = g.reshape(-1, *[1] * (x.ndim - 1))
    elif reduction == "batchmean":
        g = g / x.shape[0]
    s, one = x.dtype.type(scale), x.dtype.type(1)
    if likelihood == "bernoulli":
        tail = np.exp(-np.abs(x))
        nll = np.maximum(x, 0) - x * t + np.log1p(tail)
        on, off = np.where(x < 0, (tail, one + 0 * tail), (one + 0 * tail, tail)) / (1 + tail)
        grad = (1 - t) * on - t * off
    elif likelihood == "gaussian":
        nll = ((x - t) / s) ** 2 / 2 + np.log(s) + np.log(8 * np.arctan(one)) / 2
        grad = (x - t) / s**2
    else:
        nll, grad = np.abs(x - t) / s + np.log(2 * s), np.sign(x - t) / s
    return Nll(np.asarray(reduce(nll, reduction)), grad * g)


def plain_nll(
    decoded: Tensor, pixels: Tensor, likelihood: str, scale: float, reduction: str, grad_nll: Tensor
) -> Nll:
    """What one writes by hand, in float32 whatever the input's dtype (float64 for float64)."""
    compute = torch.float64 if decoded.dtype == torch.float64 else torch.float32
    x, t = decoded.detach().to(compute).requires_grad_(), pixels.to(compute)
    if pixels.dtype == torch.uint8:
        t = t / 255
    if likelihood == "bernoulli":
        nll = F.binary_cross_entropy_with_logits(x, t, reduction="none")
    elif likelihood == "gaussian":
        nll = 0.5 * ((x - t) / scale) ** 2 + (math.log(scale) + 0.5 * math.log(2 * math.pi))
    else:
        nll = (x - t).abs() / scale + math.log(2 * scale)
    nll = reduce(nll, reduction)
    return Nll(nll.detach(), *torch.autograd.grad(nll, x, grad_nll.to(compute)))


def half_ulp(exact: Array, dtype: torch.dtype) -> Array:
    """The largest error of rounding ``exact`` to ``dtype``."""
    info = torch.finfo(dtype)
    exponent = np.maximum(np.frexp(exact)[1] - 1, math.frexp(info.smallest_normal)[1] - 1)
    return np.ldexp(np.asarray(info.eps / 2, exact.dtype), exponent)


class Budget:
    """Gathers results, several trials of one kind together, and holds them to the budget."""

    def __init__(self) -> None:
        self._trials: list[tuple[Array, Array, Array, torch.dtype]] = []

    def add(self, actual: Tensor, exact: Array, plain: Tensor) -> None:
        assert actual.shape == exact.shape == plain.shape
        self._trials.append((wide(actual).ravel(), exact.ravel(), wide(plain).ravel(), actual.dtype))

    def check(self, what: str) -> None:
        """Each |actual − exact| ≤ 2 max |plain − exact| + half an ulp of exact in actual's dtype."""
        (dtype,) = {trial[3] for trial in self._trials}
        actual, exact, plain = (np.concatenate([trial[i] for trial in self._trials]) for i in range(3))
        assert np.isfinite(exact).all() and np.isfinite(plain).all(), f"{what}: nothing to measure against"
        rounding = half_ulp(exact, dtype)
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.abs(actual - exact)
            # Beyond the largest number of a narrow dtype the rounded value is infinity.
            overflows = np.abs(exact) + rounding > torch.finfo(dtype).max
            error[overflows & (actual == np.copysign(np.inf, exact))] = 0
            allowed = 2 * np.abs(plain - exact).max(initial=0) + rounding
        worst = int(np.argmax(np.where(np.isfinite(error), error - allowed, np.inf)))
        assert np.isfinite(error).all() and (error <= allowed).all(), (
            f"{what}: element {worst} is {actual[worst]!r}, exactly {exact[worst]!r}:"
            f" off by {error[worst]:.4g}, allowed {allowed[worst]:.4g}"
        )

"""The error budget of every backend: twice the error of the plain float32 formula, plus one rounding.

The exact values come from float64 (for float64 itself from the processor's extended precision). The tolerance comes from
the formula one would write by hand, in float32 (float64 for float64 input).

With few numbers that formula may be exact by luck, and the tolerance would be 0. With many numbers its error is one to
four half ulps of the largest number, so its error counts as at least three half ulps.
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

# log σ² is drawn from each of these ranges, because the error allowed at 80 nats would hide any error near 0.
LOGVAR_BUCKETS = {
    "|v|<=1e-3": (-1e-3, 1e-3),
    "|v|<=0.1": (-0.1, 0.1),
    "|v|<=1": (-1.0, 1.0),
    "|v|<=4": (-4.0, 4.0),
    "|v|<=20": (-20.0, 20.0),
    "-100<=v<=80": (-100.0, 80.0),
}


# The largest |x| of the decoder's output.
LOGIT_BUCKETS = {"|x|<=1e-3": 1e-3, "|x|<=1": 1.0, "|x|<=10": 10.0, "|x|<=100": 100.0}


class Latent(NamedTuple):
    """All results of the latent op, forward and backward."""

    z: Any
    kl: Any
    grad_mu: Any
    grad_logvar: Any


def wide(x: Tensor) -> Array:
    """Convert ``x`` to the precision that counts as exact for its dtype."""
    if x.dtype != torch.float64:
        return x.detach().double().numpy()
    if np.finfo(np.longdouble).eps >= np.finfo(np.float64).eps:
        pytest.skip("this machine has no precision beyond float64 to compare float64 with")
    return x.detach().numpy().astype(np.longdouble)


def reduce(kl: Any, reduction: str) -> Any:
    """Reduce ``kl``, an array or a tensor, by the definition of the reduction."""
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
    """The exact results: z = μ + exp(½v) ε, KL = ½(μ² + expm1(v) − v), and their gradients derived by hand."""
    m, v, e, gz, gk = (
        wide(x.to(torch.float64) if mu.dtype == torch.float64 else x)
        for x in (mu, logvar, eps, grad_z, grad_kl)
    )
    if reduction == "sample":
        gk = gk.reshape(-1, *[1] * (m.ndim - 1))
    elif reduction in ("dim", "batchmean"):
        gk = gk / m.shape[0]
    sigma = np.exp(v / 2)
    # expm1(v) - v cancels even in float64 when v is small; its Taylor series does not.
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
    """The formula as written by hand, in float32 whatever the input's dtype (float64 for float64)."""
    compute = torch.float64 if mu.dtype == torch.float64 else torch.float32
    m, v = (x.detach().to(compute).requires_grad_() for x in (mu, logvar))
    z = m + torch.exp(0.5 * v) * eps.to(compute)
    kl = reduce(0.5 * (m * m + torch.expm1(v) - v), reduction)
    grads = torch.autograd.grad([z, kl], [m, v], [grad_z.to(compute), grad_kl.to(compute)])
    return Latent(z.detach(), kl.detach(), *grads)


class Nll(NamedTuple):
    """All results of the likelihood op, forward and backward."""

    nll: Any
    grad: Any


def exact_nll(
    decoded: Tensor, pixels: Tensor, likelihood: str, scale: float, reduction: str, grad_nll: Tensor
) -> Nll:
    """The exact −log p(t | x) and its gradient by x. Pixels are bool, uint8 or floating point, no packed bits."""
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
    """The formula as written by hand, in float32 whatever the input's dtype (float64 for float64)."""
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


class LogDensities(NamedTuple):
    """All results of the log densities op, forward and backward."""

    joint: Any
    marginals: Any
    grad_z: Any
    grad_mu: Any
    grad_logvar: Any


class Parts(NamedTuple):
    """All results of ``kl_decomposition``, and the gradients of a weighted sum of them."""

    mutual_information: Any
    total_correlation: Any
    dimension_wise_kl: Any
    grad_z: Any
    grad_mu: Any
    grad_logvar: Any


def pair_weights(batch: int, dataset_size: int, estimator: str) -> Array:
    """The weights w_ij of the aggregated posterior for all samples, one by one, as defined in the paper's appendix C."""
    n, others = np.longdouble(dataset_size), np.longdouble(batch - 1)
    weights = np.empty((batch, batch), np.longdouble)
    for i in range(batch):
        for j in range(batch):
            if estimator == "mws":
                weights[i, j] = 1 / (n * batch)
            elif j == i:
                weights[i, j] = 1 / n
            elif j == (i + 1) % batch:
                weights[i, j] = (n - others) / (n * others)
            else:
                weights[i, j] = 1 / others
    return weights


def _log_mean(terms: Array, weights: Array) -> Array:
    """Compute log Σ_j w_ij exp(terms_ij…) over axis 1."""
    highest = terms.max(1, keepdims=True)
    weights = weights.reshape(weights.shape + (1,) * (terms.ndim - 2))
    return np.log((weights * np.exp(terms - highest)).sum(1)) + highest.squeeze(1)


def exact_log_densities(
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    dataset_size: int,
    estimator: str,
    grad_joint: Tensor,
    grad_marginals: Tensor,
) -> LogDensities:
    """The exact log Σ_j w_ij Π_d N(z_id; μ_jd, σ²_jd), the same for each channel, and all gradients derived by hand."""
    s, m, v, g, gd = (x.detach().double().numpy() for x in (z, mu, logvar, grad_joint, grad_marginals))
    s, m, v, g, gd = (x.astype(np.longdouble) for x in (s, m, v, g, gd))
    weights = pair_weights(len(s), dataset_size, estimator)
    normalised = (s[:, None] - m) / np.exp(v / 2)
    log_density = -(normalised**2 + v + np.log(8 * np.arctan(np.longdouble(1)))) / 2
    joint = _log_mean(log_density.sum(2), weights)
    marginals = _log_mean(log_density, weights)
    together = weights * np.exp(log_density.sum(2) - joint[:, None])
    alone = weights[:, :, None] * np.exp(log_density - marginals[:, None])
    upstream = (g[:, None] * together)[:, :, None] + gd[:, None] * alone
    slope = normalised / np.exp(v / 2)
    return LogDensities(
        joint,
        marginals,
        grad_z=-(upstream * slope).sum(1),
        grad_mu=(upstream * slope).sum(0),
        grad_logvar=(upstream * (normalised**2 - 1)).sum(0) / 2,
    )


def plain_log_densities(
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    dataset_size: int,
    estimator: str,
    grad_joint: Tensor,
    grad_marginals: Tensor,
) -> LogDensities:
    """The formula as written by hand, all B × B × D terms in float32 whatever the input's dtype (float64 for float64)."""
    compute = torch.float64 if z.dtype == torch.float64 else torch.float32
    leaves = [x.detach().to(compute).requires_grad_() for x in (z, mu, logvar)]
    outputs = _plain_densities(*leaves, dataset_size, estimator)
    grads = torch.autograd.grad(outputs, leaves, (grad_joint.to(compute), grad_marginals.to(compute)))
    return LogDensities(*(x.detach() for x in outputs), *grads)


def _plain_densities(
    z: Tensor, mu: Tensor, logvar: Tensor, dataset_size: int, estimator: str
) -> tuple[Tensor, Tensor]:
    weights = pair_weights(len(z), dataset_size, estimator).astype(np.float64)
    log_weights = torch.from_numpy(weights).log().to(z.dtype)
    log_density = _plain_log_normal(z.unsqueeze(1), mu, logvar)
    joint = torch.logsumexp(log_density.sum(2) + log_weights, 1)
    return joint, torch.logsumexp(log_density + log_weights.unsqueeze(2), 1)


def _plain_log_normal(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return -0.5 * (((z - mu) * torch.exp(-0.5 * logvar)) ** 2 + logvar + math.log(2 * math.pi))


def exact_parts(
    z: Tensor, mu: Tensor, logvar: Tensor, dataset_size: int, estimator: str, weights: tuple[float, ...]
) -> Parts:
    """The decomposition by its definition, and the gradients of ``weights`` · the three parts."""
    batch = len(z)
    mi, dw = (np.longdouble(weights[i]) / batch for i in (0, 2))
    rows = torch.full((batch,), weights[1] - weights[0], dtype=torch.float64) / batch
    columns = torch.full(z.shape, weights[2] - weights[1], dtype=torch.float64) / batch
    through = exact_log_densities(z, mu, logvar, dataset_size, estimator, rows, columns)
    s, m, v = (x.detach().double().numpy().astype(np.longdouble) for x in (z, mu, logvar))
    log_two_pi = np.log(8 * np.arctan(np.longdouble(1)))
    normalised = (s - m) / np.exp(v / 2)
    conditional = -(normalised**2 + v + log_two_pi).sum(1) / 2
    prior = -(s**2 + log_two_pi).sum(1) / 2
    product = through.marginals.sum(1)
    pull = mi * normalised / np.exp(v / 2)
    return Parts(
        (conditional - through.joint).mean(keepdims=True),
        (through.joint - product).mean(keepdims=True),
        (product - prior).mean(keepdims=True),
        grad_z=through.grad_z - pull + dw * s,
        grad_mu=through.grad_mu + pull,
        grad_logvar=through.grad_logvar + mi * (normalised**2 - 1) / 2,
    )


def plain_parts(
    z: Tensor, mu: Tensor, logvar: Tensor, dataset_size: int, estimator: str, weights: tuple[float, ...]
) -> Parts:
    """The formula as written by hand, in float32 whatever the input's dtype (float64 for float64)."""
    compute = torch.float64 if z.dtype == torch.float64 else torch.float32
    s, m, v = (x.detach().to(compute).requires_grad_() for x in (z, mu, logvar))
    joint, marginals = _plain_densities(s, m, v, dataset_size, estimator)
    product = marginals.sum(1)
    conditional = _plain_log_normal(s, m, v).sum(1)
    prior = _plain_log_normal(s, torch.zeros_like(s), torch.zeros_like(s)).sum(1)
    values = [(conditional - joint).mean(), (joint - product).mean(), (product - prior).mean()]
    total = sum(w * x for w, x in zip(weights, values, strict=True))
    grads = torch.autograd.grad(total, (s, m, v))
    return Parts(*(x.detach()[None] for x in values), *grads)


def half_ulp(exact: Array, dtype: torch.dtype) -> Array:
    """The largest error of rounding ``exact`` to ``dtype``."""
    info = torch.finfo(dtype)
    exponent = np.maximum(np.frexp(exact)[1] - 1, math.frexp(info.smallest_normal)[1] - 1)
    return np.ldexp(np.asarray(info.eps / 2, exact.dtype), exponent)


_LEAST = 3  # half ulps


class Budget:
    """The errors of several trials of one kind, compared with the budget together."""

    def __init__(self) -> None:
        self._trials: list[tuple[Array, Array, Array]] = []
        self._dtypes: set[tuple[torch.dtype, torch.dtype]] = set()

    def add(self, actual: Tensor, exact: Array, plain: Tensor) -> None:
        assert actual.shape == exact.shape == plain.shape
        self._trials.append((wide(actual).ravel(), exact.ravel(), wide(plain).ravel()))
        self._dtypes.add((actual.dtype, plain.dtype))

    def check(self, what: str) -> None:
        """Each |actual − exact| ≤ 2 max |plain − exact| + half an ulp of exact in actual's dtype.

        The maximum counts as at least three half ulps of the largest number in plain's dtype.
        """
        ((dtype, plain_dtype),) = self._dtypes
        actual, exact, plain = (np.concatenate([trial[i] for trial in self._trials]) for i in range(3))
        assert np.isfinite(exact).all() and np.isfinite(plain).all(), f"{what}: no values to compare with"
        rounding = half_ulp(exact, dtype)
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.abs(actual - exact)
            # Beyond the largest number of a narrow dtype the rounded value is infinity.
            overflows = np.abs(exact) + rounding > torch.finfo(dtype).max
            error[overflows & (actual == np.copysign(np.inf, exact))] = 0
            least = _LEAST * half_ulp(np.abs(exact).max(initial=0), plain_dtype)
            allowed = 2 * np.abs(plain - exact).max(initial=least) + rounding
        worst = int(np.argmax(np.where(np.isfinite(error), error - allowed, np.inf)))
        assert np.isfinite(error).all() and (error <= allowed).all(), (
            f"{what}: element {worst} is {actual[worst]!r}, exactly {exact[worst]!r}:"
            f" off by {error[worst]:.4g}, allowed {allowed[worst]:.4g}"
        )

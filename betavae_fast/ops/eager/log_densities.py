"""The aggregated posterior's log-densities in plain torch, for installations without kernels.

They are computed in the inputs' dtype, at least float32. The formulas are the reference's. The terms of the pairs, for a
group of rows at a time, have shape (rows, D, B): most sums and exponentials run over the contiguous posteriors.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import log, pi
from typing import Any

import torch
from torch import Tensor

from betavae_fast.ops.operators import library
from betavae_fast.ops.reductions import ESTIMATORS, kl_dtype, widest_dtype

_TERMS_AT_ONCE = 1 << 18


def _row_groups(z: Tensor, mu: Tensor) -> Iterator[slice]:
    """Groups of rows of z, small enough for the terms of their pairs to stay in the cache."""
    size = max(1, _TERMS_AT_ONCE // max(1, mu.numel()))
    return (slice(start, min(start + size, len(z))) for start in range(0, len(z), size))


def _log_weights(rows: slice, like: Tensor, first_row: int, dataset_size: int, estimator: int) -> Tensor:
    """log w_ij of these rows of z, which are numbered from ``first_row`` in the batch, for all posteriors."""
    batch = len(like)
    if estimator == ESTIMATORS["mws"]:
        return like.new_full((1, batch), -log(dataset_size * batch))
    others = batch - 1
    own = first_row + torch.arange(rows.start, rows.stop, device=like.device).unsqueeze(1)
    weights = like.new_full((len(own), batch), -log(others))
    weights.scatter_(1, (own + 1) % batch, log((dataset_size - others) / (dataset_size * others)))
    return weights.scatter_(1, own, -log(dataset_size))


def _channels_first(x: Tensor) -> Tensor:
    """``x`` transposed to (D, B), in the dtype of the computation."""
    return x.to(kl_dtype(x.dtype)).t().contiguous()


def _inverse_sigma(v: Tensor) -> Tensor:
    """1/σ, clamped to the largest finite number."""
    return torch.mul(v, -0.5).exp_().clamp_(max=torch.finfo(v.dtype).max)


def _standardised(z: Tensor, mu: Tensor, inverse: Tensor) -> Tensor:
    return (z.to(mu.dtype).contiguous().unsqueeze(2) - mu).mul_(inverse)


def _peak(v: Tensor) -> Tensor:
    """The log-density at the mean."""
    return torch.add(v, log(2 * pi)).mul_(-0.5)


def log_densities_forward(z: Tensor, mu: Tensor, logvar: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
    means, v = _channels_first(mu), _channels_first(logvar)
    inverse, peak = _inverse_sigma(v), _peak(v)
    joint, marginals = means.new_empty(z.shape[:1]), means.new_empty(z.shape)
    for rows in _row_groups(z, mu):
        weights = _log_weights(rows, means.t(), *settings)
        standardised = _standardised(z[rows], means, inverse)
        terms = torch.addcmul(peak, standardised, standardised, value=-0.5, out=standardised)
        joint[rows] = torch.logsumexp(terms.sum(1).add_(weights), 1)
        marginals[rows] = torch.logsumexp(terms.add_(weights.unsqueeze(1)), 2)
    dtype = widest_dtype(z.device)
    return joint.to(dtype), marginals.to(dtype)


def log_densities_backward(
    grad_joint: Tensor,
    grad_marginals: Tensor,
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    joint: Tensor,
    marginals: Tensor,
    *settings: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    means, v = _channels_first(mu), _channels_first(logvar)
    inverse, peak = _inverse_sigma(v), _peak(v)
    grad_z = means.new_empty(z.shape)
    grad_mu, grad_logvar = torch.zeros_like(means), torch.zeros_like(means)
    for rows in _row_groups(z, mu):
        weights = _log_weights(rows, means.t(), *settings)
        standardised = _standardised(z[rows], means, inverse)
        terms = torch.addcmul(peak, standardised, standardised, value=-0.5)
        # Responsibilities by softmax: all posteriors are at hand, and the rounding of joint and marginals does not enter.
        together = terms.sum(1).add_(weights).softmax(1).mul_(grad_joint[rows].unsqueeze(1))
        grad = terms.add_(weights.unsqueeze(1)).softmax(2)
        grad.mul_(grad_marginals[rows].unsqueeze(2)).add_(together.unsqueeze(1))
        grad_logvar -= grad.sum(0)
        pull = grad.mul_(standardised)
        grad_mu += pull.sum(0)
        grad_logvar += standardised.mul_(pull).sum(0)
        grad_z[rows] = pull.mul_(inverse).sum(2).neg_()
    return (
        grad_z.to(z.dtype),
        grad_mu.mul_(inverse).t().to(mu.dtype).contiguous(),
        grad_logvar.mul_(0.5).t().to(logvar.dtype).contiguous(),
    )


for _implementation in (log_densities_forward, log_densities_backward):
    library.impl(f"{_implementation.__name__}_eager", _implementation, "CompositeExplicitAutograd")

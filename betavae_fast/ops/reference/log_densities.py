"""The aggregated posterior's log-densities in plain torch: the reference with which the kernels are compared.

It computes in float64 for every dtype of the inputs, and rounds once. On a device without float64 it computes in float32.

q(z) = Σ_j w_ij q(z | x_j), estimated from a batch of B posteriors of a data set of N (Chen et al. 2018, appendix C):
    log q(z_i)   = logsumexp_j (log w_ij + Σ_d ℓ_ijd)
    log q(z_id)  = logsumexp_j (log w_ij + ℓ_ijd)
    ℓ_ijd = log N(z_id; μ_jd, σ²_jd) = −½ (((z_id − μ_jd) / σ_jd)² + v_jd + log 2π),  v = log σ²
    mws: w_ij = 1 / (N B)
    mss: w_ii = 1 / N, w_i,i+1 = (N − M) / (N M), all others 1 / M, with M = B − 1 and i + 1 modulo B: rows sum to 1

Gradients, with the responsibilities p_ij = exp(log w_ij + Σ_d ℓ_ijd − log q(z_i)), p_ijd likewise, and
W_ijd = g_i p_ij + g_id p_ijd, the gradient of ℓ_ijd:
    ∂z_id = −Σ_j W_ijd (z_id − μ_jd) / σ²_jd
    ∂μ_jd =  Σ_i W_ijd (z_id − μ_jd) / σ²_jd
    ∂v_jd =  ½ Σ_i W_ijd (((z_id − μ_jd) / σ_jd)² − 1)
"""

from __future__ import annotations

from collections.abc import Iterator
from math import log, pi

import torch
from torch import Tensor

from betavae_fast.ops.reductions import ESTIMATORS, wide, widest_dtype

_ELEMENTS_AT_ONCE = 1 << 22


def _row_groups(z: Tensor, mu: Tensor) -> Iterator[slice]:
    """Groups of rows of z, small enough for the terms of their pairs to fit into memory."""
    size = max(1, _ELEMENTS_AT_ONCE // max(1, mu.numel()))
    return (slice(start, min(start + size, len(z))) for start in range(0, len(z), size))


def _log_weights(rows: slice, first_row: int, like: Tensor, dataset_size: int, estimator: int) -> Tensor:
    """log w_ij of these rows of z, which are numbered from ``first_row`` in the batch, for all posteriors."""
    batch, dtype = len(like), widest_dtype(like.device)
    if estimator == ESTIMATORS["mws"]:
        return torch.full((1, batch), -log(dataset_size * batch), dtype=dtype, device=like.device)
    others = batch - 1
    own = (first_row + torch.arange(rows.start, rows.stop, device=like.device)).unsqueeze(1)
    number = torch.arange(batch, device=like.device)
    rest = log((dataset_size - others) / (dataset_size * others))
    weights = torch.full((len(own), batch), -log(others), dtype=dtype, device=like.device)
    return weights.masked_fill(number == (own + 1) % batch, rest).masked_fill(
        number == own, -log(dataset_size)
    )


def _standardised(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """(z_id − μ_jd) / σ_jd, with 1/σ clamped to the largest finite number."""
    inverse = torch.exp(-0.5 * logvar)
    # Not by ``clamp``, whose gradient at NaN is 0.
    inverse = inverse.masked_fill(inverse.isinf(), torch.finfo(logvar.dtype).max)
    return (z.unsqueeze(1) - mu) * inverse


def _log_density(standardised: Tensor, logvar: Tensor) -> Tensor:
    return -0.5 * (standardised.square() + logvar + log(2 * pi))


def log_densities_forward(
    z: Tensor, mu: Tensor, logvar: Tensor, first_row: int, dataset_size: int, estimator: int
) -> tuple[Tensor, Tensor]:
    wide_z, wide_mu, wide_logvar = wide(z), wide(mu), wide(logvar)
    joint, marginals = [wide_z.new_empty(0)], [wide_z.new_empty(0, z.shape[1])]
    for rows in _row_groups(z, mu):
        terms = _log_density(_standardised(wide_z[rows], wide_mu, wide_logvar), wide_logvar)
        weights = _log_weights(rows, first_row, mu, dataset_size, estimator)
        joint.append(torch.logsumexp(terms.sum(2) + weights, 1))
        marginals.append(torch.logsumexp(terms + weights.unsqueeze(2), 1))
    return torch.cat(joint), torch.cat(marginals)


def log_densities_backward(
    grad_joint: Tensor,
    grad_marginals: Tensor,
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    joint: Tensor,
    marginals: Tensor,
    first_row: int,
    dataset_size: int,
    estimator: int,
) -> tuple[Tensor, Tensor, Tensor]:
    wide_z, wide_mu, wide_logvar = wide(z), wide(mu), wide(logvar)
    precision = torch.exp(-wide_logvar).clamp(max=torch.finfo(wide_logvar.dtype).max)
    grad_z = [wide_z.new_empty(0, z.shape[1])]
    grad_mu, grad_logvar = torch.zeros_like(wide_mu), torch.zeros_like(wide_mu)
    for rows in _row_groups(z, mu):
        standardised = _standardised(wide_z[rows], wide_mu, wide_logvar)
        terms = _log_density(standardised, wide_logvar)
        weights = _log_weights(rows, first_row, mu, dataset_size, estimator)
        together = torch.exp(terms.sum(2) + weights - joint[rows].unsqueeze(1))
        alone = torch.exp(terms + weights.unsqueeze(2) - marginals[rows].unsqueeze(1))
        grad = (grad_joint[rows].unsqueeze(1) * together).unsqueeze(2)
        grad = grad + grad_marginals[rows].unsqueeze(1) * alone
        pull = grad * ((wide_z[rows].unsqueeze(1) - wide_mu) * precision)
        grad_z.append(-pull.sum(1))
        grad_mu = grad_mu + pull.sum(0)
        grad_logvar = grad_logvar + 0.5 * (grad * (standardised.square() - 1)).sum(0)
    return (
        torch.cat(grad_z).to(z.dtype),
        grad_mu.to(mu.dtype).contiguous(),
        grad_logvar.to(logvar.dtype).contiguous(),
    )

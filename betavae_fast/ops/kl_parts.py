"""The parts of the KL, given the aggregated posterior's log-densities, as one operator forward and one backward.

With N(x) = −½ (x² + log 2π) and the standardised sample n = (z − μ) / σ, the parts are means over the rows of
    mutual information  Σ_d (N(n) − ½ v) − log q(z)          v = log σ²
    total correlation   log q(z) − Σ_d log q(z_d)
    dimension-wise KL   Σ_d (log q(z_d) − N(z)).
The gradients that do not pass through log q, with g = (g_MI, g_TC, g_DW) divided by the number of rows:
    ∂z = −g_MI n / σ + g_DW z    ∂μ = g_MI n / σ    ∂v = ½ g_MI (n² − 1).

This code is plain torch, which any device runs. Triton replaces it on a GPU (``ops/triton/kl_parts.py``), where its about
sixty launches would take longer than all pairs of a batch.
"""

from __future__ import annotations

from math import log, pi

import torch
from torch import Tensor

from betavae_fast.ops.operators import common_operator
from betavae_fast.ops.reductions import kl_dtype, wide

# Below these, 1/σ in float32 and 1/σ² in float64, as the kernels compute them, would come close to overflow.
SMALLEST_LOGVAR = {torch.float32: -150.0, torch.float64: -690.0}
_LOG_2PI = log(2 * pi)


def kl_parts(z: Tensor, mu: Tensor, logvar: Tensor, joint: Tensor, marginals: Tensor) -> Tensor:
    """(mutual information, total correlation, dimension-wise KL), shape (3,).

    Args:
        z, mu, logvar: (B, D); ``logvar`` is clamped to at least ``SMALLEST_LOGVAR``.
        joint: log q(z), (B,), in the widest dtype of the device.
        marginals: log q(z_d), (B, D), in the same dtype.
    """
    return parts_of_clamped(z, mu, logvar.clamp(min=SMALLEST_LOGVAR[z.dtype]), joint, marginals)


def parts_of_clamped(z: Tensor, mu: Tensor, logvar: Tensor, joint: Tensor, marginals: Tensor) -> Tensor:
    """``kl_parts`` of a ``logvar`` that is already clamped."""
    wide_z, wide_mu, wide_logvar = wide(z), wide(mu), wide(logvar)
    standardised = (wide_z - wide_mu) * torch.exp(-0.5 * wide_logvar)
    conditional = -0.5 * (standardised.square() + wide_logvar + _LOG_2PI).sum(1)
    prior = -0.5 * (wide_z.square() + _LOG_2PI).sum(1)
    product = marginals.sum(1)
    return torch.stack((conditional - joint, joint - product, product - prior)).mean(1).to(kl_dtype(z.dtype))


def kl_parts_backward(
    grad: Tensor,
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    grad_z: Tensor,
    grad_mu: Tensor | None,
    grad_logvar: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The complete gradients of z, μ and log σ²: the last three arguments, which came through log q, plus the rest.

    Args:
        grad: gradient of the parts, (3,).
        grad_mu, grad_logvar: None if log q is made of other posteriors than ``mu`` and ``logvar``.
    """
    floor = SMALLEST_LOGVAR[z.dtype]
    of_information, _, of_dimensions = wide(grad / len(z)).unbind()
    wide_z, wide_logvar = wide(z), wide(logvar).clamp(min=floor)
    inverse = torch.exp(-0.5 * wide_logvar)
    standardised = (wide_z - wide(mu)) * inverse
    pull = standardised * inverse * of_information
    of_logvar = 0.5 * of_information * (standardised.square() - 1)
    if grad_logvar is not None:
        of_logvar = of_logvar + grad_logvar
    return (
        (grad_z + (of_dimensions * wide_z - pull)).to(z.dtype),
        (pull if grad_mu is None else grad_mu + pull).to(mu.dtype),
        of_logvar.to(logvar.dtype).masked_fill(logvar < floor, 0),
    )


PARTS = common_operator(kl_parts, lambda a: a.z.new_empty(3, dtype=kl_dtype(a.z.dtype)))
PARTS_BACKWARD = common_operator(
    kl_parts_backward,
    lambda a: tuple(x.new_empty(x.shape) for x in (a.z, a.mu, a.logvar)),
    results=("grad_z", "grad_mu", "grad_logvar"),
)

"""The latent op in plain torch: the reference with which the kernels are compared.

It computes in float64 for every dtype of the inputs, and rounds once. On a device without float64 it computes in float32.

z = μ + exp(½v) ε,  v = log σ²
KL per element ½ (μ² + expm1(v) − v), in nats (Kingma & Welling 2014, appendix B, arranged so that cancellation cannot
make it negative)
∂z/∂μ = 1, ∂z/∂v = ½ σ ε, ∂KL/∂μ = μ, ∂KL/∂v = ½ expm1(v)
"""

from __future__ import annotations

import torch
from torch import Tensor

from betavae_fast.noise import normals
from betavae_fast.ops.reductions import REDUCTIONS, empty_kl, kl_dtype, stored, wide, widest_dtype


def _noise(mu: Tensor, rng: Tensor | None, noise: Tensor | None, first_row: int) -> Tensor:
    if noise is not None:
        return wide(noise)
    assert rng is not None
    if widest_dtype(rng.device) != torch.float64:
        rng = rng.cpu()
    row = mu.shape[1:].numel()
    return wide(normals(rng, first_row * row, mu.numel()).view(mu.shape).to(mu.device))


def _clamped(logvar: Tensor, logvar_min: float, logvar_max: float) -> Tensor:
    """Clamp in float32 as the kernels do, because the rounding of a bound decides which values lie beyond it.

    Not by ``clamp``, whose gradient at NaN is 0.
    """
    v = logvar.to(kl_dtype(logvar.dtype))
    return wide(v.masked_fill(v < logvar_min, logvar_min).masked_fill(v > logvar_max, logvar_max))


def _sample(mu: Tensor, v: Tensor, eps: Tensor) -> Tensor:
    return stored(wide(mu) + torch.exp(0.5 * v) * eps, torch.empty_like(mu))


def _excess(v: Tensor) -> Tensor:
    """½ (expm1(v) − v) ≥ 0; infinite, not NaN, if expm1(v) is infinite."""
    excess = 0.5 * torch.expm1(v) - 0.5 * v.masked_fill(v > 1e3, 1e3)
    return excess.masked_fill(excess < 0, 0)


def _kl(mu: Tensor, v: Tensor, reduction: int) -> Tensor:
    kl = 0.5 * wide(mu).square() + _excess(v)
    if reduction == REDUCTIONS["dim"]:
        kl = kl.mean(0)
    elif reduction == REDUCTIONS["sample"]:
        kl = kl.unsqueeze(-1).flatten(1).sum(1)
    elif reduction == REDUCTIONS["batchmean"]:
        kl = kl.sum() / mu.shape[0]
    elif reduction == REDUCTIONS["sum"]:
        kl = kl.sum()
    return stored(kl, empty_kl(mu, reduction))


def latent_forward(
    mu: Tensor,
    logvar: Tensor,
    rng: Tensor | None,
    noise: Tensor | None,
    first_row: int,
    logvar_min: float,
    logvar_max: float,
    reduction: int,
) -> tuple[Tensor, Tensor]:
    v = _clamped(logvar, logvar_min, logvar_max)
    return _sample(mu, v, _noise(mu, rng, noise, first_row)), _kl(mu, v, reduction)


def latent_sample(
    mu: Tensor,
    logvar: Tensor,
    rng: Tensor | None,
    noise: Tensor | None,
    first_row: int,
    logvar_min: float,
    logvar_max: float,
) -> Tensor:
    return _sample(mu, _clamped(logvar, logvar_min, logvar_max), _noise(mu, rng, noise, first_row))


def latent_kl(mu: Tensor, logvar: Tensor, logvar_min: float, logvar_max: float, reduction: int) -> Tensor:
    return _kl(mu, _clamped(logvar, logvar_min, logvar_max), reduction)


def _element_grad(grad_kl: Tensor, mu: Tensor, reduction: int) -> Tensor:
    """The gradient of each element's KL, from the gradient of the reduced KL."""
    grad_kl = wide(grad_kl)
    if reduction == REDUCTIONS["sample"]:
        return grad_kl.view(-1, *(1,) * (mu.dim() - 1))
    return grad_kl / mu.shape[0] if reduction in (REDUCTIONS["dim"], REDUCTIONS["batchmean"]) else grad_kl


def latent_backward(
    grad_z: Tensor | None,
    grad_kl: Tensor | None,
    mu: Tensor,
    logvar: Tensor,
    rng: Tensor | None,
    noise: Tensor | None,
    first_row: int,
    logvar_min: float,
    logvar_max: float,
    reduction: int,
    need_mu: bool,
    need_logvar: bool,
) -> tuple[Tensor, Tensor]:
    v = _clamped(logvar, logvar_min, logvar_max)
    grad_mu = grad_logvar = torch.zeros((), dtype=widest_dtype(mu.device), device=mu.device)
    if grad_z is not None:
        grad_mu = wide(grad_z)
        if need_logvar:
            grad_logvar = grad_mu * (0.5 * torch.exp(0.5 * v) * _noise(mu, rng, noise, first_row))
    if grad_kl is not None:
        element = _element_grad(grad_kl, mu, reduction)
        grad_mu = grad_mu + element * wide(mu)
        grad_logvar = grad_logvar + element * (0.5 * torch.expm1(v))
    unclamped = logvar.to(kl_dtype(logvar.dtype))
    outside = (unclamped < logvar_min) | (unclamped > logvar_max)
    return (
        stored(grad_mu, torch.empty_like(mu)) if need_mu else mu.new_empty(0),
        stored(grad_logvar.expand_as(v).masked_fill(outside, 0), torch.empty_like(logvar))
        if need_logvar
        else logvar.new_empty(0),
    )


def latent_backward_packed(
    grad_z: Tensor | None,
    grad_kl: Tensor | None,
    packed: Tensor,
    rng: Tensor | None,
    noise: Tensor | None,
    first_row: int,
    logvar_min: float,
    logvar_max: float,
    reduction: int,
) -> Tensor:
    mu, logvar = packed.chunk(2, 1)
    settings = (first_row, logvar_min, logvar_max, reduction)
    grads = latent_backward(grad_z, grad_kl, mu, logvar, rng, noise, *settings, True, True)
    return stored(torch.cat(grads, 1), torch.empty_like(packed))

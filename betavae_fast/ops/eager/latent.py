"""The latent op in plain torch, for installations without kernels. It computes in the inputs' dtype, at least float32.

The formulas are the reference's, except expm1(v) − v, which cancels near v = 0 in float32. With s = v clamped to ±⅛:
    expm1(v) − v = (expm1(s) − s) + (expm1(v) − expm1(s)) − (v − s)    expm1(s) − s = ½ s² (1 + s/3 (1 + s/4 (1 + …)))
Within ±⅛ the last two differences are exactly 0, because expm1(s) is expm1(v) clamped. The relative error in float32 is
up to 2.2e-6, and 1.8e-7 for an almost unused channel. A mask that chooses between two formulas would take as many steps.
"""

from __future__ import annotations

from math import expm1, inf
from typing import Any

import torch
from torch import Tensor

from betavae_fast.ops.eager.groups import row_groups, total
from betavae_fast.ops.eager.noise import latent_noise
from betavae_fast.ops.operators import library
from betavae_fast.ops.reductions import REDUCTIONS, empty_kl, kl_dtype

# The relative error of the series is 7e-7 up to s/5 and 1e-17 up to s/11.
_NEAR, _LAST = 0.125, {torch.float32: 5, torch.float64: 11}


def _noise(mu: Tensor, rng: Tensor | None, noise: Tensor | None, first_row: int) -> Tensor:
    if noise is not None:
        return noise
    assert rng is not None
    return latent_noise(mu, rng, first_row)


def _as(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x.to(dtype)``, not called if the dtype is right, because the call takes time even then."""
    return x if x.dtype == dtype else x.to(dtype)


def _working(x: Tensor) -> Tensor:
    """``x`` in the dtype of the computation."""
    return _as(x, kl_dtype(x.dtype))


def _clamped(logvar: Tensor, logvar_min: float, logvar_max: float) -> Tensor:
    v = _working(logvar)
    return v if (logvar_min, logvar_max) == (-inf, inf) else v.clamp(logvar_min, logvar_max)


def _sigma(v: Tensor) -> Tensor:
    return torch.mul(v, 0.5).exp_()


def _twice_kl(mu: Tensor, v: Tensor) -> Tensor:
    """μ² + expm1(v) − v."""
    s = v.clamp(-_NEAR, _NEAR)
    one = s.new_ones(())
    series = torch.add(one, s, alpha=1 / _LAST[v.dtype])
    for k in range(_LAST[v.dtype] - 1, 2, -1):
        torch.addcmul(one, s, series, value=1 / k, out=series)
    twice = torch.expm1(v)
    twice.sub_(twice.clamp(expm1(-_NEAR), expm1(_NEAR))).sub_(v).add_(s)
    return twice.addcmul_(series.mul_(s), s, value=0.5).addcmul_(mu, mu)


def latent_sample(
    mu: Tensor,
    logvar: Tensor,
    rng: Tensor | None,
    noise: Tensor | None,
    first_row: int,
    logvar_min: float,
    logvar_max: float,
) -> Tensor:
    z = torch.empty_like(mu)
    for m, v, eps, out in row_groups(mu, logvar, _noise(mu, rng, noise, first_row), z):
        sigma = _sigma(_clamped(v, logvar_min, logvar_max))
        torch.addcmul(_working(m), sigma, _as(eps, sigma.dtype), out=out)
    return z


def latent_kl(mu: Tensor, logvar: Tensor, logvar_min: float, logvar_max: float, reduction: int) -> Tensor:
    kl, sums = empty_kl(mu, reduction), []
    for_each_row = reduction in (REDUCTIONS["none"], REDUCTIONS["sample"])
    for m, v, out in row_groups(mu, logvar, kl if for_each_row else None):
        twice = _twice_kl(_working(m), _clamped(v, logvar_min, logvar_max))
        if reduction == REDUCTIONS["none"]:
            torch.mul(twice, 0.5, out=out)
        elif reduction == REDUCTIONS["sample"]:
            torch.sum(twice.unsqueeze(-1), tuple(range(1, mu.dim() + 1)), out=out).mul_(0.5)
        else:
            sums.append(twice.sum(0) if reduction == REDUCTIONS["dim"] else twice.sum())
    if sums:
        mean = reduction != REDUCTIONS["sum"]
        torch.div(total(sums), 2 * mu.shape[0] if mean else 2, out=kl)
    return kl


def latent_forward(mu: Tensor, logvar: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
    return latent_sample(mu, logvar, *settings[:-1]), latent_kl(mu, logvar, *settings[-3:])


def _element_grad(grad_kl: Tensor, mu: Tensor, reduction: int) -> Tensor:
    """The gradient of each element's KL, from the gradient of the reduced KL; equal values are not repeated."""
    if reduction == REDUCTIONS["sample"]:
        return grad_kl.view(-1, *(1,) * (mu.dim() - 1))
    return grad_kl / mu.shape[0] if reduction in (REDUCTIONS["dim"], REDUCTIONS["batchmean"]) else grad_kl


def _write_gradients(
    grad_mu: Tensor | None,
    grad_logvar: Tensor | None,
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
) -> None:
    """Write ∂μ = ∂z + μ ∂KL and ∂v = ½ (σ ε ∂z + expm1(v) ∂KL) into ``grad_mu`` and ``grad_logvar`` if not None."""
    eps = whole = half = None
    if grad_z is not None and grad_logvar is not None:
        eps = _noise(mu, rng, noise, first_row)
    if grad_kl is not None:
        element = _element_grad(grad_kl, mu, reduction)
        whole, half = element.expand_as(mu), (0.5 * element).expand_as(mu)
    for m, v, of_z, of_kl, half_of_kl, e, out_mu, out_v in row_groups(
        mu, logvar, grad_z, whole, half, eps, grad_mu, grad_logvar
    ):
        if out_mu is not None:
            if of_kl is None:
                out_mu.copy_(of_z)
            elif of_z is None:
                torch.mul(_working(m), of_kl, out=out_mu)
            else:
                torch.addcmul(_working(of_z), _working(m), of_kl, out=out_mu)
        if out_v is not None:
            v = _clamped(v, logvar_min, logvar_max)
            if of_z is None:
                torch.mul(torch.expm1(v), half_of_kl, out=out_v)
            else:
                slope = v.new_zeros(()) if half_of_kl is None else torch.expm1(v).mul_(half_of_kl)
                torch.addcmul(slope, _sigma(v).mul_(e), _working(of_z), value=0.5, out=out_v)
    if grad_logvar is not None and (logvar_min, logvar_max) != (-inf, inf):
        unclamped = _working(logvar)
        grad_logvar.masked_fill_((unclamped < logvar_min) | (unclamped > logvar_max), 0)


def latent_backward(
    grad_z: Tensor | None, grad_kl: Tensor | None, mu: Tensor, logvar: Tensor, *arguments: Any
) -> tuple[Tensor, Tensor]:
    *settings, need_mu, need_logvar = arguments
    grad_mu = torch.empty_like(mu) if need_mu else None
    grad_logvar = torch.empty_like(logvar) if need_logvar else None
    _write_gradients(grad_mu, grad_logvar, grad_z, grad_kl, mu, logvar, *settings)
    return (
        mu.new_empty(0) if grad_mu is None else grad_mu,
        logvar.new_empty(0) if grad_logvar is None else grad_logvar,
    )


def latent_backward_packed(
    grad_z: Tensor | None, grad_kl: Tensor | None, packed: Tensor, *settings: Any
) -> Tensor:
    grad = torch.empty_like(packed)
    (grad_mu, grad_logvar), (mu, logvar) = grad.chunk(2, 1), packed.chunk(2, 1)
    _write_gradients(grad_mu, grad_logvar, grad_z, grad_kl, mu, logvar, *settings)
    return grad


for _implementation in (latent_forward, latent_sample, latent_kl, latent_backward, latent_backward_packed):
    library.impl(f"{_implementation.__name__}_eager", _implementation, "CompositeExplicitAutograd")

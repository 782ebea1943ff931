"""The latent op's autograd.Functions: they hold the inputs and the noise's name, never the noise itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from betavae_fast.ops.schemas import BACKENDS, NAMESPACE, REDUCTIONS


def _handles(op: str) -> dict[str, Any]:
    return {b: getattr(getattr(torch.ops, NAMESPACE), f"{op}_{b}").default for b in BACKENDS}


_FORWARD, _SAMPLE, _KL, _BACKWARD = map(
    _handles, ("latent_forward", "latent_sample", "latent_kl", "latent_backward")
)


def _backward(ctx: Any, grad_z: Tensor | None, grad_kl: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    mu, logvar, rng, noise = ctx.saved_tensors
    need_mu, need_logvar = ctx.needs_input_grad[:2]
    if grad_z is None and grad_kl is None:
        return None, None
    grad_mu, grad_logvar = _BACKWARD[ctx.backend](
        grad_z, grad_kl, mu, logvar, rng, noise, *ctx.settings, need_mu, need_logvar
    )
    return grad_mu if need_mu else None, grad_logvar if need_logvar else None


class LatentForward(torch.autograd.Function):
    """(mu, logvar) -> (z, kl), in one pass."""

    @staticmethod
    def forward(ctx, mu, logvar, rng, noise, first_row, logvar_min, logvar_max, reduction, backend):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(mu, logvar, rng, noise)
        ctx.backend, ctx.settings = backend, (first_row, logvar_min, logvar_max, reduction)
        ctx.set_materialize_grads(False)
        return _FORWARD[backend](mu, logvar, rng, noise, first_row, logvar_min, logvar_max, reduction)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_z, grad_kl):  # type: ignore[no-untyped-def]
        return *_backward(ctx, grad_z, grad_kl), None, None, None, None, None, None, None


class LatentSample(torch.autograd.Function):
    """(mu, logvar) -> z."""

    @staticmethod
    def forward(ctx, mu, logvar, rng, noise, first_row, logvar_min, logvar_max, backend):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(mu, logvar, rng, noise)
        ctx.backend, ctx.settings = backend, (first_row, logvar_min, logvar_max, REDUCTIONS["none"])
        ctx.set_materialize_grads(False)
        return _SAMPLE[backend](mu, logvar, rng, noise, first_row, logvar_min, logvar_max)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_z):  # type: ignore[no-untyped-def]
        return *_backward(ctx, grad_z, None), None, None, None, None, None, None


class LatentKl(torch.autograd.Function):
    """(mu, logvar) -> kl."""

    @staticmethod
    def forward(ctx, mu, logvar, logvar_min, logvar_max, reduction, backend):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(mu, logvar, None, None)
        ctx.backend, ctx.settings = backend, (0, logvar_min, logvar_max, reduction)
        ctx.set_materialize_grads(False)
        return _KL[backend](mu, logvar, logvar_min, logvar_max, reduction)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_kl):  # type: ignore[no-untyped-def]
        return *_backward(ctx, None, grad_kl), None, None, None, None

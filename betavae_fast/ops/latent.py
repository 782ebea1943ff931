"""The autograd.Functions of the latent op.

They save the inputs and the seed of the noise. The noise itself is saved only for a backend in which drawing it again
would take longer than everything else. ``settings`` are the operators' (first_row, logvar_min, logvar_max, reduction).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from betavae_fast.ops.operators import Operator
from betavae_fast.ops.reductions import empty_kl
from betavae_fast.ops.reference import latent as reference


def _empty_gradients(a: Any) -> tuple[Tensor, Tensor]:
    """A gradient that is not needed is returned without elements."""
    return (
        torch.empty_like(a.mu) if a.need_mu else a.mu.new_empty(0),
        torch.empty_like(a.logvar) if a.need_logvar else a.logvar.new_empty(0),
    )


# rng is (seed, stream), int64[2] on the inputs' device; noise, if given, replaces it.
FORWARD = Operator(
    reference.latent_forward,
    lambda a: (torch.empty_like(a.mu), empty_kl(a.mu, a.reduction)),
    results=("z", "kl"),
)
SAMPLE = Operator(reference.latent_sample, lambda a: torch.empty_like(a.mu))
KL = Operator(reference.latent_kl, lambda a: empty_kl(a.mu, a.reduction))
BACKWARD = Operator(reference.latent_backward, _empty_gradients, results=("grad_mu", "grad_logvar"))
# packed (B, 2 C, ...) and its gradient hold mu, then logvar, along dimension 1.
BACKWARD_PACKED = Operator(reference.latent_backward_packed, lambda a: torch.empty_like(a.packed))


def _held(
    backend: str, mu: Tensor, rng: Tensor | None, noise: Tensor | None, first_row: int
) -> tuple[Tensor | None, Tensor | None]:
    """The (rng, noise) that forward uses and saves for backward."""
    if rng is None or backend != "eager":
        return rng, noise
    return None, torch.ops.betavae_fast.latent_noise_eager.default(mu, rng, first_row)


def _twice() -> bool:
    """Tell whether the gradients are to be differentiated again (create_graph=True).

    Then the reference computes them: called as plain torch code, it is differentiable to any order.
    """
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _backward(ctx: Any, grad_z: Tensor | None, grad_kl: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_z is None and grad_kl is None:
        return None, None, None, None, None, None
    need_mu, need_logvar, *_ = ctx.needs_input_grad
    backward: Any = reference.latent_backward if _twice() else BACKWARD[ctx.backend]
    grad_mu, grad_logvar = backward(grad_z, grad_kl, *ctx.saved_tensors, *ctx.settings, need_mu, need_logvar)
    return grad_mu if need_mu else None, grad_logvar if need_logvar else None, None, None, None, None


class LatentForward(torch.autograd.Function):
    """(mu, logvar, rng, noise, settings, backend) -> (z, kl), in one pass."""

    @staticmethod
    def forward(ctx, mu, logvar, rng, noise, settings, backend):  # type: ignore[no-untyped-def]
        rng, noise = _held(backend, mu, rng, noise, settings[0])
        ctx.save_for_backward(mu, logvar, rng, noise)
        ctx.settings, ctx.backend = settings, backend
        ctx.set_materialize_grads(False)
        return FORWARD[backend](mu, logvar, rng, noise, *settings)

    @staticmethod
    def backward(ctx, grad_z, grad_kl):  # type: ignore[no-untyped-def]
        return _backward(ctx, grad_z, grad_kl)


class LatentForwardPacked(torch.autograd.Function):
    """(packed, rng, noise, settings, backend) -> (z, kl): LatentForward of the halves of dimension 1.

    It writes one gradient, whereas autograd would concatenate those of the halves.
    """

    @staticmethod
    def forward(ctx, packed, rng, noise, settings, backend):  # type: ignore[no-untyped-def]
        mu, logvar = packed.chunk(2, 1)
        rng, noise = _held(backend, mu, rng, noise, settings[0])
        ctx.save_for_backward(packed, rng, noise)
        ctx.settings, ctx.backend = settings, backend
        ctx.set_materialize_grads(False)
        return FORWARD[backend](mu, logvar, rng, noise, *settings)

    @staticmethod
    def backward(ctx, grad_z, grad_kl):  # type: ignore[no-untyped-def]
        if grad_z is None and grad_kl is None:
            return None, None, None, None, None
        backward: Any = reference.latent_backward_packed if _twice() else BACKWARD_PACKED[ctx.backend]
        return backward(grad_z, grad_kl, *ctx.saved_tensors, *ctx.settings), None, None, None, None


class LatentSample(torch.autograd.Function):
    """(mu, logvar, rng, noise, settings, backend) -> z."""

    @staticmethod
    def forward(ctx, mu, logvar, rng, noise, settings, backend):  # type: ignore[no-untyped-def]
        rng, noise = _held(backend, mu, rng, noise, settings[0])
        ctx.save_for_backward(mu, logvar, rng, noise)
        ctx.settings, ctx.backend = settings, backend
        ctx.set_materialize_grads(False)
        return SAMPLE[backend](mu, logvar, rng, noise, *settings[:3])

    @staticmethod
    def backward(ctx, grad_z):  # type: ignore[no-untyped-def]
        return _backward(ctx, grad_z, None)


class LatentKl(torch.autograd.Function):
    """(mu, logvar, None, None, settings, backend) -> kl."""

    @staticmethod
    def forward(ctx, mu, logvar, rng, noise, settings, backend):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(mu, logvar, rng, noise)
        ctx.settings, ctx.backend = settings, backend
        ctx.set_materialize_grads(False)
        return KL[backend](mu, logvar, *settings[1:])

    @staticmethod
    def backward(ctx, grad_kl):  # type: ignore[no-untyped-def]
        return _backward(ctx, None, grad_kl)

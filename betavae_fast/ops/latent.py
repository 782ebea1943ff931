"""The autograd.Functions of the latent op, and the functions that apply them.

What an autograd.Function saves are the inputs and the seed of the noise. The noise itself is saved only for a backend in
which drawing it again would take longer than everything else. ``settings`` are the operators' (first_row, logvar_min,
logvar_max, reduction).
"""

from __future__ import annotations

from math import inf
from typing import Any

import torch
from torch import Tensor

from betavae_fast.ops.gradients import differentiated_twice, transformed
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


def _gradients(
    ctx: Any, grad_z: Tensor | None, grad_kl: Tensor | None, *inputs: Any
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of mu and logvar, each unless it is not needed. ``inputs`` are the operator's further arguments."""
    if grad_z is None and grad_kl is None:
        return None, None
    need_mu, need_logvar, *_ = ctx.needs_input_grad
    backward: Any = reference.latent_backward if differentiated_twice() else BACKWARD[ctx.backend]
    grad_mu, grad_logvar = backward(grad_z, grad_kl, *inputs, need_mu, need_logvar)
    return grad_mu if need_mu else None, grad_logvar if need_logvar else None


class LatentForwardFunction(torch.autograd.Function):
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
        gradients = _gradients(ctx, grad_z, grad_kl, *ctx.saved_tensors, *ctx.settings)
        return *gradients, None, None, None, None


class LatentForwardPackedFunction(torch.autograd.Function):
    """(packed, rng, noise, settings, backend) -> (z, kl): LatentForwardFunction of the halves of dimension 1.

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
        backward: Any = (
            reference.latent_backward_packed if differentiated_twice() else BACKWARD_PACKED[ctx.backend]
        )
        return backward(grad_z, grad_kl, *ctx.saved_tensors, *ctx.settings), None, None, None, None


class LatentSampleFunction(torch.autograd.Function):
    """(mu, logvar, rng, noise, settings, backend) -> z."""

    @staticmethod
    def forward(ctx, mu, logvar, rng, noise, settings, backend):  # type: ignore[no-untyped-def]
        rng, noise = _held(backend, mu, rng, noise, settings[0])
        ctx.save_for_backward(mu, logvar, rng, noise)
        ctx.settings, ctx.backend = settings, backend
        ctx.set_materialize_grads(False)
        return SAMPLE[backend](mu, logvar, rng, noise, *settings[:-1])

    @staticmethod
    def backward(ctx, grad_z):  # type: ignore[no-untyped-def]
        gradients = _gradients(ctx, grad_z, None, *ctx.saved_tensors, *ctx.settings)
        return *gradients, None, None, None, None


class LatentKlFunction(torch.autograd.Function):
    """(mu, logvar, settings, backend) -> kl; settings are KL's (logvar_min, logvar_max, reduction)."""

    @staticmethod
    def forward(ctx, mu, logvar, settings, backend):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(mu, logvar)
        ctx.settings, ctx.backend = settings, backend
        ctx.set_materialize_grads(False)
        return KL[backend](mu, logvar, *settings)

    @staticmethod
    def backward(ctx, grad_kl):  # type: ignore[no-untyped-def]
        return *_gradients(ctx, None, grad_kl, *ctx.saved_tensors, None, None, 0, *ctx.settings), None, None


Settings = tuple[int, float, float, int]


def latent_forward(
    mu: Tensor, logvar: Tensor, rng: Tensor | None, noise: Tensor | None, settings: Settings, backend: str
) -> tuple[Tensor, Tensor]:
    """(z, kl), differentiable with respect to ``mu`` and ``logvar``."""
    if transformed():
        noise = _drawn(mu, rng, noise, settings, backend)
        return reference.latent_forward(mu, logvar, None, noise, *settings)
    return LatentForwardFunction.apply(mu, logvar, rng, noise, settings, backend)


def latent_forward_packed(
    packed: Tensor, rng: Tensor | None, noise: Tensor | None, settings: Settings, backend: str
) -> tuple[Tensor, Tensor]:
    """(z, kl), differentiable with respect to ``packed``."""
    if transformed():
        mu, logvar = packed.chunk(2, 1)
        return latent_forward(mu, logvar, rng, noise, settings, backend)
    return LatentForwardPackedFunction.apply(packed, rng, noise, settings, backend)


def latent_sample(
    mu: Tensor, logvar: Tensor, rng: Tensor | None, noise: Tensor | None, settings: Settings, backend: str
) -> Tensor:
    """z, differentiable with respect to ``mu`` and ``logvar``."""
    if transformed():
        noise = _drawn(mu, rng, noise, settings, backend)
        return reference.latent_sample(mu, logvar, None, noise, *settings[:-1])
    return LatentSampleFunction.apply(mu, logvar, rng, noise, settings, backend)


def latent_kl(mu: Tensor, logvar: Tensor, settings: tuple[float, float, int], backend: str) -> Tensor:
    """The KL, differentiable with respect to ``mu`` and ``logvar``."""
    if transformed():
        return reference.latent_kl(mu, logvar, *settings)
    return LatentKlFunction.apply(mu, logvar, settings, backend)


def _drawn(mu: Tensor, rng: Tensor | None, noise: Tensor | None, settings: Settings, backend: str) -> Tensor:
    """The noise itself: the given one, or the sample of N(0, I) that the backend draws for each ``rng`` of a batch.

    It has no derivative, and if drawn it is float32 for every dtype of ``mu``.
    """
    if noise is not None:
        return noise.detach()
    standard = torch.zeros(mu.shape, device=mu.device)
    return SAMPLE[backend](standard, standard, rng, None, settings[0], -inf, inf)

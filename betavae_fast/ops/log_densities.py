"""The autograd.Function of the KL's parts. It saves the aggregated posterior's log-densities, never the B × B terms.

``settings`` are the operators' (first_row, dataset_size, estimator).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from betavae_fast.ops.gradients import differentiated_twice, transformed
from betavae_fast.ops.kl_parts import (
    PARTS,
    PARTS_BACKWARD,
    SMALLEST_LOGVAR,
    kl_parts_backward,
    parts_of_clamped,
)
from betavae_fast.ops.operators import Operator
from betavae_fast.ops.reductions import widest_dtype
from betavae_fast.ops.reference import log_densities as reference


def _empty_logs(a: Any) -> tuple[Tensor, Tensor]:
    dtype = widest_dtype(a.z.device)
    return a.z.new_empty(a.z.shape[:1], dtype=dtype), a.z.new_empty(a.z.shape, dtype=dtype)


# z (b, D) is compared with the posteriors mu, logvar (B, D) of a whole batch, in which z's own begin at first_row.
# joint (b,) and marginals (b, D) are log q(z) and log q(z_d), in float64 if the device has it: backward subtracts them
# from terms of hundreds of nats, of which an ulp in float32 is 1e-5 of a responsibility. Results are contiguous.
FORWARD = Operator(reference.log_densities_forward, _empty_logs, results=("joint", "marginals"))
BACKWARD = Operator(
    reference.log_densities_backward,
    lambda a: tuple(x.new_empty(x.shape) for x in (a.z, a.mu, a.logvar)),
    results=("grad_z", "grad_mu", "grad_logvar"),
)


class KLPartsFunction(torch.autograd.Function):
    """(z, mu, logvar, all_mu, all_logvar, settings, backend) -> parts, as ``ops/kl_parts.py`` defines them.

    all_mu, all_logvar: the posteriors that q is made of, if they differ from z's own; else None.
    """

    @staticmethod
    def forward(ctx, z, mu, logvar, all_mu, all_logvar, settings, backend):  # type: ignore[no-untyped-def]
        posteriors_mu = mu if all_mu is None else all_mu
        posteriors_logvar = _clamped(logvar if all_logvar is None else all_logvar)
        joint, marginals = FORWARD[backend](z, posteriors_mu, posteriors_logvar, *settings)
        ctx.save_for_backward(z, mu, logvar, all_mu, all_logvar, posteriors_logvar, joint, marginals)
        ctx.settings, ctx.backend = settings, backend
        return PARTS(z, mu, logvar, joint, marginals)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        z, mu, logvar, all_mu, all_logvar, posteriors_logvar, joint, marginals = ctx.saved_tensors
        posteriors_mu = mu if all_mu is None else all_mu
        backward, parts_backward = BACKWARD[ctx.backend], PARTS_BACKWARD
        if differentiated_twice():
            backward, parts_backward = reference.log_densities_backward, kl_parts_backward
            # The saved ones do not depend on the inputs.
            posteriors_logvar = _clamped(logvar if all_logvar is None else all_logvar)
            joint, marginals = reference.log_densities_forward(
                z, posteriors_mu, posteriors_logvar, *ctx.settings
            )
        of_joint, of_marginals = ((grad[1:] - grad[:-1]) / len(z)).to(joint.dtype).unbind()
        grad_z, *of_posteriors = backward(
            of_joint.expand_as(joint),
            of_marginals.expand_as(marginals),
            z,
            posteriors_mu,
            posteriors_logvar,
            joint,
            marginals,
            *ctx.settings,
        )
        if all_mu is None:
            return *parts_backward(grad, z, mu, logvar, grad_z, *of_posteriors), None, None, None, None
        of_all_mu, of_all_logvar = of_posteriors
        of_all_logvar = of_all_logvar.masked_fill(all_logvar < SMALLEST_LOGVAR[z.dtype], 0)
        of_own = parts_backward(grad, z, mu, logvar, grad_z, None, None)
        return *of_own, of_all_mu, of_all_logvar, None, None


def _clamped(logvar: Tensor) -> Tensor:
    return logvar.clamp(min=SMALLEST_LOGVAR[logvar.dtype])


def _formula(
    settings: tuple[int, int, int],
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    all_mu: Tensor | None,
    all_logvar: Tensor | None,
) -> Tensor:
    """The parts in plain torch code. It clamps not by ``clamp``, whose gradient at NaN is 0."""
    floor = SMALLEST_LOGVAR[z.dtype]
    clamped = logvar.masked_fill(logvar < floor, floor)
    all_clamped = clamped if all_logvar is None else all_logvar.masked_fill(all_logvar < floor, floor)
    logs: Any = reference.log_densities_forward(z, mu if all_mu is None else all_mu, all_clamped, *settings)
    return parts_of_clamped(z, mu, clamped, *logs)


def decomposed_kl(
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    all_mu: Tensor | None,
    all_logvar: Tensor | None,
    settings: tuple[int, int, int],
    backend: str,
) -> Tensor:
    """The parts of the KL, differentiable with respect to every tensor; arguments as for the autograd.Function."""
    if transformed():
        return _formula(settings, z, mu, logvar, all_mu, all_logvar)
    parts: Tensor = KLPartsFunction.apply(z, mu, logvar, all_mu, all_logvar, settings, backend)
    return parts

"""The latent operators in Triton: the choice of tiles, the launches, and the sum of the programs' partial sums."""

# mypy: disable-error-code="import-untyped,no-untyped-call"
from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from betavae_fast.ops.reductions import REDUCTIONS, empty_kl
from betavae_fast.ops.triton import latent_kernels as kernels
from betavae_fast.ops.triton.plans import Plan, contiguous, plan, stride, through_contiguous
from betavae_fast.ops.triton.registration import refuse_float64, register
from betavae_fast.ops.triton.sums import ABSENT, DIM, NONE, SAMPLE, PartialSums, summed

_MEANS = (REDUCTIONS["dim"], REDUCTIONS["batchmean"])


@dataclass(frozen=True)
class _Call:
    """The arguments that the operators share. rng and noise None: no sample. ``reduction`` ABSENT: no KL."""

    mu: Tensor
    logvar: Tensor
    rng: Tensor | None
    noise: Tensor | None
    first_row: int
    low: float
    high: float
    reduction: int = ABSENT.value

    @property
    def averaged(self) -> int:
        """The number of rows over which the KL is averaged; 1 for sums."""
        return self.mu.shape[0] if self.reduction in _MEANS else 1

    @property
    def first_element(self) -> int:
        """The index of the first element's noise in the sequence."""
        return self.first_row * self.mu.shape[1:].numel()

    def contiguous(self) -> _Call:
        return replace(
            self, mu=self.mu.contiguous(), logvar=self.logvar.contiguous(), noise=contiguous(self.noise)
        )

    def plan(
        self, *others: Tensor | None, drawn: bool, by_element: bool, shared: int | None = None
    ) -> Plan | None:
        """The plan for mu, logvar, noise and ``others``; see :func:`plan`."""
        return plan(
            self.mu.shape,
            [stride(x) for x in (self.mu, self.logvar, self.noise, *others)],
            self.mu.element_size(),
            by_element=by_element,
            first_noise=self.first_element if drawn else None,
            shared=shared,
        )

    def launch(
        self, kernel: Any, chosen: Plan, tensors: tuple[Tensor | None, ...], factor: float, **options: Any
    ) -> None:
        """Launch a kernel. tensors: what it takes after mu, logvar, noise and rng; factor: its last argument."""
        count = self.mu.numel()
        kernel[(chosen.partition.programs,)](
            *(self.mu, self.logvar, self.noise, self.rng, *tensors),
            *(0 if self.rng is None else self.rng.stride(0), self.first_element, *chosen.arguments(count)),
            *(self.low, self.high, factor),
            KL=summed(self.reduction),
            CLAMP=self.low > -float("inf") or self.high < float("inf"),
            PHASED=chosen.phased,
            RUN=max(4, chosen.unit),
            **options,
            **chosen.options(count),
        )


def _forward(call: _Call, z: Tensor | None, kl: Tensor | None) -> None:
    """Write the sample and the KL, each unless it is None."""
    if call.mu.numel() == 0:
        if kl is not None:
            # A mean over no rows is NaN, as in torch.mean; a sum is 0.
            kl.fill_(float("nan") if call.averaged == 0 else 0.0)
        return
    reduction = summed(call.reduction)
    chosen = call.plan(
        z,
        kl if reduction == NONE.value else None,
        drawn=z is not None and call.noise is None,
        by_element=reduction in (ABSENT.value, NONE.value),
    )
    if chosen is None:
        return through_contiguous(partial(_forward, call.contiguous()), (z, kl))
    sums = None if kl is None else PartialSums(kl, chosen.partition, reduction)
    with torch.cuda.device_of(call.mu):
        call.launch(
            kernels.latent_forward,
            chosen,
            (z, None if sums is None else sums.memory),
            float(call.averaged),
            FINAL=sums is None or sums.count == 1,
            **chosen.sum_options(),
        )
        if sums is not None:
            sums.finish(call.averaged)


def latent_forward(mu: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
    refuse_float64("latent_forward", mu)
    call = _Call(mu, *settings)
    z, kl = torch.empty_like(mu), empty_kl(mu, call.reduction)
    _forward(call, z, kl)
    return z, kl


def latent_sample(mu: Tensor, *settings: Any) -> Tensor:
    refuse_float64("latent_sample", mu)
    z = torch.empty_like(mu)
    _forward(_Call(mu, *settings), z, None)
    return z


def latent_kl(mu: Tensor, logvar: Tensor, *settings: Any) -> Tensor:
    refuse_float64("latent_kl", mu)
    call = _Call(mu, logvar, None, None, 0, *settings)
    kl = empty_kl(mu, call.reduction)
    _forward(call, None, kl)
    return kl


def _shared_grad(grad_kl: Tensor | None, call: _Call) -> Tensor | None:
    """The gradient of a column's or a row's KL, expanded to its elements."""
    if grad_kl is None or call.reduction not in (DIM.value, SAMPLE.value):
        return None
    if call.reduction == SAMPLE.value:
        grad_kl = grad_kl[(..., *(None,) * (call.mu.dim() - 1))]
    return grad_kl.expand(call.mu.shape)


def _backward(
    call: _Call,
    grad_z: Tensor | None,
    grad_kl: Tensor | None,
    to_mu: Tensor | None,
    to_logvar: Tensor | None,
) -> None:
    """Write the gradients, each unless it is None."""
    if call.mu.numel() == 0 or (to_mu is None and to_logvar is None):
        return
    if grad_z is None and grad_kl is None:
        for output in (to_mu, to_logvar):
            if output is not None:
                output.zero_()
        return
    if grad_kl is None:
        call = replace(call, reduction=ABSENT.value)
    if grad_z is None or to_logvar is None:
        # Only the gradient of log σ² that comes through z depends on the noise.
        call = replace(call, rng=None, noise=None)
    shared = _shared_grad(grad_kl, call)
    each = grad_kl if call.reduction == NONE.value else shared
    chosen = call.plan(
        *(grad_z, each, to_mu, to_logvar),
        drawn=call.rng is not None,
        by_element=shared is None,
        shared=None if shared is None else 4,
    )
    if chosen is None:
        write = partial(_backward, call.contiguous(), contiguous(grad_z), contiguous(grad_kl))
        return through_contiguous(write, (to_mu, to_logvar))
    with torch.cuda.device_of(call.mu):
        tensors = grad_z, grad_kl, to_mu, to_logvar
        call.launch(kernels.latent_backward, chosen, tensors, 1.0 / call.averaged)


def latent_backward(
    grad_z: Tensor | None, grad_kl: Tensor | None, mu: Tensor, *arguments: Any
) -> tuple[Tensor, Tensor]:
    refuse_float64("latent_backward", mu)
    logvar, *settings, need_mu, need_logvar = arguments
    grad_mu = torch.empty_like(mu) if need_mu else mu.new_empty(0)
    grad_logvar = torch.empty_like(logvar) if need_logvar else logvar.new_empty(0)
    results = grad_mu if need_mu else None, grad_logvar if need_logvar else None
    _backward(_Call(mu, logvar, *settings), grad_z, grad_kl, *results)
    return grad_mu, grad_logvar


def latent_backward_packed(
    grad_z: Tensor | None, grad_kl: Tensor | None, packed: Tensor, *settings: Any
) -> Tensor:
    refuse_float64("latent_backward_packed", packed)
    grad = torch.empty_like(packed)
    mu, logvar = packed.chunk(2, 1)
    _backward(_Call(mu, logvar, *settings), grad_z, grad_kl, *grad.chunk(2, 1))
    return grad


register(latent_forward, latent_sample, latent_kl, latent_backward, latent_backward_packed)

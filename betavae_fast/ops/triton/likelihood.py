"""The likelihood operators in Triton: the choice of tiles, the launches, and the sum of the programs' partial sums."""

# mypy: disable-error-code="import-untyped,no-untyped-call"
from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from math import log, pi
from typing import Any

import torch
from torch import Tensor

from betavae_fast.ops.reductions import LIKELIHOODS, REDUCTIONS, empty_nll
from betavae_fast.ops.triton import likelihood_kernels as kernels
from betavae_fast.ops.triton.plans import Plan, plan, row_major, stride, through_contiguous
from betavae_fast.ops.triton.registration import refuse_float64, register
from betavae_fast.ops.triton.sums import NONE, SAMPLE, SUM, PartialSums, summed


@dataclass(frozen=True)
class _Call:
    """The arguments that the operators share."""

    decoded: Tensor
    target: Tensor
    packed: bool
    likelihood: int
    scale: float
    reduction: int

    @property
    def averaged(self) -> int:
        """The number of images over which the NLL is averaged; 1 for sums."""
        return self.decoded.shape[0] if self.reduction == REDUCTIONS["batchmean"] else 1

    @property
    def constant(self) -> float:
        """The logarithm of the density's normaliser."""
        if self.likelihood == LIKELIHOODS["bernoulli"]:
            return 0.0
        if self.likelihood == LIKELIHOODS["laplace"]:
            return log(2 * self.scale)
        return log(self.scale) + 0.5 * log(2 * pi)

    def contiguous(self) -> _Call:
        return replace(self, decoded=self.decoded.contiguous(), target=self.target.contiguous())

    def plan(self, *others: Tensor | None, by_element: bool, shared: int | None = None) -> Plan | None:
        """The plan for decoded, target and ``others``; see :func:`plan`.

        Dimensions after the batch are taken in the order in which ``decoded`` has them in memory. The results do not
        depend on this order, and tensors of one memory format can be read as if they were contiguous.
        """
        shape, apart = self.decoded.shape, self.decoded.stride()
        order = (0, *sorted(range(1, len(shape)), key=lambda dim: -apart[dim]))
        # A packed target is a tensor of bits, whose rows begin at whole bytes.
        of_target = (
            (8 * self.target.stride(0), *row_major(shape)[1:]) if self.packed else self.target.stride()
        )
        return plan(
            [shape[dim] for dim in order],
            [
                None if s is None else [s[dim] for dim in order]
                for s in (apart, of_target, *map(stride, others))
            ],
            self.decoded.element_size(),
            by_element=by_element,
            shared=shared,
        )

    def launch(
        self,
        kernel: Any,
        chosen: Plan,
        tensors: tuple[Tensor | None, ...],
        factors: tuple[float, ...],
        **options: Any,
    ) -> None:
        """Launch a kernel. tensors: what it takes after decoded and target; factors: its arguments after 1 / scale."""
        count = self.decoded.numel()
        kernel[(chosen.partition.programs,)](
            *(self.decoded, self.target, *tensors, *chosen.arguments(count), 1.0 / self.scale, *factors),
            LIKELIHOOD=self.likelihood,
            BITS=self.packed,
            **options,
            **chosen.options(count),
        )


def _forward(call: _Call, nll: Tensor, grad: Tensor | None) -> None:
    """Write the NLL and, unless ``grad`` is None, its gradient."""
    if call.decoded.numel() == 0:
        nll.fill_(float("nan") if call.averaged == 0 else 0.0)
        return
    reduction = summed(call.reduction)
    chosen = call.plan(nll if reduction == NONE.value else None, grad, by_element=reduction != SAMPLE.value)
    if chosen is None:
        return through_contiguous(partial(_forward, call.contiguous()), (nll, grad))
    sums = PartialSums(nll, chosen.partition, reduction)
    with torch.cuda.device_of(call.decoded):
        call.launch(
            kernels.likelihood_forward,
            chosen,
            (sums.memory, grad),
            (call.constant, 1.0 / call.averaged, float(call.averaged)),
            NLL=reduction,
            FINAL=sums.count == 1,
            **chosen.sum_options(),
        )
        sums.finish(call.averaged)


def likelihood_forward(decoded: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    refuse_float64("likelihood_forward", decoded)
    *settings, need_grad = arguments
    call = _Call(decoded, *settings)
    nll = empty_nll(decoded, call.reduction)
    grad = torch.empty_like(decoded) if need_grad else decoded.new_empty(0)
    _forward(call, nll, grad if need_grad else None)
    return nll, grad


def _backward(call: _Call, grad_nll: Tensor, finish: bool, grad: Tensor) -> None:
    """Write ``grad``. finish: leave it as it is if ``grad_nll`` is 1."""
    if call.decoded.numel() == 0:
        return
    # An expanded number, such as the gradient of a sum, counts as one number.
    reduction = summed(call.reduction) if any(grad_nll.stride()) else SUM.value
    by_row = reduction == SAMPLE.value
    each = grad_nll if reduction == NONE.value else None
    if by_row:
        each = grad_nll[(..., *(None,) * (call.decoded.dim() - 1))].expand(call.decoded.shape)
    chosen = call.plan(each, grad, by_element=not by_row, shared=2 if by_row else None)
    if chosen is None:
        write = partial(_backward, call.contiguous(), grad_nll.contiguous(), False)
        return through_contiguous(write, (grad,))
    with torch.cuda.device_of(call.decoded):
        call.launch(
            kernels.likelihood_backward,
            chosen,
            (grad_nll, grad),
            (1.0 / call.averaged,),
            NLL=reduction,
            FINISH=finish and reduction == SUM.value,
        )


def likelihood_backward(grad_nll: Tensor, decoded: Tensor, *settings: Any) -> Tensor:
    refuse_float64("likelihood_backward", decoded)
    grad = torch.empty_like(decoded)
    _backward(_Call(decoded, *settings), grad_nll, False, grad)
    return grad


def likelihood_finish(grad: Tensor, grad_nll: Tensor, decoded: Tensor, *settings: Any) -> None:
    refuse_float64("likelihood_finish", decoded)
    _backward(_Call(decoded, *settings), grad_nll, True, grad)


register(likelihood_forward, likelihood_backward, likelihood_finish)

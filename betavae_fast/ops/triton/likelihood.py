"""The likelihood operators in Triton: the choice of tiles, the launches, and the sum of the programs' shares."""

# mypy: disable-error-code="import-untyped,no-untyped-call"
from __future__ import annotations

from math import log, pi
from typing import Any

import torch
import triton
from torch import Tensor

from betavae_fast.ops.operators import library
from betavae_fast.ops.reductions import LIKELIHOODS, REDUCTIONS, empty_nll
from betavae_fast.ops.triton import likelihood_kernels as kernels
from betavae_fast.ops.triton import sums
from betavae_fast.ops.triton.layouts import Layout, are_flat, layout, row_major
from betavae_fast.ops.triton.numerics import INTERPRETED
from betavae_fast.ops.triton.tiles import Tiling, flat_tiling, row_tiling

_BY_ELEMENT, _BY_ROW, _IN_ALL = (mode.value for mode in (sums.BY_ELEMENT, sums.BY_ROW, sums.IN_ALL))
_MODES = {
    REDUCTIONS["none"]: _BY_ELEMENT,
    REDUCTIONS["sample"]: _BY_ROW,
    REDUCTIONS["batchmean"]: _IN_ALL,
    REDUCTIONS["sum"]: _IN_ALL,
}
_NOWHERE = (0, 0, 0)


def _check_dtype(op: str, decoded: Tensor) -> None:
    if decoded.dtype == torch.float64:
        raise TypeError(
            f"{op}: the triton backend computes in float32, got {decoded.dtype};"
            ' use backend="reference", or "cpp" on a CPU'
        )


def _constant(likelihood: int, scale: float) -> float:
    """The logarithm of the density's normaliser."""
    if likelihood == LIKELIHOODS["bernoulli"]:
        return 0.0
    return log(2 * scale) if likelihood == LIKELIHOODS["laplace"] else log(scale) + 0.5 * log(2 * pi)


def _batch(decoded: Tensor, reduction: int) -> int:
    """The number of images over which the reduction averages."""
    return decoded.shape[0] if reduction == REDUCTIONS["batchmean"] else 1


def _plan(
    decoded: Tensor, target: Tensor, packed: bool, others: list[Tensor], by_row: bool
) -> tuple[Tiling, Layout | None]:
    """(tiles, places of the elements of decoded, target and ``others``).

    Dimensions after the batch are taken in the order in which ``decoded`` has them in memory. The results do not depend
    on this order, and tensors of one memory format can be read as if they were contiguous.
    """
    apart = decoded.stride()
    order = (0, *sorted(range(1, decoded.dim()), key=lambda dim: -apart[dim]))
    shape = [decoded.shape[dim] for dim in order]
    # A packed target is a tensor of bits, whose rows begin at whole bytes.
    of_target = (8 * target.stride(0), *row_major(decoded.shape)[1:]) if packed else target.stride()
    strides = [[n[dim] for dim in order] for n in (apart, of_target, *(t.stride() for t in others))]
    count = decoded.numel()
    if not by_row and are_flat(shape, strides):
        cut = flat_tiling(count, phased=False)
    else:
        cut = row_tiling(shape[0], count // shape[0])
    return cut, layout(shape, strides, None, 8 if decoded.element_size() == 2 else 4, cut)


def likelihood_forward(
    decoded: Tensor,
    target: Tensor,
    packed: bool,
    likelihood: int,
    scale: float,
    reduction: int,
    need_grad: bool,
) -> tuple[Tensor, Tensor]:
    _check_dtype("likelihood_forward", decoded)
    nll = empty_nll(decoded, reduction)
    grad = torch.empty_like(decoded) if need_grad else decoded.new_empty(0)
    count, batch = decoded.numel(), _batch(decoded, reduction)
    if count == 0:
        return nll.fill_(0.0 if batch else float("nan")), grad
    mode = _MODES[reduction]
    by_element, to_grad = nll if mode == _BY_ELEMENT else None, grad if need_grad else None
    others = [t for t in (by_element, to_grad) if t is not None]
    cut, place = _plan(decoded, target, packed, others, mode == _BY_ROW)
    if place is None:
        settings = (packed, likelihood, scale, reduction, need_grad)
        dense = likelihood_forward(decoded.contiguous(), target.contiguous(), *settings)
        return nll.copy_(dense[0]), grad.copy_(dense[1])
    parts = {_BY_ROW: cut.panels, _IN_ALL: cut.programs}.get(mode, 1)
    shares = nll if parts == 1 else nll.new_empty(parts * nll.numel())
    strides = iter(place.strides)
    with torch.cuda.device_of(decoded):
        kernels.likelihood_forward[(cut.programs,)](
            decoded,
            target,
            shares,
            to_grad,
            *place.arguments(cut, count),
            *(
                n
                for t in (decoded, target, by_element, to_grad)
                for n in (_NOWHERE if t is None else next(strides))
            ),
            1.0 / scale,
            _constant(likelihood, scale),
            1.0 / batch,
            float(batch),
            LIKELIHOOD=likelihood,
            BITS=packed,
            NLL=mode,
            FINAL=parts == 1,
            GAPLESS=cut.width == cut.block,
            ROWS=triton.next_power_of_2(cut.tile_rows),
            COLS=triton.next_power_of_2(min(cut.cols, cut.block)),
            **place.options(cut, count),
        )
        if parts > 1:
            sums.launch_sum_parts(shares, nll, parts, nll.numel(), 1, parts, batch)
    return nll, grad


def _write_grad(
    finish: bool,
    grad: Tensor,
    grad_nll: Tensor,
    decoded: Tensor,
    target: Tensor,
    packed: bool,
    likelihood: int,
    scale: float,
    reduction: int,
) -> None:
    """Write ``grad``. finish: leave it as it is if ``grad_nll`` is 1."""
    count = decoded.numel()
    if count == 0:
        return
    # An expanded number, such as the gradient of a sum, counts as one number.
    mode = _MODES[reduction] if any(grad_nll.stride()) else _IN_ALL
    by_element = grad_nll if mode == _BY_ELEMENT else None
    others = [t for t in (by_element, grad) if t is not None]
    cut, place = _plan(decoded, target, packed, others, mode == _BY_ROW)
    if place is None:
        dense = likelihood_backward(
            grad_nll.contiguous(),
            decoded.contiguous(),
            target.contiguous(),
            packed,
            likelihood,
            scale,
            reduction,
        )
        grad.copy_(dense)
        return
    strides = iter(place.strides)
    of_operand: list[tuple[int, ...]] = [
        _NOWHERE if t is None else next(strides) for t in (decoded, target, by_element, grad)
    ]
    if mode == _BY_ROW:
        of_operand[2] = (grad_nll.stride(0), 0, 0)
    with torch.cuda.device_of(decoded):
        kernels.likelihood_backward[(cut.programs,)](
            decoded,
            target,
            grad_nll,
            grad,
            *place.arguments(cut, count),
            *(n for strides in of_operand for n in strides),
            1.0 / scale,
            1.0 / _batch(decoded, reduction),
            LIKELIHOOD=likelihood,
            BITS=packed,
            NLL=mode,
            FINISH=finish and mode == _IN_ALL,
            **place.options(cut, count),
        )


def likelihood_backward(grad_nll: Tensor, decoded: Tensor, *settings: Any) -> Tensor:
    _check_dtype("likelihood_backward", decoded)
    grad = torch.empty_like(decoded)
    _write_grad(False, grad, grad_nll, decoded, *settings)
    return grad


def likelihood_finish(grad: Tensor, grad_nll: Tensor, decoded: Tensor, *settings: Any) -> None:
    _check_dtype("likelihood_finish", decoded)
    _write_grad(True, grad, grad_nll, decoded, *settings)


for _implementation in (likelihood_forward, likelihood_backward, likelihood_finish):
    for _key in ("CUDA", "CPU") if INTERPRETED.value else ("CUDA",):
        library.impl(f"{_implementation.__name__}_triton", _implementation, _key)

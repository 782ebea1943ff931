"""The latent operators in Triton: the choice of tiles, the launches, and the sum of the programs' shares."""

# mypy: disable-error-code="import-untyped,no-untyped-call"
from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from betavae_fast.ops.operators import library
from betavae_fast.ops.reductions import REDUCTIONS, empty_kl
from betavae_fast.ops.triton import latent_kernels as kernels
from betavae_fast.ops.triton import sums
from betavae_fast.ops.triton.layouts import Layout, are_flat, layout
from betavae_fast.ops.triton.numerics import INTERPRETED
from betavae_fast.ops.triton.sums import launch_sum_parts
from betavae_fast.ops.triton.tiles import Tiling, flat_tiling, row_tiling

_BY_ELEMENT, _BY_COL, _BY_ROW, _IN_ALL = (
    mode.value for mode in (sums.BY_ELEMENT, sums.BY_COL, sums.BY_ROW, sums.IN_ALL)
)
_MODES = {
    REDUCTIONS["none"]: _BY_ELEMENT,
    REDUCTIONS["dim"]: _BY_COL,
    REDUCTIONS["sample"]: _BY_ROW,
    REDUCTIONS["batchmean"]: _IN_ALL,
    REDUCTIONS["sum"]: _IN_ALL,
}
_NO_KL = kernels.NO_KL.value
_MEANS = (REDUCTIONS["dim"], REDUCTIONS["batchmean"])
_NOWHERE = (0, 0, 0)


def _check_dtype(op: str, mu: Tensor) -> None:
    if mu.dtype == torch.float64:
        raise TypeError(
            f"{op}: the triton backend computes in float32, got {mu.dtype};"
            ' use backend="reference", or "cpp" on a CPU'
        )


@dataclass(frozen=True)
class _Call:
    """The arguments that the operators share. ``reduction`` None: no KL. rng and noise None: no sample."""

    mu: Tensor
    logvar: Tensor
    rng: Tensor | None
    noise: Tensor | None
    first_row: int
    low: float
    high: float
    reduction: int | None

    @property
    def mode(self) -> int:
        return _NO_KL if self.reduction is None else _MODES[self.reduction]

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
            self, mu=self.mu.contiguous(), logvar=self.logvar.contiguous(), noise=_contiguous(self.noise)
        )


def _contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def _contiguous_like(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.new_empty(x.shape)


class _Plan(NamedTuple):
    """The tiles of a launch, and the places of their elements in each operand."""

    cut: Tiling
    place: Layout
    phased: bool  # tiles begin within a Philox block
    strides: tuple[int, ...]  # three for each operand

    def options(self, call: _Call) -> dict[str, Any]:
        """The arguments that choose the variant of a kernel and its launch."""
        return {
            "CLAMP": call.low > -float("inf") or call.high < float("inf"),
            "PHASED": self.phased,
            "RUN": max(4, self.place.unit),
            **self.place.options(self.cut, call.mu.numel()),
        }


def _plan(
    call: _Call,
    operands: tuple[Tensor | None, ...],
    by_element: bool,
    drawn: bool,
    shared: Tensor | None = None,
) -> _Plan | None:
    """The plan for ``operands``, which have mu's shape; None if no layout fits them all.

    Args:
        by_element: nothing is summed by row or column, so that rows need not be told apart.
        drawn: the noise is drawn, not given.
        shared: an operand that is expanded along rows or columns. Its place in ``operands``, the last but two, holds
            None.
    """
    mu, strides = call.mu, [t.stride() for t in operands if t is not None]
    phased = drawn and call.first_element % 4 != 0
    if by_element and are_flat(mu.shape, strides):
        cut = flat_tiling(mu.numel(), phased)
    else:
        cut = row_tiling(mu.shape[0], mu.shape[1:].numel())
        phased |= drawn and cut.tile_rows * cut.cols % 4 != 0
    run = 8 if mu.element_size() == 2 else 4
    place = layout(mu.shape, strides, None if shared is None else shared.stride(), run, cut)
    if place is None:
        return None
    if phased:
        place = place.by_element()
    found = iter(place.strides)
    each = [_NOWHERE if t is None else next(found) for t in operands]
    if shared is not None:
        each[-3] = place.shared_strides
    return _Plan(cut, place, phased, tuple(chain.from_iterable(each)))


def _forward(call: _Call, z: Tensor | None, kl: Tensor | None) -> None:
    """Write the sample and the KL, each unless it is None."""
    mu, mode, count = call.mu, call.mode, call.mu.numel()
    if count == 0:
        if kl is not None:
            # A mean over no rows is NaN, as in torch.mean; a sum is 0.
            kl.fill_(float("nan") if call.averaged == 0 else 0.0)
        return
    each_kl = kl if mode == _BY_ELEMENT else None
    plan = _plan(
        call,
        (mu, call.logvar, call.noise, z, each_kl),
        by_element=mode in (_NO_KL, _BY_ELEMENT),
        drawn=z is not None and call.noise is None,
    )
    if plan is None:
        dense = _contiguous_like(z), _contiguous_like(kl)
        _forward(call.contiguous(), *dense)
        _copy_back((z, kl), dense)
        return
    cut = plan.cut
    parts = {_BY_COL: cut.chunks, _BY_ROW: cut.panels, _IN_ALL: cut.programs}.get(mode, 1)
    shares = kl if kl is None or parts == 1 else kl.new_empty(parts * kl.numel())
    with torch.cuda.device_of(mu):
        kernels.latent_forward[(cut.programs,)](
            mu,
            call.logvar,
            call.noise,
            call.rng,
            z,
            shares,
            0 if call.rng is None else call.rng.stride(0),
            call.first_element,
            *plan.place.arguments(cut, count),
            *plan.strides,
            call.low,
            call.high,
            float(call.averaged),
            KL=mode,
            FINAL=parts == 1,
            GAPLESS=cut.width == cut.block and not plan.phased,
            ROWS=triton.next_power_of_2(cut.tile_rows),
            COLS=triton.next_power_of_2(min(cut.cols, cut.block)),
            **plan.options(call),
        )
        if parts > 1 and kl is not None and shares is not None:
            part_stride, col_stride = (1, parts) if mode == _BY_ROW else (kl.numel(), 1)
            launch_sum_parts(shares, kl, parts, kl.numel(), part_stride, col_stride, float(call.averaged))


def _copy_back(results: tuple[Tensor | None, ...], dense: tuple[Tensor | None, ...]) -> None:
    for result, x in zip(results, dense, strict=True):
        if result is not None and x is not None:
            result.copy_(x)


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
    _check_dtype("latent_forward", mu)
    z, kl = torch.empty_like(mu), empty_kl(mu, reduction)
    _forward(_Call(mu, logvar, rng, noise, first_row, logvar_min, logvar_max, reduction), z, kl)
    return z, kl


def latent_sample(
    mu: Tensor,
    logvar: Tensor,
    rng: Tensor | None,
    noise: Tensor | None,
    first_row: int,
    logvar_min: float,
    logvar_max: float,
) -> Tensor:
    _check_dtype("latent_sample", mu)
    z = torch.empty_like(mu)
    _forward(_Call(mu, logvar, rng, noise, first_row, logvar_min, logvar_max, None), z, None)
    return z


def latent_kl(mu: Tensor, logvar: Tensor, logvar_min: float, logvar_max: float, reduction: int) -> Tensor:
    _check_dtype("latent_kl", mu)
    kl = empty_kl(mu, reduction)
    _forward(_Call(mu, logvar, None, None, 0, logvar_min, logvar_max, reduction), None, kl)
    return kl


def _shared_grad(grad_kl: Tensor | None, call: _Call) -> Tensor | None:
    """The gradient of a column's or a row's KL, expanded to its elements."""
    if grad_kl is None or call.mode not in (_BY_COL, _BY_ROW):
        return None
    if call.mode == _BY_ROW:
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
    mu, count = call.mu, call.mu.numel()
    if count == 0 or (to_mu is None and to_logvar is None):
        return
    if grad_z is None and grad_kl is None:
        for output in (to_mu, to_logvar):
            if output is not None:
                output.zero_()
        return
    if grad_kl is None:
        call = replace(call, reduction=None)
    if grad_z is None or to_logvar is None:
        # Only the gradient of log σ² that comes through z depends on the noise.
        call = replace(call, rng=None, noise=None)
    drawn = call.rng is not None
    shared = _shared_grad(grad_kl, call)
    each_grad_kl = grad_kl if call.mode == _BY_ELEMENT else None
    plan = _plan(
        call,
        (mu, call.logvar, call.noise, grad_z, each_grad_kl, to_mu, to_logvar),
        by_element=shared is None,
        drawn=drawn,
        shared=shared,
    )
    if plan is None:
        dense = _contiguous_like(to_mu), _contiguous_like(to_logvar)
        _backward(call.contiguous(), _contiguous(grad_z), _contiguous(grad_kl), *dense)
        _copy_back((to_mu, to_logvar), dense)
        return
    with torch.cuda.device_of(mu):
        kernels.latent_backward[(plan.cut.programs,)](
            mu,
            call.logvar,
            call.noise,
            call.rng,
            grad_z,
            grad_kl,
            to_mu,
            to_logvar,
            0 if call.rng is None else call.rng.stride(0),
            call.first_element,
            *plan.place.arguments(plan.cut, count),
            *plan.strides,
            call.low,
            call.high,
            1.0 / call.averaged,
            KL=call.mode,
            **plan.options(call),
        )


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
    _check_dtype("latent_backward", mu)
    grad_mu = torch.empty_like(mu) if need_mu else mu.new_empty(0)
    grad_logvar = torch.empty_like(logvar) if need_logvar else logvar.new_empty(0)
    call = _Call(mu, logvar, rng, noise, first_row, logvar_min, logvar_max, reduction)
    _backward(call, grad_z, grad_kl, grad_mu if need_mu else None, grad_logvar if need_logvar else None)
    return grad_mu, grad_logvar


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
    _check_dtype("latent_backward_packed", packed)
    grad = torch.empty_like(packed)
    mu, logvar = packed.chunk(2, 1)
    call = _Call(mu, logvar, rng, noise, first_row, logvar_min, logvar_max, reduction)
    _backward(call, grad_z, grad_kl, *grad.chunk(2, 1))
    return grad


for _implementation in (latent_forward, latent_sample, latent_kl, latent_backward, latent_backward_packed):
    for _key in ("CUDA", "CPU") if INTERPRETED.value else ("CUDA",):
        library.impl(f"{_implementation.__name__}_triton", _implementation, _key)
